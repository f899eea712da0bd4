"""Mined rows as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

SHOWN_SHARES = (0.9, 0.5, 0.1)


def pick_rows(mined: Dataset) -> list[int]:
    """Return the numbers of three rows: with a high, a middling and a low positive score (90 %, 50 % and 10 %)."""
    scores = np.asarray(mined.with_format("numpy")["positive_score"][:])
    order = np.argsort(scores, kind="stable")[: np.count_nonzero(np.isfinite(scores))]
    return [int(order[int(share * (len(order) - 1))]) for share in SHOWN_SHARES] if len(order) else []


def render_row(row: Mapping[str, Any], anchor: str, positive: str, *, width: int = 100, lines: int = 2) -> str:
    """Return one mined row: anchor, positive and negatives, each with its score.

    Args:
        row: one row of a mined dataset.
        anchor: name of the anchor column.
        positive: name of the positive column.
        width: characters per line.
        lines: how many lines of each text are shown.
    """
    texts = row[positive] if isinstance(row[positive], list) else [row[positive]]
    parts = [_entry("anchor", None, row[anchor], width, lines)]
    parts += [_entry("positive", row["positive_score"], text, width, lines) for text in texts]
    for number, (text, score) in enumerate(zip(row["negatives"], row["negative_scores"], strict=True), 1):
        parts.append(_entry(f"negative {number}", score, text, width, lines))
    if not row["negatives"]:
        parts.append("skipped as empty" if np.isnan(row["positive_score"]) else "no passage of the corpus qualifies")
    return "\n".join(parts)


def _entry(label: str, score: float | None, text: str | None, width: int, lines: int) -> str:
    head = f"{label:<11}" + (f"{score:>7.4f}  " if score is not None else " " * 9)
    body = textwrap.wrap(" ".join((text or "").split()), width - len(head), max_lines=lines, placeholder=" ...")
    return "\n".join((head if number == 0 else " " * len(head)) + line for number, line in enumerate(body or [""]))
