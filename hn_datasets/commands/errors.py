"""How a command reports the errors that a user can cause."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import click

from hn_datasets.errors import HNDatasetsError

LOGGERS = {"datasets.packaged_modules": logging.CRITICAL, "sentence_transformers": logging.ERROR}
"""The level below which these loggers are silent: what they log, they raise as well, and one line is enough."""


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that a user can cause into one line and exit status 1."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        for name, level in LOGGERS.items():
            logging.getLogger(name).setLevel(level)
        try:
            command(**options)
        except HNDatasetsError as error:
            raise click.ClickException(str(error.args[-1])) from error
        except Exception as error:
            if not _is_of_the_hub(error):
                raise
            raise click.ClickException(" ".join(str(error).split())) from error

    return run


def _is_of_the_hub(error: Exception) -> bool:
    """Return whether an error of the Hub, the network or ``datasets`` passes through, which says itself what to do."""
    from datasets.exceptions import DatasetsError  # noqa: PLC0415 - only where something went wrong
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    return isinstance(error, (HfHubHTTPError, DatasetsError, ConnectionError))


@contextlib.contextmanager
def options_in_errors() -> Iterator[None]:
    """Let errors of the library call its arguments by the options of the running command: ``--num-negatives``."""
    try:
        yield
    except HNDatasetsError as error:
        raise click.ClickException(in_options(str(error.args[-1]))) from error


def in_options(message: str) -> str:
    """Return a message that calls arguments by the options of the running command."""
    context = click.get_current_context(silent=True)
    params = context.command.params if context is not None else ()
    return name_options(message, [item for item in params if isinstance(item, click.Option)])


def name_options(message: str, options: list[click.Option]) -> str:
    """Return a message with ``on_empty='skip'`` as ``--on-empty skip``, and so on.

    A name that is also a word, such as pool, is replaced only where the message begins with it, or expects it first.
    What is quoted, as names of columns and paths are, stays as it is, and so does a column that is listed with its
    type.
    """
    for option in options:
        flag = option.opts[0]
        bare = rf"(?<![\w'/.-]){option.name}"
        message = re.sub(
            rf"{bare}=('[^']*'|\.\.\.|[\w.]*\w)", functools.partial(_with_value, flag, option.is_flag), message
        )
        word = bare if "_" in str(option.name) else rf"(?:(?<=^Expected )|(?<=^Expected a )|^){option.name}"
        message = re.sub(rf"{word}(?![\w'/=-]|\.\w| \()", flag, message)
        message = message.replace(f"{flag} as a tuple of ", f"{flag} as ") if option.multiple else message
    return message


def _with_value(flag: str, is_switch: bool, match: re.Match[str]) -> str:
    return flag if is_switch else f"{flag} {shlex.quote(match[1].strip(chr(39)))}"
