"""The card of a mined folder, its ``README.md``: a pure function of the recipe and the statistics."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from hn_datasets.recipe import Recipe
from hn_datasets.statistics import MiningStatistics

TEMPLATE = "mined_folder.md.j2"
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
"""The Hub's names for numbers of rows, by the number that they stay below."""


def render_readme(
    recipe: Recipe,
    statistics: MiningStatistics,
    rows: Mapping[str, int],
    corpus: Mapping[str, Any],
    source: Mapping[str, Any],
) -> str:
    """Return the text of ``README.md`` for a folder with a mined dataset.

    No text of the data goes into it, and what is unknown is left out.

    Args:
        recipe: every choice that decided the result.
        statistics: of all splits together.
        rows: number of rows of each split.
        corpus: ``passages``, the number of distinct passages.
        source: ``repo_id`` or ``path``, as far as known.
    """
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 - Markdown, no HTML
    template = environment.from_string(files("hn_datasets.cards").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    total = sum(rows.values())
    return template.render(
        recipe=recipe,
        statistics=statistics,
        rows=dict(rows),
        corpus=corpus,
        source={"name": _code(str(source.get("repo_id") or source.get("path") or ""))},
        total_rows=total,
        size_category=next((name for limit, name in SIZE_CATEGORIES.items() if total < limit), "n>1M"),
        method_name=recipe.method.name,
        teacher={"name": describe_teacher(recipe.teacher)},
        choices=list(_choices(recipe).items()),
        table=statistics.to_table().replace("```", "'''"),
    )


def describe_teacher(spec: Mapping[str, Any]) -> str:
    """Return a teacher's name as Markdown."""
    if spec.get("type") == "dense":
        return _code(str(spec["model"]))
    return {"bm25": "BM25", "precomputed": "ready vectors"}.get(str(spec.get("type")), str(spec.get("type")))


def _choices(recipe: Recipe) -> dict[str, str]:
    """Return the choices in words: first the teacher's, then the method's."""
    teacher = {
        name: value
        for name, value in recipe.teacher.items()
        if name not in ("type", "model") and value not in ("", None)
    }
    setting = (
        f" ({recipe.method.setting} {getattr(recipe.method, recipe.method.setting)})" if recipe.method.setting else ""
    )
    drawn = {name: getattr(recipe, name) for name in ("pool", "temperature", "seed")}
    return {
        "teacher": describe_teacher(recipe.teacher),
        **{f"teacher: {name}": _code(str(value)) for name, value in teacher.items()},
        "method": f"`{recipe.method.name}`{setting}",
        "ceiling": f"`{recipe.method.formula}`".replace("|", "\\|"),
        "negatives per row": str(recipe.num_negatives),
        "sampling": recipe.sampling,
        **{name: str(value) for name, value in drawn.items() if value is not None},
    }


def _code(text: str) -> str:
    """Return a text as Markdown code that breaks no line and no table."""
    folded = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{folded}`" if folded else ""
