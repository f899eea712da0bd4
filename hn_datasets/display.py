"""Mined rows as text for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

SHOWN_SHARES = (0.9, 0.5, 0.1)
CUT = " ..."


def pick_rows(mined: Dataset, shares: Sequence[float] = SHOWN_SHARES) -> list[int]:
    """Return the numbers of rows with a high, a middling and a low positive score, or at other shares of the order.

    Args:
        mined: a mined dataset; skipped rows do not count.
        shares: where the rows stand among all in the order of their positive scores: 0 the lowest, 1 the highest.
    """
    scores = np.asarray(mined.with_format("numpy")["positive_score"][:])
    order = np.argsort(scores, kind="stable")[: np.count_nonzero(np.isfinite(scores))]
    return [int(order[int(share * (len(order) - 1))]) for share in shares] if len(order) else []


def render_row(row: Mapping[str, Any], anchor: str, positive: str, *, width: int = 100, lines: int = 2) -> str:
    """Return one mined row: anchor, positives and negatives, with the scores that a mined row has.

    Of several positives it has the lowest score only, which stands on a line of its own.

    Args:
        row: one row of a mined dataset.
        anchor: name of the anchor column.
        positive: name of the positive column.
        width: columns of the terminal per line; a wide character, as in Korean, takes two.
        lines: how many lines of each text are shown.
    """
    texts = row[positive] if isinstance(row[positive], list) else [row[positive]]
    score = row["positive_score"]
    known = None if np.isnan(score) else score
    parts = [_entry("anchor", None, row[anchor], width, lines)]
    if len(texts) == 1:
        parts.append(_entry("positive", known, texts[0], width, lines))
    else:
        parts += [_entry(f"positive {number}", None, text, width, lines) for number, text in enumerate(texts, 1)]
        if known is not None:
            parts.append(_entry("lowest", known, f"(of the {len(texts)} positives' scores)", width, lines))
    for number, (text, value) in enumerate(zip(row["negatives"], row["negative_scores"], strict=True), 1):
        parts.append(_entry(f"negative {number}", value, text, width, lines))
    if not row["negatives"]:
        parts.append("skipped as empty" if known is None else "no passage of the corpus qualifies")
    return "\n".join(parts)


def _entry(label: str, score: float | None, text: str | None, width: int, lines: int) -> str:
    head = f"{label:<11}" + (f"{score:>7.4f}  " if score is not None else " " * 9)
    body = _wrap(" ".join((text or "").split()), width - len(head), lines)
    return "\n".join((head if number == 0 else " " * len(head)) + line for number, line in enumerate(body or [""]))


def _wrap(text: str, width: int, max_lines: int) -> list[str]:
    """Return a text in lines of at most ``width`` columns; ``textwrap`` counts characters, wide ones too, as one."""
    text = "".join(char if unicodedata.category(char) != "Cc" else "\ufffd" for char in text)
    lines: list[str] = []
    while text and len(lines) < max_lines:
        line = _beginning(text, width)
        if len(lines) == max_lines - 1 and len(line) < len(text):
            line = _beginning(text, width - len(CUT)).rstrip() + CUT
        lines.append(line.rstrip())
        text = text[len(line) :].lstrip()
    return lines


def _beginning(text: str, width: int) -> str:
    """Return as much of a text as fits, up to a space; a word that would not fit in a whole line is broken."""
    ends = np.cumsum([_columns(char) for char in text[: 2 * width + 1]])
    fits = int(np.searchsorted(ends, width, side="right"))
    if fits == len(text) or text[fits] == " ":
        return text[:fits]
    space = text.rfind(" ", 0, fits)
    word = text[space + 1 :].split(" ", 1)[0]
    return text[: space + 1] if space >= 0 and sum(map(_columns, word[: width + 1])) <= width else text[: max(fits, 1)]


def _columns(char: str) -> int:
    """Return how many columns a character takes (Unicode annex 11): none where it goes onto the one before."""
    if unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff":  # vowels and ends of syllables
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
