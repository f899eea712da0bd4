"""From a name, a folder or a loaded model to a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hn_datasets.errors import ArgumentError
from hn_datasets.teachers.base import Teacher
from hn_datasets.teachers.bm25 import BM25Teacher
from hn_datasets.teachers.dense import DenseTeacher

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def teacher_of_name(name: str | Path | SentenceTransformer, **options: Any) -> Teacher:
    """Return a teacher from "bm25", the name or folder of a SentenceTransformer, or a loaded one.

    Args:
        name: whose teacher is made.
        options: arguments of the teacher; none for BM25.

    Raises:
        ArgumentError: an option has no effect on BM25.
        TeacherError: a model cannot be loaded.
    """
    if name != "bm25":
        return DenseTeacher(name, **options)
    if options:
        raise ArgumentError(f"{', '.join(options)} has no effect on BM25; leave it out, or pass BM25Teacher(...).")
    return BM25Teacher()
