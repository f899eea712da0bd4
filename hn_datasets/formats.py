"""The mined columns as the tables that trainers read.

Names and shapes are those of ``sentence_transformers.util.mine_hard_negatives`` 6.2.0. Its trainer takes ``label``,
``labels``, ``score`` and ``scores`` as the label and every other column as an input, by order, so a trainable format
holds the anchor, the positive, the negatives and the label or scores, in that order, and nothing else.

All of it runs on Arrow arrays, batch by batch: lists are laid flat, rows are repeated by index, texts are taken.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features

from hn_datasets.columns import iter_pairs, resolve_columns, splits_of
from hn_datasets.errors import ArgumentError, ColumnError, ShortRowsWarning
from hn_datasets.files import cache_directory
from hn_datasets.texts import AnchorPositives, Corpus, Ragged, digest_of, digest_texts, is_empty, normalise

OutputFormat = Literal["triplet", "n-tuple", "labeled-pair", "labeled-list", "scored", "normalized"]
Shortage = Literal["keep", "drop", "fill"]
Ints = npt.NDArray[np.int64]

FORMATS_VERSION = 1
"""Raise it with every change of results: the ``map`` cache knows the arguments, but not the code."""

OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)
TRAINABLE_FORMATS = OUTPUT_FORMATS[:4]
SHORTAGES: tuple[str, ...] = get_args(Shortage)
MINED_COLUMNS = ("negatives", "negative_ids", "negative_scores", "positive_score")
OPTIONAL_COLUMNS = ("ceiling", "top_score")
LABEL_COLUMNS = ("label", "labels", "score", "scores")
"""The columns that the sentence-transformers trainer reads as the label."""

FILLED_ID = -1
"""The ``negative_ids`` value of a random passage that ``shortage="fill"`` added."""

_ROWS = 10_000  # read at once where only numbers are computed


def format_dataset(
    mined: Dataset | DatasetDict,
    output_format: OutputFormat,
    *,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    num_negatives: int | None = None,
    output_scores: bool = False,
    shortage: Shortage | None = None,
    seed: int = 0,
) -> Dataset | DatasetDict:
    """Return a mined dataset in another format.

    A row whose positive column holds a list becomes one row per positive, in ``labeled-list`` one row with all
    positives first. Rows that were skipped as empty when mined never become training rows.

    Args:
        mined: a dataset with the miner's columns, or several splits of them; every split is formatted.
        output_format: one of the trainable formats
            ``triplet``: anchor, positive, ``negative``; one row for each negative;
            ``n-tuple``: anchor, positive, ``negative_1`` to ``negative_n``;
            ``labeled-pair``: anchor, passage (in the positive column), ``label`` 1 or 0; positives first;
            ``labeled-list``: anchor, list of passages (in the positive column), ``labels``; rows without any
            negative are left out;
            or ``scored``: anchor, positive and all mined columns, lists kept;
            or ``normalized``: three tables, ``queries`` (``query_id``, ``query``), ``documents`` (``document_id``,
            ``document``) and ``scores`` (``query_id``, ``document_ids``, ``scores``, ``labels``; one row for each
            mined row, positives first, each with the row's ``positive_score``); every distinct text stands once, and
            ``sentence_transformers.util.resolve_ids`` joins them. A DatasetDict has one set of texts for all splits,
            and ``scores`` a last column ``split``. The tables are held in memory.
        anchor_column_name: a string column; default: the first one that is not a mined column.
        positive_column_name: a column of strings or lists of strings; default: the first other one.
        num_negatives: at least 1, negatives to keep of each row, the best first; default: those of the longest row.
        output_scores: add ``scores`` [positive, negatives...] to ``triplet`` and ``n-tuple``, or put ``score`` or
            ``scores`` (float32) in the place of the labels. ``scored`` and ``normalized`` always have them.
        shortage: what becomes of rows with fewer than ``num_negatives``: ``keep`` them as they are (default), ``drop``
            them (default of ``n-tuple``), or ``fill`` them with passages drawn uniformly from the distinct positives
            of all splits, never one that ``normalise`` makes equal to the anchor, to a positive of the anchor
            anywhere in ``mined`` or to another negative of the row. A drawn passage has id -1 and score NaN in
            ``scored`` (score NaN in ``normalized``); a trainable format has no place for such a mark.
        seed: decides, with the anchor's text, which passages are drawn; neither row order nor batches do.

    Returns:
        A Dataset, or a DatasetDict with the same splits; for ``normalized`` a DatasetDict of the three tables.

    Raises:
        ArgumentError: an argument is unknown or out of range, or two contradict each other: ``n-tuple`` with ``keep``,
            ``fill`` with ``output_scores``, ``output_scores`` with several positives in one row; or ``fill`` finds
            too few passages.
        ColumnError: a mined column is missing, or a text column is missing, of another type, or named like a
            column that the format makes.
    """
    shortage = shortage or ("drop" if output_format == "n-tuple" else "keep")
    _check_choices(output_format, shortage, output_scores, num_negatives)
    splits = _mined_splits(mined)
    anchor, positive = _text_columns(splits, anchor_column_name, positive_column_name, output_format)
    tally = _tally(splits.values(), positive if output_scores and output_format in TRAINABLE_FORMATS else None)
    num_negatives = _choose_num_negatives(num_negatives, tally, shortage)
    if message := _report(tally, num_negatives, output_format, shortage):
        warnings.warn(message, ShortRowsWarning, stacklevel=2)
    filling = shortage == "fill" and tally.num_short(num_negatives) > 0
    layout = _Layout(
        output_format=output_format,
        anchor=anchor,
        positive=positive,
        num_negatives=num_negatives,
        output_scores=output_scores,
        drop=shortage == "drop",
        pool=_build_pool(mined, anchor, positive) if filling else (),
        seed=seed if filling else 0,
    )
    features = _features(next(iter(_with_rows(splits).values())), layout)
    results = DatasetDict({name: _format_split(split, layout, features) for name, split in splits.items()})
    if output_format == "normalized":
        return _normalize(results, layout, with_splits=isinstance(mined, DatasetDict))
    return results if isinstance(mined, DatasetDict) else results[""]


def check_columns(columns: Iterable[str], needed: Iterable[str]) -> None:
    """Check that a dataset has the mined columns ``needed``.

    Raises:
        ColumnError: columns are missing; the message names them.
    """
    missing = [name for name in needed if name not in set(columns)]
    if missing:
        raise ColumnError(f"Expected a mined dataset, but it has no column {', '.join(missing)}; mine it first.")


def count_items(lists: pa.ChunkedArray) -> Ints:
    """Return the length of every list of a column, shape ``[n]``, int64; 0 where the list is null."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)


def find_skipped(positive_scores: npt.NDArray[np.float32], counts: Ints) -> npt.NDArray[np.bool_]:
    """Return where the miner skipped a row as empty: no positive score (NaN) and no negatives (shape ``[n]``)."""
    skipped: npt.NDArray[np.bool_] = np.isnan(positive_scores) & (counts == 0)
    return skipped


@dataclass(frozen=True)
class _Tally:
    """What is known before the work starts.

    Attributes:
        skipped: rows skipped as empty.
        lengths: entry k is the number of other rows with k negatives, int64.
    """

    skipped: int
    lengths: Ints

    @property
    def rows(self) -> int:
        return self.skipped + int(self.lengths.sum())

    @property
    def longest(self) -> int:
        return max(0, len(self.lengths) - 1)

    def num_short(self, num_negatives: int) -> int:
        return int(self.lengths[:num_negatives].sum())


@dataclass(frozen=True)
class _Layout:
    """All that decides the result of one batch, in plain values that every process hashes to the same fingerprint.

    Attributes:
        drop: leave out rows with fewer than ``num_negatives``.
        pool: the two files that ``_build_pool`` made; empty where nothing is filled.
    """

    output_format: str
    anchor: str
    positive: str
    num_negatives: int
    output_scores: bool
    drop: bool
    pool: tuple[str, ...]
    seed: int
    version: int = FORMATS_VERSION


def _check_choices(output_format: str, shortage: str, output_scores: bool, num_negatives: int | None) -> None:
    if output_format not in OUTPUT_FORMATS:
        raise ArgumentError(f"Unknown output_format {output_format!r}; choose one of {', '.join(OUTPUT_FORMATS)}.")
    if shortage not in SHORTAGES:
        raise ArgumentError(f"Unknown shortage {shortage!r}; choose one of {', '.join(SHORTAGES)}.")
    if output_format == "n-tuple" and shortage == "keep":
        raise ArgumentError(
            "Expected n-tuple rows of one length, got shortage='keep'; use shortage='drop' or shortage='fill'."
        )
    if shortage == "fill" and output_scores:
        raise ArgumentError(
            "Expected a score for every negative, got shortage='fill', whose random passages have none; use "
            "shortage='drop' or output_scores=False."
        )
    if num_negatives is not None and num_negatives < 1:
        raise ArgumentError(f"Expected num_negatives >= 1, got {num_negatives}; leave it out to keep all.")


def _mined_splits(mined: Dataset | DatasetDict) -> dict[str, Dataset]:
    splits = {name: split for name, split in splits_of(mined).items() if isinstance(split, Dataset)}
    if len(splits) < len(splits_of(mined)):
        raise ArgumentError(
            f"Expected a Dataset or DatasetDict, got {type(mined).__name__}; write its rows to a Dataset first."
        )
    for split in splits.values():
        check_columns(split.column_names, MINED_COLUMNS)
    return splits


def _with_rows(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """Return the splits that have rows, or all if none has: columns without rows often have no type."""
    return {name: split for name, split in splits.items() if len(split)} or splits


def _text_columns(
    splits: dict[str, Dataset], anchor: str | None, positive: str | None, output_format: str
) -> tuple[str, str]:
    """Return the names of the anchor column and the positive column, which are not among the mined columns."""
    mined = {*MINED_COLUMNS, *OPTIONAL_COLUMNS}
    own = DatasetDict()
    for name, split in _with_rows(splits).items():
        # Without any rows, one of None stands for them: only types are looked at.
        rows = split if len(split) else Dataset.from_dict({c: [None] for c in split.features}, features=split.features)
        own[name] = rows.remove_columns([*mined.intersection(split.column_names)])
    names = resolve_columns(own, anchor, positive)
    for name in names if output_format in TRAINABLE_FORMATS else ():
        if name in LABEL_COLUMNS or name == "negative" or name.startswith("negative_"):
            raise ColumnError(
                f"Expected another name than {name!r}, which the format or the trainer uses itself; rename it by "
                "rename_column."
            )
    return names


def _tally(splits: Iterable[Dataset], positive: str | None) -> _Tally:
    """Count rows by their number of negatives; where a ``positive`` column is named, refuse rows with several."""
    skipped, lengths = 0, np.zeros(0, dtype=np.int64)
    columns = ["negative_ids", "positive_score", *([positive] if positive else [])]
    for split in splits:
        for table in split.select_columns(columns).with_format("arrow").iter(_ROWS):
            counts = count_items(table["negative_ids"])
            empty = find_skipped(np.asarray(table["positive_score"], dtype=np.float32), counts)
            skipped += int(empty.sum())
            found = np.bincount(counts[~empty], minlength=len(lengths))
            found[: len(lengths)] += lengths
            lengths = found
            if positive and _has_several(table[positive]):
                raise ArgumentError(
                    "Expected one positive in each row with output_scores, got several, of which only the lowest score "
                    "is recorded; explode the positives into rows before mining."
                )
    return _Tally(skipped, lengths)


def _has_several(positives: pa.ChunkedArray) -> bool:
    return pa.types.is_nested(positives.type) and bool(count_items(positives).max(initial=0) > 1)


def _choose_num_negatives(num_negatives: int | None, tally: _Tally, shortage: str) -> int:
    if num_negatives is None:
        return max(1, tally.longest)
    if num_negatives > tally.longest and shortage != "fill" and tally.rows:
        raise ArgumentError(
            f"Expected num_negatives of at most {tally.longest}, which the longest row has, got {num_negatives}; "
            "lower it, mine more, or use shortage='fill'."
        )
    return num_negatives


def _report(tally: _Tally, num_negatives: int, output_format: str, shortage: str) -> str:
    """Return what becomes of short and skipped rows, in sentences; nothing where there are none."""
    done = {"keep": "kept with what they have", "drop": "dropped", "fill": "filled with random passages"}[shortage]
    short, bare = tally.num_short(num_negatives), tally.num_short(1)
    sentences = []
    if short:
        sentences.append(f"{short:,} of {tally.rows:,} rows have fewer than {num_negatives} negatives: {done}.")
    if bare and shortage == "keep" and output_format in ("triplet", "labeled-list"):
        sentences.append(f"Rows without any negative, which give no training row: {bare:,}.")
    if tally.skipped:
        gone = shortage == "drop" or output_format in TRAINABLE_FORMATS
        fate = "left out" if gone else "kept without negatives"
        sentences.append(f"{tally.skipped:,} of {tally.rows:,} rows were skipped as empty when mined: {fate}.")
    return " ".join(sentences)


def _features(split: Dataset, layout: _Layout) -> Features:
    """Return the features of the result, which are those that an empty batch gets."""
    return Features.from_arrow_schema(_format_batch(split.features.arrow_schema.empty_table(), layout).schema)


def _format_split(split: Dataset, layout: _Layout, features: Features) -> Dataset:
    if not len(split):
        return Dataset.from_dict({name: [] for name in features}, features=features)
    formatted = split.with_format("arrow").map(
        functools.partial(_format_batch, layout=layout),
        batched=True,
        remove_columns=split.column_names,
        features=features,
        desc=f"Formatting as {layout.output_format}",
    )
    return formatted.with_format(None)


def _format_batch(table: pa.Table, layout: _Layout) -> pa.Table:
    return pa.table(_SHAPES[layout.output_format](_read_batch(table, layout), layout))


@dataclass(frozen=True)
class _Batch:
    """The chosen rows of a batch, and their passages laid flat.

    Attributes:
        table: n rows of the mined dataset.
        positives: columns ``row`` (int64, below n, rising), ``text``, ``score`` (float32) and ``label`` 1.
        negatives: the same with ``label`` 0, and ``id``; at most ``num_negatives`` for a row, the best first.
    """

    table: pa.Table
    positives: pa.Table
    negatives: pa.Table

    def anchors(self, name: str) -> pa.Array:
        return _array(self.table[name]).cast(pa.string())

    def places(self, passages: pa.Table) -> Ragged:
        """Return, for each row of the batch, where its passages stand in ``passages``."""
        counts = np.bincount(np.asarray(passages["row"]), minlength=len(self.table))
        return Ragged(np.concatenate([[0], np.cumsum(counts)]), np.arange(len(passages)))


def _read_batch(table: pa.Table, layout: _Layout) -> _Batch:
    """Choose the rows, lay their passages flat, and fill up what is short."""
    counts = count_items(table["negatives"])
    scores = np.asarray(table["positive_score"], dtype=np.float32)
    skipped = find_skipped(scores, counts)
    chosen = np.ones(len(table), dtype=bool)
    if layout.drop:
        chosen = counts >= layout.num_negatives
    elif layout.output_format in TRAINABLE_FORMATS:
        chosen = ~skipped
    if layout.output_format == "labeled-list" and not layout.pool:
        chosen &= counts > 0
    if not chosen.all():
        table, scores, skipped = table.filter(pa.array(chosen)), scores[chosen], skipped[chosen]
    rows, texts = _positives_of(table[layout.positive])
    batch = _Batch(table, _passages(rows, texts, scores[rows], 1), _negatives_of(table, layout.num_negatives))
    return replace(batch, negatives=_fill(batch, skipped, layout)) if layout.pool else batch


def _passages(rows: Ints, texts: pa.Array, scores: npt.NDArray[np.float32] | pa.Array, label: int) -> pa.Table:
    labels = np.full(len(rows), label)
    return pa.table({"row": rows, "text": texts, "score": pa.array(scores, pa.float32()), "label": labels})


def _positives_of(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Return the row and the text of every positive that is not empty."""
    texts, rows = _array(column), np.arange(len(column))
    if pa.types.is_nested(texts.type):
        texts, rows = texts.flatten(), np.repeat(rows, count_items(column))
    texts, full = texts.cast(pa.string()), ~is_empty(texts)
    return (rows, texts) if full.all() else (rows[full], texts.filter(pa.array(full)))


def _negatives_of(table: pa.Table, num_negatives: int) -> pa.Table:
    """Return the first ``num_negatives`` negatives of every row, laid flat."""
    counts = count_items(table["negatives"])
    texts, ids, scores = (_array(table[name]).flatten() for name in ("negatives", "negative_ids", "negative_scores"))
    flat = _passages(np.repeat(np.arange(len(table)), counts), texts.cast(pa.string()), scores, 0).append_column(
        "id", ids
    )
    ranks = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    return flat if counts.max(initial=0) <= num_negatives else flat.filter(pa.array(ranks < num_negatives))


def _merge(first: pa.Table, second: pa.Table) -> pa.Table:
    """Return the passages of two tables row by row, those of ``first`` before those of ``second``."""
    both = pa.concat_tables([first, second], promote_options="default").combine_chunks()
    return both.take(pa.array(np.argsort(np.asarray(both["row"]), kind="stable")))


def _triplets(batch: _Batch, layout: _Layout) -> dict[str, pa.Array]:
    places = batch.places(batch.negatives).take(np.asarray(batch.positives["row"]))
    positives, negatives = batch.positives.take(places.rows), batch.negatives.take(places.values)
    anchors = batch.anchors(layout.anchor).take(_array(positives["row"]))
    columns = {layout.anchor: anchors, layout.positive: positives["text"], "negative": negatives["text"]}
    if layout.output_scores:
        columns["scores"] = _rows_as_lists(np.column_stack([positives["score"], negatives["score"]]))
    return columns


def _tuples(batch: _Batch, layout: _Layout) -> dict[str, pa.Array]:
    positives = batch.positives
    places = batch.places(batch.negatives).take(np.asarray(positives["row"])).values.reshape(-1, layout.num_negatives)
    anchors = batch.anchors(layout.anchor).take(_array(positives["row"]))
    columns = {layout.anchor: anchors, layout.positive: positives["text"]}
    texts = _array(batch.negatives["text"])
    columns |= {f"negative_{rank}": texts.take(pa.array(column)) for rank, column in enumerate(places.T, start=1)}
    if layout.output_scores:
        scores = np.asarray(batch.negatives["score"])[places]
        columns["scores"] = _rows_as_lists(np.column_stack([positives["score"], scores]))
    return columns


def _labeled_pairs(batch: _Batch, layout: _Layout) -> dict[str, pa.Array]:
    passages = _merge(batch.positives, batch.negatives)
    label = "score" if layout.output_scores else "label"
    anchors = batch.anchors(layout.anchor).take(_array(passages["row"]))
    return {layout.anchor: anchors, layout.positive: passages["text"], label: passages[label]}


def _labeled_lists(batch: _Batch, layout: _Layout) -> dict[str, pa.Array]:
    passages = _merge(batch.positives, batch.negatives)
    label = "score" if layout.output_scores else "label"
    texts, labels = (_lists(batch, passages, name) for name in ("text", label))
    return {layout.anchor: batch.anchors(layout.anchor), layout.positive: texts, f"{label}s": labels}


def _scored(batch: _Batch, layout: _Layout) -> dict[str, pa.Array]:
    lists = {"negatives": "text", "negative_ids": "id", "negative_scores": "score"}
    optional = [name for name in OPTIONAL_COLUMNS if name in batch.table.column_names]
    return {
        name: _lists(batch, batch.negatives, lists[name]) if name in lists else batch.table[name]
        for name in (layout.anchor, layout.positive, *MINED_COLUMNS, *optional)
    }


_SHAPES: dict[str, Callable[[_Batch, _Layout], dict[str, pa.Array]]] = {
    "triplet": _triplets,
    "n-tuple": _tuples,
    "labeled-pair": _labeled_pairs,
    "labeled-list": _labeled_lists,
    "scored": _scored,
    "normalized": _scored,
}


def _build_pool(mined: Dataset | DatasetDict, anchor: str, positive: str) -> tuple[str, str]:
    """Write all distinct positives, and which of them each anchor has; return the two files.

    Anchors that ``normalise`` makes equal share their positives.
    """
    directory = cache_directory() / "formats"
    corpus = Corpus.build(
        (pc.unique(pairs.positives) for pairs in iter_pairs(mined, anchor, positive, "skip")), directory
    )
    keys, ids = [], []
    for pairs in iter_pairs(mined, anchor, positive, "skip"):
        keys.append(digest_texts(pairs.anchors.to_pylist(), normalise)[pairs.rows])
        ids.append(corpus.ids(pairs.positives.to_pylist()))
    own = AnchorPositives.build(np.concatenate(keys), np.concatenate(ids), directory)
    return str(corpus.path), str(own.path)


@functools.lru_cache(maxsize=1)
def _open_pool(corpus: str, own: str) -> tuple[Corpus, AnchorPositives]:
    return Corpus(Path(corpus)), AnchorPositives(Path(own))


def _fill(batch: _Batch, skipped: npt.NDArray[np.bool_], layout: _Layout) -> pa.Table:
    """Return the negatives with random passages after them in every row that is short and was not skipped."""
    corpus, own = _open_pool(*layout.pool)
    places = batch.places(batch.negatives)
    missing = np.where(skipped, 0, layout.num_negatives - places.counts)
    short = np.flatnonzero(missing)
    anchors = batch.anchors(layout.anchor).take(pa.array(short)).to_pylist()
    positives = own.of([normalise(anchor) for anchor in anchors])
    drawn: list[str] = []
    for place, (row, anchor) in enumerate(zip(short.tolist(), anchors, strict=True)):
        negatives = batch.negatives["text"].take(pa.array(places[row])).to_pylist()
        taken = [anchor, *corpus.texts(positives[place]), *negatives]
        drawn += _draw(corpus, anchor, taken, missing[row], layout.seed)
    unknown = np.full(len(drawn), np.nan, dtype=np.float32)
    filled = _passages(np.repeat(short, missing[short]), pa.array(drawn, pa.string()), unknown, 0)
    return _merge(batch.negatives, filled.append_column("id", pa.array(np.full(len(drawn), FILLED_ID))))


def _draw(corpus: Corpus, anchor: str, taken: Iterable[str], count: int, seed: int) -> list[str]:
    """Draw ``count`` passages of which none is equal, after ``normalise``, to another or to one of ``taken``.

    Raises:
        ArgumentError: there are too few.
    """
    forms, drawn = set(map(normalise, taken)), []
    for passage_id in _shuffle(len(corpus), digest_of(str(seed), anchor)):
        text = corpus[passage_id]
        form = normalise(text)
        if form not in forms:
            forms.add(form)
            drawn.append(text)
            if len(drawn) == count:
                return drawn
    raise ArgumentError(
        f"Expected {count} more passages for shortage='fill', found only {len(drawn)} that are no positive of the "
        "anchor and not among its negatives; lower num_negatives, or use shortage='drop'."
    )


def _shuffle(size: int, key: str) -> Iterator[int]:
    """Yield 0 to ``size - 1`` in an order that ``key`` decides, uniform over all orders.

    It is the Fisher-Yates shuffle with only the moved entries stored, so a few draws from many cost a few steps. A
    digest is the random number: numpy does not promise the same stream in its next version.
    """
    moved: dict[int, int] = {}
    for step in range(size):
        other = step + int(digest_of(key, str(step)), 16) % (size - step)
        yield moved.get(other, other)
        moved[other] = moved.get(step, step)


def _normalize(scored: DatasetDict, layout: _Layout, with_splits: bool) -> DatasetDict:
    """Return the tables ``queries``, ``documents`` and ``scores``; ids count distinct texts as they first appear."""
    read_only = replace(layout, pool=())  # what was short is filled already

    def batches() -> Iterator[tuple[str, _Batch]]:
        for name, split in scored.items():
            table = split.with_format("arrow")[:]
            for batch in table.to_batches() or [table]:  # as they lie in the file, so without a copy
                yield name, _read_batch(pa.table(batch), read_only)

    queries, query_ids = _number([batch.anchors(layout.anchor) for _, batch in batches()])
    texts = [_array(passages["text"]) for _, batch in batches() for passages in (batch.positives, batch.negatives)]
    documents, document_ids = _number(texts)
    tables = []
    for place, (name, batch) in enumerate(batches()):
        ids = document_ids[2 * place : 2 * place + 2]
        flat = [
            passages.select(["row", "score", "label"]).append_column("document_id", numbers)
            for passages, numbers in zip((batch.positives, batch.negatives), ids, strict=True)
        ]
        lists = {f"{column}s": _lists(batch, _merge(*flat), column) for column in ("document_id", "score", "label")}
        origin = {"split": pa.array([name] * len(batch.table), pa.string())} if with_splits else {}
        tables.append(pa.table({"query_id": query_ids[place], **lists, **origin}))
    result: dict[str, pa.Table] = {
        "queries": _numbered("query", queries),
        "documents": _numbered("document", documents),
        "scores": pa.concat_tables(tables),
    }
    source = [split._fingerprint for split in scored.values()]  # without it, datasets hashes a copy of every table
    return DatasetDict({name: Dataset(table, fingerprint=digest_of(*source, name)) for name, table in result.items()})


def _number(chunks: list[pa.Array]) -> tuple[pa.ChunkedArray, list[pa.Array]]:
    """Return the distinct texts of all chunks as they first appear, and the place of each text, chunk by chunk.

    Places are int64, null for a null text. Texts together may be larger than the 2 GiB that one string array holds.
    """
    encoded = pa.chunked_array([chunk.cast(pa.large_string()) for chunk in chunks]).dictionary_encode()
    places = _array(pa.chunked_array([chunk.indices for chunk in encoded.chunks], pa.int32())).cast(pa.int64())
    ends = np.cumsum([len(chunk) for chunk in chunks])
    distinct = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], pa.large_string())
    steps = [np.arange(start, min(start + _ROWS, len(distinct))) for start in range(0, len(distinct), _ROWS)]
    texts = pa.chunked_array([distinct.take(pa.array(step)).cast(pa.string()) for step in steps], pa.string())
    return texts, [places[end - len(chunk) : end] for chunk, end in zip(chunks, ends, strict=True)]


def _numbered(name: str, texts: pa.ChunkedArray) -> pa.Table:
    return pa.table({f"{name}_id": pa.array(np.arange(len(texts))), name: texts})


def _lists(batch: _Batch, passages: pa.Table, name: str) -> pa.Array:
    """Return one column of ``passages`` as one list for each row of the batch."""
    offsets = batch.places(passages).offsets
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _array(passages[name]))


def _rows_as_lists(values: npt.NDArray[np.float32]) -> pa.Array:
    rows, width = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * width, pa.int32()), pa.array(values.ravel()))


def _array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without a copy where it is in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
