"""From guards to their JSON forms and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hn_datasets.errors import ArgumentError
from hn_datasets.guards.base import Guard
from hn_datasets.guards.cross_encoder import CrossEncoderGuard
from hn_datasets.guards.groups import SameGroup
from hn_datasets.guards.held_out import HeldOut
from hn_datasets.guards.near_duplicate import NearDuplicate
from hn_datasets.guards.similar import SimilarToPositive

GUARDS: dict[str, type[Guard]] = {
    guard.name: guard for guard in (SimilarToPositive, SameGroup, HeldOut, NearDuplicate, CrossEncoderGuard)
}


def describe_guards(guards: Sequence[Guard]) -> tuple[dict[str, Any], ...]:
    """Return the JSON forms of guards.

    Raises:
        ArgumentError: one is no guard or no sequence holds it, or there are two of a kind.
    """
    kinds: dict[Any, Guard] = {}
    if isinstance(guards, Guard):
        raise ArgumentError(f"Expected several guards, got one; write guards=({guards!r},).")
    for guard in guards:
        if not isinstance(guard, Guard):
            raise ArgumentError(f"Expected guards such as SimilarToPositive(), got {guard!r}.")
        other = kinds.setdefault(guard.kind, guard)
        if other is not guard:
            raise ArgumentError(f"Expected one guard of each kind, got {other!r} and {guard!r}; leave one out.")
    return tuple(guard.to_dict() for guard in guards)


def guard_from_dict(data: dict[str, Any]) -> Guard:
    """Return the guard whose ``to_dict`` gave ``data``.

    Raises:
        ArgumentError: the name or a field is unknown, or a value is out of range.
    """
    settings = dict(data)
    name = settings.pop("name", None)
    if name not in GUARDS:
        raise ArgumentError(f"Unknown guard {name!r}; choose one of {', '.join(GUARDS)}.")
    try:
        return GUARDS[name].from_settings(settings)
    except TypeError as error:
        raise ArgumentError(
            f"Unknown setting of the guard {name!r} ({error}); remove what it does not know."
        ) from error
