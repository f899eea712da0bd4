"""How a command reports the errors that a user can cause."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
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
