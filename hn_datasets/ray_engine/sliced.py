"""A corpus and its groups in pieces, for what mines rows: texts are read from shared files.

Everything is a look-up in memory-mapped files, so the process that mines a row holds nothing that grows with the
corpus, but one byte for each passage where texts are held out, and eight where there are groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from hn_datasets.ray_engine.ranges import ranges_of
from hn_datasets.teachers.base import Ids
from hn_datasets.texts import (
    Corpus,
    Digests,
    PassageGroups,
    PassageLists,
    Ragged,
    digest_texts,
    normalise,
)


class SlicedCorpus:
    """Passages in ranges of their digests; see ``texts.AnyCorpus``.

    Args:
        paths: the file of each range, None where it has no passage.
    """

    def __init__(self, paths: Sequence[Path | None]) -> None:
        self.paths = tuple(paths)
        self.parts = [Corpus(path) if path is not None else None for path in paths]
        sizes = [len(part) if part is not None else 0 for part in self.parts]
        self.offsets: Ids = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def pieces(self, ids: Ids) -> Iterator[tuple[int, Ids, Ids]]:
        """Yield for each range that has some of the passages its number, their places, and their ids within it."""
        numbers = np.searchsorted(self.offsets, ids, side="right") - 1
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            yield number, places, ids[places] - self.offsets[number]

    def texts(self, ids: Ids) -> list[str]:
        """Return the texts of passages."""
        texts = np.empty(len(ids), dtype=object)
        for number, places, own in self.pieces(ids):
            texts[places] = self._part(number).texts(own)
        return list(texts)

    def digests_of(self, ids: Ids) -> Digests:
        """Return the digests of passages."""
        digests = np.empty(len(ids), dtype="S16")
        for number, places, own in self.pieces(ids):
            digests[places] = self._part(number).digests_of(own)
        return digests

    def ids(self, texts: Sequence[str]) -> Ids:
        """Return the id of each text, -1 where there is none."""
        return self.ids_of_digests(digest_texts(texts))

    def ids_of_digests(self, digests: Digests) -> Ids:
        """Return the id of the text of each digest, -1 where there is none."""
        ids = np.full(len(digests), -1, dtype=np.int64)
        numbers = ranges_of(digests, len(self.parts))
        for number in np.unique(numbers).tolist():
            part, places = self.parts[number], np.flatnonzero(numbers == number)
            found = part.ids_of_digests(digests[places]) if part is not None else np.full(len(places), -1)
            ids[places] = np.where(found < 0, -1, found + self.offsets[number])
        return ids

    def ids_of_same(self, texts: Sequence[str], rows: Ids, num_rows: int) -> Ragged:
        """Return, for each row, the ids of all passages equal to one of its texts after ``normalise``."""
        forms = digest_texts(texts, normalise)
        found = [
            (part.ids_of_forms(forms, rows, num_rows), self.offsets[number])
            for number, part in enumerate(self.parts)
            if part is not None
        ]
        return _union([(lists.rows, lists.values + offset) for lists, offset in found], num_rows)

    def have_form(self, keys: Digests) -> npt.NDArray[np.bool_]:
        """Return which passages have one of these rising digests after ``normalise``."""
        return np.concatenate([part.have_form(keys) for part in self.parts if part is not None])

    def _part(self, number: int) -> Corpus:
        return cast(Corpus, self.parts[number])  # ids lead to ranges that have passages


class SlicedLists:
    """Lists of passages under texts, in ranges of the texts' digests."""

    def __init__(self, paths: Sequence[Path | None]) -> None:
        self._parts = [PassageLists(path) if path is not None else None for path in paths]

    def of(self, texts: Sequence[str]) -> Ragged:
        """Return the list of each text; an empty one for a text that is no key."""
        digests = digest_texts(texts)
        numbers, pairs = ranges_of(digests, len(self._parts)), []
        for number in np.unique(numbers).tolist():
            part, places = self._parts[number], np.flatnonzero(numbers == number)
            if part is not None:
                lists = part.of_digests(digests[places])
                pairs.append((places[lists.rows], lists.values))
        return _union(pairs, len(texts))


class SlicedGroups(SlicedLists):
    """The passages of every group, in ranges of the digests of the groups' names; see ``texts.AnyGroups``."""

    def __init__(self, paths: Sequence[Path | None]) -> None:
        super().__init__(paths)
        self._groups = [PassageGroups(path) for path in paths if path is not None]

    @property
    def largest(self) -> int:
        """Number of passages in the largest group."""
        return max((groups.largest for groups in self._groups), default=0)

    def beside(self, ids: Ids) -> Ragged:
        """Return, for each passage, the passages of all its groups, itself among them."""
        found = [groups.beside(ids) for groups in self._groups]
        return _union([(lists.rows, lists.values) for lists in found], len(ids))


def _union(pairs: Sequence[tuple[Ids, Ids]], num_rows: int) -> Ragged:
    """Return lists from (row, value) pairs."""
    nothing = np.empty(0, np.int64)
    rows = np.concatenate([nothing, *(rows for rows, _ in pairs)])
    return Ragged.from_pairs(rows, np.concatenate([nothing, *(values for _, values in pairs)]), num_rows)
