"""The pictures of a card, drawn from the histograms of the statistics alone.

The background is transparent and every line and letter is of a middle tone, so that they can be read on a light page
and on a dark one, also at 600 pixels. No global state of matplotlib is left changed, no setting of a user is looked at,
and matplotlib is imported only where something is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hn_datasets.diagnosis import piles_up
from hn_datasets.distributions import ScoreDistribution
from hn_datasets.methods import Method
from hn_datasets.release.card_scores import count_decimals, decimals_of, format_score, format_share
from hn_datasets.release.card_sections import PICTURES
from hn_datasets.statistics import MiningStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#787e88"
"""Letters and axes: a contrast of at least 4 on white and on the Hub's dark page; 4.4 is the most for both."""
BLUE, ORANGE, VIOLET = "#3d85d6", "#e07a22", "#a06be0"

_INCHES = {"full": (7.0, 3.0), "low": (7.0, 2.0)}
_DPI = 130
_SCORES, _MARGIN, _PER_ROW = PICTURES
_FEWEST_BINS = 16
_MOST_LABELS = 12
_HEADROOM = 1.2
"""A pile-up is cut off where it is so many times as high as the highest bin."""
_DASHED: dict[str, Any] = {"linewidth": 1.8, "linestyle": (0, (4, 2))}

Doubles = npt.NDArray[np.float64]


class _Series(NamedTuple):
    """One histogram of a picture."""

    name: str
    scores: ScoreDistribution
    color: str
    label: str | None


def draw_pictures(statistics: MiningStatistics, *, method: Method | None = None) -> dict[str, bytes]:
    """Draw what the statistics hold.

    Args:
        statistics: of mined data.
        method: gives the ceiling over the scores of the positives; none is drawn if None, or if it has none.

    Returns:
        PNG files under their names in a release: ``assets/scores.png``, ``assets/margin.png`` and
        ``assets/negatives_per_row.png``; one that would be empty is left out. The same bytes for the same statistics
        and version of matplotlib.
    """
    import matplotlib as mpl  # noqa: PLC0415  (slow)

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
    figure, axes = _new_figure("score", "share")
    decimals = decimals_of(statistics)
    both = (("positives", statistics.positive_score, BLUE), ("negatives", statistics.negative_score, ORANGE))
    series = [
        _Series(name, scores, color, f"{name}: median {format_score(scores.median, decimals)}")
        for name, scores, color in both
        if scores.count
    ]
    _draw_histograms(axes, series)
    if method is not None:
        _draw_ceiling(axes, statistics.positive_score, method, decimals)
    lowest, highest = statistics.positive_score.edges[0], statistics.positive_score.edges[-1]
    if lowest >= -1 and highest <= 1.01:  # cosines, on whose own scale it can be seen that all of them are low
        axes.set_xlim(min(0, lowest - 0.02) if lowest < 0.5 else lowest - 0.02, 1.02)
    return _finish(figure, axes)


def _draw_ceiling(axes: Axes, positives: ScoreDistribution, method: Method, decimals: int) -> None:
    """Draw the median of the ceilings, and where the middle half of them lies.

    The formulas rise with the positive score, so quartiles of the ceilings are the ceilings of the quartiles.
    """
    low, median, high = method.ceiling(np.asarray(positives.quartiles, dtype=np.float32)).tolist()
    if not np.isfinite(median):
        return
    if low < high:
        axes.axvspan(low, high, color=VIOLET, alpha=0.2, linewidth=0)
    name = "ceiling: median" if low < high else "ceiling:"
    axes.axvline(median, label=f"{name} {format_score(median, decimals)}", color=VIOLET, **_DASHED)


def _draw_margin(difference: ScoreDistribution) -> bytes:
    figure, axes = _new_figure("margin: score of the positive minus score of the negative", "share of negatives")
    _draw_histograms(axes, [_Series("margins", difference, BLUE, None)])
    axes.axvline(0, color=INK, linewidth=1.2)
    mean = format_score(difference.mean, count_decimals((difference.minimum, difference.maximum)))
    axes.axvline(difference.mean or 0.0, label=f"mean {mean}", color=ORANGE, **_DASHED)
    return _finish(figure, axes)


def _draw_negatives_per_row(statistics: MiningStatistics) -> bytes:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    figure, axes = _new_figure("negatives of a row", "share of rows", "low")
    rows = np.asarray(statistics.negatives_per_row, dtype=np.float64)
    numbers = np.arange(len(rows))
    full = numbers >= statistics.num_negatives
    bars = axes.bar(numbers, rows / rows.sum(), width=0.7, color=np.where(full, BLUE, ORANGE))
    if np.count_nonzero(rows) <= _MOST_LABELS:
        axes.bar_label(bars, [f"{count:,.0f}" if count else "" for count in rows], color=INK, fontsize=10, padding=2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=_MOST_LABELS, integer=True))
    axes.set_ylim(0, 1.25)
    axes.set_yticks([0, 0.5, 1])
    return _finish(figure, axes)


def _count_bins(count: int) -> int:
    """Return how many bins show so many values without showing chance: twice the cube root (Rice's rule)."""
    return max(_FEWEST_BINS, round(2 * float(np.cbrt(count))))


def _merge_bins(scores: ScoreDistribution, num_bins: int) -> tuple[Doubles, Doubles]:
    """Return shares and edges of about so many bins of equal width; a pile-up is left out, as it is no part of them."""
    counts = np.asarray(scores.bin_counts, dtype=np.float64)
    edges = np.asarray(scores.edges)
    if scores.most_common is not None and piles_up(scores):
        place = int(np.searchsorted(edges, scores.most_common, side="right")) - 1
        counts[min(place, len(counts) - 1)] -= scores.most_common_count
    together = max(1, round(len(counts) / num_bins))
    merged = np.add.reduceat(counts, np.arange(0, len(counts), together))
    return merged / scores.count, edges[0] + (edges[1] - edges[0]) * together * np.arange(len(merged) + 1)


def _draw_histograms(axes: Axes, series: Sequence[_Series]) -> None:
    """Draw histograms over the same edges, and each value that many scores equal as a bar of its own.

    Such a value, as the 0 of BM25, would press all others flat: its bar is cut off at the top, with an arrow, and its
    share stands in the legend.
    """
    num_bins = _count_bins(min(one.scores.count for one in series))
    merged = [_merge_bins(one.scores, num_bins) for one in series]
    piled = [one for one in series if piles_up(one.scores)]
    top = max(float(shares.max()) for shares, _ in merged) * (_HEADROOM if piled else 1.0) or 1.0
    axes.set_ylim(0, top * 1.06)
    for one, (shares, edges) in zip(series, merged, strict=True):
        axes.stairs(shares, edges, fill=True, color=one.color, alpha=0.4)
        axes.stairs(shares, edges, color=one.color, linewidth=1.6, label=one.label)
        if one in piled:
            same = [other.scores.most_common for other in piled[: piled.index(one)]].count(one.scores.most_common)
            _draw_pile_up(axes, one, top, across=7.0 * same)


def _draw_pile_up(axes: Axes, one: _Series, top: float, across: float) -> None:
    """Draw a bar at one value, moved to the right by points where another bar stands."""
    from matplotlib.transforms import offset_copy  # noqa: PLC0415

    value, share = one.scores.most_common or 0.0, one.scores.most_common_count / one.scores.count
    label = f"{format_share(share)} of {one.name} are {value:.4g}"
    place = offset_copy(axes.transData, axes.get_figure(root=True), x=across, units="points")
    style: dict[str, Any] = {"color": one.color, "transform": place}
    axes.plot([value] * 2, [0, min(share, top)], linewidth=6, solid_capstyle="butt", label=label, **style)
    if share > top:
        axes.plot([value], [top * 1.03], marker="^", markersize=9, clip_on=False, **style)


def _new_figure(across: str, up: str, size: str = "full") -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    figure = Figure(figsize=_INCHES[size], dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlabel(across, color=INK, fontsize=10)
    axes.set_ylabel(up, color=INK, fontsize=10)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    axes.tick_params(colors=INK, labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _finish(figure: Figure, axes: Axes) -> bytes:
    """Return the picture as PNG, its legend above it, without the name of the program that wrote it."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        style: dict[str, Any] = {"frameon": False, "handlelength": 1.4, "columnspacing": 1.4, "handletextpad": 0.5}
        figure.legend(handles, labels, loc="outside upper center", ncols=3, labelcolor=INK, fontsize=10, **style)
    content = io.BytesIO()
    figure.savefig(content, format="png", transparent=True, metadata={"Software": None})
    return content.getvalue()
