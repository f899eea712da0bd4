"""The small card of a mined folder that is not published, its ``README.md``.

It names teacher and method, shows the statistics, and says how to load the folder. The card of a release tells
everything; see ``hn_datasets.release.card``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from hn_datasets.markdown import code, escape, fence
from hn_datasets.modes import members_of
from hn_datasets.recipe import Recipe
from hn_datasets.statistics import MiningStatistics

TEMPLATE = "mined_folder.md.j2"


def render_readme(
    recipe: Recipe,
    statistics: MiningStatistics,
    rows: Mapping[str, int],
    corpus: Mapping[str, Any],
    source: Mapping[str, Any],
    estimate: str | None = None,
) -> str:
    """Return the text of ``README.md`` for a folder with a mined dataset.

    No text of the data goes into it, and what is unknown is left out.

    Args:
        recipe: every choice that decided the result.
        statistics: of all splits together.
        rows: number of rows of each split.
        corpus: ``passages``, the number of distinct passages.
        source: ``repo_id`` or ``path``, as far as known.
        estimate: of the false negatives, in sentences.
    """
    environment = Environment(  # noqa: S701 - Markdown, no HTML
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("hn_datasets.cards").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    source_name = str(source.get("repo_id") or source.get("path") or "")
    setting = recipe.method.setting
    return template.render(
        method_name=recipe.method.name,
        rows=f"{statistics.rows:,}",
        negatives=f"{statistics.negatives:,}",
        teacher=_name_teacher(recipe.teacher),
        ensemble=bool(members_of(recipe.teacher)),
        method=code(recipe.method.name) + (f" ({setting} {getattr(recipe.method, setting)})" if setting else ""),
        passages=f"{corpus['passages']:,}",
        source=code(source_name) if source_name else "",
        split=json.dumps(next(iter(rows))),
        anchor=json.dumps(recipe.anchor_column_name, ensure_ascii=False),
        positive=json.dumps(recipe.positive_column_name, ensure_ascii=False),
        table=fence(statistics.to_table(recipe.guard_names), "text"),
        estimate=None if estimate is None else escape(estimate),
    )


def _name_teacher(spec: Mapping[str, Any]) -> str:
    """Return a model's name or the kind of teacher; of an ensemble, the names of its teachers and its mode."""
    names = list(members_of(spec))
    if names:
        return f"{', '.join(map(code, names[:-1]))} and {code(names[-1])} (ensemble, {code(str(spec['mode']))})"
    return code(str(spec.get("model", spec["type"])))
