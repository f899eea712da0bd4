"""BM25 as a teacher: the scores of rank-bm25, over postings on disk.

Every score is summed in float64 in one order, that of the term ids, and rounded once to float32, so a tile, a pair and
a text outside the corpus give the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.teachers.base import NO_CROWD, Exact, Floats, Ids
from hn_datasets.teachers.bm25_index import (
    INDEX_VERSION,
    VARIANTS,
    Doubles,
    Formula,
    Index,
    TermCounts,
    build_index,
    check_number,
)
from hn_datasets.teachers.tokenizers import TokenizerChoice, make_tokenizer, tokenizer_from_spec
from hn_datasets.texts import Corpus, digest_of
from hn_datasets.threads import over_rows

TILE_PASSAGES = 4096


class BM25Teacher:
    """BM25 over the distinct texts of the corpus; scores are raw, not normalised.

    Args:
        variant: ``"okapi"``, ``"l"`` or ``"plus"``.
        tokenizer: ``"words"``, ``"kiwi"``, ``"char-bigrams"``, the path or name of a Hugging Face tokeniser, or a
            function from a text to a list of tokens that can be imported by its name.
        k1: saturation of the term frequency, at least 0.
        b: strength of the length normalisation, in [0, 1].
        epsilon: okapi only, at least 0; 0.25 if None.
        delta: l and plus only, at least 0; 0.5 (l) or 1.0 (plus) if None.

    Raises:
        ArgumentError: the variant is unknown, a number is out of range, or one has no effect for the variant.
        TeacherError: the tokeniser is not installed.
    """

    def __init__(
        self,
        variant: str = "okapi",
        *,
        tokenizer: TokenizerChoice = "words",
        k1: float = 1.5,
        b: float = 0.75,
        epsilon: float | None = None,
        delta: float | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ArgumentError(f"Unknown BM25 variant {variant!r}; choose one of {', '.join(VARIANTS)}.")
        given = {name: value for name, value in {"epsilon": epsilon, "delta": delta}.items() if value is not None}
        for name in given.keys() - VARIANTS[variant].keys():
            raise ArgumentError(f"{name}={given[name]!r} has no effect for the BM25 variant {variant!r}; leave it out.")
        self._numbers: dict[str, float] = {"k1": k1, "b": b, **VARIANTS[variant], **given}
        for name, number in self._numbers.items():
            check_number(name, number, highest=1.0 if name == "b" else math.inf)
        self._numbers = {name: float(number) for name, number in self._numbers.items()}
        self.formula = Formula(variant, **self._numbers)
        self.tokenizer = make_tokenizer(tokenizer)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> BM25Teacher:
        """Return the teacher whose ``spec`` this is.

        Raises:
            ArgumentError: a field is unknown or missing, or a number is out of range.
            TeacherError: this machine does not have the tokeniser, or has another version of it.
        """
        fields = {name: value for name, value in spec.items() if name not in ("type", "tokenizer")}
        numbers = VARIANTS.get(str(spec.get("variant")), {})
        if spec.keys() != {"type", "variant", "tokenizer", "k1", "b", *numbers} or spec["type"] != "bm25":
            raise ArgumentError(f"Expected the spec of a BM25Teacher, got {json.dumps(spec)}; give it as it was saved.")
        teacher = cls(**fields)
        teacher.tokenizer = tokenizer_from_spec(spec["tokenizer"])
        return teacher

    def spec(self) -> dict[str, Any]:
        """Return variant, numbers and tokeniser; it may have to load the tokeniser."""
        return {
            "type": "bm25",
            "variant": self.formula.variant,
            "tokenizer": dict(self.tokenizer.spec),
            **self._numbers,
        }

    def scorer(self, corpus: Corpus, directory: Path) -> BM25Scorer:
        """Return this teacher with one corpus; the postings are built in ``directory`` unless they are there.

        Raises:
            TeacherError: no passage has a token, or the tokeniser cannot be loaded.
            StoreError: the postings cannot be written.
        """
        spec = json.dumps(self.spec(), sort_keys=True)
        path = directory / digest_of(corpus.digest, spec, str(INDEX_VERSION))
        if not path.exists():
            build_index(corpus, self.tokenizer, self.formula, path)
        return BM25Scorer(self, Index(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return BM25Teacher.from_spec, (self.spec(),)


class BM25Scorer:
    """A BM25 teacher with one corpus."""

    def __init__(self, teacher: BM25Teacher, index: Index) -> None:
        self.teacher = teacher
        self.index = index
        self.num_passages = index.num_passages

    def scores(self, anchors: Sequence[str]) -> BM25Scores:
        """Return the scores of these anchors against the corpus."""
        return BM25Scores(self, self.count_terms(anchors))

    def count_terms(self, texts: Sequence[str]) -> TermCounts:
        """Count the terms of texts; a token that no passage has counts towards the length only."""
        vocabulary = self.index.vocabulary
        return TermCounts.of(self.teacher.tokenizer.tokenize(texts), lambda token: vocabulary.get(token, -1))


class BM25Scores:
    """The scores of a block of anchors; see ``teachers.base.Scores``. Tiles are exact, so the slack is 0."""

    on_accelerator = False
    crowd = NO_CROWD
    exact = Exact(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))

    def __init__(self, scorer: BM25Scorer, anchors: TermCounts) -> None:
        self._scorer = scorer
        self.num_passages = scorer.num_passages
        self._terms = anchors.terms
        self._entries = anchors.offsets
        self._counts = anchors.counts.astype(np.float64)
        constants = scorer.teacher.formula.constants(scorer.index.idf[anchors.terms])
        self._bases = np.bincount(anchors.rows, weights=constants * self._counts, minlength=len(anchors.lengths))
        self.units = np.ones(len(anchors.lengths))
        self.slack = np.zeros(len(anchors.lengths))

    def tiles(self, begin: int, end: int) -> Iterator[tuple[int, Floats]]:
        """Yield the first passage of each tile, and the scores of anchors ``begin`` to ``end``, float32."""
        index = self._scorer.index
        begins, ends = index.offsets[self._terms], index.offsets[self._terms + 1]
        anchors = (self._entries, self._counts, self._bases, begins, ends)
        width = min(TILE_PASSAGES, self.num_passages)
        buffer = np.empty((end - begin) * width, dtype=np.float32)
        for start in range(0, self.num_passages, width):
            columns = min(width, self.num_passages - start)
            tile = buffer[: (end - begin) * columns].reshape(end - begin, columns)
            _add_tile(*anchors, index.passages, index.weights, start, tile, begin)
            yield start, tile

    def narrower(self, rows: Ids) -> BM25Scores:
        """There are no scores with less slack than none."""
        raise NotImplementedError("BM25 tiles are exact.")

    def pairs(self, rows: Ids, ids: Ids) -> Floats:
        """Return the score of each (anchor row, passage id) pair, shape ``[n]``, float32."""
        index = self._scorer.index
        begins, ends = index.offsets[self._terms], index.offsets[self._terms + 1]
        return self._look_up(rows, ids, begins, ends, index.passages, index.weights)

    def of_texts(self, rows: Ids, texts: Sequence[str]) -> Floats:
        """Return the score of each (anchor row, text) pair, shape ``[n]``, float32."""
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        ids = np.fromiter(map(numbers.__getitem__, texts), np.int64, len(texts))
        found = self._scorer.count_terms(list(numbers))
        index, order = self._scorer.index, np.argsort(found.terms, kind="stable")
        terms, places = found.terms[order], found.rows[order]
        weights = self._scorer.teacher.formula.weights(
            index.idf[terms], found.counts[order], found.lengths[places], index.average_length
        )
        begins, ends = np.searchsorted(terms, self._terms, "left"), np.searchsorted(terms, self._terms, "right")
        return self._look_up(rows, ids, begins, ends, places.astype(np.int32), weights)

    def _look_up(
        self, rows: Ids, ids: Ids, begins: Ids, ends: Ids, passages: npt.NDArray[np.int32], weights: Doubles
    ) -> Floats:
        """Score pairs from any postings; the terms of the anchors have those from ``begins`` to ``ends``."""
        anchors = (self._entries, self._counts, self._bases, begins, ends)
        scores = np.empty(len(rows), dtype=np.float32)
        over_rows(
            lambda first, last: _add_pairs(*anchors, passages, weights, rows, ids, scores, first, last), len(scores)
        )
        return scores


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _first_from(passages: Any, begin: int, end: int, passage: int) -> int:
    """Return the first place in ``begin`` to ``end`` whose passage is at least ``passage``, or ``end``."""
    while begin < end:
        middle = (begin + end) >> 1
        if passages[middle] < passage:
            begin = middle + 1
        else:
            end = middle
    return begin


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_tile(
    entries: Any,
    counts: Any,
    bases: Any,
    begins: Any,
    ends: Any,
    passages: Any,
    weights: Any,
    start: int,
    tile: Any,
    first_row: int,
) -> None:
    """Fill a tile whose first row is anchor ``first_row``, and whose first column is passage ``start``."""
    width = tile.shape[1]
    sums = np.empty(width, dtype=np.float64)
    for number in range(len(tile)):
        row = first_row + number
        sums[:] = bases[row]
        for entry in range(entries[row], entries[row + 1]):
            begin = _first_from(passages, begins[entry], ends[entry], start)
            end = _first_from(passages, begin, ends[entry], start + width)
            count = counts[entry]
            for place in range(begin, end):
                sums[passages[place] - start] += count * weights[place]
        tile[number] = sums


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_pairs(
    entries: Any,
    counts: Any,
    bases: Any,
    begins: Any,
    ends: Any,
    passages: Any,
    weights: Any,
    rows: Any,
    ids: Any,
    scores: Any,
    first: int,
    last: int,
) -> None:
    """Score the pairs ``first`` to ``last``, adding the terms in the order of ``_add_tile``."""
    for number in range(first, last):
        row, passage = rows[number], ids[number]
        total = bases[row]
        for entry in range(entries[row], entries[row + 1]):
            place = _first_from(passages, begins[entry], ends[entry], passage)
            if place < ends[entry] and passages[place] == passage:
                total += counts[entry] * weights[place]
        scores[number] = total
