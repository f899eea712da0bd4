"""The plan of a run on a cluster: sizes counted in the files, rates measured on a sample here, or both given."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset

from hn_datasets.cluster_model import ClusterPlan, Rates, Sizes, plan_cluster
from hn_datasets.columns import iter_pairs, resolve_columns
from hn_datasets.errors import ArgumentError
from hn_datasets.planning import plan_mining
from hn_datasets.ray_engine.files import SourceFile, find_features, list_files
from hn_datasets.ray_engine.reading import open_stream
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import Encoder, Ranker, Teacher

SAMPLE_ROWS = 512
COUNTED_BYTES = 1 << 24


@dataclass(frozen=True)
class Assumed:
    """What is given and so neither counted nor measured.

    Attributes:
        passages: distinct ones.
        anchors: rows.
        encoding: texts that a worker encodes in a second.
        search: products of components that a worker computes in a second.
    """

    passages: int | None = None
    anchors: int | None = None
    encoding: float | None = None
    search: float | None = None


def plan_on_ray(
    source: str,
    teacher: Teacher,
    *,
    corpus: str | None = None,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    workers: int = 1,
    slices: int | None = None,
    assumed: Assumed | None = None,
    **loading: Any,
) -> ClusterPlan:
    """Estimate what ``mine_on_ray`` will take; no cluster is needed.

    Where no number of passages is given, that of the rows and further passages is taken, which is too high where they
    repeat one another. Rates are those of this machine, which stands for one worker.

    Args:
        source: as for ``mine_on_ray``.
        teacher: a ready one; it is loaded and asked for a few texts where its rate is not given.
        corpus: further passages.
        anchor_column_name: the first text column if None.
        positive_column_name: the next text column if None.
        workers: how many.
        slices: pieces of the corpus; as many as workers if None.
        assumed: what is given.
        loading: ``config_name``, ``split`` and ``revision`` of the source.

    Raises:
        ArgumentError: the teacher is an ensemble.
        DataSourceError: a file cannot be read.
    """
    if not isinstance(teacher, (Encoder, Ranker)):
        raise ArgumentError("Expected a single teacher for a plan of the engine ray, got an ensemble; plan each apart.")
    given = assumed or Assumed()
    files = list_files(source, **{"config_name": None, "split": None, "revision": None, **loading})
    sample = _sample(files, anchor_column_name, positive_column_name)
    names = resolve_columns(sample, anchor_column_name, positive_column_name)
    anchors = given.anchors or sum(map(_count_rows, files))
    passages = given.passages or anchors + (
        sum(map(_count_rows, list_files(corpus, config_name=None, split=None, revision=None))) if corpus else 0
    )
    blocks = list(iter_pairs(sample, *names, "skip"))
    texts = [text for block in blocks for text in block.positives.to_pylist()]
    dimension = teacher.dimension if isinstance(teacher, Encoder) else 1
    sizes = Sizes(passages, anchors, dimension, float(np.mean([len(text.encode()) for text in texts])))
    return plan_cluster(sizes, _measure(sample, names, teacher, given), workers, slices)


def _measure(sample: Dataset, names: tuple[str, str], teacher: Teacher, given: Assumed) -> Rates:
    """Return rates, measured on a sample where they are not given."""
    is_encoder = isinstance(teacher, Encoder)
    if given.search and (given.encoding or not is_encoder):
        return Rates(given.encoding or 0.0, given.search)
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_mining(
            sample,
            teacher=teacher,
            anchor_column_name=names[0],
            positive_column_name=names[1],
            on_empty="skip",
            store=EmbeddingStore(folder),
        )
    seconds = {stage.name: stage.seconds for stage in plan.stages}
    blocks = list(iter_pairs(sample, *names, "skip"))
    anchors = sum(len(block.anchors) for block in blocks)
    positives = len({text for block in blocks for text in block.positives.to_pylist()})
    distinct = len({text for block in blocks for text in block.anchors.to_pylist()})
    dimension = teacher.dimension if isinstance(teacher, Encoder) else 1
    encoding = (positives + distinct) / max(seconds.get("encode", 0.0), 1e-9) if is_encoder else 0.0
    search = anchors * positives * dimension / max(seconds["search"], 1e-9)
    return Rates(given.encoding or encoding, given.search or search)


def _sample(files: list[SourceFile], anchor: str | None, positive: str | None) -> Dataset:
    """Return the first rows of the source."""
    stream = open_stream(files[0], find_features(files))
    names = resolve_columns(stream, anchor, positive)
    rows = list(islice(stream.select_columns(list(names)), SAMPLE_ROWS))
    return Dataset.from_list(rows)


def _count_rows(file: SourceFile) -> int:
    """Return the rows of a file, from its footer or by its line ends."""
    with fsspec.open(file.path, "rb") as stream:
        if Path(file.path).suffix == ".parquet":
            return int(pq.ParquetFile(stream).metadata.num_rows)
        lines = 0
        while block := stream.read(COUNTED_BYTES):
            lines += block.count(b"\n")
        return lines
