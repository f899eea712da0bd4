"""Building the miner of a release again, for a few of its anchors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset

from hn_datasets.columns import (
    CorpusLike,
    explain_unreadable,
    group_names,
    iter_corpus,
    iter_pairs,
    iter_passages,
    resolve_columns,
)
from hn_datasets.errors import ArgumentError, DataSourceError, ShortRowsWarning, TeacherError, WeakTeacherWarning
from hn_datasets.guards import guard_from_dict
from hn_datasets.inspection.blocks import READ_ROWS, as_strings
from hn_datasets.inspection.roles import as_splits, column_types
from hn_datasets.miner import HardNegativeMiner, TeacherLike
from hn_datasets.modes import is_ensemble, members_of
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.dense import DenseTeacher
from hn_datasets.teachers.loading import teacher_from_spec
from hn_datasets.texts import Corpus, Digests, digest_texts

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
"""What a model on the Hub is called where no commit of it is known; a release names a folder without its place."""


@dataclass(frozen=True)
class Origin:
    """What was mined.

    Attributes:
        pairs: all pairs.
        corpus: all passages.
        further: those that came beside the pairs.
        further_column: their text column.
    """

    pairs: Dataset | DatasetDict
    corpus: Corpus
    further: CorpusLike | None = None
    further_column: str | None = None


def find_origin(
    record: MiningRecord,
    mined: DatasetDict,
    *,
    lossless: bool,
    dataset: Dataset | DatasetDict | None,
    corpus: CorpusLike | None,
    corpus_column_name: str | None,
    store: EmbeddingStore,
    token: str | None,
) -> Origin:
    """Return the pairs that were mined, and the corpus that they give with the further passages.

    Where no dataset is given, it is the first of these whose corpus is the recorded one: the rows of the release if it
    has all, the dataset of the Hub that the record names, and other rows of the release.

    Args:
        record: says what the corpus was.
        mined: the rows of the release.
        lossless: whether they are all that was mined.
        dataset: taken as it is.
        corpus: further passages beside the positives of the pairs.
        corpus_column_name: the text column of ``corpus``.
        store: where the corpus is kept.
        token: for the Hub.

    Raises:
        DataSourceError: no dataset is given, and none has the corpus; says what to pass.
        ColumnError: ``dataset`` does not have the recipe's columns.
        ArgumentError: ``corpus_column_name`` without ``corpus``.
    """
    if corpus is None and corpus_column_name is not None:
        raise ArgumentError("corpus_column_name has no effect without a corpus; leave it out.")
    collect = partial(_collect, record.recipe, corpus, corpus_column_name, store.derived / "corpora")
    if dataset is not None:
        return collect(dataset)
    found = []
    for name, load in _candidates(record, mined, lossless=lossless, token=token):
        try:
            pairs = load()
        except Exception as error:  # whatever the Hub and its clients say
            found.append(f"{name} cannot be loaded ({' '.join(str(error).split())[:200]})")
            continue
        lacking = [column for column in _group_columns(record.recipe) if column not in column_types(as_splits(pairs))]
        if lacking:
            found.append(f"{name} has no column {', '.join(lacking)}")
            continue
        origin = collect(pairs)
        if origin.corpus.digest == record.corpus.get("digest"):
            return origin
        found.append(f"{name} gives {len(origin.corpus):,} that are not the same")
    source = record.source.get("path") or record.source.get("repo_id")
    raise DataSourceError(
        f"Expected the {record.corpus.get('passages', 0):,} passages that were mined, but {' and '.join(found)}; pass "
        f"the pairs that were mined{f' ({source})' if source else ''} by dataset (--dataset), and what further "
        "passages there were by corpus (--corpus)."
    )


def _collect(
    recipe: Recipe,
    corpus: CorpusLike | None,
    corpus_column_name: str | None,
    directory: Path,
    pairs: Dataset | DatasetDict,
) -> Origin:
    """Return the pairs with all their positives and the further passages, as the miner collects them."""
    names = resolve_columns(pairs, recipe.anchor_column_name, recipe.positive_column_name)
    positives = (block.positives for block in iter_pairs(pairs, *names, recipe.on_empty))
    further = iter_passages(corpus, corpus_column_name, recipe.on_empty) if corpus is not None else iter(())
    return Origin(pairs, Corpus.build(chain(positives, further), directory), corpus, corpus_column_name)


def choose_teacher(recipe: Recipe, given: TeacherLike | None, *, trust_remote_code: bool) -> TeacherLike:
    """Return what scores now: the teacher of the recipe with the weights that its model has today, or another one.

    Args:
        recipe: names the teacher, and its prompts, length and precision.
        given: another teacher; where it and the recipe's are models, a name or folder gets the recipe's settings.
        trust_remote_code: run code that comes with the model.

    Raises:
        ArgumentError: the recipe's model brings code, and ``trust_remote_code`` is off.
        TeacherError: the model cannot be loaded or was a folder that is not here, or the recipe's teacher is of an
            unknown type.
    """
    spec = dict(recipe.teacher)
    if given is None:
        _check_folders(spec)
    if given is None and is_ensemble(spec):
        members = [_with_weights_of_today(member, trust_remote_code) for member in spec["members"]]
        return teacher_from_spec({**spec, "members": members}, trust_remote_code=trust_remote_code)
    dense = spec.get("type") == "dense"
    if given is not None and not (dense and isinstance(given, (str, Path)) and given != "bm25"):
        return given
    if given is not None:
        spec |= {"model": str(given), "revision": None, "trust_remote_code": trust_remote_code}
    return teacher_from_spec(_with_weights_of_today(spec, trust_remote_code), trust_remote_code=trust_remote_code)


def _check_folders(spec: dict[str, Any]) -> None:
    """Refuse a model from a folder that is not here: a release names it alone, and its name is none on the Hub."""
    ensemble = members_of(spec)
    for member in ensemble.values() if ensemble else (spec,):
        model = str(member.get("model") or "")
        named = member.get("type") != "dense" or member.get("revision") or _HUB_ID.fullmatch(model)
        if not named and not Path(model).exists():
            what = "an ensemble with a copy of it by teacher" if ensemble else "a copy by teacher (--teacher FOLDER)"
            raise TeacherError(f"Expected the folder of the teacher, {model!r}, got none here; pass {what}.")


def _with_weights_of_today(spec: dict[str, Any], trust_remote_code: bool) -> dict[str, Any]:
    """Return the spec of a teacher with the weights that its model has now."""
    if spec.get("trust_remote_code") and not trust_remote_code:
        raise ArgumentError(
            f"The teacher {spec['model']!r} runs code that comes with it; read that code, and pass "
            "trust_remote_code=True (--trust-remote-code) to run it."
        )
    if spec.get("type") != "dense" or "backend" in spec:  # the file of an exported graph is checked when it is loaded
        return spec
    loading = {name: spec[name] for name in ("revision", "trust_remote_code")}
    today = DenseTeacher(spec["model"], query_prompt="", corpus_prompt="", **loading)
    return {**spec, "weights": today.spec()["weights"]}


def rebuild_miner(
    origin: Origin, anchors: list[str], recipe: Recipe, *, teacher: TeacherLike, store: EmbeddingStore
) -> HardNegativeMiner:
    """Return the miner of a recipe, for some anchors: all passages are encoded, but no other anchors.

    Args:
        origin: what was mined.
        anchors: n texts.
        recipe: every other choice.
        teacher: scores passages.
        store: where vectors are kept.

    Raises:
        DataSourceError: the pairs have none of the anchors.
        TeacherError: the teacher cannot score these texts.
    """
    same = ("anchor_column_name", "positive_column_name", "method", "num_negatives", "sampling", "pool", "temperature")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakTeacherWarning)  # whoever mines again does not choose
        warnings.simplefilter("ignore", ShortRowsWarning)
        # All passages come as the corpus, so that the pairs may be cut down to the rows of these anchors.
        return HardNegativeMiner.from_dataset(
            _rows_of(origin.pairs, digest_texts(anchors), recipe),
            teacher=teacher,
            corpus=_passages(origin, recipe),
            corpus_column_name="text",
            guards=[guard_from_dict(guard) for guard in recipe.guards],
            store=store,
            **{name: getattr(recipe, name) for name in (*same, "seed", "on_empty", "relabel_candidates", "index")},
        )


def _group_columns(recipe: Recipe) -> list[str]:
    """Return the columns whose values are groups."""
    return [name for guard in recipe.guards for name in guard_from_dict(guard).columns]


def _passages(origin: Origin, recipe: Recipe) -> Dataset:
    """Return all passages, and once more in each of their groups, which rows of other anchors give them too."""
    names = _group_columns(recipe)
    tables = [pa.table({"text": origin.corpus.column})]
    columns = (recipe.anchor_column_name, recipe.positive_column_name)
    for pairs in iter_pairs(origin.pairs, *columns, recipe.on_empty, names) if names else ():
        values = {name: pairs.columns[name].take(pa.array(pairs.rows)) for name in names}
        tables.append(_with_groups(pairs.positives, values))
    if names and origin.further is not None:
        blocks = iter_corpus(origin.further, origin.further_column, recipe.on_empty, names)
        tables.extend(_with_groups(block.texts, block.columns) for block in blocks)
    table = pa.concat_tables(tables, promote_options="default")
    return Dataset(table, fingerprint=origin.corpus.digest)  # without one, datasets hashes a copy of the table


def _with_groups(texts: pa.Array, columns: Mapping[str, pa.Array]) -> pa.Table:
    groups = {name: pa.array(group_names(values.to_pylist()), pa.string()) for name, values in columns.items()}
    return pa.table({"text": texts.cast(pa.large_string()), **groups})


def find_groups(origin: Origin, batch: Mapping[str, list[Any]], recipe: Recipe) -> dict[str, list[str | None]]:
    """Return the columns of groups for rows of a release, which may have lost them.

    Args:
        origin: what was mined; of several rows with the same anchor and positive, the first tells.
        batch: anchors and positives of n rows.
        recipe: names the columns.
    """
    names = _group_columns(recipe)
    if not names:
        return {}
    anchors, positives = (batch[name] for name in (recipe.anchor_column_name, recipe.positive_column_name))
    found: dict[tuple[str, str], tuple[str | None, ...]] = {}
    rows = _rows_of(origin.pairs, digest_texts(anchors), recipe)
    for pairs in iter_pairs(rows, recipe.anchor_column_name, recipe.positive_column_name, recipe.on_empty, names):
        groups = list(zip(*(group_names(pairs.columns[name].to_pylist()) for name in names), strict=True))
        texts = pairs.anchors.to_pylist()
        for row, positive in zip(pairs.rows.tolist(), pairs.positives.to_pylist(), strict=True):
            found.setdefault((texts[row], positive), groups[row])
    firsts = [own if isinstance(own, str) else own[0] for own in positives]
    none = (None,) * len(names)
    chosen = [found.get(pair, none) for pair in zip(anchors, firsts, strict=True)]
    return {name: [groups[place] for groups in chosen] for place, name in enumerate(names)}


def _candidates(
    record: MiningRecord, mined: DatasetDict, *, lossless: bool, token: str | None
) -> Iterator[tuple[str, Callable[[], Dataset | DatasetDict]]]:
    """Yield name and loader of each dataset that may be what was mined, the surest first."""
    source = record.source
    rows = ("the release", lambda: mined)
    if lossless:
        yield rows
    if "repo_id" in source:
        yield str(source["repo_id"]), lambda: _load_named(record, token)
    if not lossless:
        yield rows


def _load_named(record: MiningRecord, token: str | None) -> Dataset | DatasetDict:
    """Return the dataset of the Hub that the record names."""
    repo_id, config_name, split, revision = map(record.source.get, ("repo_id", "config_name", "split", "revision"))
    with explain_unreadable(str(repo_id)):
        return load_dataset(str(repo_id), config_name, split=split, revision=revision, token=token)


def _rows_of(pairs: Dataset | DatasetDict, anchors: Digests, recipe: Recipe) -> Dataset:
    """Return all rows of some anchors: they decide which positives are known for them.

    Raises:
        DataSourceError: there is none.
    """
    name = recipe.anchor_column_name
    found = []
    for split in as_splits(pairs).values():
        start, numbers = 0, [np.empty(0, dtype=np.int64)]
        for table in split.select_columns([name]).with_format("arrow").iter(READ_ROWS) if len(split) else ():
            same = np.isin(digest_texts(as_strings(table[name])), anchors)
            numbers.append(start + np.flatnonzero(same))
            start += len(table)
        columns = list(dict.fromkeys([name, recipe.positive_column_name, *_group_columns(recipe)]))
        found.append(split.select_columns(columns).select(np.concatenate(numbers)))
    rows = concatenate_datasets([part for part in found if len(part)] or found)
    if not len(rows):
        raise DataSourceError(
            "Expected the dataset that was mined, got one without any anchor of the sample; name the right one."
        )
    return rows
