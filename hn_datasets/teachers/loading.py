"""From a name, a model or a spec to a teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from hn_datasets.errors import ArgumentError, HNDatasetsError, TeacherError
from hn_datasets.teachers.base import Encoder, Ranker, Teacher
from hn_datasets.teachers.bm25 import BM25Teacher
from hn_datasets.teachers.dense import DenseTeacher
from hn_datasets.teachers.ensemble import EnsembleTeacher, named_errors
from hn_datasets.teachers.models import is_sentence_transformer
from hn_datasets.teachers.named import teacher_of_name
from hn_datasets.teachers.precomputed import PrecomputedTeacher
from hn_datasets.texts import digest_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_FROM_SPEC: dict[str, Callable[[dict[str, Any]], Teacher]] = {
    "dense": DenseTeacher.from_spec,
    "bm25": BM25Teacher.from_spec,
    "precomputed": PrecomputedTeacher.from_spec,
}

_KINDS = (*_FROM_SPEC, "ensemble")

_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "dense": {
        **dict.fromkeys(("model", "weights", "query_prompt", "corpus_prompt", "precision", "similarity"), (str,)),
        "revision": (str, NoneType),
        "max_seq_length": (int, NoneType),
        "dimension": (int,),
        "trust_remote_code": (bool,),
    },
    "precomputed": {**dict.fromkeys(("similarity", "queries", "passages"), (str,)), "dimension": (int,)},
    "ensemble": {"mode": (str,), "names": (list,), "num_ranked": (int, NoneType), "members": (list,)},
}
"""The types of what has to stand in a spec; that of BM25 depends on the variant, and ``BM25Teacher`` knows it."""

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
    if isinstance(teacher, (str, Path)) or is_sentence_transformer(teacher):
        return remember(teacher_of_name(teacher, **given))
    if isinstance(teacher, (Encoder, Ranker, EnsembleTeacher)):
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


def teacher_from_spec(spec: dict[str, Any], *, trust_remote_code: bool = False) -> Teacher:
    """Return the teacher whose ``spec`` this is; a model is loaded when its first text has to be encoded.

    Args:
        spec: of a teacher, for instance in the recipe of somebody else's release.
        trust_remote_code: a spec that asks for it may run the code that comes with its model.

    Raises:
        TeacherError: the spec is of an unknown type, this machine lacks what it needs, or the model would run code of
            its own without ``trust_remote_code``.
        ArgumentError: a field is missing, or of another type than it was saved with.
    """
    live: Teacher | None = _LIVE.get(_key(spec))
    if live is not None:
        return live
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise TeacherError(f"Expected a teacher of type {', '.join(_KINDS)}, got {kind!r}.")
    for field, types in _FIELDS.get(kind, {}).items():
        if field not in spec or type(spec[field]) not in types:  # not isinstance: True is an int
            names = " or ".join("null" if item is NoneType else item.__name__ for item in types)
            got = repr(spec[field]) if field in spec else "none"
            raise ArgumentError(
                f"Expected {field!r} ({names}) in the spec of a {kind} teacher, got {got}; give the spec as it was "
                "saved."
            )
    if spec.get("trust_remote_code") and not trust_remote_code:
        raise TeacherError(
            f"Expected trust_remote_code, for the teacher {spec.get('model')!r} runs code of its own on this machine, "
            "got False; read that code, then pass it."
        )
    try:
        if kind == "ensemble":
            return remember(_ensemble_from_spec(spec, trust_remote_code=trust_remote_code))
        return remember(_FROM_SPEC[kind](spec))
    except HNDatasetsError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"Expected the spec of a {kind} teacher as it was saved, got {json.dumps(spec, ensure_ascii=False)} "
            f"({error!r})."
        ) from error


def _ensemble_from_spec(spec: dict[str, Any], *, trust_remote_code: bool) -> EnsembleTeacher:
    members = []
    for name, member in zip(spec["names"], spec["members"], strict=True):
        with named_errors(str(name)):
            members.append(teacher_from_spec(member, trust_remote_code=trust_remote_code))
    return EnsembleTeacher(members, mode=spec["mode"], names=spec["names"], num_ranked=spec["num_ranked"])


def _key(spec: dict[str, Any]) -> str:
    return digest_of(json.dumps(spec, sort_keys=True, ensure_ascii=False))
