"""Finished rows: what was mined is kept beside the vectors, so that a run that was killed goes on where it was.

``Dataset.map`` throws away its temporary file when it is killed. Rows are kept one by one, not as the batches in which
they came, so a run may go on with another batch size or another number of processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hn_datasets.errors import DamagedShardWarning, StoreError, UnkeptRowsWarning
from hn_datasets.files import open_shards, write_shard
from hn_datasets.teachers.base import Ids
from hn_datasets.texts import DIGEST_BYTES, Digests, digest_of, find, fixed_size_binary, fixed_size_bytes

SHARD_PAIRS = 1 << 27
"""Anchors times passages searched before their rows are written: 0.1 s of the fastest search, a file takes 0.003 s.

What a kill loses, then, and what a smaller run does not keep at all, is quicker searched again than noticed.
"""


class FinishedRows:
    """The mined rows of one recipe, one corpus and one set of positives, in append-only shards.

    A shard appears whole or not at all, and several processes can write at once. What this object has written itself is
    not looked up by it: a run does not mine a row twice.

    Args:
        directory: the folder of the shards, for rows that were mined alike; made with the first one.
        schema: columns of a mined row.
        num_passages: size of the corpus, which decides how many rows are worth a file.
    """

    def __init__(self, directory: Path, schema: pa.Schema, num_passages: int) -> None:
        self.directory = directory
        self.schema = schema
        self.num_passages = num_passages
        self._pending: list[pa.Table] = []
        self._keeping = True

    def complete(self, digests: Digests, mine: Callable[[Ids], pa.Table]) -> pa.Table:
        """Return one line for each row, from an earlier run where it is there, else mined.

        Args:
            digests: shape ``[n]``, from ``digest_rows``.
            mine: takes the positions of the rows that are missing (shape ``[m]``, rising) and returns their lines;
                called once, or not at all.

        Returns:
            The columns of the schema, n lines in the order of ``digests``, the same to the last bit whether mined now
            or before.
        """
        known, lines, first = self._earlier
        positions = find(known, digests)
        there, missing = np.flatnonzero(positions >= 0), np.flatnonzero(positions < 0)
        read = lines.take(pa.array(first[positions[there]]))
        if not len(missing):
            return read
        mined = mine(missing)
        self._keep(digests[missing], mined)
        order = np.argsort(np.concatenate([there, missing]))
        return pa.concat_tables([read, mined]).take(pa.array(order)) if len(there) else mined

    def _keep(self, digests: Digests, mined: pa.Table) -> None:
        """Collect rows, and write a shard when they took enough work."""
        if not self._keeping:
            return
        self._pending.append(mined.append_column("digest", fixed_size_binary(digests)))
        if sum(map(len, self._pending)) * self.num_passages < SHARD_PAIRS:
            return
        table, self._pending = pa.concat_tables(self._pending), []
        try:
            write_shard(self.directory, table)
        except StoreError as error:
            # The rows themselves are mined: that they would be searched again after a kill is no reason to stop.
            self._keeping = False
            warnings.warn(
                f"Mined rows are not kept, an interrupted run would search them again: {error.args[-1]}",
                UnkeptRowsWarning,
                stacklevel=2,
            )

    @cached_property
    def _earlier(self) -> tuple[Digests, pa.Table, Ids]:
        """The digests of the rows of earlier runs, rising; the lines of all shards; and the line of each digest."""
        tables = [self.schema.append(pa.field("digest", pa.binary(DIGEST_BYTES))).empty_table()]
        for path, table in open_shards(self.directory):
            if table is not None:
                tables.append(table)
                continue
            warnings.warn(
                f"Shard {path} does not match its checksum: it was removed and its rows are searched again.",
                DamagedShardWarning,
                stacklevel=2,
            )
        lines = pa.concat_tables(tables)
        known, first = np.unique(fixed_size_bytes(lines["digest"]), return_index=True)
        return known, lines.drop_columns("digest"), first


def digest_rows(
    anchors: Sequence[str], positives: Sequence[Sequence[str]], columns: Mapping[str, Sequence[Any]]
) -> Digests:
    """Return the digest of each anchor with its own positives and what else decides its negatives, shape ``[n]``."""
    further = [list(map(repr, values)) for values in columns.values()]
    rows = zip(anchors, positives, *further, strict=True)
    hexadecimal = (digest_of(anchor, *own, *map("column {}".format, rest)) for anchor, own, *rest in rows)
    return np.frombuffer(b"".join(map(bytes.fromhex, hexadecimal)), dtype=f"S{DIGEST_BYTES}")
