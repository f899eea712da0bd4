"""The formulas of BM25, and its postings on disk."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.files import open_arrow, write_arrow
from hn_datasets.progress import progress_bar
from hn_datasets.teachers.base import Ids
from hn_datasets.teachers.tokenizers import Tokenizer
from hn_datasets.texts import Corpus

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


class Index:
    """The postings of one corpus, memory-mapped: for each term the passages that have it, with weights.

    Args:
        path: the folder of the postings.
        whole: the file with the terms of the whole corpus, where the postings are those of a piece of it.

    Attributes:
        num_passages: size of the corpus, or of its piece.
        average_length: tokens of a passage.
        idf: shape ``[num_terms]``, float64.
        offsets: shape ``[num_terms + 1]``, int64; term t has the postings ``offsets[t]`` to ``offsets[t + 1]``.
        passages: shape ``[num_postings]``, int32, rising within a term.
        weights: shape ``[num_postings]``, float64: what one occurrence of the term in an anchor adds to the score.
    """

    def __init__(self, path: Path, whole: Path | None = None) -> None:
        own = open_arrow(path / "terms.arrow")
        self._terms = own if whole is None else open_arrow(whole)
        postings = open_arrow(path / "postings.arrow")
        self.num_passages = int(own.schema.metadata[b"num_passages"])
        metadata = self._terms.schema.metadata
        self.average_length = int(metadata[b"num_tokens"]) / int(metadata[b"num_passages"])
        self.idf: Doubles = self._terms["idf"].chunk(0).to_numpy()
        self.offsets: Ids = np.concatenate([[0], own["end"].chunk(0).to_numpy()])
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


def check_number(name: str, number: Any, highest: float) -> None:
    """Check that a setting is a number from 0 to ``highest``.

    Raises:
        ArgumentError: it is not.
    """
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not is_number or not math.isfinite(number) or not 0 <= number <= highest:
        bounds = "at least 0" if highest == math.inf else f"between 0 and {highest:g}"
        raise ArgumentError(f"BM25 needs {name} to be a number {bounds}, got {number!r}; leave it out for the default.")


def build_index(corpus: Corpus, tokenizer: Tokenizer, formula: Formula, path: Path) -> None:
    """Tokenise the corpus and write its postings as the folder ``path``, whole or not at all.

    Holds about 20 bytes for each distinct term of each passage.
    """
    parts, terms = count_corpus(corpus, tokenizer)
    if not terms:
        raise no_tokens(tokenizer, len(corpus))
    frequencies = count_passages(parts, len(terms))
    num_passages, num_tokens = len(corpus), sum(int(part.lengths.sum()) for part in parts)
    idf = formula.idf(frequencies, num_passages)
    metadata = {"num_passages": str(num_passages), "num_tokens": str(num_tokens)}
    columns = {"term": pa.array(terms, pa.large_string()), "idf": idf, "end": np.cumsum(frequencies)}
    with whole_folder(path) as folder:
        write_arrow(pa.table(columns).replace_schema_metadata(metadata), folder / "terms.arrow")
        write_postings(parts, frequencies, formula, idf, num_tokens / num_passages, folder)


def count_corpus(corpus: Corpus, tokenizer: Tokenizer) -> tuple[list[TermCounts], list[str]]:
    """Return the terms of all passages, in batches, and what the terms are, in the order in which they come first."""
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__
    parts: list[TermCounts] = []
    with progress_bar(total=len(corpus), desc="Tokenising passages", unit="text") as progress:
        for start in range(0, len(corpus), BATCH_TEXTS):
            texts = corpus.texts(np.arange(start, min(start + BATCH_TEXTS, len(corpus))))
            parts.append(TermCounts.of(tokenizer.tokenize(texts), vocabulary.__getitem__))
            progress.update(len(texts))
    return parts, list(vocabulary)


def no_tokens(tokenizer: Tokenizer, num_passages: int) -> TeacherError:
    """Return the error that says that no passage has a token."""
    return TeacherError(
        f"The tokeniser {json.dumps(tokenizer.spec)} finds no token in any of the {num_passages} passages; "
        "choose one for the language of the corpus."
    )


def count_passages(parts: Sequence[TermCounts], num_terms: int) -> Ids:
    """Return how many passages have each term, shape ``[num_terms]``, int64."""
    frequencies = np.zeros(num_terms, dtype=np.int64)
    for part in parts:
        frequencies += np.bincount(part.terms, minlength=num_terms)
    return frequencies


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends, unless another process was first."""
    temporary = path.with_name(f".writing-{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.rename(path)
    except OSError:
        if not path.is_dir():  # otherwise another process was first, with the same content
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_postings(
    parts: Sequence[TermCounts], frequencies: Ids, formula: Formula, idf: Doubles, average_length: float, folder: Path
) -> None:
    """Write the passages and weights of every term.

    Args:
        parts: of the passages, in their order.
        frequencies: how many of them have each term.
        formula: of the weights.
        idf: of the terms.
        average_length: tokens of a passage of the whole corpus.
        folder: where the file goes.
    """
    ends = np.cumsum(frequencies)
    passages, weights = np.empty(ends[-1], dtype=np.int32), np.empty(ends[-1], dtype=np.float64)
    places, start = ends - frequencies, 0
    for part in parts:
        rows = part.rows
        values = formula.weights(idf[part.terms], part.counts, part.lengths[rows], average_length)
        _place(part.terms, rows + start, values, places, passages, weights)
        start += len(part.lengths)
    write_arrow(pa.table({"passage": passages, "weight": weights}), folder / "postings.arrow")


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _place(terms: Any, rows: Any, values: Any, places: Any, passages: Any, weights: Any) -> None:
    """Write the postings of some passages behind those of earlier ones; ``places`` is the next place of each term."""
    for number in range(len(terms)):
        place = places[terms[number]]
        passages[place], weights[place] = rows[number], values[number]
        places[terms[number]] = place + 1
