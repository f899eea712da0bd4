"""Progress bars of long work: in a terminal and in a notebook, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from datasets.utils import tqdm


def progress_bar(iterable: Iterable[Any] | None = None, *, desc: str, unit: str, total: int | None = None) -> tqdm:
    """Return a bar, as of ``tqdm``; ``datasets.disable_progress_bars()`` turns it off.

    A notebook's output is no terminal, but somebody looks at it.
    """
    return tqdm(iterable, total=total, desc=desc, unit=unit, disable=False if _is_notebook() else None)


def _is_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
