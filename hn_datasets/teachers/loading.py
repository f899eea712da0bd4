"""From a name, a model or a spec to a teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from sentence_transformers import SentenceTransformer

from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.teachers.base import Encoder, Ranker, Teacher
from hn_datasets.teachers.bm25 import BM25Teacher
from hn_datasets.teachers.dense import DenseTeacher
from hn_datasets.teachers.precomputed import PrecomputedTeacher
from hn_datasets.texts import digest_of

_FROM_SPEC: dict[str, Callable[[dict[str, Any]], Teacher]] = {
    "dense": DenseTeacher.from_spec,
    "bm25": BM25Teacher.from_spec,
    "precomputed": PrecomputedTeacher.from_spec,
}

_LIVE: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""Teachers of this process by their spec: a forked worker finds here the model that its parent has loaded."""


def as_teacher(teacher: str | Path | SentenceTransformer | Teacher, **options: Any) -> Teacher:
    """Return a teacher from whatever a user gives.

    Args:
        teacher: "bm25", the name or folder of a SentenceTransformer, a loaded one, or a teacher.
        options: arguments of the teacher that is made here, None where not set.

    Raises:
        ArgumentError: an option has no effect on this teacher, or the teacher is of another kind.
        TeacherError: a model cannot be loaded.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(teacher, (str, Path, SentenceTransformer)):
        if teacher != "bm25":
            return remember(DenseTeacher(teacher, **given))
        if given:
            raise ArgumentError(f"{', '.join(given)} has no effect on BM25; leave it out, or pass BM25Teacher(...).")
        return remember(BM25Teacher())
    if isinstance(teacher, (Encoder, Ranker)):
        if given:
            raise ArgumentError(f"{', '.join(given)} has no effect on a ready teacher; give it to the teacher itself.")
        return remember(teacher)
    raise ArgumentError(
        "Expected a teacher as 'bm25', a model name or folder, a SentenceTransformer or a teacher object, got "
        f"{type(teacher).__name__}."
    )


def remember(teacher: Teacher) -> Teacher:
    """Let ``teacher_from_spec`` in this process, and in workers forked from it, find this very teacher."""
    _LIVE[_key(teacher.spec())] = teacher
    return teacher


def teacher_from_spec(spec: dict[str, Any]) -> Teacher:
    """Return the teacher whose ``spec`` this is; a model is loaded when its first text has to be encoded.

    Raises:
        TeacherError: the spec is of an unknown type.
    """
    live: Teacher | None = _LIVE.get(_key(spec))
    if live is not None:
        return live
    if spec.get("type") not in _FROM_SPEC:
        raise TeacherError(f"Expected a teacher of type {', '.join(_FROM_SPEC)}, got {spec.get('type')!r}.")
    return remember(_FROM_SPEC[spec["type"]](spec))


def _key(spec: dict[str, Any]) -> str:
    return digest_of(json.dumps(spec, sort_keys=True, ensure_ascii=False))
