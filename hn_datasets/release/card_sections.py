"""What the body of a card says, section by section, as plain values for the template.

Every text that comes from the data, from a human or from a file is escaped here, so that no template has to.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hn_datasets.markdown import code, collapse, escape, fence, link
from hn_datasets.methods import RandomNegatives
from hn_datasets.release.card_choices import (
    HUB,
    describe_method,
    has_no_ceiling,
    hide_paths,
    is_local,
    list_choices,
    name_teacher,
)
from hn_datasets.release.card_data import CardMetadata, ConfigFiles, VersionRow, default_config, sources_of
from hn_datasets.release.card_scores import (
    count_decimals,
    describe_example,
    describe_short_rows,
    describe_statistics,
    format_score,
    format_share,
)
from hn_datasets.release.card_usage import describe_config, loading_code, training_code

if TYPE_CHECKING:
    from hn_datasets.record import MiningRecord

PICTURES = {
    "assets/scores.png": "Distribution of the scores of positives and negatives, with the ceiling",
    "assets/margin.png": "Distribution of the margin: positive score minus negative score",
    "assets/negatives_per_row.png": "How many negatives the rows have",
}
"""The pictures that ``draw_pictures`` makes, by their place beside the card, and what a reader without eyes is told."""
_PER_ROW = "assets/negatives_per_row.png"


def build_sections(
    record: MiningRecord,
    metadata: CardMetadata,
    configs: Sequence[ConfigFiles],
    *,
    repo_id: str | None,
    title: str,
    examples: Sequence[Mapping[str, Any]],
    versions: Sequence[VersionRow],
    pictures: Sequence[str],
) -> dict[str, Any]:
    """Return the variables of the template; the comment at its head explains them."""
    default = default_config(configs)
    tag = _tag(record)
    shown = [{"path": path, "alt": PICTURES.get(path, "")} for path in pictures]
    return {
        "title": escape(title),
        "summary": describe_summary(record),
        "made_with": escape(str(record.environment.get("packages", {}).get("hn-datasets", ""))),
        "method": describe_method(record.recipe),
        "loading": loading_code(default, repo_id, tag),
        "training": training_code(default),
        "configs": [describe_config(config, record) for config in (default, *(c for c in configs if c is not default))],
        "choices": list(list_choices(record, metadata)),
        "statistics": describe_statistics(record),
        "short": describe_short_rows(record, configs),
        "pictures": [picture for picture in shown if picture["path"] != _PER_ROW],
        "short_pictures": [picture for picture in shown if picture["path"] == _PER_ROW],
        "has_ceiling": not has_no_ceiling(record.recipe.method),
        "has_guards": bool(record.recipe.guards),
        "examples": [describe_example(row, record) for row in examples],
        "false_negatives": None if record.estimate is None else escape(record.estimate.describe()),
        "reproduction": _reproduction(record, repo_id, tag),
        "versions": [_version(row, repo_id) for row in versions],
        "parent": _parent(record, repo_id),
        "licenses": _licenses(record, metadata),
        "citation": fence(metadata.citation, "bibtex") if metadata.citation else None,
    }


def describe_summary(record: MiningRecord) -> str:
    """Return what the dataset is, in one sentence."""
    recipe, statistics = record.recipe, record.statistics
    anchor, positive = code(recipe.anchor_column_name), code(recipe.positive_column_name)
    up_to = "up to " if statistics.short_rows or statistics.skipped_rows else ""
    noun = "negative" if recipe.num_negatives == 1 else "negatives"
    if isinstance(recipe.method, RandomNegatives):
        how = f"random {noun}, drawn from"
    else:
        how = f"hard {noun}, found by {name_teacher(recipe.teacher)} among"
    return (
        f"{statistics.rows:,} pairs of {anchor} and {positive}, each with {up_to}{recipe.num_negatives} {how} "
        f"{record.corpus['passages']:,} passages."
    )


def _tag(record: MiningRecord) -> str | None:
    version = record.release.get("version")
    return f"v{str(version).removeprefix('v')}" if version else None


def _reproduction(record: MiningRecord, repo_id: str | None, tag: str | None) -> dict[str, Any]:
    """Return the commands, the recipe and what it ran on."""
    recipe = hide_paths(record.recipe).to_dict()
    return {
        "command": f"hn-datasets reproduce {shlex.quote(f'{repo_id}@{tag}')}" if repo_id and tag else None,
        "mine": _mine_command(record),
        "source_unknown": not (record.source.get("repo_id") or record.source.get("path")),
        "recipe": fence(json.dumps(recipe, indent=2, sort_keys=True, ensure_ascii=False), "json"),
        "local_teacher": is_local(record.recipe.teacher),
        "environment": _environment(record.environment),
        "timings": ", ".join(
            f"{escape(stage)} {seconds:,.1f} s" for stage, seconds in record.timings.items() if seconds >= 0.05
        ),
    }


def _mine_command(record: MiningRecord) -> str:
    source = record.source
    words = ["hn-datasets", "mine", collapse(str(source.get("repo_id") or source.get("path") or "SOURCE"))]
    for name in ("config_name", "split", "revision"):
        if source.get(name):
            words += [f"--{name.replace('_', '-')}", collapse(str(source[name]))]
    return shlex.join([*words, "--config", "recipe.json", "--output", "mined"])


def _environment(environment: Mapping[str, Any]) -> str | None:
    packages = [f"{escape(name)} {escape(str(version))}" for name, version in environment.get("packages", {}).items()]
    hardware = environment.get("hardware", {})
    if hardware.get("processor"):
        cores = f" ({hardware['cores']} cores)" if hardware.get("cores") else ""
        packages.append(f"{escape(str(hardware['processor']))}{cores}")
    packages += [escape(str(name)) for name in hardware.get("gpus", ())]
    return ", ".join(packages) or None


def _version(row: VersionRow, repo_id: str | None) -> dict[str, str]:
    tag = f"v{row.version.removeprefix('v')}"
    return {
        "version": link(tag, f"{HUB}/datasets/{repo_id}/tree/{tag}") if repo_id else escape(tag),
        "date": escape(row.date),
        "rows": f"{row.rows:,}",
        "mean_margin": format_score(row.mean_margin, count_decimals([row.mean_margin])),
        "common": format_share(row.common_share) or "–",
        "notes": escape(row.notes or ""),
    }


def _parent(record: MiningRecord, repo_id: str | None) -> str | None:
    """Return the release that this one follows; it may be one of another repository, as ``me/other@v1.0.0``."""
    parent = record.release.get("parent")
    if not parent:
        return None
    repo, _, version = str(parent).rpartition("@")
    repo, tag = repo or repo_id or "", f"v{version.removeprefix('v')}"
    return link(f"{repo}@{tag}", f"{HUB}/datasets/{repo}/tree/{tag}") if repo else code(tag)


def _licenses(record: MiningRecord, metadata: CardMetadata) -> list[tuple[str, str]]:
    """Return what each licence covers, and the licence; what is unknown is said to be unknown."""
    own = escape(metadata.license_name or metadata.license)
    if metadata.license_link:
        own = link(metadata.license_name or metadata.license, metadata.license_link)
    sources = [link(name, f"{HUB}/datasets/{name}") for name in sources_of(record, metadata) if name != "original"]
    source = escape(metadata.source_license) if metadata.source_license else "unknown: it was not stated"
    if sources:
        source += f" (see {', '.join(sources)})"
    if record.recipe.teacher.get("type") == "bm25":
        teacher = "none: BM25 has no weights"
    else:
        teacher = escape(metadata.teacher_license) if metadata.teacher_license else "unknown: it was not stated"
    return [("This dataset", own), ("The texts it is made from", source), ("The teacher", teacher)]
