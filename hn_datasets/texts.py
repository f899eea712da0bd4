"""Texts: normalised forms, digests, the corpus of distinct passages, and lists of passages by the digest of a text."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hn_datasets.errors import TextError
from hn_datasets.files import open_arrow, unwritable, write_arrow

Digests = npt.NDArray[np.bytes_]
"""Shape ``[n]``, dtype ``S16``: the 16-byte BLAKE2b digests of n texts."""

TAKEN_ROWS = 16_384
"""Texts that are in memory together while a corpus is written."""

DIGEST_BYTES = 16
_DIGEST = pa.binary(DIGEST_BYTES)


def normalise(text: str) -> str:
    """Return the form in which two texts count as the same: Unicode NFKC, case folded, white space folded.

    Case folding can undo NFKC, so NFKC is applied once more after it.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def digest_texts(texts: Iterable[str], form: Callable[[str], str] | None = None) -> Digests:
    """Return the digest of each text, or of ``form(text)`` where a form is given.

    A lone surrogate, which JSON can carry and UTF-8 cannot, is digested as it is.
    """
    forms = texts if form is None else map(form, texts)
    joined = b"".join(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest() for text in forms
    )
    return np.frombuffer(joined, dtype=f"S{DIGEST_BYTES}")


def digest_of(*parts: bytes | str) -> str:
    """Return one 32-character hexadecimal digest of several parts, each counted with its length."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths in two arrays: list ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        offsets: shape ``[n + 1]``, int64, from 0 to ``len(values)``, never falling.
        values: shape ``[m]``, int64.
    """

    offsets: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[np.int64]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Length of every list, shape ``[n]``, int64."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The list that each value stands in, shape ``[m]``, int64."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)

    def take(self, rows: npt.NDArray[np.int64]) -> Ragged:
        """Return the lists at ``rows``; row -1 gives an empty list."""
        counts = np.where(rows < 0, 0, self.counts[rows]) if len(self) else np.zeros(len(rows), np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        starts = self.offsets[:-1][rows] if len(self) else np.zeros(len(rows), np.int64)
        positions = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
        return Ragged(offsets, self.values[positions])

    @classmethod
    def from_pairs(cls, rows: npt.NDArray[np.int64], values: npt.NDArray[np.int64], num_rows: int) -> Ragged:
        """Return ``num_rows`` lists, each with its distinct values in rising order, from (row, value) pairs."""
        order = np.lexsort((values, rows))
        rows, values = rows[order], values[order]
        first = np.ones(len(rows), dtype=bool)
        first[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
        counts = np.bincount(rows[first], minlength=num_rows)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), values[first].astype(np.int64))


class AnyCorpus(Protocol):
    """What mining asks of a corpus, wherever its passages are; see ``Corpus``."""

    def __len__(self) -> int: ...

    def __hash__(self) -> int: ...

    def texts(self, ids: npt.NDArray[np.int64]) -> list[str]:
        """Return the texts of passages."""

    def digests_of(self, ids: npt.NDArray[np.int64]) -> Digests:
        """Return the digests of passages."""

    def ids(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the id of each text, -1 where there is none."""

    def ids_of_same(self, texts: Sequence[str], rows: npt.NDArray[np.int64], num_rows: int) -> Ragged:
        """Return, for each row, the ids of all passages equal to one of its texts after ``normalise``."""

    def have_form(self, keys: Digests) -> npt.NDArray[np.bool_]:
        """Return which passages have one of these rising digests after ``normalise``."""


class Corpus:
    """The passages that negatives are picked from: every distinct text once, memory-mapped from one Arrow file.

    A passage's id is its row. Rows stand in the order of the texts' digests, so the ids, and with them the way that
    ties are broken, depend on the set of texts alone and not on the order in which they came.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = open_arrow(path)

    @classmethod
    def build(cls, chunks: Iterable[pa.Array], directory: Path) -> Corpus:
        """Write the distinct texts of ``chunks`` to ``directory`` and open them.

        The file is named after its content: the same set of texts gives the same file, written once.

        Args:
            chunks: string arrays, in any order, without None or empty texts.
            directory: where the file goes; made if missing.

        Raises:
            TextError: there is no text.
        """
        with _SpilledTexts(directory) as texts:
            digests = [texts.append(chunk) for chunk in chunks]
            if not sum(map(len, digests)):
                raise TextError("Expected at least one passage in the corpus, got none; give a dataset that has rows.")
            distinct, first = np.unique(np.concatenate(digests), return_index=True)
            path = directory / f"{digest_of(distinct.tobytes())}.arrow"
            if not path.exists():
                with texts.take(first) as rows:
                    keys = _digest_column(rows, normalise)
                    order = np.argsort(keys, kind="stable")
                    table = pa.table(
                        {
                            "text": rows,
                            "digest": fixed_size_binary(distinct),
                            "key": fixed_size_binary(keys),
                            "key_order": pa.array(order),
                            "sorted_key": fixed_size_binary(keys[order]),
                        }
                    )
                    write_arrow(table, path)
        return cls(path)

    @property
    def digest(self) -> str:
        """Digest of the set of texts, 32 hexadecimal characters."""
        return self.path.stem

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, passage_id: int) -> str:
        return str(self._table["text"][int(passage_id)].as_py())

    @property
    def column(self) -> pa.ChunkedArray:
        """All texts, in the order of their ids."""
        return self._table["text"]

    def texts(self, ids: npt.NDArray[np.int64]) -> list[str]:
        """Return the texts of passages, in the order of ``ids`` (shape ``[n]``)."""
        return list(self._table["text"].take(pa.array(ids)).to_pylist())

    @cached_property
    def digests(self) -> Digests:
        """The digest of every passage, shape ``[len(self)]``, rising."""
        return fixed_size_bytes(self._table["digest"])

    def digests_of(self, ids: npt.NDArray[np.int64]) -> Digests:
        """Return the digests of passages, in the order of ``ids`` (shape ``[n]``)."""
        return self.digests[ids]

    def ids(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the id of each text, shape ``[n]``, int64; -1 where the corpus does not have it."""
        return self.ids_of_digests(digest_texts(texts))

    def ids_of_digests(self, digests: Digests) -> npt.NDArray[np.int64]:
        """Return the id of the text of each digest, shape ``[n]``, int64; -1 where the corpus does not have it."""
        return find(self.digests, digests)

    def ids_of_same(self, texts: Sequence[str], rows: npt.NDArray[np.int64], num_rows: int) -> Ragged:
        """Return, for each row, the ids of all passages equal to one of its texts after ``normalise``.

        Args:
            texts: n texts.
            rows: shape ``[n]``, the row that each text belongs to.
            num_rows: number of lists in the answer.
        """
        distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}  # anchors may share a positive
        keys = digest_texts(distinct, normalise)
        return self.ids_of_forms(keys[[distinct[text] for text in texts]], rows, num_rows)

    def ids_of_forms(self, wanted: Digests, rows: npt.NDArray[np.int64], num_rows: int) -> Ragged:
        """Return what ``ids_of_same`` does, for texts whose normalised forms have these digests (shape ``[n]``)."""
        first = np.searchsorted(self._sorted_keys, wanted, side="left")
        last = np.searchsorted(self._sorted_keys, wanted, side="right")
        found = Ragged(np.arange(len(self) + 1), self._key_order)
        counts = last - first
        starts = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) if len(wanted) else first
        positions = starts + np.arange(counts.sum())
        return Ragged.from_pairs(np.repeat(rows, counts), found.values[positions], num_rows)

    def have_form(self, keys: Digests) -> npt.NDArray[np.bool_]:
        """Return which passages have one of these rising digests after ``normalise``, shape ``[len(self)]``."""
        return find(keys, fixed_size_bytes(self._table["key"])) >= 0

    @cached_property
    def _key_order(self) -> npt.NDArray[np.int64]:
        order: npt.NDArray[np.int64] = self._table["key_order"].to_numpy()
        return order

    @cached_property
    def _sorted_keys(self) -> Digests:
        if "sorted_key" in self._table.column_names:
            return fixed_size_bytes(self._table["sorted_key"])
        return fixed_size_bytes(self._table["key"])[self._key_order]  # a file of an earlier version


class _SpilledTexts:
    """Texts on their way into a corpus: their bytes go to a file without a name, and only lengths stay in memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lengths: list[npt.NDArray[np.int64]] = []

    def __enter__(self) -> _SpilledTexts:
        self._file = self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, chunk: pa.Array) -> Digests:
        """Take a chunk of strings without None, and return their digests."""
        array = chunk.cast(pa.large_string())
        offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
        if len(array):
            self._write(self._file, array.buffers()[2].slice(offsets[0], offsets[-1] - offsets[0]))
            self._lengths.append(np.diff(offsets))
        return digest_texts(array.to_pylist())

    @contextlib.contextmanager
    def take(self, rows: npt.NDArray[np.int64]) -> Iterator[pa.Array]:
        """Yield the texts at ``rows`` as one array, whose bytes lie in another file without a name."""
        lengths = np.concatenate(self._lengths)
        texts = _mapped_strings(self._file, lengths)
        with self._open() as file:
            for start in range(0, len(rows), TAKEN_ROWS):
                part = texts.take(pa.array(rows[start : start + TAKEN_ROWS]))
                self._write(file, part.buffers()[2])
            yield _mapped_strings(file, lengths[rows])

    def _open(self) -> IO[bytes]:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self._directory)
        except OSError as error:
            raise unwritable(self._directory, error) from error

    def _write(self, file: IO[bytes], data: pa.Buffer) -> None:
        try:
            file.write(data)
            file.flush()
        except OSError as error:
            raise unwritable(self._directory, error) from error


def _mapped_strings(file: IO[bytes], lengths: npt.NDArray[np.int64]) -> pa.Array:
    """Return the strings that lie in a file one after the other, without reading them."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    data = np.memmap(file, dtype=np.uint8, mode="r") if offsets[-1] else np.empty(0, np.uint8)
    return pa.LargeStringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(data))


def _digest_column(texts: pa.Array, form: Callable[[str], str]) -> Digests:
    blocks = range(0, len(texts), TAKEN_ROWS)
    return np.concatenate([digest_texts(texts.slice(start, TAKEN_ROWS).to_pylist(), form) for start in blocks])


class PassageLists:
    """Lists of corpus ids, each under the digest of a text, memory-mapped from one Arrow file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        table = open_arrow(path)
        self.digests = fixed_size_bytes(table["digest"])
        counts = table["ids"].combine_chunks().value_lengths().to_numpy()
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._ids = Ragged(offsets, table["ids"].combine_chunks().flatten().to_numpy())

    @classmethod
    def build(cls, keys: Digests, ids: npt.NDArray[np.int64], directory: Path) -> Self:
        """Write the distinct ids of every distinct key to ``directory`` and open them.

        Args:
            keys: shape ``[n]``, the digests of n (key, id) pairs, repeated keys included.
            ids: shape ``[n]``, int64, the corpus id of each pair.
            directory: where the file, named after its content, goes.
        """
        distinct, rows = np.unique(keys, return_inverse=True)
        lists = Ragged.from_pairs(rows.astype(np.int64), ids, len(distinct))
        path = directory / f"{digest_of(distinct.tobytes(), lists.offsets.tobytes(), lists.values.tobytes())}.arrow"
        if not path.exists():
            values = pa.LargeListArray.from_arrays(pa.array(lists.offsets), pa.array(lists.values))
            write_arrow(pa.table({"digest": fixed_size_binary(distinct), "ids": values}), path)
        return cls(path)

    @property
    def digest(self) -> str:
        """Digest of all keys and their lists, 32 hexadecimal characters."""
        return self.path.stem

    def of(self, texts: Sequence[str]) -> Ragged:
        """Return the list of each text; an empty one for a text that is no key."""
        return self.of_digests(digest_texts(texts))

    def of_digests(self, digests: Digests) -> Ragged:
        """Return the list of the text of each digest; an empty one for a text that is no key."""
        return self._ids.take(find(self.digests, digests))


class AnchorPositives(PassageLists):
    """The corpus ids of all positives of every anchor."""


class AnyGroups(Protocol):
    """What guards ask of the groups of passages, wherever they are; see ``PassageGroups``."""

    @property
    def largest(self) -> int:
        """Number of passages in the largest group."""

    def of(self, texts: Sequence[str]) -> Ragged:
        """Return the passages of each group; an empty list for a text that names none."""

    def beside(self, ids: npt.NDArray[np.int64]) -> Ragged:
        """Return, for each passage, the passages of all its groups, itself among them."""


class PassageGroups(PassageLists):
    """The corpus ids of all passages of every group; a passage can be in several groups."""

    @cached_property
    def largest(self) -> int:
        """Number of passages in the largest group."""
        return int(self._ids.counts.max(initial=0))

    def beside(self, ids: npt.NDArray[np.int64]) -> Ragged:
        """Return, for each passage (shape ``[n]``), the passages of all its groups, itself among them."""
        groups = self._groups.take(np.where(ids < len(self._groups), ids, -1))
        passages = self._ids.take(groups.values)
        return Ragged.from_pairs(np.repeat(groups.rows, passages.counts), passages.values, len(ids))

    @cached_property
    def _groups(self) -> Ragged:
        """The groups of each passage, up to the last one that has any."""
        return Ragged.from_pairs(self._ids.values, self._ids.rows, int(self._ids.values.max(initial=-1)) + 1)


def no_lists(num_rows: int) -> Ragged:
    """Return an empty list for each row."""
    return Ragged(np.zeros(num_rows + 1, dtype=np.int64), np.empty(0, dtype=np.int64))


def find(sorted_digests: Digests, wanted: Digests) -> npt.NDArray[np.int64]:
    """Return the position of each wanted digest in a sorted array, shape ``[n]``, int64; -1 where it is missing."""
    if not len(sorted_digests):
        return np.full(len(wanted), -1, dtype=np.int64)
    positions = np.minimum(np.searchsorted(sorted_digests, wanted), len(sorted_digests) - 1)
    return np.where(sorted_digests[positions] == wanted, positions, -1).astype(np.int64)


def is_empty(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Return where a text is None, empty or only white space (shape ``[n]``)."""
    trimmed = pc.utf8_length(pc.utf8_trim_whitespace(texts))
    empty: npt.NDArray[np.bool_] = pc.fill_null(pc.equal(trimmed, 0), True).to_numpy(zero_copy_only=False)
    return empty


def fixed_size_binary(digests: Digests) -> pa.Array:
    """Return digests as an Arrow array."""
    return pa.FixedSizeBinaryArray.from_buffers(_DIGEST, len(digests), [None, pa.py_buffer(digests.tobytes())])


def fixed_size_bytes(column: pa.ChunkedArray) -> Digests:
    """Return an Arrow column of digests as a numpy array, without a copy where it has one chunk."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # combine_chunks keeps a chunked array when there is nothing in it
        return np.empty(0, dtype=f"S{DIGEST_BYTES}")
    start = array.offset * DIGEST_BYTES
    data = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    return data[start : start + len(array) * DIGEST_BYTES].view(f"S{DIGEST_BYTES}")
