"""The options of ``hn-datasets mine`` that are about a Ray cluster, and what they do."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from hn_datasets.commands.sections import section_option

if TYPE_CHECKING:
    from hn_datasets.cluster_model import ClusterPlan
    from hn_datasets.record import MiningRecord
    from hn_datasets.teachers.base import Teacher

_ARGUMENTS = {
    "ray_address": "address",
    "workers": "workers",
    "slices": "slices",
    "gpus_per_worker": "gpus_per_worker",
    "on_error": "on_error",
}
"""Each option with the argument of ``mine_on_ray`` that it is."""

_ASSUMED = {
    "plan_passages": "passages",
    "plan_anchors": "anchors",
    "plan_encoding": "encoding",
    "plan_search": "search",
}
"""The same of what a plan is told."""

cluster_option = section_option("Cluster")
AT_LEAST_1 = click.IntRange(min=1)


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command."""
    for option in reversed(
        [
            cluster_option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True),
            cluster_option(
                "--ray-address", metavar="HOST:PORT", help="Of the cluster.  [default: the one on this host]"
            ),
            cluster_option("--workers", type=AT_LEAST_1, help="Encode and search.  [default: one per node]"),
            cluster_option("--slices", type=AT_LEAST_1, help="Pieces of the corpus.  [default: --workers]"),
            cluster_option("--gpus-per-worker", type=click.FloatRange(min=0), help="GPUs of each.  [default: 0]"),
            cluster_option("--on-error", type=click.Choice(["error", "skip"]), help="Failing texts.  [default: error]"),
            cluster_option("--plan-passages", type=AT_LEAST_1, help="For --plan: distinct passages, not counted."),
            cluster_option("--plan-anchors", type=AT_LEAST_1, help="For --plan: rows, not counted."),
            cluster_option("--plan-encoding", type=float, help="For --plan: texts a second of a worker, not timed."),
            cluster_option("--plan-search", type=float, help="For --plan: products a second of a worker, not timed."),
        ]
    ):
        command = option(command)
    return command


def read_cluster(engine: str, num_proc: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """Take the options out, and return those that were given.

    Raises:
        UsageError: an option has no effect with this engine.
    """
    taken = {option: options.pop(option) for option in (*_ARGUMENTS, *_ASSUMED)}
    given = {option: value for option, value in taken.items() if value is not None}
    if engine == "local" and given:
        raise click.UsageError(f"Option '--{next(iter(given)).replace('_', '-')}' needs '--engine ray'.")
    if engine == "ray" and (num_proc is not None or options["estimate"]):
        raise click.UsageError("Options '--num-proc' and '--estimate' need '--engine local'.")
    return given


def mine_on_cluster(
    source: str,
    load_teacher: Callable[[], Teacher],
    choices: dict[str, Any],
    output: str,
    overwrite: bool,
    cluster: dict[str, Any],
    options: dict[str, Any],
) -> MiningRecord:
    """Mine on a Ray cluster.

    Args:
        source: of the command.
        load_teacher: gives the teacher; what is cheap to check comes first.
        choices: fields of the recipe, with guards as objects.
        output: of the command.
        overwrite: replace what is there.
        cluster: from ``read_cluster``.
        options: those that are left, about the data.
    """
    if planned := [option for option in cluster if option in _ASSUMED]:
        raise click.UsageError(f"Option '--{planned[0].replace('_', '-')}' needs '--plan'.")
    from hn_datasets.guards import describe_guards
    from hn_datasets.ray_engine.cluster import load_ray
    from hn_datasets.ray_engine.engine import mine_on_ray
    from hn_datasets.ray_engine.files import resolve_names
    from hn_datasets.recipe import Recipe

    load_ray()
    loading = {name: options.pop(name) for name in ("config_name", "split", "revision")}
    names = [choices.pop(name, None) for name in ("anchor_column_name", "positive_column_name")]
    anchor, positive = resolve_names(source, *names, **loading)
    guards, teacher = choices.pop("guards"), load_teacher()
    recipe = Recipe(
        teacher=teacher.spec(),
        guards=describe_guards(guards),
        anchor_column_name=anchor,
        positive_column_name=positive,
        **choices,
    )
    corpus = {name: options.pop(name) for name in ("corpus", "corpus_column_name")}
    settings = {_ARGUMENTS[option]: value for option, value in cluster.items()}
    given = {"teacher": teacher, "guards": guards, "overwrite": overwrite, **loading, **corpus, **settings}
    record = mine_on_ray(source, recipe, output, **given)
    click.echo(f"Written: {_loading_code(output, next(iter(record.rows)))}", err=True)
    return record


def _loading_code(output: str, split: str) -> str:
    """Return the line of Python that loads a split; ``load_dataset`` takes no folder elsewhere, but files."""
    from hn_datasets.shards import split_file_name

    name = split_file_name(split)
    if "://" not in output:
        return f"load_dataset({json.dumps(output, ensure_ascii=False)}, split={json.dumps(name)})"
    files = f"{output.rstrip('/')}/data/{name}-*.parquet"
    return f'load_dataset("parquet", data_files={json.dumps(files, ensure_ascii=False)}, split="train")'


def plan_cluster_mining(
    source: str, teacher: Teacher, choices: dict[str, Any], cluster: dict[str, Any], options: dict[str, Any]
) -> ClusterPlan:
    """Return what mining on a cluster would take; arguments are those of ``mine_on_cluster``."""
    from hn_datasets.ray_engine.planning import Assumed, plan_on_ray

    names = ("anchor_column_name", "positive_column_name")
    given = {name: choices[name] for name in names if choices.get(name) is not None}
    given |= {name: options[name] for name in ("corpus", "config_name", "split", "revision")}
    given |= {name: cluster[name] for name in ("workers", "slices") if name in cluster}
    assumed = Assumed(**{_ASSUMED[option]: value for option, value in cluster.items() if option in _ASSUMED})
    return plan_on_ray(source, teacher, assumed=assumed, **given)


def show_statistics(record: MiningRecord, *, as_json: bool) -> None:
    """Print what came out."""
    if as_json:
        click.echo(json.dumps(record.statistics.to_dict(), ensure_ascii=False))
    else:
        click.echo(record.statistics.to_table(record.recipe.guard_names))
        for found in (record.estimate, record.index_recall):
            if found is not None:
                click.echo(found.describe())


def show_seconds(record: MiningRecord) -> None:
    """Print how long each stage took."""
    click.echo("Seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in record.timings.items()), err=True)
