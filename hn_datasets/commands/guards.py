"""The option ``--guard`` of ``hn-datasets mine``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hn_datasets.errors import ArgumentError

if TYPE_CHECKING:
    from hn_datasets.guards import Guard
    from hn_datasets.recipe import Recipe

GUARD_FORMS = (
    "similar-to-positive[=PERCENTAGE], same-group=COLUMN, held-out=FILE_OR_HUB_ID, near-duplicate[=THRESHOLD], "
    "cross-encoder=MODEL"
)


def read_guards(texts: Sequence[str], recipe: Recipe | None) -> tuple[Guard, ...]:
    """Return the guards of ``--guard``, or those of a recipe where there is no such option.

    Args:
        texts: each ``NAME`` or ``NAME=SETTING``.
        recipe: of ``--config``.

    Raises:
        ArgumentError: a name is unknown, a setting is missing, out of range or no number.
        DataSourceError: the held-out texts cannot be read.
        TeacherError: a cross-encoder cannot be loaded.
    """
    from hn_datasets.guards import guard_from_dict

    if not texts and recipe is not None:
        return tuple(guard_from_dict(guard) for guard in recipe.guards)
    return tuple(_read_guard(text) for text in texts)


def _read_guard(text: str) -> Guard:
    from hn_datasets.guards import CrossEncoderGuard, HeldOut, NearDuplicate, SameGroup, SimilarToPositive
    from hn_datasets.sources import load_source

    name, _, setting = text.partition("=")
    if name == "similar-to-positive":
        return SimilarToPositive(_number(text, setting)) if setting else SimilarToPositive()
    if name == "near-duplicate":
        return NearDuplicate(_number(text, setting)) if setting else NearDuplicate()
    if setting and name == "same-group":
        return SameGroup(setting)
    if setting and name == "held-out":
        return HeldOut(load_source(setting))
    if setting and name == "cross-encoder":
        return CrossEncoderGuard(setting)
    raise ArgumentError(f"Expected --guard as {GUARD_FORMS}, got {text!r}; name one of them.")


def _number(text: str, setting: str) -> float:
    try:
        return float(setting)
    except ValueError:
        raise ArgumentError(f"Expected --guard with a number behind '=', such as 0.3, got {text!r}.") from None
