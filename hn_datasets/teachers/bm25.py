"""BM25 as a teacher: the scores of rank-bm25, over postings on disk.

Every score is summed in float64 in one order, that of the term ids, and rounded once to float32, so a tile, a pair and
a text outside the corpus give the same bits.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets.utils import tqdm

from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.files import open_arrow, write_arrow
from hn_datasets.teachers.base import Floats, Ids
from hn_datasets.teachers.tokenizers import Tokenizer, TokenizerChoice, make_tokenizer, tokenizer_from_spec
from hn_datasets.texts import Corpus, digest_of
from hn_datasets.threads import over_rows

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]

INDEX_VERSION = 1
"""Part of every index's address; raise it with any change of tokens, weights or files."""

VARIANTS: dict[str, dict[str, float]] = {"okapi": {"epsilon": 0.25}, "l": {"delta": 0.5}, "plus": {"delta": 1.0}}
"""The setting that each variant has beside k1 and b, with its default."""

BATCH_TEXTS = 4096


@dataclass(frozen=True)
class Formula:
    """The three formulas of rank-bm25 0.2.2 (Trotman et al. 2014, Improvements to BM25 and Language Models Examined).

    Attributes:
        variant: ``"okapi"``, ``"l"`` or ``"plus"``.
        k1: saturation of the term frequency, at least 0.
        b: strength of the length normalisation, in [0, 1].
        epsilon: okapi: what a term of more than half of the passages gets, as a share of the average idf.
        delta: l, plus: what lifts long passages.
    """

    variant: str
    k1: float
    b: float
    epsilon: float = 0.0
    delta: float = 0.0

    def idf(self, frequencies: Ids, num_passages: int) -> Doubles:
        """Return the weight of each term, shape ``[num_terms]``, from the number of passages that have it."""
        counts = frequencies.tolist()
        if self.variant == "plus":
            return np.array([math.log((num_passages + 1) / count) for count in counts])
        if self.variant == "l":
            return np.array([math.log(num_passages + 1) - math.log(count + 0.5) for count in counts])
        values = np.array([math.log(num_passages - count + 0.5) - math.log(count + 0.5) for count in counts])
        return np.where(values < 0, self.epsilon * (math.fsum(values) / len(values)), values)

    def constants(self, idf: Doubles) -> Doubles:
        """Return what each term of an anchor gives to every passage, shape ``[n]``: 0 but for plus."""
        return idf * self.delta if self.variant == "plus" else np.zeros_like(idf)

    def weights(self, idf: Doubles, counts: Counts, lengths: Ids, average_length: float) -> Doubles:
        """Return what each term of an anchor gives to a passage that has it, beyond its constant, shape ``[n]``.

        Args:
            idf: of the term.
            counts: how often the passage has the term, at least 1.
            lengths: tokens of the passage.
            average_length: tokens of a passage of the corpus.
        """
        relative = 1 - self.b + self.b * lengths / average_length
        if self.variant == "l":
            lifted = counts / relative + self.delta
            return idf * counts * (self.k1 + 1) * lifted / (self.k1 + lifted)
        return idf * (counts * (self.k1 + 1) / (counts + self.k1 * relative))


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
            _check_number(name, number, highest=1.0 if name == "b" else math.inf)
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
            _build_index(corpus, self.tokenizer, self.formula, path)
        return BM25Scorer(self, Index(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return BM25Teacher.from_spec, (self.spec(),)


class Index:
    """The postings of one corpus, memory-mapped: for each term the passages that have it, with weights.

    Attributes:
        num_passages: size of the corpus.
        average_length: tokens of a passage.
        idf: shape ``[num_terms]``, float64.
        offsets: shape ``[num_terms + 1]``, int64; term t has the postings ``offsets[t]`` to ``offsets[t + 1]``.
        passages: shape ``[num_postings]``, int32, rising within a term.
        weights: shape ``[num_postings]``, float64: what one occurrence of the term in an anchor adds to the score.
    """

    def __init__(self, path: Path) -> None:
        self._terms = open_arrow(path / "terms.arrow")
        postings = open_arrow(path / "postings.arrow")
        self.num_passages = int(self._terms.schema.metadata[b"num_passages"])
        self.average_length = int(self._terms.schema.metadata[b"num_tokens"]) / self.num_passages
        self.idf: Doubles = self._terms["idf"].chunk(0).to_numpy()
        self.offsets: Ids = np.concatenate([[0], self._terms["end"].chunk(0).to_numpy()])
        self.passages: npt.NDArray[np.int32] = postings["passage"].chunk(0).to_numpy()
        self.weights: Doubles = postings["weight"].chunk(0).to_numpy()

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """The id of every term."""
        return {term: number for number, term in enumerate(self._terms["term"].to_pylist())}


@dataclass(frozen=True)
class TermCounts:
    """The terms of n texts: text ``i`` has ``terms[offsets[i]:offsets[i + 1]]``, in rising order, each once.

    Attributes:
        offsets: shape ``[n + 1]``, int64.
        terms: shape ``[m]``, int32.
        counts: shape ``[m]``, int32, how often the text has the term.
        lengths: shape ``[n]``, int64, tokens of the text, unknown ones included.
    """

    offsets: Ids
    terms: npt.NDArray[np.int32]
    counts: Counts
    lengths: Ids

    @classmethod
    def of(cls, tokens: Sequence[Sequence[str]], term_id: Callable[[str], int]) -> TermCounts:
        """Count the tokens of each text; ``term_id`` gives -1 for one that is to be left out."""
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        terms = np.fromiter(map(term_id, chain.from_iterable(tokens)), np.int64, int(lengths.sum()))
        keys = np.repeat(np.arange(len(tokens)) << 32, lengths) + terms
        keys, counts = np.unique(keys[terms >= 0], return_counts=True)
        offsets = np.searchsorted(keys >> 32, np.arange(len(tokens) + 1))
        return cls(offsets, (keys & 0xFFFFFFFF).astype(np.int32), counts.astype(np.int32), lengths)

    @property
    def rows(self) -> Ids:
        """The text that each term stands in, shape ``[m]``, int64."""
        return np.repeat(np.arange(len(self.lengths)), np.diff(self.offsets))


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
    """The scores of a block of anchors; see ``teachers.base.Scores``. All are exact, so the slack is 0."""

    def __init__(self, scorer: BM25Scorer, anchors: TermCounts) -> None:
        self._scorer = scorer
        self._terms = anchors.terms
        self._entries = anchors.offsets
        self._counts = anchors.counts.astype(np.float64)
        constants = scorer.teacher.formula.constants(scorer.index.idf[anchors.terms])
        self._bases = np.bincount(anchors.rows, weights=constants * self._counts, minlength=len(anchors.lengths))
        self.slack: Floats = np.zeros(len(anchors.lengths), dtype=np.float32)

    def tile(self, start: int, stop: int) -> Floats:
        """Return the scores of all anchors against passages ``start`` to ``stop``: ``[num_anchors, stop - start]``."""
        index = self._scorer.index
        begins, ends = index.offsets[self._terms], index.offsets[self._terms + 1]
        anchors = (self._entries, self._counts, self._bases, begins, ends)
        tile = np.empty((len(self.slack), stop - start), dtype=np.float32)
        over_rows(
            lambda first, last: _add_tile(*anchors, index.passages, index.weights, start, tile, first, last), len(tile)
        )
        return tile

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


def _check_number(name: str, number: Any, highest: float) -> None:
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not is_number or not math.isfinite(number) or not 0 <= number <= highest:
        bounds = "at least 0" if highest == math.inf else f"between 0 and {highest:g}"
        raise ArgumentError(f"BM25 needs {name} to be a number {bounds}, got {number!r}; leave it out for the default.")


def _build_index(corpus: Corpus, tokenizer: Tokenizer, formula: Formula, path: Path) -> None:
    """Tokenise the corpus and write its postings as the folder ``path``, whole or not at all.

    Holds about 20 bytes for each distinct term of each passage.
    """
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__
    parts: list[TermCounts] = []
    with tqdm(total=len(corpus), desc="Tokenising passages", unit="text", disable=None) as progress:
        for start in range(0, len(corpus), BATCH_TEXTS):
            texts = corpus.texts(np.arange(start, min(start + BATCH_TEXTS, len(corpus))))
            parts.append(TermCounts.of(tokenizer.tokenize(texts), vocabulary.__getitem__))
            progress.update(len(texts))
    if not vocabulary:
        raise TeacherError(
            f"The tokeniser {json.dumps(tokenizer.spec)} finds no token in any of the {len(corpus)} passages; "
            "choose one for the language of the corpus."
        )
    temporary = path.with_name(f".writing-{uuid.uuid4().hex}")
    try:
        _write_index(parts, list(vocabulary), formula, temporary)
        temporary.rename(path)
    except OSError:
        if not path.is_dir():  # otherwise another process was first, with the same content
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_index(parts: Sequence[TermCounts], terms: list[str], formula: Formula, directory: Path) -> None:
    frequencies = np.zeros(len(terms), dtype=np.int64)
    for part in parts:
        frequencies += np.bincount(part.terms, minlength=len(terms))
    num_passages = sum(len(part.lengths) for part in parts)
    num_tokens = sum(int(part.lengths.sum()) for part in parts)
    idf, ends = formula.idf(frequencies, num_passages), np.cumsum(frequencies)
    passages, weights = np.empty(ends[-1], dtype=np.int32), np.empty(ends[-1], dtype=np.float64)
    places, start = ends - frequencies, 0
    for part in parts:
        rows = part.rows
        values = formula.weights(idf[part.terms], part.counts, part.lengths[rows], num_tokens / num_passages)
        _place(part.terms, rows + start, values, places, passages, weights)
        start += len(part.lengths)
    metadata = {"num_passages": str(num_passages), "num_tokens": str(num_tokens)}
    columns = {"term": pa.array(terms, pa.large_string()), "idf": idf, "end": ends}
    write_arrow(pa.table(columns).replace_schema_metadata(metadata), directory / "terms.arrow")
    write_arrow(pa.table({"passage": passages, "weight": weights}), directory / "postings.arrow")


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _place(terms: Any, rows: Any, values: Any, places: Any, passages: Any, weights: Any) -> None:
    """Write the postings of some passages behind those of earlier ones; ``places`` is the next place of each term."""
    for number in range(len(terms)):
        place = places[terms[number]]
        passages[place], weights[place] = rows[number], values[number]
        places[terms[number]] = place + 1


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
    last_row: int,
) -> None:
    """Fill the rows ``first_row`` to ``last_row`` of a tile whose first column is passage ``start``."""
    width = tile.shape[1]
    sums = np.empty(width, dtype=np.float64)
    for row in range(first_row, last_row):
        sums[:] = bases[row]
        for entry in range(entries[row], entries[row + 1]):
            begin = _first_from(passages, begins[entry], ends[entry], start)
            end = _first_from(passages, begin, ends[entry], start + width)
            count = counts[entry]
            for place in range(begin, end):
                sums[passages[place] - start] += count * weights[place]
        tile[row] = sums


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
