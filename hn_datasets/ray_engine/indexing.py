"""What is written once the texts have vectors: positives, groups, matrices, postings of every range."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hn_datasets.errors import ArgumentError
from hn_datasets.guards import Guard, Sources
from hn_datasets.ray_engine.encoding import encoder_of
from hn_datasets.ray_engine.job import Job, Pieces
from hn_datasets.ray_engine.ranges import drop_texts, range_store, read_spills
from hn_datasets.ray_engine.sliced import SlicedCorpus
from hn_datasets.sums import column_sums
from hn_datasets.teachers.bm25 import BM25Teacher
from hn_datasets.teachers.bm25_pieces import build_piece, count_piece, merge_terms
from hn_datasets.teachers.ensemble import list_members
from hn_datasets.texts import AnchorPositives, Corpus, PassageGroups, PassageLists, digest_of, fixed_size_bytes


@dataclass(frozen=True)
class Indexed:
    """What was written for one range.

    Attributes:
        positives: file with the positives of its anchors.
        groups: by column, the file of its groups.
        sums: by number of a teacher, the sum of its passage vectors.
    """

    positives: Path | None
    groups: dict[str, Path | None]
    sums: dict[int, tuple[int, ...]]


def drop_failed(_: Job, path: Path | None, dropped: Sequence[str]) -> tuple[Path | None, int]:
    """Write the texts of a range without those of some digests; return their file and number."""
    digests = np.frombuffer(b"".join(map(bytes.fromhex, dropped)), dtype="S16")
    left = drop_texts(path, digests, path.parent) if path is not None else None
    return left, 0 if left is None else len(Corpus(left))


def index_range(job: Job, pieces: Pieces, number: int, columns: Sequence[str]) -> Indexed:
    """Write what the search and the guards need of one range."""
    corpus = SlicedCorpus(pieces.passages)
    positives = _build_lists(job, corpus, number, "pairs", "positive", AnchorPositives)
    groups = {name: _build_lists(job, corpus, number, f"groups/{name}", "passage", PassageGroups) for name in columns}
    store, sums = range_store(job.store, number, job.num_ranges), {}
    summed = any(guard["name"] == "similar-to-positive" for guard in job.recipe.guards)
    for member in range(len(list_members(job.teacher))):
        encoder = encoder_of(job, member)
        if encoder is None:
            continue
        anchors, passages = pieces.anchors[number], pieces.passages[number]
        if anchors is not None:
            store.matrix(encoder, Corpus(anchors), "anchor")
        if passages is not None:
            matrix = store.matrix(encoder, Corpus(passages))
            if summed and member == 0:
                sums[member] = column_sums(matrix)
    return Indexed(positives, groups, sums)


def _build_lists(
    job: Job, corpus: SlicedCorpus, number: int, kind: str, column: str, lists: type[PassageLists]
) -> Path | None:
    """Write the passages under each key of a range; return the file, or None where there is no key."""
    tables = list(read_spills(sorted((job.work / kind).glob("*.arrow")), number, job.num_ranges))
    if not tables:
        return None
    keys = np.concatenate([fixed_size_bytes(table["digest"]) for table in tables])
    ids = corpus.ids_of_digests(np.concatenate([fixed_size_bytes(table[column]) for table in tables]))
    kept = ids >= 0  # the others have made the teacher fail
    return lists.build(keys[kept], ids[kept], job.work / "lists" / kind).path


def terms_path(job: Job, pieces: Pieces, member: int) -> Path:
    """Return the file of the terms of the whole corpus."""
    spec = str(list_members(job.teacher)[member][1].spec())
    names = [path.stem if path is not None else "" for path in pieces.passages]
    return job.work / "terms" / f"{digest_of(spec, *names)}.arrow"


def counts_path(job: Job, pieces: Pieces, member: int, number: int) -> Path:
    """Return the folder of the counted terms of a range."""
    spec, path = str(list_members(job.teacher)[member][1].spec()), pieces.passages[number]
    return job.work / "counts" / digest_of(spec, path.stem if path is not None else "")


def postings_path(job: Job, pieces: Pieces, member: int, number: int) -> Path:
    """Return the folder of the postings of a range."""
    counted = counts_path(job, pieces, member, number).name
    return job.work / "postings" / digest_of(counted, terms_path(job, pieces, member).stem)


def count_range(job: Job, pieces: Pieces, member: int, number: int) -> None:
    """Count the terms of the passages of a range."""
    path, teacher = pieces.passages[number], list_members(job.teacher)[member][1]
    if path is not None and isinstance(teacher, BM25Teacher):
        count_piece(Corpus(path), teacher.tokenizer, counts_path(job, pieces, member, number))


def merge_ranges(job: Job, pieces: Pieces, member: int) -> Path:
    """Write the terms of the whole corpus."""
    path, teacher = terms_path(job, pieces, member), list_members(job.teacher)[member][1]
    if not path.exists() and isinstance(teacher, BM25Teacher):
        filled = [number for number, passages in enumerate(pieces.passages) if passages is not None]
        folders = [counts_path(job, pieces, member, number) for number in filled]
        merge_terms(folders, teacher.tokenizer, teacher.formula, path)
    return path


def post_range(job: Job, pieces: Pieces, member: int, number: int) -> None:
    """Write the postings of a range."""
    teacher = list_members(job.teacher)[member][1]
    if pieces.passages[number] is not None and isinstance(teacher, BM25Teacher):
        counted = counts_path(job, pieces, member, number)
        path = postings_path(job, pieces, member, number)
        build_piece(counted, pieces.terms[member], teacher.formula, path)


def prepare_guards(job: Job, pieces: Pieces, guards: Sequence[Guard]) -> None:
    """Let guards write what workers need.

    Raises:
        ArgumentError: a guard cannot work.
    """
    corpus = SlicedCorpus(pieces.passages)
    if not len(corpus):
        raise ArgumentError("Expected passages, got none that the teacher can score; check the teacher.")
    sources = Sources(job.recipe, corpus, job.shared, {})
    for guard in guards:
        guard.prepare(sources)


def digest_corpus(pieces: Pieces) -> str:
    """Return the digest of the set of all texts, as ``Corpus`` has it on one machine."""
    state = hashlib.blake2b(digest_size=16)
    corpora = [Corpus(path) for path in pieces.passages if path is not None]
    state.update((16 * sum(map(len, corpora))).to_bytes(8, "little"))
    for corpus in corpora:
        state.update(corpus.digests.tobytes())
    return state.hexdigest()
