"""Waiting for a Hub that is busy, broken or out of reach for a while."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from hn_datasets.errors import ReleaseError

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONFLICTS = frozenset({409, 412})

_logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error of the Hub's client; None where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_passing(error: BaseException) -> bool:
    """Return whether the same request may work later: the Hub was busy or broken, or the connection broke."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = status_of(error)
    if status is not None:
        return status in _PASSING
    # What Xet raises when it cannot reach its store is a ConnectionError or a TimeoutError of Python itself.
    kinds = (httpx2.TransportError, LocalEntryNotFoundError, ConnectionError, TimeoutError)
    return isinstance(error, kinds)


def is_conflict(error: BaseException) -> bool:
    """Return whether somebody else has changed the repository meanwhile."""
    return status_of(error) in _CONFLICTS


class Patience:
    """How long to go on with one thing that fails: waits that double, with some chance so that two do not meet again.

    Attributes:
        seconds: from the first failure on, after which it is given up.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._wait = FIRST_WAIT
        self._end: float | None = None

    def wait(self, error: BaseException) -> None:
        """Wait before the next attempt, as long as the Hub asks for or else longer each time.

        Raises:
            ReleaseError: there is no time left.
        """
        now = time.monotonic()
        self._end = now + self.seconds if self._end is None else self._end
        asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
        wait = float(asked) if asked.isdigit() else self._wait * random.uniform(0.5, 1)  # noqa: S311 - no secret
        if now + wait > self._end:
            raise ReleaseError(
                f"The Hub did not take it for {self.seconds:.0f} seconds ({one_line(error)}); no half release can be "
                "seen: run the same again later."
            ) from error
        _logger.warning("%s; trying again in %.1f s.", one_line(error), wait)
        time.sleep(wait)
        self._wait = min(2 * self._wait, LONGEST_WAIT)


def retry(seconds: float, call: Callable[..., Result], *args: Any, **options: Any) -> Result:
    """Return what a call returns; where its error may pass, call again.

    Raises:
        ReleaseError: it still fails after ``seconds``. Any other error of the call passes through.
    """
    patience = Patience(seconds)
    while True:
        try:
            return call(*args, **options)
        except Exception as error:
            if not is_passing(error):
                raise
            patience.wait(error)


@contextlib.contextmanager
def explain_refusals() -> Iterator[None]:
    """Turn what the Hub's client says of a request that was refused, or that was never sent, into one line.

    Raises:
        ReleaseError: such an error.
    """
    try:
        yield
    except (HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise ReleaseError(
            f"Expected the Hub to answer, it did not do so ({one_line(error)}); see to that, and run the same again."
        ) from error


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
