"""What differs between two JSON objects, by dotted names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

ROUNDING = 1e-9
"""Relative: numbers that differ by less came from another processor or library, not from other data."""


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return old and new value of each field that differs, in the order of ``old``; None where there is no such field.

    Args:
        old: JSON data; fields of inner objects are named ``outer.inner``, lists are compared whole.
        new: likewise.
    """
    before, after = dict(flatten(old)), dict(flatten(new))
    names = [*before, *(name for name in after if name not in before)]
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if not _same(*pair)}


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of each field; tuples become lists."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def describe(value: Any) -> str:
    """Return a value in at most 60 characters, a long list by its length."""
    if value is None:
        return "nothing"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split()) if value != "" else "''"
    return text if len(text) <= 60 else f"{len(value)} values" if isinstance(value, list) else f"{text[:57]}..."


def list_changes(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Return one line for each change, the old values below one another."""
    values = [(name, describe(old), describe(new)) for name, (old, new) in changes.items()]
    names, olds = (min(40, max((len(row[place]) for row in values), default=0)) for place in (0, 1))
    return [f"  {name:<{names}}  {old:>{olds}} -> {new}" for name, old, new in values]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, (float, int)):
        return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return bool(one == other)
