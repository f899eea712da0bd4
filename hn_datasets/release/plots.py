"""The pictures of a card, drawn from the histograms of the statistics alone.

The background is transparent and every line and letter is of a middle tone, so that they can be read on a light page
and on a dark one. No global state of matplotlib is left changed, and none of a user's settings is looked at.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hn_datasets.methods import Method
from hn_datasets.release.card_sections import PICTURES
from hn_datasets.statistics import MiningStatistics, ScoreDistribution

INK = "#7c828c"
"""Letters and axes: a contrast of at least 3.8 on white and on the Hub's dark page."""
BLUE, ORANGE, VIOLET = "#3d85d6", "#e07a22", "#a06be0"

_SIZE = (8.0, 3.2)  # inches
_DPI = 110
_SCORES, _MARGIN, _PER_ROW = PICTURES

Doubles = npt.NDArray[np.float64]


def draw_pictures(statistics: MiningStatistics, *, method: Method | None = None) -> dict[str, bytes]:
    """Draw what the statistics hold.

    Args:
        statistics: of mined data; the histograms are drawn as they are.
        method: gives the ceiling over the scores of the positives; none is drawn if None, or if it has none.

    Returns:
        PNG files under their names in a release: ``assets/scores.png``, ``assets/margin.png`` and
        ``assets/negatives_per_row.png``; one that would be empty is left out. The same bytes for the same statistics
        and version of matplotlib.
    """
    pictures = {}
    with mpl.rc_context():
        mpl.rcdefaults()
        if statistics.positive_score.count:
            pictures[_SCORES] = _draw_scores(statistics, method)
        if statistics.difference.count:
            pictures[_MARGIN] = _draw_margin(statistics.difference)
        if statistics.mined_rows:
            pictures[_PER_ROW] = _draw_negatives_per_row(statistics)
    return pictures


def _draw_scores(statistics: MiningStatistics, method: Method | None) -> bytes:
    figure, axes = _new_figure("score", "share of the scores")
    for scores, color, name in (
        (statistics.negative_score, ORANGE, "negatives"),
        (statistics.positive_score, BLUE, "positives"),
    ):
        if scores.count:
            axes.stairs(_shares(scores), scores.edges, fill=True, color=color, alpha=0.45)
            axes.stairs(_shares(scores), scores.edges, color=color, linewidth=1.6, label=f"{name} ({scores.count:,})")
    if method is not None:
        _draw_ceiling(axes, statistics.positive_score, method)
    return _finish(figure, axes)


def _draw_ceiling(axes: Axes, positives: ScoreDistribution, method: Method) -> None:
    """Draw the ceilings: every bin of the positives, with its edges where the formula takes them.

    The formulas rise with the positive score, so bins stay in order; a constant ceiling is one line.
    """
    edges = method.ceiling(np.asarray(positives.edges, dtype=np.float32))
    if not np.isfinite(edges).all():
        return
    style: dict[str, Any] = {"color": VIOLET, "linewidth": 1.8, "linestyle": (0, (4, 2)), "label": "ceiling"}
    if edges[0] == edges[-1]:
        axes.axvline(float(edges[0]), **style)
    else:
        axes.stairs(_shares(positives), edges, **style)


def _draw_margin(difference: ScoreDistribution) -> bytes:
    figure, axes = _new_figure("score of the positive minus score of the negative", "share of the negatives")
    axes.stairs(_shares(difference), difference.edges, fill=True, color=BLUE, alpha=0.45)
    axes.stairs(_shares(difference), difference.edges, color=BLUE, linewidth=1.6)
    axes.axvline(0, color=INK, linewidth=1.2)
    if difference.mean is not None:
        axes.axvline(
            difference.mean, color=ORANGE, linewidth=1.8, linestyle=(0, (4, 2)), label=f"mean {difference.mean:.3f}"
        )
    return _finish(figure, axes)


def _draw_negatives_per_row(statistics: MiningStatistics) -> bytes:
    figure, axes = _new_figure("negatives of a row", "share of the rows")
    rows = np.asarray(statistics.negatives_per_row, dtype=np.float64)
    numbers = np.arange(len(rows))
    full = numbers >= statistics.num_negatives
    bars = axes.bar(numbers, rows / rows.sum(), width=0.7, color=np.where(full, BLUE, ORANGE))
    axes.bar_label(bars, [f"{count:,.0f}" if count else "" for count in rows], color=INK, padding=2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    return _finish(figure, axes)


def _shares(scores: ScoreDistribution) -> Doubles:
    counts: Sequence[int] = scores.bin_counts
    return np.asarray(counts, dtype=np.float64) / scores.count


def _new_figure(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlabel(across, color=INK, fontsize=11)
    axes.set_ylabel(up, color=INK, fontsize=11)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.tick_params(colors=INK, labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _finish(figure: Figure, axes: Axes) -> bytes:
    """Return the picture as PNG, without the name of the program that wrote it."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=INK, fontsize=10)
    content = io.BytesIO()
    figure.savefig(content, format="png", transparent=True, metadata={"Software": None})
    return content.getvalue()
