"""Semantic versions (semver.org 2.0.0) of releases and their tags: ``1.2.0`` and ``v1.2.0``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self, get_args

from hn_datasets.errors import ArgumentError

Bump = Literal["major", "minor", "patch"]
BUMPS: tuple[Bump, ...] = get_args(Bump)

_FORM = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


@dataclass(frozen=True, order=True)
class Version:
    """A version without pre-release or build parts; versions compare by their numbers."""

    major: int = 0
    minor: int = 0
    patch: int = 0

    @classmethod
    def find(cls, text: str) -> Self | None:
        """Return the version that a text is, with or without ``v``; None if it is none."""
        match = _FORM.fullmatch(text)
        return cls(*map(int, match.groups())) if match else None

    @property
    def tag(self) -> str:
        """The tag on the Hub."""
        return f"v{self}"

    def bump(self, part: Bump) -> Self:
        """Return the next version: one more of ``part``, and 0 of what is below it."""
        return type(self)(
            self.major + (part == "major"),
            self.minor + (part == "minor") if part != "major" else 0,
            self.patch + 1 if part == "patch" else 0,
        )

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def parse_version(text: str) -> Version | Bump:
    """Return the version that a user wants, or the step from the last one.

    Raises:
        ArgumentError: it is neither.
    """
    for bump in BUMPS:
        if text == bump:
            return bump
    version = Version.find(text) if isinstance(text, str) else None
    if version is None:
        raise ArgumentError(
            f"Expected a version such as '1.0.0', or one of {', '.join(BUMPS)} to count up from the last one, got "
            f"{text!r}; correct it."
        )
    return version
