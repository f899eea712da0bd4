"""Reading anchors, positives and passages from datasets, checked before anything expensive starts."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from hn_datasets.errors import ArgumentError, ColumnError, DataSourceError, HNDatasetsError, TextError
from hn_datasets.texts import is_empty

AnyDataset: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict
CorpusLike: TypeAlias = Sequence[str] | Dataset | IterableDataset | str | Path

READ_ROWS = 1000
_SHOWN_ROWS = 5
_NO_ROWS = "Expected a dataset with rows, got an empty one; check the split, and any filter before."


@dataclass(frozen=True)
class Pairs:
    """A block of rows that all have an anchor and at least one positive.

    Attributes:
        anchors: n strings.
        positives: m strings, those of the first row first.
        rows: shape ``[m]``, int64, the row within the block that each positive belongs to.
        columns: n values of each further column that was asked for.
    """

    anchors: pa.Array
    positives: pa.Array
    rows: npt.NDArray[np.int64]
    columns: Mapping[str, pa.Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Passages:
    """A block of passages of a corpus.

    Attributes:
        texts: n strings.
        columns: n values of each further column that was asked for and is there.
    """

    texts: pa.Array
    columns: Mapping[str, pa.Array]


def splits_of(dataset: AnyDataset) -> dict[str, Dataset | IterableDataset]:
    """Return the splits by name; a single dataset is the split ``""``.

    Raises:
        ArgumentError: it is no dataset.
    """
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return dict(dataset)
    if isinstance(dataset, (Dataset, IterableDataset)):
        return {"": dataset}
    raise ArgumentError(f"Expected a Dataset, DatasetDict or IterableDataset, got {type(dataset).__name__}.")


def resolve_columns(dataset: AnyDataset, anchor: str | None, positive: str | None) -> tuple[str, str]:
    """Return the names of the anchor and the positive column: as given, or the first two text columns.

    Raises:
        ColumnError: a column is missing (says which there are), named twice, or holds no text.
        TextError: there is no row, or the first one of a stream holds a lone surrogate.
        ArgumentError: there is no split.
    """
    splits = list(splits_of(dataset).values())
    if not splits:
        raise ArgumentError("Expected a dataset with at least one split, got none.")
    # The columns of a split without rows often have no type.
    splits = [split for split in splits if not isinstance(split, Dataset) or len(split)]
    if not splits:
        raise TextError(_NO_ROWS)
    types = _column_types(splits[0])
    texts = [name for name, kind in types.items() if _is_text(kind)]
    anchor = anchor if anchor is not None else next((name for name in texts if name != positive), None)
    lists = [name for name, kind in types.items() if (_is_text(kind) or _is_text_list(kind)) and name != anchor]
    positive = positive if positive is not None else next(iter(lists), None)
    if anchor is None or positive is None:
        raise ColumnError(f"Expected two text columns, the dataset has {_listed(types)}; name both columns.")
    if anchor == positive:
        raise ColumnError(f"Expected two different columns, got {anchor!r} twice; the dataset has {_listed(types)}.")
    for split in splits:
        _check_types(_column_types(split), anchor, positive)
    return anchor, positive


def check_groups(dataset: AnyDataset, names: Sequence[str]) -> None:
    """Check that every split has these columns, and that their values can name groups.

    Raises:
        ColumnError: a column is missing (says which there are), or holds neither strings nor numbers nor dates.
    """
    for split in splits_of(dataset).values() if names else ():
        types = _column_types(split)
        for name in names:
            if name not in types:
                raise ColumnError(
                    f"Expected a column {name!r}, for SameGroup, the dataset has {_listed(types)}; name one of them."
                )
            if pa.types.is_nested(types[name]) or pa.types.is_binary(types[name]):
                raise ColumnError(
                    f"Expected strings, numbers or dates in column {name!r}, for SameGroup, got {types[name]}; name "
                    "another column, or make one."
                )


def group_names(values: Iterable[Any]) -> list[str | None]:
    """Return the group that each value names: numbers and dates as text; None where there is none, NaN or white space.

    3.0 names the group of 3: pandas makes a column of integers float64 where one is missing.

    Args:
        values: of a column, as Python, numpy or Arrow hold them.
    """
    names = []
    for value in values:
        plain = value.as_py() if isinstance(value, pa.Scalar) else value.item() if hasattr(value, "item") else value
        if isinstance(plain, float) and plain.is_integer():
            plain = int(plain)
        nothing = plain is None or (isinstance(plain, float) and np.isnan(plain)) or not str(plain).strip()
        names.append(None if nothing else str(plain))
    return names


def iter_pairs(
    dataset: AnyDataset, anchor: str, positive: str, on_empty: str, further: Sequence[str] = ()
) -> Iterator[Pairs]:
    """Read all splits in blocks of rows.

    Args:
        dataset: any dataset with both columns.
        anchor: a column of strings.
        positive: a column of strings or lists of strings.
        on_empty: ``"error"``, or ``"skip"`` to leave out rows without an anchor or a positive.
        further: other columns to read, which have to be there.

    Raises:
        TextError: a text is None, empty or only white space and ``on_empty`` is ``"error"``; names the rows. Or a text
            holds a lone surrogate, or there are no rows at all.
    """
    num_rows = 0
    empty_rows: list[int] = []
    for split in splits_of(dataset).values():
        for table in _iter_tables(split, list(dict.fromkeys([anchor, positive, *further]))):
            pairs, empty = read_pairs(table[anchor], table[positive])
            kept = np.ones(table.num_rows, dtype=bool)
            kept[empty] = False
            pairs = replace(pairs, columns={name: _flat(table[name]).filter(pa.array(kept)) for name in further})
            empty_rows.extend((num_rows + empty).tolist())
            num_rows += table.num_rows
            yield pairs
    if not num_rows:
        raise TextError(_NO_ROWS)
    if empty_rows and on_empty == "error":
        raise TextError(empty_message(f"columns {anchor!r} and {positive!r} of every row", empty_rows))


def read_pairs(anchors: pa.ChunkedArray, positives: pa.ChunkedArray) -> tuple[Pairs, npt.NDArray[np.int64]]:
    """Return the rows that have texts, and the numbers of those that lack one."""
    whole = _flat(anchors)
    lists = _typed(_flat(positives))
    if _is_text_list(lists.type):
        counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        values = lists.flatten().cast(pa.large_string())
    else:
        counts, values = np.ones(len(lists), dtype=np.int64), lists.cast(pa.large_string())
    rows = np.repeat(np.arange(len(whole)), counts)
    bad = is_empty(whole.cast(pa.large_string())) | (counts == 0)
    bad[rows[is_empty(values)]] = True
    keep = ~bad[rows]
    numbers = np.cumsum(~bad) - 1
    pairs = Pairs(
        whole.filter(pa.array(~bad)).cast(pa.large_string()), values.filter(pa.array(keep)), numbers[rows[keep]]
    )
    return pairs, np.flatnonzero(bad)


def empty_message(where: str, rows: Sequence[int]) -> str:
    """Say which rows lack a text, and what to do."""
    shown = ", ".join(map(str, rows[:_SHOWN_ROWS])) + (", ..." if len(rows) > _SHOWN_ROWS else "")
    return (
        f"Expected a text in {where}, got None, empty or white space in {len(rows):,} rows ({shown}); "
        "filter them out, or pass on_empty='skip'."
    )


def iter_texts(dataset: AnyDataset, columns: Sequence[str] | None) -> Iterator[list[str]]:
    """Read the texts of some columns of all splits in blocks; None is left out.

    Args:
        dataset: any dataset.
        columns: strings or lists of strings; all such columns if None.

    Raises:
        ColumnError: a column is missing or holds no text, or there is no text column.
    """
    for split in splits_of(dataset).values():
        texts = check_texts(split, columns)
        for table in _iter_tables(split, list(columns) if columns is not None else texts):
            for column in table.columns:
                values = _flat(column)
                flat = values.flatten() if pa.types.is_nested(values.type) else values
                yield flat.drop_null().to_pylist()


def check_texts(dataset: Dataset | IterableDataset, columns: Sequence[str] | None) -> list[str]:
    """Return the columns that hold strings or lists of strings.

    Raises:
        ColumnError: one of ``columns`` is none of them, or there are none at all.
    """
    types = _column_types(dataset)
    texts = [name for name, kind in types.items() if _is_text(kind) or _is_text_list(kind)]
    wrong = [name for name in columns if name not in texts] if columns is not None else []
    if wrong or not texts:
        named = f" in {', '.join(map(repr, wrong))}" if wrong else ""
        raise ColumnError(f"Expected strings or lists of strings{named}, the dataset has {_listed(types)}.")
    return texts


def iter_passages(corpus: CorpusLike, column: str | None, on_empty: str) -> Iterator[pa.Array]:
    """Read the texts of a corpus in blocks; arguments and errors are those of ``iter_corpus``."""
    return (block.texts for block in iter_corpus(corpus, column, on_empty))


def iter_corpus(
    corpus: CorpusLike, column: str | None, on_empty: str, further: Sequence[str] = ()
) -> Iterator[Passages]:
    """Read a corpus in blocks.

    Args:
        corpus: strings, a dataset, or the path of Parquet or JSON Lines files; ``*`` stands for many.
        column: the text column of a dataset or file; the only one, or the one named "text", if None.
        on_empty: ``"error"``, or ``"skip"`` to leave out None, empty and white-space passages.
        further: other columns to read where they are there.

    Raises:
        TextError: a passage is empty and ``on_empty`` is ``"error"``; names the rows. Or a passage is no string, or
            holds a lone surrogate.
        ColumnError: the column is missing, holds no text, or cannot be told.
        DataSourceError: nothing is at the path, or it cannot be read.
        ArgumentError: ``column`` with a list of strings, a path that is neither Parquet nor JSON Lines, or something
            else than a corpus.
    """
    empty_rows: list[int] = []
    start = 0
    for block in _iter_blocks(open_corpus(corpus), column, further):
        bad = is_empty(block.texts)
        empty_rows.extend((start + np.flatnonzero(bad)).tolist())
        start += len(block.texts)
        kept = pa.array(~bad)
        columns = {name: values.filter(kept) for name, values in block.columns.items()}
        yield Passages(block.texts.filter(kept), columns)
    if empty_rows and on_empty == "error":
        raise TextError(empty_message("every passage of the corpus", empty_rows))


def open_corpus(corpus: CorpusLike) -> Sequence[str] | Dataset | IterableDataset:
    """Return a corpus that is a path as a dataset.

    Raises:
        DataSourceError: nothing is at the path, or it cannot be read.
        ArgumentError: the path is neither Parquet nor JSON Lines.
    """
    return _open_files(str(corpus)) if isinstance(corpus, (str, Path)) else corpus


def _iter_blocks(
    corpus: Sequence[str] | Dataset | IterableDataset, column: str | None, further: Sequence[str]
) -> Iterator[Passages]:
    if isinstance(corpus, (Dataset, IterableDataset)):
        name = _corpus_column(corpus, column)
        there = [other for other in further if other in _column_types(corpus)] if further else []
        for table in _iter_tables(corpus, list(dict.fromkeys([name, *there]))):
            texts = _flat(table[name]).cast(pa.large_string())
            yield Passages(texts, {other: _flat(table[other]) for other in there})
        return
    if isinstance(corpus, Mapping) or not isinstance(corpus, Iterable):
        raise ArgumentError(
            f"Expected a corpus of strings, a Dataset or a path, got {type(corpus).__name__}; give one value of a dict."
        )
    if column is not None:
        raise ArgumentError("corpus_column_name has no effect on a list of strings; leave it out.")
    listed: list[Any] = list(corpus)
    wrong = next((text for text in listed if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise TextError(f"Expected a corpus of strings, got {type(wrong).__name__}: {str(wrong)[:60]!r}.")
    for start in range(0, len(listed), READ_ROWS):
        with refuse_surrogates():
            yield Passages(pa.array(listed[start : start + READ_ROWS], type=pa.large_string()), {})


@contextlib.contextmanager
def refuse_surrogates() -> Iterator[None]:
    """Turn what Arrow says of a lone surrogate, which a Python string can hold and no file can, into a ``TextError``.

    Raises:
        TextError: a text holds one.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise TextError(
            f"Expected Unicode texts, got one with a lone surrogate: {error.object[:60]!r}; repair it by "
            'text.encode("utf-8", "replace").decode(), or leave it out.'
        ) from error


@contextlib.contextmanager
def explain_unreadable(source: str) -> Iterator[None]:
    """Turn what ``load_dataset`` says of a source that it cannot read into one line; leave errors of the Hub alone.

    Raises:
        DataSourceError: a file is damaged, of another kind or without rows, or a split or configuration is not there.
    """
    try:
        yield
    except (DatasetNotFoundError, HNDatasetsError):
        raise
    except (DatasetGenerationError, FileNotFoundError, ValueError, TypeError, StopIteration) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        reason = " ".join(str(cause).split())[:300] or "no rows"
        raise DataSourceError(f"Could not read {source!r} ({reason}); check that it is what you mean.") from error


def _open_files(path: str) -> Dataset:
    kinds = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
    kind = kinds.get(Path(path).suffix)
    if kind is None:
        raise ArgumentError(f"Expected a corpus path that ends in {', '.join(kinds)}, got {path!r}.")
    local = str(Path(path).expanduser())
    if Path(local).exists():
        path = glob.escape(local)
    elif "://" not in path:
        path = local
        if not glob.glob(path, recursive=True):  # noqa: PTH207 - a Path globs below one folder only
            raise DataSourceError(f"Expected an existing corpus file, got {path!r}: nothing is there; check the path.")
    with explain_unreadable(path):
        return load_dataset(kind, data_files=path, split="train")


def _corpus_column(corpus: Dataset | IterableDataset, column: str | None) -> str:
    types = _column_types(corpus)
    texts = [name for name, kind in types.items() if _is_text(kind)]
    name = column or ("text" if "text" in texts else texts[0] if len(texts) == 1 else None)
    if name is None or name not in texts:
        raise ColumnError(
            f"Expected one text column in the corpus{f' named {column!r}' if column else ''}, it has {_listed(types)}; "
            "name it by corpus_column_name."
        )
    return name


def _iter_tables(dataset: Dataset | IterableDataset, columns: list[str]) -> Iterator[pa.Table]:
    try:
        with refuse_surrogates():
            chosen = dataset.select_columns(columns)
            if dataset.features is not None:
                yield from chosen.with_format("arrow").iter(batch_size=READ_ROWS)
                return
            # The type of each row apart is not that of the rows together: None and [] have none.
            for batch in chosen.iter(batch_size=READ_ROWS):
                yield pa.table({name: pa.array(values) for name, values in batch.items()})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ColumnError(
            f"Expected one type in each of the columns {', '.join(columns)}, strings or lists of strings, got others "
            f"({' '.join(str(error).split())[:300]})."
        ) from error


def _column_types(dataset: Dataset | IterableDataset) -> dict[str, pa.DataType]:
    features = dataset.features
    if features is None:
        with refuse_surrogates():
            try:
                features = cast(Any, dataset)._resolve_features().features
            except StopIteration:  # that is how a stream without rows answers
                raise TextError(_NO_ROWS) from None
    schema = features.arrow_schema
    return {name: schema.field(name).type for name in schema.names}


def _check_types(types: dict[str, pa.DataType], anchor: str, positive: str) -> None:
    for name in (anchor, positive):
        if name not in types:
            raise ColumnError(f"Expected a column {name!r}, the dataset has {_listed(types)}.")
    if not _is_text(types[anchor]):
        raise ColumnError(
            f"Expected strings in column {anchor!r}, got {types[anchor]}; the dataset has {_listed(types)}."
        )
    if not (_is_text(types[positive]) or _is_text_list(types[positive])):
        raise ColumnError(f"Expected strings or lists of strings in column {positive!r}, got {types[positive]}.")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_text_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type)


def _listed(types: dict[str, pa.DataType]) -> str:
    return "the columns " + ", ".join(f"{name} ({kind})" for name, kind in types.items()) if types else "no columns"


def _typed(column: pa.Array) -> pa.Array:
    """Give a block of nothing but None, or of empty lists, its type."""
    if pa.types.is_list(column.type) and pa.types.is_null(column.type.value_type):
        return column.cast(pa.list_(pa.large_string()))
    return column


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
