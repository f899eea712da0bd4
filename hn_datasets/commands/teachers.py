"""From the options of a command to what loads its teacher."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import click

from hn_datasets.errors import ArgumentError
from hn_datasets.teachers.base import Teacher
from hn_datasets.teachers.bm25 import BM25Teacher
from hn_datasets.teachers.dense import DenseTeacher
from hn_datasets.teachers.ensemble import EnsembleTeacher, named_errors

LEXICAL = ("tokenizer", "bm25_variant")
DENSE = (
    "query_prompt", "corpus_prompt", "max_seq_length", "truncate_dim", "precision", "batch_size", "trust_remote_code",
    "model_revision", "device",
)  # fmt: skip
ONE_MODEL = ("query_prompt", "corpus_prompt", "truncate_dim", "model_revision")
"""What means something else for every model, and so is not given to several."""

_RENAMED = {"bm25_variant": "variant", "model_revision": "revision"}


def choose_teacher(saved: Teacher | None, options: dict[str, Any]) -> Callable[[], Teacher]:
    """Return what loads the teacher that the options name, or gives that of the recipe; the options are checked now.

    Args:
        saved: the teacher of the recipe, if there is one and no other is named.
        options: those of the teacher are taken out.

    Raises:
        UsageError: no teacher is named, several without ``--ensemble``, or ``--ensemble`` without several.
        ArgumentError: an option has no effect on the teachers.
    """
    names, mode = tuple(options.pop("teacher")), options.pop("ensemble")
    given = {name: options.pop(name) for name in (*DENSE, *LEXICAL)}
    devices = list(given["device"])
    given["device"] = devices if len(devices) > 1 else devices[0] if devices else None
    given = {name: value for name, value in given.items() if value is not None}
    _check_names(names, mode, saved)
    if saved is not None:
        _check_saved(saved, given)
        return lambda: saved
    _check_effects(names, given)
    if mode is None:
        return _loader(names[0], given)
    return lambda: EnsembleTeacher([_load_member(name, given) for name in names], mode=mode)


def _check_names(names: tuple[str, ...], mode: str | None, saved: Teacher | None) -> None:
    if not names and saved is None:
        raise click.UsageError("Missing option '--teacher': a model name or folder, or 'bm25'.")
    if len(names) > 1 and mode is None:
        raise click.UsageError("Missing option '--ensemble': it says how several teachers become one.")
    if len(names) < 2 and mode is not None:
        raise click.UsageError("Option '--ensemble' needs '--teacher' at least twice.")


def _check_saved(saved: Teacher, given: Mapping[str, Any]) -> None:
    """Refuse options beside the teacher of a recipe, but for the trust that its own spec asks for."""
    specs = [member.spec() for member in saved.members] if isinstance(saved, EnsembleTeacher) else [saved.spec()]
    trusted = any(spec.get("trust_remote_code") for spec in specs)
    _refuse([name for name in given if name != "trust_remote_code" or not trusted], "the recipe's teacher")


def _check_effects(names: tuple[str, ...], given: Mapping[str, Any]) -> None:
    models = [name for name in names if name != "bm25"]
    whose = f"the teacher {names[0]!r}" if len(names) == 1 else f"the teachers {', '.join(names)}"
    _refuse([name for name in given if name in LEXICAL and len(models) == len(names)], whose)
    _refuse([name for name in given if name not in LEXICAL and not models], whose)
    if unclear := [name for name in given if name in ONE_MODEL and len(models) > 1]:
        raise ArgumentError(
            f"{_flags(unclear)} cannot be given to several models; make the ensemble in Python, or give its recipe by "
            "--config."
        )


def _refuse(options: list[str], whose: str) -> None:
    if options:
        verb = "have" if len(options) > 1 else "has"
        raise ArgumentError(f"{_flags(options)} {verb} no effect on {whose}; leave it out.")


def _flags(options: list[str]) -> str:
    return ", ".join("--" + option.replace("_", "-") for option in options)


def _loader(name: str, given: Mapping[str, Any]) -> Callable[[], Teacher]:
    own = {_RENAMED.get(key, key): value for key, value in given.items() if (key in LEXICAL) == (name == "bm25")}
    return functools.partial(BM25Teacher, **own) if name == "bm25" else functools.partial(DenseTeacher, name, **own)


def _load_member(name: str, given: Mapping[str, Any]) -> Teacher:
    with named_errors(name):
        return _loader(name, given)()
