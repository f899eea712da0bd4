"""How a command reports the errors that a user can cause."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click
import datasets
from huggingface_hub.utils import HfHubHTTPError

from hn_datasets.errors import HNDatasetsError


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that a user can cause into one line and exit status 1."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        try:
            command(**options)
        except HNDatasetsError as error:
            raise click.ClickException(str(error.args[-1])) from error
        except (HfHubHTTPError, datasets.exceptions.DatasetsError, ConnectionError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except Exception as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # map puts its own error on top of Ctrl-C
                raise KeyboardInterrupt from error
            raise

    return run
