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


def collect_sentences(documents: Sequence[list[str]], size: int) -> tuple[list[str], int]:
    """Return up to ``size`` distinct texts: all sentences, then runs of 2, 3, ... sentences of a passage.

    Returns:
        The texts, and how many of them are single sentences.
    """
    texts = dict.fromkeys(itertools.chain.from_iterable(documents))
    num_sentences = len(texts)
    for length in range(2, max(map(len, documents), default=1) + 1):
        for own in documents:
            if len(texts) >= size:
                return list(texts)[:size], num_sentences
            runs = range(len(own) - length + 1)
            texts.update(dict.fromkeys(" ".join(own[start : start + length]) for start in runs))
    return list(texts)[:size], min(num_sentences, size)
