"""Ranges of digests: what one machine holds as a whole, a cluster holds in pieces.

A digest is uniform, so equal ranges of digests hold about the same number of texts. Ids follow the digests, so a range
of digests is a range of ids too: a piece of the corpus is a ``Corpus`` of its own, whose ids begin at an offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hn_datasets.files import open_arrow, write_arrow
from hn_datasets.store import RANGES, EmbeddingStore
from hn_datasets.teachers.base import Ids
from hn_datasets.texts import Corpus, Digests, fixed_size_binary, fixed_size_bytes

WORD_BITS = 32
"""Bits of a digest that decide its range."""


def bounds_of(num_ranges: int) -> npt.NDArray[np.uint64]:
    """Return where ranges begin and the last one ends, in units of the first 32 bits, shape ``[num_ranges + 1]``."""
    return np.array([(number << WORD_BITS) // num_ranges for number in range(num_ranges + 1)], dtype=np.uint64)


def ranges_of(digests: Digests, num_ranges: int) -> Ids:
    """Return the range of each digest, shape ``[n]``, int64."""
    words = np.ascontiguousarray(digests).view(">u4").reshape(-1, 4)[:, 0].astype(np.uint64)
    return (np.searchsorted(bounds_of(num_ranges), words, side="right") - 1).astype(np.int64)


def range_name(number: int, num_ranges: int) -> str:
    """Return the name of a range, which says where it begins and ends."""
    low, high = bounds_of(num_ranges)[number : number + 2].tolist()
    return f"{low:08x}-{high:09x}"


def range_store(store: Path, number: int, num_ranges: int) -> EmbeddingStore:
    """Return the store of the vectors of one range."""
    return EmbeddingStore(store / RANGES / range_name(number, num_ranges))


def overlapping_stores(store: Path, number: int, num_ranges: int) -> Iterator[EmbeddingStore]:
    """Yield the stores of earlier runs that may have vectors of a range: that of one machine, and of other ranges."""
    own = range_name(number, num_ranges)
    low, high = (int(bound, 16) for bound in own.split("-"))
    yield EmbeddingStore(store)
    for folder in sorted((store / RANGES).glob("*-*")):
        begin, end = (int(bound, 16) for bound in folder.name.split("-"))
        if folder.name != own and begin < high and low < end:
            yield EmbeddingStore(folder)


def spill(path: Path, digests: Digests, columns: Mapping[str, pa.Array], *, distinct: bool = False) -> None:
    """Write rows in the order of their digests, so that every range of them is one piece of the file.

    Args:
        path: of the file, which appears whole or not at all.
        digests: shape ``[n]``.
        columns: n values each.
        distinct: keep one row of each digest.
    """
    order = np.unique(digests, return_index=True)[1] if distinct else np.argsort(digests, kind="stable")
    rows = pa.array(order)
    kept = {name: values.take(rows) for name, values in columns.items()}
    write_arrow(pa.table({"digest": fixed_size_binary(digests[order]), **kept}), path)


def read_spills(paths: Iterable[Path], number: int, num_ranges: int) -> Iterator[pa.Table]:
    """Yield the rows of one range from each file of ``spill``."""
    bounds = bounds_of(num_ranges)[number : number + 2]
    for path in paths:
        table = open_arrow(path)
        begin, end = (_place(fixed_size_bytes(table["digest"]), int(bound)) for bound in bounds)
        if end > begin:
            yield table.slice(begin, end - begin)


def _place(digests: Digests, bound: int) -> int:
    """Return how many of some rising digests are below a bound; only a few of them are looked at."""
    if bound >> WORD_BITS:
        return len(digests)
    return int(np.searchsorted(digests, np.array(bound.to_bytes(WORD_BITS // 8, "big"), dtype="S16")))


def build_texts(paths: Iterable[Path], number: int, num_ranges: int, directory: Path) -> Path | None:
    """Write the distinct texts of one range; return the file of the ``Corpus``, or None where there are none."""
    tables = [table["text"].chunk(0) for table in read_spills(paths, number, num_ranges)]
    return Corpus.build(tables, directory).path if tables else None


def drop_texts(path: Path, dropped: Digests, directory: Path) -> Path | None:
    """Write the texts of a range again without some of them; return what ``build_texts`` returns."""
    corpus = Corpus(path)
    kept = np.setdiff1d(np.arange(len(corpus)), corpus.ids_of_digests(dropped))
    if len(kept) == len(corpus):
        return path
    return Corpus.build([corpus.column.take(pa.array(kept)).combine_chunks()], directory).path if len(kept) else None
