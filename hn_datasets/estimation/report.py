"""What a survey of methods comes out as: a table, a picture and JSON, and what to choose."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hn_datasets.estimation.rates import INTERVAL, Rate
from hn_datasets.estimation.settings import show
from hn_datasets.guards import SimilarToPositive
from hn_datasets.methods import Method, RandomNegatives, TopKMarginPos, TopKPercPos
from hn_datasets.release.plots import BLUE, INK, ORANGE, VIOLET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FULL_ROWS = 0.95
"""A setting that leaves more rows short is not recommended."""

_AWARE = (TopKPercPos, TopKMarginPos)

GREEN, RED, GREY = "#2f9e63", "#d0484f", "#8a8f98"
_COLORS = (BLUE, ORANGE, VIOLET, GREEN, RED, GREY)
_INCHES, _DPI = (11.0, 4.6), 130


@dataclass(frozen=True)
class SurveyRow:
    """What one setting gives.

    Attributes:
        method: with its number.
        full_rows: share of the rows that have as many negatives as asked for.
        mean_negative_score: of the teacher, over all negatives; None where there is none.
        rate: of false negatives, where all but one positive of an anchor were hidden; None where it cannot be told.
        trial_score: the mean score of the negatives there. It is higher than that of the rows where the ceiling follows
            from the lowest of several positives.
    """

    method: Method
    full_rows: float
    mean_negative_score: float | None
    rate: Rate | None
    trial_score: float | None

    @property
    def hardness(self) -> float | None:
        """The mean score that goes with the rate, or where there is none, that of the rows."""
        return self.mean_negative_score if self.rate is None else self.trial_score

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            **vars(self),
            "method": self.method.to_dict(),
            "rate": None if self.rate is None else self.rate.to_dict(),
        }


@dataclass(frozen=True)
class Survey:
    """All methods over a grid of settings, from one search.

    Attributes:
        rows: number of rows that were mined.
        passages: number of distinct passages.
        num_negatives: negatives asked for in each row.
        guards: the JSON forms of the guards that all settings were mined with.
        settings: method by method, each from strict to loose.
        overlap: for each pair of settings the Jaccard index of their negatives; None where neither has any.
        unknown: why false negatives cannot be estimated; None where they are.
        target: the rate of false negatives that a choice has to keep to.
        interval: the name of the intervals.
    """

    rows: int
    passages: int
    num_negatives: int
    guards: tuple[dict[str, Any], ...]
    settings: tuple[SurveyRow, ...]
    overlap: tuple[tuple[float | None, ...], ...]
    unknown: str | None
    target: float
    interval: str = INTERVAL

    @property
    def choice(self) -> Method:
        """The setting to choose: the hardest one that keeps to the target and leaves few rows short.

        One of the positive-aware methods, if there is one: they trained better in NV-Retriever (arXiv 2407.15831). With
        the guard ``SimilarToPositive`` every setting is aware of the positive, so it is the hardest one of all. Where
        none keeps to the target, or it cannot be told, it is the loosest TopK-PercPos up to the paper's 95 %.
        """
        within = self._within(self._aware) or self._within((Method,))
        if within:
            return within[-1].method
        usual = [row for row in self.settings if isinstance(row.method, TopKPercPos) and row.method.percentage <= 0.95]
        full = [row for row in usual if row.full_rows >= FULL_ROWS]
        return (full or usual or self.settings)[-1].method

    @property
    def advice(self) -> str:
        """What to choose, in one sentence."""
        name, chosen = show(self.choice), next(row for row in self.settings if row.method == self.choice)
        if self.unknown is not None:
            return (
                f"Choose {name}, as in NV-Retriever (arXiv 2407.15831), which keeps {chosen.full_rows:.1%} of the rows "
                f"full: how many negatives are false cannot be told here, because {self.unknown}."
            )
        within = self._within((Method,))
        if not within:
            return (
                f"No setting keeps to {self.target:.0%} false negatives and {FULL_ROWS:.0%} full rows; {name} has "
                f"{chosen.rate}: add a guard such as SimilarToPositive(), or take a stronger teacher."
            )
        has = f"has the hardest negatives with at most {self.target:.0%} false ones, {chosen.rate}"
        if self._aware == (Method,):
            return f"Choose {name} with the guards: of all settings it {has}."
        if not isinstance(self.choice, self._aware):
            return f"Choose {name}: it {has}; no positive-aware setting keeps to that."
        hardest = within[-1].method
        other = "" if hardest == self.choice else f"; {show(hardest)} has harder ones, but its kind trained worse there"
        return (
            f"Choose {name}: of the positive-aware settings, which trained best in NV-Retriever (arXiv 2407.15831), it "
            f"{has}{other}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            **vars(self),
            "guards": list(self.guards),
            "settings": [row.to_dict() for row in self.settings],
            "overlap": [list(row) for row in self.overlap],
            "choice": self.choice.to_dict(),
            "advice": self.advice,
        }

    def __str__(self) -> str:
        return self.to_table()

    def to_table(self) -> str:
        """Return a line for each setting, the choice marked, and the advice."""
        place = [row.method for row in self.settings].index(self.choice)
        names = f"{'Full rows':>10}{'Mean score':>12}{'False negatives':>25}{'at score':>10}{'In common':>11}"
        lines = [f"  {'Setting':<22}{names}"]
        for row, common in zip(self.settings, self.overlap[place], strict=True):
            mark = ">" if row.method == self.choice else " "
            score, trial = (_cell(value, ".4f") for value in (row.mean_negative_score, row.trial_score))
            lines.append(
                f"{mark} {show(row.method):<22}{row.full_rows:>10.1%}{score:>12}{_cell(row.rate, ''):>25}{trial:>10}"
                f"{_cell(common, '.2f'):>11}"
            )
        return "\n".join([*lines, *self._notes(), self.advice])

    def draw(self) -> bytes:
        """Return a picture as PNG: false negatives against hardness, and how far equally hard settings overlap."""
        import matplotlib as mpl  # noqa: PLC0415  (slow)
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415

        with mpl.rc_context():
            mpl.rcdefaults()
            figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots(1, 2, width_ratios=(3, 2))
            self._draw_curves(axes[0])
            self._draw_overlap(axes[1])
            for one in axes:
                one.tick_params(colors=INK, labelsize=9)
                one.spines[:].set_color(INK)
            content = io.BytesIO()
            figure.savefig(content, format="png", metadata={"Software": None})
        return content.getvalue()

    @property
    def _aware(self) -> tuple[type[Method], ...]:
        """The methods that let no setting ignore how close a passage comes to the positive."""
        return (Method,) if any(guard["name"] == SimilarToPositive.name for guard in self.guards) else _AWARE

    def _within(self, kinds: tuple[type[Method], ...]) -> list[SurveyRow]:
        """Return the settings that keep to the target and leave few rows short, the hardest last."""
        kept = [
            row
            for row in self.settings
            if isinstance(row.method, kinds)
            and not isinstance(row.method, RandomNegatives)
            and row.rate is not None
            and row.rate.rate <= self.target
            and row.full_rows >= FULL_ROWS
        ]
        return sorted(kept, key=lambda row: row.hardness or -np.inf)

    def _notes(self) -> Iterator[str]:
        yield (
            f"{self.rows:,} rows, {self.passages:,} passages, {self.num_negatives} negatives per row. In common: the "
            f"Jaccard index with {show(self.choice)}."
        )
        rate = next((row.rate for row in self.settings if row.rate is not None), None)
        if rate is not None:
            yield (
                f"False negatives: positives that were hidden and came back, by {rate.num_anchors:,} anchors that have "
                f"several; {rate.confidence:.0%} {self.interval}."
            )

    def _draw_curves(self, axes: Axes) -> None:
        known = self.unknown is None
        axes.set_xlabel("mean score of the negatives (harder to the right)", color=INK)
        axes.set_ylabel("false negatives" if known else "rows kept full", color=INK)
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
        for color, rows in zip(_COLORS, self._by_method(), strict=False):
            shown = [row for row in rows if row.hardness is not None and (row.rate is not None or not known)]
            across = np.array([row.hardness for row in shown])
            up = np.array([row.rate.rate if row.rate else row.full_rows for row in shown])
            axes.plot(across, up, marker="o", markersize=4, color=color, label=rows[0].method.name)
            if known and len(shown) > 1:
                low, high = (np.array([getattr(row.rate, end) for row in shown]) for end in ("low", "high"))
                axes.fill_between(across, low, high, color=color, alpha=0.1, linewidth=0)
        if known:
            axes.axhline(self.target, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        chosen = next(row for row in self.settings if row.method == self.choice)
        if chosen.hardness is not None:
            place = (chosen.hardness, chosen.rate.rate if chosen.rate else chosen.full_rows)
            axes.plot(*place, "o", markersize=12, fillstyle="none", color=INK)
            axes.annotate(show(self.choice), place, (-10, 10), textcoords="offset points", color=INK, ha="right")
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)

    def _draw_overlap(self, axes: Axes) -> None:
        """Draw the overlap of one setting of each method, the one that is about as hard as the choice."""
        methods = [row.method for row in self.settings]
        hardness = self.settings[methods.index(self.choice)].hardness or 0.0
        places = [
            methods.index(min(rows, key=lambda row: abs((row.hardness or np.inf) - hardness)).method)
            for rows in self._by_method()
        ]
        shares = np.array([[self.overlap[a][b] for b in places] for a in places], dtype=np.float64)
        axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        labels = [show(methods[place]) for place in places]
        axes.set_xticks(range(len(places)), labels, rotation=45, ha="right", color=INK)
        axes.set_yticks(range(len(places)), labels, color=INK)
        axes.grid(visible=False)
        for (row, column), share in np.ndenumerate(shares):
            text = "-" if np.isnan(share) else f"{share:.2f}"
            axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.6 else "#30343a")
        axes.set_title("negatives in common (Jaccard)", color=INK, fontsize=10)

    def _by_method(self) -> Sequence[list[SurveyRow]]:
        kinds = dict.fromkeys(type(row.method) for row in self.settings)
        return [[row for row in self.settings if type(row.method) is kind] for kind in kinds]


def _cell(value: object, form: str) -> str:
    return "-" if value is None else format(value if form else str(value), form)
