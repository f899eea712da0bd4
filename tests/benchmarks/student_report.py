"""What the runs of students say: means, spread over seeds, paired tests; needs numpy only.

Two variants are compared by NDCG@10 on the same held-out queries, seeds and batch orders. The difference of a query is
its mean over the seeds. p is that of a two-sided sign-flip permutation test over queries. The interval (95 %) is a
bootstrap that draws queries *and* seeds. Neither is corrected for the number of comparisons. "All sets" is the mean
of the sets' differences, with flips and draws within each set.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

TOP = 10
DRAWS = 5_000
REFERENCES = ("perc", "in-batch")
PAPER_ORDER = (
    ("naive", "shifted"),
    ("naive", "abs"),
    ("shifted", "margin"),
    ("shifted", "perc"),
    ("abs", "margin"),
    ("abs", "perc"),
    ("margin", "perc"),
)
"""Pairs (worse, better) of NV-Retriever's table, arXiv 2407.15831."""

Scores = npt.NDArray[np.float64]
Runs = dict[tuple[str, str], dict[str, dict[int, dict[str, Any]]]]
"""(student, set) -> variant -> seed -> record of the run."""


def ndcg(hits: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64]) -> Scores:
    """Return NDCG@10 with binary gains.

    Args:
        hits: whether the passage at each of the first ranks is relevant, ``[n, TOP]``.
        counts: relevant passages of each query, at least 1, ``[n]``.
    """
    discounts = 1 / np.log2(np.arange(2, TOP + 2))
    return (hits * discounts).sum(axis=1) / np.cumsum(discounts)[np.minimum(counts, TOP) - 1]


def reciprocal_rank(hits: npt.NDArray[np.bool_]) -> Scores:
    """Return 1 / rank of the first relevant passage, 0 if none of the first ranks is; hits as for ``ndcg``."""
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


@functools.lru_cache(maxsize=8)
def draws(name: str, num_seeds: int, num_queries: int) -> tuple[npt.NDArray[np.float32], ...]:
    """Return ``DRAWS`` rows of signs, of weights of seeds and of weights of queries; others for every set."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    signs = 2 * rng.integers(0, 2, (DRAWS, num_queries), dtype=np.int8) - 1
    weights = [rng.multinomial(n, np.full(n, 1 / n), DRAWS) / n for n in (num_seeds, num_queries)]
    return tuple(np.asarray(part, dtype=np.float32) for part in (signs, *weights))


def compare(differences: Mapping[str, Scores]) -> dict[str, float]:
    """Return mean, interval and p of the differences on sets, ``[num_seeds, num_queries]`` each."""
    observed, flipped, drawn = 0.0, np.zeros(DRAWS), np.zeros(DRAWS)
    for name, part in differences.items():
        signs, seeds, queries = draws(name, *part.shape)
        each = part.mean(axis=0)
        observed += each.mean()
        flipped += signs @ each / len(each)
        drawn += ((seeds @ part) * queries).sum(axis=1)
    as_extreme = (np.abs(flipped) >= abs(observed) - 1e-9).sum()
    low, high = np.quantile(drawn / len(differences), [0.025, 0.975])
    return {
        "difference": round(observed / len(differences), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "p": round(float((as_extreme + 1) / (DRAWS + 1)), 4),
    }


def gather(records: Iterable[Mapping[str, Any]]) -> Runs:
    """Return the records by student and set, variant, and seed, without seeds that lack a variant."""
    runs: Runs = {}
    for record in records:
        variants = runs.setdefault((record["student"], record["set"]), {})
        variants.setdefault(record["variant"], {})[record["seed"]] = dict(record)
    for variants in runs.values():
        trained = [seeds.keys() for variant, seeds in variants.items() if variant != "untrained"]
        complete = set.intersection(*map(set, trained)) if trained else set()
        for variant in variants.keys() - {"untrained"}:
            variants[variant] = {seed: variants[variant][seed] for seed in sorted(complete)}
    return {key: variants for key, variants in runs.items() if any(len(seeds) for seeds in variants.values())}


def stack(seeds: Mapping[int, Mapping[str, Any]], metric: str = "ndcg") -> Scores:
    """Return the scores of a variant, ``[num_seeds, num_queries]``."""
    return np.array([record[metric] for record in seeds.values()])


def summarise(runs: Runs) -> dict[str, Any]:
    """Return the figures for the JSON file: per student and set, and the comparisons over all sets of a student."""
    results = [
        {"student": student, "set": name, "variants": describe(name, variants)}
        for (student, name), variants in runs.items()
        if len(next(iter(variants.values())))
    ]
    students = dict.fromkeys(student for student, _ in runs)
    return {
        "results": results,
        "order": [line for student in students for line in check_order(runs, student)],
        "overall": [line for student in students for line in compare_overall(runs, student)],
    }


def describe(name: str, variants: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return means, spread, per-seed means and the comparisons with ``REFERENCES`` of each variant."""
    lines = {}
    for variant, seeds in variants.items():
        line: dict[str, Any] = {"seeds": list(seeds)}
        for metric in ("ndcg", "mrr"):
            means = stack(seeds, metric).mean(axis=1)
            line[metric] = round(float(means.mean()), 4)
            line[f"{metric}_std"] = round(float(means.std(ddof=1)), 4) if len(means) > 1 else None
            line[f"{metric}_of_seeds"] = means.round(4).tolist()
        line["seconds"] = round(float(np.mean([record["seconds"] for record in seeds.values()])), 2)
        line["steps"] = next(iter(seeds.values())).get("steps", 0)
        for reference in REFERENCES:
            if reference in variants and variant not in (reference, "untrained"):
                line[f"against {reference}"] = compare({name: stack(seeds) - stack(variants[reference])})
        lines[variant] = line
    return lines


def check_order(runs: Runs, student: str) -> list[dict[str, Any]]:
    """Return the comparison of each pair of ``PAPER_ORDER``, for every set and over all sets."""
    return [
        {"student": student, "set": name, "worse": worse, "better": better, **figures}
        for worse, better in PAPER_ORDER
        for name, figures in compare_on_sets(runs, student, better, worse)
    ]


def compare_overall(runs: Runs, student: str) -> list[dict[str, Any]]:
    """Return the comparison of every variant with ``REFERENCES`` over all sets of a student."""
    variants = dict.fromkeys(variant for key, each in runs.items() if key[0] == student for variant in each)
    return [
        {"student": student, "variant": variant, "reference": reference, **dict(lines)["all sets"]}
        for reference in REFERENCES
        for variant in variants
        if variant not in (reference, "untrained") and (lines := compare_on_sets(runs, student, variant, reference))
    ]


def compare_on_sets(runs: Runs, student: str, better: str, worse: str) -> list[tuple[str, dict[str, float]]]:
    """Return (set, figures) of every set that has both variants, and of "all sets"; empty if none has."""
    differences = {
        name: stack(variants[better]) - stack(variants[worse])
        for (each, name), variants in runs.items()
        if each == student and variants.get(better) and variants.get(worse)
    }
    lines = [(name, compare({name: difference})) for name, difference in differences.items()]
    return [*lines, ("all sets", compare(differences))] if lines else []


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the tables: a star marks p < 0.05."""
    for result in summary["results"]:
        counts = {len(line["seeds"]) for variant, line in result["variants"].items() if variant != "untrained"}
        print(f"\n{result['student']} on {result['set']}, {max(counts, default=0)} seeds")
        print(f"{'negatives':<12} {'NDCG@10':>16} {'MRR@10':>16} {'against perc':>26} {'against in-batch':>26}")
        for variant, line in result["variants"].items():
            scores = [f"{line[name]:.4f} ± {line[name + '_std'] or 0:.4f}" for name in ("ndcg", "mrr")]
            against = [show(line.get(f"against {reference}")) for reference in REFERENCES]
            print(f"{variant:<12} {scores[0]:>16} {scores[1]:>16} {against[0]:>26} {against[1]:>26}")
    print("\nOver all sets")
    for line in summary["overall"]:
        print(f"{line['student']:<8} {line['variant']:<12} against {line['reference']:<10} {show(line):>26}")
    print("\nThe order of the paper: is the second better than the first?")
    for line in summary["order"]:
        print(f"{line['student']:<8} {line['set']:<14} {line['worse']:<8} < {line['better']:<8} {show(line):>26}")


def show(figures: Mapping[str, float] | None) -> str:
    """Return one comparison as text."""
    if figures is None:
        return "-"
    return f"{figures['difference']:+.4f}, p = {figures['p']:.4f}{'*' if figures['p'] < 0.05 else ' '}"
