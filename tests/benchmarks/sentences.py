"""Sentences of retrieval sets, and pairs of a query and the sentence that answers it, for the benchmarks."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

END = re.compile(
    r"(?<=[。！？])(?![」』）。！？])"  # Japanese: no white space after it; a closing quote belongs to the sentence
    r"|(?<=[.!?])[\"')\]]*\s+(?=[^a-z\s])"  # English and Korean; before a small letter it ends an abbreviation
    r"|(?<=\s[.])\s+"  # tokenised text, where all letters may be small
    r"|\n+"
)
PAUSE = re.compile(r"[,;:、，()（）]\s*|\s[-–—]\s")


@dataclass(frozen=True)
class Pair:
    """A query of one set, and the sentences of the passages that answer it."""

    folder: str
    query: str
    sentences: tuple[str, ...]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text in English, Korean or Japanese."""
    return [sentence for part in END.split(text) if len(sentence := part.strip(" .\t")) > 1]


def read_lines(path: Path) -> Iterator[dict[str, str]]:
    """Yield the objects of a JSON Lines file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_passages(folder: Path) -> dict[str, list[str]]:
    """Return the sentences of every passage of a set."""
    return {line["_id"]: split_sentences(line["text"]) for line in read_lines(folder / "corpus.jsonl")}


def read_pairs(folder: Path, passages: dict[str, list[str]]) -> list[Pair]:
    """Return one pair for each query of a set that has a positive passage."""
    queries = {line["_id"]: line["text"] for line in read_lines(folder / "queries.jsonl")}
    found: dict[str, list[str]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, passage, relevance = line.split("\t")[:3]
        if float(relevance) > 0 and query in queries:
            found.setdefault(query, []).extend(passages.get(passage, []))
    return [Pair(folder.name, queries[query], tuple(dict.fromkeys(own))) for query, own in found.items() if own]


def split_clauses(sentence: str) -> list[str]:
    """Return the parts of a sentence between its commas, colons, brackets and dashes."""
    return [clause for part in PAUSE.split(sentence) if len(clause := part.strip()) > 1]


def collect_sentences(documents: Sequence[list[str]], size: int) -> tuple[list[str], int]:
    """Return up to ``size`` distinct texts: sentences, their clauses, runs of 2, 3, ... clauses, then of sentences.

    Returns:
        The texts, and how many of them are single sentences.
    """
    num_sentences = len(set(itertools.chain.from_iterable(documents)))
    clauses = [split_clauses(sentence) for own in documents for sentence in own]
    texts: dict[str, None] = {}
    for text in itertools.chain(*documents, _iter_runs(clauses, ", "), _iter_runs(documents, " ")):
        if len(texts) >= size:
            break
        texts[text] = None
    return list(texts), min(num_sentences, size)


def _iter_runs(documents: Sequence[list[str]], between: str) -> Iterator[str]:
    """Yield all parts of the documents, then all runs of 2, 3, ... neighbouring ones."""
    for length in range(1, max(map(len, documents), default=0) + 1):
        for own in documents:
            for start in range(len(own) - length + 1):
                yield between.join(own[start : start + length])
