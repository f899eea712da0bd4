"""The postings of BM25 for a corpus in pieces: the same ids, weights and scores as for the whole.

Each piece counts its own terms; the terms of all pieces, in the order of the pieces, are those of the whole corpus in
the order in which they come first; with their frequencies every piece then writes its postings.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from hn_datasets.files import open_arrow, write_arrow
from hn_datasets.teachers.bm25_index import (
    Formula,
    TermCounts,
    count_corpus,
    count_passages,
    no_tokens,
    whole_folder,
    write_postings,
)
from hn_datasets.teachers.tokenizers import Tokenizer
from hn_datasets.texts import Corpus


def count_piece(corpus: Corpus, tokenizer: Tokenizer, path: Path) -> None:
    """Count the terms of one piece, and write them as the folder ``path``, unless it is there."""
    if path.exists():
        return
    parts, terms = count_corpus(corpus, tokenizer)
    metadata = {"num_passages": str(len(corpus)), "num_tokens": str(sum(int(part.lengths.sum()) for part in parts))}
    frequencies = count_passages(parts, len(terms))
    with whole_folder(path) as folder:
        table = pa.table({"term": pa.array(terms, pa.large_string()), "frequency": frequencies})
        write_arrow(table.replace_schema_metadata(metadata), folder / "terms.arrow")
        counts = [np.concatenate([part.counts for part in parts]), np.concatenate([part.terms for part in parts])]
        write_arrow(pa.table(counts, names=["count", "term"]), folder / "counts.arrow")
        passages = {
            "length": np.concatenate([part.lengths for part in parts]),
            "num_terms": np.concatenate([np.diff(part.offsets) for part in parts]),
        }
        write_arrow(pa.table(passages), folder / "passages.arrow")


def merge_terms(pieces: Iterable[Path], tokenizer: Tokenizer, formula: Formula, path: Path) -> None:
    """Write the terms of the whole corpus, with their idf, to the file ``path``.

    Holds every distinct term of the corpus once.

    Args:
        pieces: folders of ``count_piece``, in the order of their passages.
        tokenizer: named where no passage has a token.
        formula: of the idf.
        path: of the file.

    Raises:
        TeacherError: no passage has a token.
    """
    ids: dict[str, int] = {}
    frequencies: list[int] = []
    num_passages = num_tokens = 0
    for piece in pieces:
        table = open_arrow(piece / "terms.arrow")
        num_passages += int(table.schema.metadata[b"num_passages"])
        num_tokens += int(table.schema.metadata[b"num_tokens"])
        for term, frequency in zip(table["term"].to_pylist(), table["frequency"].to_pylist(), strict=True):
            number = ids.setdefault(term, len(ids))
            if number == len(frequencies):
                frequencies.append(0)
            frequencies[number] += frequency
    if not ids:
        raise no_tokens(tokenizer, num_passages)
    idf = formula.idf(np.array(frequencies, dtype=np.int64), num_passages)
    metadata = {"num_passages": str(num_passages), "num_tokens": str(num_tokens)}
    whole = pa.table({"term": pa.array(list(ids), pa.large_string()), "idf": idf})
    write_arrow(whole.replace_schema_metadata(metadata), path)


def build_piece(counts: Path, terms: Path, formula: Formula, path: Path) -> None:
    """Write the postings of one piece as the folder ``path``, unless it is there.

    Args:
        counts: the folder of ``count_piece``.
        terms: the file of ``merge_terms``.
        formula: of the weights.
        path: of the folder.
    """
    if path.exists():
        return
    whole, own = open_arrow(terms), open_arrow(counts / "terms.arrow")
    numbers = {term: number for number, term in enumerate(whole["term"].to_pylist())}
    global_ids = np.fromiter(map(numbers.__getitem__, own["term"].to_pylist()), np.int32, len(own))
    part = _read_counts(counts, global_ids)
    frequencies = np.bincount(part.terms, minlength=len(whole)).astype(np.int64)
    metadata = whole.schema.metadata
    average = int(metadata[b"num_tokens"]) / int(metadata[b"num_passages"])
    with whole_folder(path) as folder:
        ends = pa.table({"end": np.cumsum(frequencies)})
        described = ends.replace_schema_metadata({"num_passages": str(len(part.lengths))})
        write_arrow(described, folder / "terms.arrow")
        write_postings([part], frequencies, formula, whole["idf"].to_numpy(), average, folder)


def _read_counts(counts: Path, global_ids: np.ndarray[tuple[int], np.dtype[np.int32]]) -> TermCounts:
    """Return the terms of all passages of a piece, by their numbers in the whole corpus."""
    passages, table = open_arrow(counts / "passages.arrow"), open_arrow(counts / "counts.arrow")
    num_terms = passages["num_terms"].to_numpy()
    offsets = np.concatenate([[0], np.cumsum(num_terms)]).astype(np.int64)
    terms = global_ids[table["term"].to_numpy()]
    order = np.lexsort((terms, np.repeat(np.arange(len(num_terms)), num_terms)))
    return TermCounts(offsets, terms[order], table["count"].to_numpy()[order], passages["length"].to_numpy())
