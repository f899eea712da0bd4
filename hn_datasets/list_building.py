"""Making inverted lists: trained, filled and measured by blocks, and kept on disk beside the vectors.

Two files: FAISS's index, and what was measured on it. Both are named after their content, and the second one, which is
written last, makes the first one valid; so the lists of a corpus are there whole or not at all, and made once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock

from hn_datasets.errors import ArgumentError, StoreError
from hn_datasets.files import is_intact, rename_checked, temporary_file, write_checked
from hn_datasets.inverted_lists import (
    InvertedLists,
    Measured,
    Stage,
    load_faiss,
    row_transform,
    rows_of,
    view_codes,
)
from hn_datasets.teachers.base import Floats
from hn_datasets.texts import digest_of

INDEX_VERSION = 1
"""Part of every name: lists of another version are left alone."""

TRAINING_ROWS = 64
"""Passages for each centroid in training; FAISS wants 39 at least."""

BLOCK_ROWS = 16_384

TARGET_RECALL = 0.99
"""Share of the nearest passages that the lists of the first stage hold; REACHED_RECALL of those at its reach."""

REACHED_RECALL = 0.98

NEAREST_RANKS = 64
"""What counts as nearest."""

STAGE_FACTOR = 4
"""How many times as many lists the second stage reads."""

SAMPLE_ANCHORS = 128
SAMPLE_PASSAGES = 1 << 18


def open_lists(passages: Floats, index: str) -> InvertedLists:
    """Return the lists of a corpus; they are made first where they are missing or damaged.

    Args:
        passages: shape ``[num_passages, dimension]``, memory-mapped from a file that is named after its content; the
            lists go beside it.
        index: for instance ``"IVF4096,SQ8"``.

    Raises:
        ArgumentError: faiss is missing, or the corpus has fewer passages than lists.
        StoreError: the files cannot be written.
    """
    load_faiss()
    source = Path(str(getattr(passages, "filename")))  # noqa: B009 - an ndarray, for the type checker
    key, directory = digest_of(source.name, index, str(INDEX_VERSION)), source.parent
    found = _find(key, directory)
    if found is None:
        try:
            with FileLock(directory / f"{key}.lock"):  # another process may be making the same
                found = _find(key, directory) or _make(passages, index, key, directory)
        except StoreError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(error.errno, f"Could not write to {directory} ({reason}); free some space.") from error
    return InvertedLists(directory / found.lists, found)


def _find(key: str, directory: Path) -> Measured | None:
    """Return what is known of lists that are there and intact; damaged files are removed."""
    for path in sorted(directory.glob(f"{key}-*.json")):
        if is_intact(path, f"{key}-"):
            data = json.loads(path.read_text(encoding="utf-8"))
            found = Measured(**{**data, "stages": tuple(Stage(**stage) for stage in data["stages"])})
            lists = directory / found.lists
            if lists.exists() and is_intact(lists, f"{key}-"):
                return found
            lists.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    return None


def _make(passages: Floats, index: str, key: str, directory: Path) -> Measured:
    faiss = load_faiss()
    filled, length, loss = _fill(passages, index)
    with temporary_file(directory) as file:
        faiss.write_index(filled, faiss.PyCallbackIOWriter(file.write, 1 << 20))
    del filled
    path = rename_checked(Path(file.name), f"{key}-", ".faiss")
    measured = Measured(path.name, length, loss, _choose_stages(InvertedLists(path), passages))
    write_checked(directory, f"{key}-", ".json", [json.dumps(asdict(measured)).encode()])
    return measured


def _fill(passages: Floats, index: str) -> tuple[Any, float, float]:
    """Return a FAISS index of all passages, and upper bounds of the length and the loss of its rows."""
    filled = _train(passages, index)
    scale, shift = row_transform(filled)
    lengths, losses = 0.0, 0.0
    for block in _blocks(passages):
        filled.add(block)
        codes = filled.sq.compute_codes(block) if hasattr(filled, "sq") else block.view(np.uint8)
        rows = rows_of(view_codes(filled, codes), torch.bfloat16).float().numpy()
        lengths = max(lengths, float(np.linalg.norm(rows, axis=1).max()))
        losses = max(losses, float(np.linalg.norm(block - (rows * scale + shift), axis=1).max()))
    return filled, 1.01 * lengths, 1.01 * losses


def _train(passages: Floats, index: str) -> Any:
    """Return an empty FAISS index with its centroids and the ranges of its codes."""
    faiss = load_faiss()
    trained = faiss.index_factory(passages.shape[1], index, faiss.METRIC_INNER_PRODUCT)
    if len(passages) < trained.nlist:
        raise ArgumentError(
            f"Expected a corpus of at least {trained.nlist:,} passages for index={index!r}, got {len(passages):,}; "
            "name fewer lists, or leave index out."
        )
    trained.cp.min_points_per_centroid = 1  # FAISS prints a warning otherwise
    if hasattr(trained, "sq"):
        trained.by_residual = False
    # Passages stand in the order of their digests: the first ones are a sample, the same whatever the order of rows.
    trained.train(np.array(passages[: TRAINING_ROWS * trained.nlist]))
    if trained.code_size == trained.d:  # of SQ8; what lies outside the range of the sample would be cut off
        lowest = np.min([block.min(axis=0) for block in _blocks(passages)], axis=0)
        highest = np.max([block.max(axis=0) for block in _blocks(passages)], axis=0)
        faiss.copy_array_to_vector(np.concatenate([lowest, highest - lowest]), trained.sq.trained)
    return trained


def _blocks(passages: Floats) -> Iterator[Floats]:
    for start in range(0, len(passages), BLOCK_ROWS):
        yield np.array(passages[start : start + BLOCK_ROWS])


def _choose_stages(lists: InvertedLists, passages: Floats) -> tuple[Stage, ...]:
    """Choose how many lists are read: as few as hold the nearest passages, then a few times as many.

    A stage that would read more than half of the lists is left out: exact search is no slower.
    """
    recall, edges = _measure_recall(lists, passages)
    first = 1 + int(np.argmax(recall[0] >= TARGET_RECALL))
    scale = max(1.0, len(passages) / SAMPLE_PASSAGES)
    stages = []
    for num_lists in (first, STAGE_FACTOR * first):
        if 2 * num_lists <= lists.num_lists:
            num_bands = int(np.cumprod(recall[:, num_lists - 1] >= REACHED_RECALL).sum())
            stages.append(Stage(num_lists, int(edges[num_bands] * scale)))
    return tuple(stages)


def _measure_recall(lists: InvertedLists, passages: Floats) -> tuple[npt.NDArray[np.float64], list[int]]:
    """Return which share of the passages of a band of ranks the 1, 2, ... nearest lists of an anchor hold.

    Anchors and ranked passages are samples of the passages.

    Returns:
        Shape ``[num_bands, num_lists]``, and the first rank of each band, with the end of the last.
    """
    sample, anchors = np.array(passages[:SAMPLE_PASSAGES]), np.array(passages[-SAMPLE_ANCHORS:])
    list_of = np.empty(len(sample), np.int64)
    for number in range(lists.num_lists):
        ids = lists.ids(number)
        list_of[ids[ids < len(sample)]] = number
    edges = [0, NEAREST_RANKS]
    while 4 * edges[-1] < len(sample):
        edges.append(4 * edges[-1])
    places = np.argsort(lists.nearest(anchors, lists.num_lists), axis=1)
    counts = np.zeros((len(edges) - 1, lists.num_lists))
    for anchor, place in zip(anchors, places, strict=True):
        ranking = np.argsort(-(sample @ anchor), kind="stable")[1:]  # the first one is the anchor itself
        for band, (start, stop) in enumerate(itertools.pairwise(edges)):
            counts[band] += np.bincount(place[list_of[ranking[start:stop]]], minlength=lists.num_lists)
    return np.cumsum(counts, axis=1) / np.maximum(1, counts.sum(axis=1, keepdims=True)), edges
