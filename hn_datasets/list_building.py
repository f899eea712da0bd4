"""Making inverted lists: trained, filled and measured by blocks, and kept on disk beside the vectors.

Three files: FAISS's index, what its 8-bit codes leave out, and how it is to be searched. All are named after their
content, and the last one makes the others valid; so the lists of a corpus are there whole or not at all, and made once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock

from hn_datasets.errors import ArgumentError, StoreError
from hn_datasets.files import is_intact, rename_checked, temporary_file, write_checked
from hn_datasets.inverted_lists import InvertedLists, Remainders, Stage, load_faiss, members_of, multiply
from hn_datasets.quantized import LEVELS, rotate, round_to_int8
from hn_datasets.scoring import Corpus8, int8_header, open_rounded
from hn_datasets.teachers.base import Floats, Ids
from hn_datasets.texts import digest_of

INDEX_VERSION = 4
"""Part of every name: lists of another version are left alone."""

TRAINING_ROWS = 64
"""Passages for each centroid in training; FAISS wants 39 at least."""

MOST_TRAINING_ROWS = 1 << 18
BLOCK_ROWS = 16_384

TARGET_RECALL = 0.98
"""Share of the nearest passages of a sample that the lists of the first stage hold.

Of the negatives under TopK-PercPos, which are mostly nearer than the last of these, more are found: 99.3 % among
162,851 sentences in 512 lists (``tests/benchmarks/bench_approximate.py``).
"""

REACHED_RECALL = 0.95
"""Share of those at its reach that the lists of a stage hold."""

NEAREST_RANKS = 64
"""What counts as nearest."""

STAGE_FACTOR = 3
"""How many times as many lists the second stage reads."""

SAMPLE_ANCHORS = 256
SAMPLE_PASSAGES = 1 << 18

TRAINING_ROUNDS = 10
"""Rounds of FAISS's k-means."""

CENTROID_PRODUCTS = 4e10
"""Products a second with centroids, on two cores."""

RANKED_PASSAGES = 8e6
"""Passages ranked a second for one anchor of the sample."""


@dataclass(frozen=True)
class ListCosts:
    """What it takes to make lists, estimated.

    Attributes:
        num_lists: how many there are.
        seconds: on two cores.
        disk_bytes: of the finished files.
        memory_bytes: peak of anonymous memory.
    """

    num_lists: int
    seconds: float
    disk_bytes: int
    memory_bytes: int


def estimate_lists(index: str, num_passages: int, dimension: int) -> ListCosts:
    """Estimate what making the lists of a corpus takes: training, filling, and measuring how they are searched."""
    num_lists = _num_lists(index)
    num_rows = _num_training_rows(num_passages, num_lists)
    assigned = (TRAINING_ROUNDS * num_rows + num_passages) * num_lists * dimension
    rotated = num_passages * dimension**2  # for what the codes leave out
    ranked = SAMPLE_ANCHORS * min(num_passages, SAMPLE_PASSAGES)
    index_bytes = num_passages * (dimension + 8) + 4 * num_lists * dimension  # 8-bit codes and 64-bit ids
    memory = max(2 * 4 * num_rows * dimension, 2 * index_bytes)  # FAISS doubles a list that is full
    disk = index_bytes + num_passages * dimension  # what the codes leave out
    return ListCosts(num_lists, (assigned + rotated) / CENTROID_PRODUCTS + ranked / RANKED_PASSAGES, disk, memory)


def open_lists(passages: Floats, index: str) -> tuple[InvertedLists, Corpus8]:
    """Return the lists of a corpus, made first where they are missing or damaged, and the integers in them.

    Args:
        passages: shape ``[num_passages, dimension]``, memory-mapped from a file that is named after its content; the
            lists go beside it.
        index: for instance ``"IVF4096,SQ8"``.

    Raises:
        ArgumentError: faiss is missing, or the lengths of the vectors differ too much for 8-bit codes.
        StoreError: the files cannot be written.
    """
    load_faiss()
    source = Path(str(getattr(passages, "filename")))  # noqa: B009 - an ndarray, for the type checker
    corpus8 = open_rounded(passages, source)
    if corpus8 is None:
        raise ArgumentError(
            f"Expected vectors of similar lengths for index={index!r}, got some that are far longer than others; leave "
            "it out."
        )
    key, directory = digest_of(source.name, index, str(INDEX_VERSION)), source.parent
    found = _find(key, directory)
    if found is None:
        try:
            with FileLock(directory / f"{key}.lock"):  # another process may be making the same
                found = _find(key, directory) or _make(passages, corpus8, index, key, directory)
        except StoreError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(error.errno, f"Could not write to {directory} ({reason}); free some space.") from error
    return found, corpus8


def check_size(index: str, num_passages: int) -> None:
    """Check that there is a passage for every list.

    Raises:
        ArgumentError: there are more lists.
    """
    num_lists = _num_lists(index)
    if num_passages < num_lists:
        raise ArgumentError(
            f"Expected a corpus of at least {num_lists:,} passages for index={index!r}, got {num_passages:,}; name "
            "fewer lists, or leave it out."
        )


def _find(key: str, directory: Path) -> InvertedLists | None:
    """Return lists that are there and intact; damaged files are removed."""
    for path in sorted(directory.glob(f"{key}-*.json")):
        if is_intact(path, f"{key}-"):
            data = json.loads(path.read_text(encoding="utf-8"))
            files = [directory / str(data["lists"]), directory / str(data["remainders"]["path"])]
            if all(file.exists() and is_intact(file, f"{key}-") for file in files):
                return _open(data, directory)
            for file in files:
                file.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    return None


def _open(data: dict[str, Any], directory: Path) -> InvertedLists:
    """Return the lists that a description names."""
    described, stages = data["remainders"], tuple(Stage(**stage) for stage in data["stages"])
    integers = np.load(directory / described["path"], mmap_mode="r")
    remainders = Remainders(integers, described["unit"], described["most_lost"])
    return InvertedLists(directory / data["lists"], remainders, stages)


def _make(passages: Floats, corpus8: Corpus8, index: str, key: str, directory: Path) -> InvertedLists:
    faiss = load_faiss()
    filled = _train(corpus8, index)
    for vectors in _blocks(corpus8, len(corpus8.integers)):
        filled.add(vectors)
    with temporary_file(directory) as file:
        faiss.write_index(filled, faiss.PyCallbackIOWriter(file.write, 1 << 20))
    path = rename_checked(Path(file.name), f"{key}-", ".faiss")
    unit, most_lost = corpus8.unit / (2 * LEVELS), [0.0]  # rounding took half a unit of the passages at most
    chunks = _remainder_chunks(passages, corpus8, members_of(filled).values, unit, most_lost)
    remainders = write_checked(directory, f"{key}-", ".npy", chunks)
    del filled
    described = {"path": remainders.name, "unit": unit, "most_lost": max(most_lost)}
    data: dict[str, Any] = {"lists": path.name, "remainders": described, "stages": []}
    data["stages"] = [asdict(stage) for stage in _choose_stages(_open(data, directory), corpus8)]
    write_checked(directory, f"{key}-", ".json", [json.dumps(data).encode()])
    return _open(data, directory)


def _remainder_chunks(
    passages: Floats, corpus8: Corpus8, order: Ids, unit: float, most_lost: list[float]
) -> Iterator[bytes]:
    """Return a ``.npy`` file of what rounding took from passages, in pieces; what that leaves out is appended."""
    yield int8_header(passages.shape)
    for start in range(0, len(order), BLOCK_ROWS):
        ids = order[start : start + BLOCK_ROWS]
        whole = corpus8.integers[torch.from_numpy(ids)].numpy() * corpus8.unit
        rounded = round_to_int8(rotate(passages[ids]) - whole, unit)
        most_lost.append(float(rounded.losses.max()))
        yield rounded.integers.tobytes()


def _train(corpus8: Corpus8, index: str) -> Any:
    """Return an empty FAISS index with its centroids, whose codes are the integers of the corpus and 127."""
    faiss = load_faiss()
    num_passages, dimension = corpus8.integers.shape
    trained = faiss.index_factory(dimension, index, faiss.METRIC_INNER_PRODUCT)
    trained.cp.min_points_per_centroid = 1  # or FAISS prints a warning
    trained.by_residual = False
    # Passages stand in the order of their digests: the first ones are a sample, the same whatever the order of rows.
    num_rows = _num_training_rows(num_passages, trained.nlist)
    trained.train(np.concatenate(list(_blocks(corpus8, num_rows))))
    lowest = np.full(dimension, -(LEVELS + 0.5) * corpus8.unit, np.float32)
    faiss.copy_array_to_vector(
        np.concatenate([lowest, np.full(dimension, 255 * corpus8.unit, np.float32)]), trained.sq.trained
    )
    return trained


def _num_lists(index: str) -> int:
    return int(index.removeprefix("IVF").split(",")[0])


def _num_training_rows(num_passages: int, num_lists: int) -> int:
    return min(num_passages, TRAINING_ROWS * num_lists, max(MOST_TRAINING_ROWS, num_lists))


def _blocks(corpus8: Corpus8, num_rows: int) -> Iterator[Floats]:
    """Yield the vectors of the first passages, as rounded, by blocks."""
    for start in range(0, num_rows, BLOCK_ROWS):
        yield corpus8.integers[start : min(start + BLOCK_ROWS, num_rows)].float().numpy() * np.float32(corpus8.unit)


def _choose_stages(lists: InvertedLists, corpus8: Corpus8) -> tuple[Stage, ...]:
    """Choose how many lists are read: as few as hold the nearest passages, then a few times as many.

    A stage that would read more than half of the lists is left out: reading all of them comes next in any case.
    """
    recall, edges = _measure_recall(lists, corpus8)
    first = 1 + int(np.argmax(recall[0] >= TARGET_RECALL))
    scale = max(1.0, len(corpus8.integers) / SAMPLE_PASSAGES)
    stages = []
    for num_lists in (first, STAGE_FACTOR * first):
        if 2 * num_lists <= lists.num_lists:
            num_bands = int(np.cumprod(recall[:, num_lists - 1] >= REACHED_RECALL).sum())
            stages.append(Stage(num_lists, int(edges[num_bands] * scale)))
    return tuple(stages)


def _measure_recall(lists: InvertedLists, corpus8: Corpus8) -> tuple[npt.NDArray[np.float64], list[int]]:
    """Return which share of the passages of a band of ranks the 1, 2, ... nearest lists of an anchor hold.

    Anchors and ranked passages are samples of the passages.

    Returns:
        Shape ``[num_bands, num_lists]``, and the first rank of each band, with the end of the last.
    """
    sample, anchors = (
        part.numpy() for part in (corpus8.integers[:SAMPLE_PASSAGES], corpus8.integers[-SAMPLE_ANCHORS:])
    )
    list_of = np.empty(len(sample), np.int64)
    for number in range(lists.num_lists):
        ids = lists.ids(number)
        list_of[ids[ids < len(sample)]] = number
    edges = [0, NEAREST_RANKS]
    while 2 * edges[-1] < len(sample):
        edges.append(2 * edges[-1])
    places = np.argsort(lists.nearest(anchors, lists.num_lists), axis=1)
    counts = np.zeros((len(edges) - 1, lists.num_lists))
    for number, place in enumerate(places):
        falling = -multiply(anchors[number : number + 1], sample)[0]
        ranking = np.argsort(falling, kind="stable")[1:]  # the first one is the anchor itself
        for band, (start, stop) in enumerate(itertools.pairwise(edges)):
            counts[band] += np.bincount(place[list_of[ranking[start:stop]]], minlength=lists.num_lists)
    return np.cumsum(counts, axis=1) / np.maximum(1, counts.sum(axis=1, keepdims=True)), edges
