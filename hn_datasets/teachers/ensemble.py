"""Several teachers as one."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hn_datasets.errors import ArgumentError, HNDatasetsError
from hn_datasets.modes import MODES, Mode
from hn_datasets.teachers.base import Encoder, Ranker, Teacher
from hn_datasets.teachers.models import is_sentence_transformer
from hn_datasets.teachers.named import teacher_of_name

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NUM_RANKED = 50
"""Ranks of each teacher that mode "mean-rank" looks at."""


class EnsembleTeacher:
    """Several teachers whose rankings become one list of negatives; each keeps its own scores and ceilings.

    For one anchor, every teacher has the lowest score of the positives, from it by the recipe's method a ceiling, and a
    ranking: the passages that are strictly below its ceiling and not excluded, the best first, ties to the lower id.

    - ``"cross-sample"``: the row is that of one teacher alone, columns included; the recipe's ``seed`` and the anchor's
      text choose which one, all with the same probability.
    - ``"intra-sample"``: the teachers take turns, the first one first; each names the best passage of its ranking that
      is not taken yet and lies below the first teacher's ceiling too. One that has no more is passed over.
    - ``"mean-rank"``: of the passages that are below every teacher's ceiling, each teacher ranks its ``num_ranked``
      best from 1 on and gives every other one the rank ``num_ranked + 1``. The negatives are those with the lowest mean
      of ranks, ties to the lower id. Each is named after the teacher that ranks it best, the first of several.
    - ``"agree"``: the first teacher's ranking, without passages that any other teacher puts at or above its ceiling.

    Rows are full while enough passages qualify. A teacher after the first that puts no passage below its ceiling, as
    BM25 where a positive shares no word with its anchor and scores 0, has no say in that row; if the row is its own, in
    ``"cross-sample"``, it is empty.

    Guards hold for what any teacher names. One that compares vectors takes those of the first teacher, which must be
    a dense one then.

    Except in ``"cross-sample"``, all scores, the ceiling and the order of the negatives in a row are those of the
    first teacher, which makes it the one to trust most. The column ``negative_teachers`` names the teacher of each
    negative.

    Args:
        members: at least two teachers: names, folders, loaded models or teachers, "bm25" among them.
        mode: how their rankings become one.
        names: short names of the teachers, all different; from their models if None.
        num_ranked: for ``"mean-rank"`` only; 50 if None.

    Raises:
        ArgumentError: fewer than two teachers, two that are the same, an ensemble among them, an unknown mode, names
            that do not fit, or ``num_ranked`` out of range or without effect.
        TeacherError: a teacher cannot be loaded; names it.
    """

    def __init__(
        self,
        members: Sequence[str | Path | SentenceTransformer | Teacher],
        *,
        mode: Mode,
        names: Sequence[str] | None = None,
        num_ranked: int | None = None,
    ) -> None:
        _check(members, mode, num_ranked)
        self.mode: Mode = mode
        self.num_ranked = NUM_RANKED if num_ranked is None and mode == "mean-rank" else num_ranked
        self.members: tuple[Encoder | Ranker, ...] = tuple(
            _load(member, number) for number, member in enumerate(members, start=1)
        )
        specs = [self._spec_of(number) for number in range(len(members))]
        self.names: tuple[str, ...] = _names_of(specs) if names is None else _check_names(names, len(members))
        _check_different(self.members, specs, self.names)

    def spec(self) -> dict[str, Any]:
        """Return the mode, and the specs and names of all members."""
        return {
            "type": "ensemble",
            "mode": self.mode,
            "names": list(self.names),
            "num_ranked": self.num_ranked,
            "members": [member.spec() for member in self.members],
        }

    def _spec_of(self, number: int) -> dict[str, Any]:
        with named_errors(number + 1):
            return self.members[number].spec()


def list_members(teacher: Teacher) -> list[tuple[str | None, Teacher]]:
    """Return names and teachers of an ensemble, or a teacher alone, without a name."""
    if isinstance(teacher, EnsembleTeacher):
        return list(zip(teacher.names, teacher.members, strict=True))
    return [(None, teacher)]


@contextlib.contextmanager
def named_errors(name: str | int | None) -> Iterator[None]:
    """Let errors say which teacher of an ensemble they come from; those that are not ours get it as a note.

    Args:
        name: of the teacher, or its number from 1 on; None, which no ensemble has, leaves errors as they are.
    """
    who = f"Teacher {name!r} of the ensemble"
    try:
        yield
    except HNDatasetsError as error:
        if name is None:
            raise
        raise type(error)(f"{who}: {error}") from error
    except Exception as error:
        if name is not None:
            error.add_note(f"{who} failed; what the others have embedded is in the store.")
        raise


def _check(members: Any, mode: str, num_ranked: int | None) -> None:
    if isinstance(members, (str, Path)) or not isinstance(members, Sequence):
        raise ArgumentError(f"Expected a list of teachers, got {type(members).__name__}; give at least two.")
    if len(members) < 2:
        raise ArgumentError(f"Expected at least two teachers in an ensemble, got {len(members)}; add one.")
    if mode not in MODES:
        raise ArgumentError(f"Expected mode to be one of {', '.join(MODES)}, got {mode!r}.")
    if num_ranked is not None and mode != "mean-rank":
        raise ArgumentError(f"num_ranked has no effect in mode {mode!r}; leave it out.")
    whole = isinstance(num_ranked, int) and not isinstance(num_ranked, bool)
    if num_ranked is not None and (not whole or num_ranked < 1):
        raise ArgumentError(f"Expected num_ranked of at least 1, got {num_ranked!r}.")


def _load(member: Any, number: int) -> Encoder | Ranker:
    with named_errors(str(member) if isinstance(member, (str, Path)) else number):
        teacher = member
        if isinstance(member, (str, Path)) or is_sentence_transformer(member):
            teacher = teacher_of_name(member)
        if isinstance(teacher, EnsembleTeacher):
            raise ArgumentError("Expected a single teacher, got an ensemble; give its members instead.")
        if not isinstance(teacher, (Encoder, Ranker)):
            raise ArgumentError(
                "Expected a teacher as 'bm25', a model name or folder, a SentenceTransformer or a teacher object, got "
                f"{type(teacher).__name__}."
            )
        return teacher


def _names_of(specs: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return the last part of each model's name, or the kind of teacher, and a number where one comes again."""
    names: list[str] = []
    for spec in specs:
        base = re.split(r"[/\\]", str(spec.get("model") or spec.get("name") or spec["type"]).rstrip("/\\"))[-1]
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return tuple(names)


def _check_names(names: Sequence[str], num_members: int) -> tuple[str, ...]:
    fit = not isinstance(names, str) and all(isinstance(name, str) and name.strip() for name in names)
    if not fit or len(names) != num_members or len(set(names)) < num_members:
        raise ArgumentError(f"Expected {num_members} different names of teachers, got {names!r}.")
    return tuple(names)


def _check_different(
    members: Sequence[Encoder | Ranker], specs: Sequence[dict[str, Any]], names: Sequence[str]
) -> None:
    """Refuse two teachers that score alike, also where their models lie in different folders."""
    seen: dict[str, str] = {}
    for member, spec, name in zip(members, specs, names, strict=True):
        decisive = spec if isinstance(member, Ranker) else [member.space("anchor"), member.space("passage")]
        key = json.dumps(decisive, sort_keys=True)
        if key in seen:
            raise ArgumentError(
                f"Expected different teachers in an ensemble, but {seen[key]!r} and {name!r} are the same; leave one "
                "out."
            )
        seen[key] = name
