"""The command line: it finds the command that is asked for, and imports no other.

What makes a command slow to start is the import of its libraries, so each is loaded when it is run, and the list of
commands, with a line of help on each, stands here.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from typing import Any

import click

from hn_datasets import __version__

COMMANDS = {
    "demo": ("demo", "Mine the docstrings of Python's standard library with a small packaged teacher."),
    "mine": ("mine", "Mine hard negatives for SOURCE: a Hub id, a Parquet, JSON Lines or CSV file, or a folder."),
    "survey": (
        "survey",
        "Compare all methods on SOURCE by one search: hardness, false negatives, overlap; what to choose.",
    ),
    "cache": ("cache", "List, size and prune the embedding store."),
    "publish": ("publish", "Publish DIR, a folder that `mine` wrote, as a version on the Hub, or as a folder."),
    "audit": ("audit", "Check a mined dataset, and whether its card, mining.json and data agree."),
    "compare": ("compare", "Compare two mined datasets: rows and negatives in common, statistics, recipe."),
    "reproduce": ("reproduce", "Mine a sample of a release again, and tell how many rows come out the same."),
}
"""Per command: its module in ``hn_datasets.commands``, which has it as ``<module>_command``, and a line of help."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a program that the signal has ended: 128 + SIGINT."""

HIDE_PROGRESS = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")


class LazyGroup(click.Group):
    """A group of commands that are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = COMMANDS[cmd_name][0]
        command: click.Command = getattr(importlib.import_module(f"hn_datasets.commands.{module}"), f"{module}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Import and run a command; Ctrl-C at any moment of that is one line and exit status 130."""
        try:
            _prepare_streams()
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if not _is_interrupt(error):
                raise
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another Ctrl-C, while the interpreter ends, is silent too
        click.echo("Interrupted.", err=True)
        ctx.exit(INTERRUPTED)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hn-datasets")
def main() -> None:
    """Hard negatives for training retrieval and embedding models.

    Results go to stdout, progress and hints to stderr. Exit status: 0 fine, 1 a known error, 2 wrong usage, 130 Ctrl-C.
    """
    warnings.showwarning = lambda message, *_: _show_warning(str(message))


def _show_warning(message: str) -> None:
    from hn_datasets.commands.errors import in_options  # noqa: PLC0415 - only where there is a warning

    click.echo(f"Warning: {in_options(message)}", err=True)


def _prepare_streams() -> None:
    """Hide progress bars where nobody watches, and let no character of a text be one that cannot be printed."""
    if not sys.stderr.isatty():
        for name in HIDE_PROGRESS:  # the libraries read this when they are imported
            os.environ.setdefault(name, "1")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C is behind an error: ``map``, or an import that was broken off, puts its own on top."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


if __name__ == "__main__":
    main()
