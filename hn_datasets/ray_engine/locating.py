"""Finding where texts stand in the source, for those that made a teacher fail."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow.parquet as pq
from datasets import Features

from hn_datasets.columns import READ_ROWS
from hn_datasets.ray_engine.files import SourceFile
from hn_datasets.ray_engine.job import Job, Part
from hn_datasets.ray_engine.reading import open_stream
from hn_datasets.texts import digest_texts

Places = dict[str, tuple[str, int]]
"""File and row of a text, by its digest in hexadecimal."""


def find_in_rows(job: Job, part: Part, wanted: Collection[str]) -> Places:
    """Return where texts first stand among the anchors and positives of a part."""
    places: Places = {}
    for name in (job.recipe.anchor_column_name, job.recipe.positive_column_name):
        column = pq.read_table(part.path, columns=[name])[name].to_pylist()
        for row, value in enumerate(column):
            for text in value if isinstance(value, list) else [value]:
                _note(places, wanted, text, part.file, part.first_row + row)
    return places


def find_in_corpus(file: SourceFile, features: Features, column: str, wanted: Collection[str]) -> Places:
    """Return where texts first stand among the passages of a file."""
    places: Places = {}
    row = 0
    for batch in open_stream(file, features).select_columns([column]).iter(batch_size=READ_ROWS):
        for text in batch[column]:
            _note(places, wanted, text, file.path, row)
            row += 1
    return places


def _note(places: Places, wanted: Collection[str], text: str | None, file: str, row: int) -> None:
    if text is None:
        return
    digest = digest_texts([text]).tobytes().hex()
    if digest in wanted:
        places.setdefault(digest, (file, row))
