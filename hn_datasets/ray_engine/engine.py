"""Mining on a Ray cluster: what is checked before anything starts, and the call of the stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from hn_datasets.approximate import check_index
from hn_datasets.columns import CorpusLike, check_groups, resolve_columns
from hn_datasets.errors import ArgumentError
from hn_datasets.guards import Guard, guard_from_dict
from hn_datasets.preparing import check_guards
from hn_datasets.ray_engine import cluster
from hn_datasets.ray_engine.files import (
    SourceFile,
    commit_of,
    file_keys,
    find_features,
    list_files,
    write_given,
    write_ray_dataset,
)
from hn_datasets.ray_engine.job import Job, OnError
from hn_datasets.ray_engine.output import claim_output
from hn_datasets.ray_engine.reading import open_stream
from hn_datasets.ray_engine.stages import Given, Run
from hn_datasets.recipe import ALGORITHM_VERSION, Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.row_mining import block_rows_of
from hn_datasets.shards import split_file_names
from hn_datasets.sources import describe_source
from hn_datasets.store import GIVEN, RUNS, EmbeddingStore
from hn_datasets.teachers.base import Encoder, Teacher
from hn_datasets.teachers.ensemble import list_members
from hn_datasets.teachers.loading import teacher_from_spec
from hn_datasets.texts import digest_of

SHARD_ROWS = 65_536
"""Rows of a part, and so of a Parquet file of the output."""


def mine_on_ray(
    source: Any,
    recipe: Recipe,
    output: str | Path,
    *,
    teacher: Teacher | None = None,
    guards: Sequence[Guard] | None = None,
    corpus: CorpusLike | None = None,
    corpus_column_name: str | None = None,
    config_name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    store: EmbeddingStore | str | Path | None = None,
    address: str = "auto",
    workers: int | None = None,
    slices: int | None = None,
    gpus_per_worker: float = 0,
    on_error: OnError = "error",
    shard_rows: int = SHARD_ROWS,
    overwrite: bool = False,
) -> MiningRecord:
    """Mine a dataset on a Ray cluster, with the rows that one machine gives.

    Texts, vectors and mined rows go through files on storage that all nodes share; a run that was killed, with its
    driver, a node or a worker, goes on from them when the same call is made again. The scores of a teacher are those of
    its vectors: two runs give the same rows where they share a store, or where the teacher gives a text the same vector
    whatever else is in its batch.

    Args:
        source: a Hub id, a folder, or Parquet, JSON Lines or CSV files on any fsspec path; a Ray Dataset; or a Dataset
            or DatasetDict.
        recipe: every choice that decides the result.
        output: folder of the mined dataset, on any fsspec path.
        teacher: of the recipe; loaded from it if None.
        guards: of the recipe, for those that its JSON form does not hold, as ``HeldOut``; made from it if None.
        corpus: further passages beside the positives.
        corpus_column_name: their text column.
        config_name: configuration of a dataset on the Hub.
        split: one split; all of them if None.
        revision: branch, tag or commit on the Hub.
        store: a folder that all nodes see at the same path.
        address: of the cluster, as host:port; "auto" for the one that runs here.
        workers: processes that encode and search; one for each node, or for each share of the GPUs, if None.
        slices: pieces of the corpus, each searched by one worker; as many as workers if None. No effect on the result.
        gpus_per_worker: GPUs of each worker, 0.5 for two on each.
        on_error: "error", or "skip" to leave out texts that make the teacher fail, and rows that need them.
        shard_rows: rows of a Parquet file of the output.
        overwrite: replace another mined dataset.

    Returns:
        The record, as ``mining.json`` has it.

    Raises:
        ArgumentError: an argument is out of range, or Ray is not installed.
        ClusterError: no cluster answers, or its nodes lack the package, the store, GPUs or memory.
        ColumnError: a column is missing or holds no text.
        TextError: a text is None, empty or white space; names file and rows.
        TeacherError: the teacher cannot be loaded, or a text makes it fail; names file and row.
        StoreError: the store or the output cannot be written.
    """
    if (workers or 1) < 1 or (slices or 1) < 1 or shard_rows < 1 or gpus_per_worker < 0:
        raise ArgumentError(
            f"Expected at least 1 worker, slice and row, got {workers}, {slices} and {shard_rows}; correct it."
        )
    ready = teacher if teacher is not None else teacher_from_spec(recipe.teacher)
    recipe = replace(recipe, teacher=ready.spec(), algorithm_version=ALGORITHM_VERSION)
    chosen = tuple(guard_from_dict(guard) for guard in recipe.guards) if guards is None else tuple(guards)
    check_guards(chosen, ready, recipe.method)
    check_index(recipe.index, ready)
    folder = (store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)).directory
    with cluster.connected(address) as ray:
        nodes = cluster.check_nodes(ray, folder)
        count = workers or cluster.default_workers(nodes, gpus_per_worker)
        widest = max([0, *(encoder.dimension for _, encoder in list_members(ready) if isinstance(encoder, Encoder))])
        cluster.check_resources(nodes, count, gpus_per_worker, 4 * block_rows_of(recipe.index) * widest)
        loading = {"config_name": config_name, "split": split, "revision": revision}
        given = _look_at(source, corpus, corpus_column_name, recipe, chosen, folder, loading)
        key = digest_of(recipe.to_json(), *given_keys(given), str((slices or count, shard_rows, on_error)))
        job = Job(recipe, ready, folder, folder / RUNS / key, _absolute(output), slices or count, shard_rows)
        claim_output(job.output, key, overwrite=overwrite)
        run = Run(ray, job, given, chosen, on_error)
        try:
            run.start(count, gpus_per_worker, cluster.threads_of(nodes, count))
            return run.mine(key)
        finally:
            run.stop()


def given_keys(given: Given) -> list[str]:
    """Return what changes when the data does."""
    return [*file_keys(given.rows), "corpus", *file_keys(given.corpus), str(given.column)]


def _look_at(
    source: Any,
    corpus: CorpusLike | None,
    column: str | None,
    recipe: Recipe,
    guards: Sequence[Guard],
    folder: Path,
    loading: dict[str, Any],
) -> Given:
    """Find the files and check their columns; nothing is read but the beginning of the first file of each."""
    described: dict[str, Any] = {}
    if isinstance(source, (Dataset, DatasetDict)):
        rows = write_given(source, folder / RUNS / GIVEN)
    elif hasattr(source, "write_parquet"):
        rows = write_ray_dataset(source, folder / RUNS / GIVEN)
    else:
        rows = list_files(str(source), **loading)
        commit = commit_of(rows) or loading["revision"]
        described = describe_source(str(source), loading["config_name"], loading["split"], commit)
    split_file_names(dict.fromkeys(file.split for file in rows))
    features = find_features(rows)
    stream = open_stream(rows[0], features)
    resolve_columns(stream, recipe.anchor_column_name, recipe.positive_column_name)
    groups = tuple(name for guard in guards for name in guard.columns)
    check_groups(stream, groups)
    passages: list[SourceFile] = []
    if isinstance(corpus, (str, Path)):
        passages = list_files(str(corpus), config_name=None, split=None, revision=None)
    elif corpus is not None:
        if not isinstance(corpus, Dataset):
            corpus, column = Dataset.from_dict({"text": list(corpus)}), None
        passages = write_given(corpus, folder / RUNS / GIVEN)
    kinds = find_features(passages) if passages else None
    return Given(rows, passages, features, kinds, column, groups, described)


def _absolute(output: str | Path) -> str:
    return str(output).rstrip("/") if "://" in str(output) else str(Path(output).expanduser().absolute())
