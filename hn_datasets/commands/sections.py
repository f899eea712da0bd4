"""Help that lists the options of a command by subject."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class SectionOption(click.Option):
    """An option that belongs to one section of its command's help."""

    def __init__(self, *names: Any, section: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.section = section


class SectionedCommand(click.Command):
    """A command that lists its options section by section, in the order in which the sections begin."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those without a section last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(option, "section", "Other"), []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


class OptionMaker(Protocol):
    """A decorator like ``click.option``."""

    def __call__(self, *names: str, **settings: Any) -> Callable[[Command], Command]:
        """Return the decorator that adds an option to a command."""


def section_option(section: str) -> OptionMaker:
    """Return a decorator like ``click.option`` for the options of one section."""
    return functools.partial(click.option, cls=SectionOption, section=section)
