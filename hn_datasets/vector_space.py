"""All stored vectors of one teacher in one role: append-only shards in one folder."""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hn_datasets.errors import DamagedShardWarning, VectorError
from hn_datasets.files import open_arrow, open_shards, write_shard
from hn_datasets.teachers.base import Floats, Ids
from hn_datasets.texts import Digests, find, fixed_size_binary, fixed_size_bytes


class VectorSpace:
    """All stored vectors of one address: one model with its weights, one prompt, one length, dimension and precision.

    Args:
        directory: the folder of this space; made with the first shard.
        dimension: number of components of a vector.
    """

    def __init__(self, directory: Path, dimension: int) -> None:
        self.directory = directory
        self.dimension = dimension
        self._shards: dict[str, pa.Table] = {}
        self.refresh()

    def refresh(self) -> Digests:
        """Open the shards that other processes have written since; drop and name damaged ones.

        Returns:
            The digests in these shards, shape ``[n]``.
        """
        found = [np.empty(0, dtype="S16")]
        for path, table in open_shards(self.directory, self._shards):
            if table is not None:
                self._forget()
                self._shards[path.name] = table
                found.append(fixed_size_bytes(table["digest"]))
                continue
            warnings.warn(
                f"Shard {path} does not match its checksum: it was removed and its texts are encoded again.",
                DamagedShardWarning,
                stacklevel=2,
            )
        return np.concatenate(found)

    def __len__(self) -> int:
        return len(self._index[0])

    def missing(self, digests: Digests) -> Ids:
        """Return the positions in ``digests`` (shape ``[n]``) that have no vector yet."""
        return np.flatnonzero(find(self._index[0], digests) < 0)

    def add(self, digests: Digests, vectors: Floats) -> None:
        """Append one shard.

        Args:
            digests: shape ``[n]``.
            vectors: shape ``[n, dimension]``, float32, finite.

        Raises:
            StoreError: the shard cannot be written; all earlier ones are kept.
        """
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.dimension)
        table = pa.table({"digest": fixed_size_binary(digests), "vector": values})
        path = write_shard(self.directory, table)
        self._shards[path.name] = open_arrow(path)
        self._forget()

    def vectors(self, digests: Digests) -> Floats:
        """Return the vectors of texts, shape ``[n, dimension]``, float32.

        Raises:
            VectorError: a text has no vector here; ``missing`` tells which.
        """
        known, shard_of, row_of = self._index
        positions = find(known, digests)
        if (positions < 0).any():
            raise VectorError(f"Expected a vector for every text, {(positions < 0).sum()} of {len(digests)} have none.")
        vectors = np.empty((len(digests), self.dimension), dtype=np.float32)
        shards, rows = shard_of[positions], row_of[positions]
        for number in np.unique(shards):
            here = np.flatnonzero(shards == number)
            vectors[here] = self._blocks[number][rows[here]]
        return vectors

    def _forget(self) -> None:
        """Drop what was derived from the shards before they changed."""
        for name in ("_index", "_blocks"):
            self.__dict__.pop(name, None)

    @cached_property
    def _blocks(self) -> list[Floats]:
        columns = [table["vector"].chunk(0) for table in self._shards.values()]
        return [column.flatten().to_numpy().reshape(-1, self.dimension) for column in columns]

    @cached_property
    def _index(self) -> tuple[Digests, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Sorted digests, and the shard and row of each; a text that two processes encoded counts once."""
        digests = [fixed_size_bytes(table["digest"]) for table in self._shards.values()]
        shards = [np.full(len(part), number, dtype=np.int32) for number, part in enumerate(digests)]
        rows = [np.arange(len(part), dtype=np.int32) for part in digests]
        if not digests:
            return np.empty(0, dtype="S16"), np.empty(0, np.int32), np.empty(0, np.int32)
        known, first = np.unique(np.concatenate(digests), return_index=True)
        return known, np.concatenate(shards)[first], np.concatenate(rows)[first]
