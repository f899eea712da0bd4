"""``hn-datasets mine``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hn_datasets.commands.cluster import (
    cluster_options,
    mine_on_cluster,
    plan_cluster_mining,
    read_cluster,
    show_seconds,
    show_statistics,
)
from hn_datasets.commands.errors import one_line_errors, options_in_errors
from hn_datasets.commands.guards import GUARD_FORMS, read_guards
from hn_datasets.commands.sections import SectionedCommand, section_option
from hn_datasets.errors import ArgumentError, HNDatasetsError, StoreError
from hn_datasets.methods import METHODS, Method, method_from_dict, method_from_name

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from hn_datasets.cluster_model import ClusterPlan
    from hn_datasets.planning import Plan
    from hn_datasets.recipe import Recipe
    from hn_datasets.record import MiningRecord
    from hn_datasets.teachers.base import Teacher

# As in the modules that check them, which are slow to import.
SAMPLINGS = ("top", "random", "softmax", "top1+softmax")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
MODES = ("cross-sample", "intra-sample", "mean-rank", "agree")


data_option, teacher_option, method_option, output_option = map(section_option, ("Data", "Teacher", "Method", "Output"))


@click.command("mine", cls=SectionedCommand)
@click.argument("source")
@data_option("--config-name", help="Configuration of a dataset on the Hub.")
@data_option("--split", help="One split, or a part of it: 'train[:1000]'.  [default: all]")
@data_option("--revision", help="Branch, tag or commit of a dataset on the Hub.")
@data_option("--anchor-column", "anchor_column_name", help="Column of the anchors.  [default: first text column]")
@data_option("--positive-column", "positive_column_name", help="Column of the positives.  [default: next text column]")
@data_option("--on-empty", type=click.Choice(["error", "skip"]), help="Rows without a text.  [default: error]")
@data_option("--corpus", help="Further passages: a Parquet or JSON Lines file.")
@data_option("--corpus-column", "corpus_column_name", help="Text column of the corpus.")
@teacher_option(
    "--teacher",
    multiple=True,
    help="Model name or folder, or 'bm25'; several times for an ensemble.  [required, unless --config names it]",
)
@teacher_option("--ensemble", type=click.Choice(MODES), help="How the rankings of several teachers become one.")
@teacher_option("--query-prompt", help="Put before every anchor: a prompt's name or text.")
@teacher_option("--corpus-prompt", help="Put before every passage: a prompt's name or text.")
@teacher_option("--max-seq-length", type=int, help="Cut texts after so many tokens.")
@teacher_option("--truncate-dim", type=int, help="Keep the first components of each vector.")
@teacher_option("--precision", type=click.Choice(PRECISIONS), help="Of the model.  [default: auto]")
@teacher_option("--device", multiple=True, help="cpu, cuda, cuda:0 ...; several times for several devices.")
@teacher_option("--batch-size", type=int, help="Texts per forward pass.  [default: 32]")
@teacher_option("--model-revision", help="Branch, tag or commit of the model on the Hub.")
@teacher_option("--trust-remote-code", is_flag=True, default=None, help="Run code that comes with the model.")
@teacher_option(
    "--tokenizer", help="For BM25: words, kiwi, char-bigrams or a Hugging Face tokenizer.  [default: words]"
)
@teacher_option("--bm25-variant", type=click.Choice(["okapi", "l", "plus"]), help="[default: okapi]")
@method_option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A recipe.json, teacher and columns included; other options override it.",
)
@method_option("--method", type=click.Choice(list(METHODS)), help="Rule for the ceiling.  [default: topk-percpos]")
@method_option("--margin", type=float, help="The method's number: percentage, margin, cap or shift.")
@method_option("--num-negatives", type=int, help="Negatives per row.  [default: 4]")
@method_option("--sampling", type=click.Choice(SAMPLINGS), help="How to pick from the best.  [default: top]")
@method_option("--pool", type=int, help="How many of the best to draw from.")
@method_option("--temperature", type=float, help="Temperature of the softmax.")
@method_option(
    "--relabel-candidates", is_flag=True, default=None, help="Keep suspected positives in a column of their own."
)
@method_option("--seed", type=int, help="Seed of everything that is drawn.")
@method_option("--guard", "guards", multiple=True, help=f"Keep likely right answers out; repeatable: {GUARD_FORMS}.")
@method_option("--index", metavar="INDEX", help="exact, auto, or inverted lists such as IVF4096,SQ8.  [default: exact]")
@output_option(
    "--output",
    help="Folder for the mined dataset; with --engine ray on any fsspec path.  [required, unless --plan]",
)
@output_option("--overwrite", is_flag=True, help="Replace a mined dataset in that folder.")
@output_option("--plan", is_flag=True, help="Only estimate what it will take: minutes, disk and memory per stage.")
@output_option("--estimate", is_flag=True, help="Estimate false negatives, from anchors with several positives.")
@output_option("--num-proc", type=click.IntRange(min=1), help="Processes for the search.")
@output_option("--json", "as_json", is_flag=True, help="Print the statistics as JSON, and nothing else.")
@cluster_options
@one_line_errors
def mine_command(
    source: str,
    output: str | None,
    overwrite: bool,
    config: Path | None,
    num_proc: int | None,
    as_json: bool,
    plan: bool,
    engine: str,
    **options: Any,
) -> None:
    """Mine hard negatives for SOURCE: a Hub id, a Parquet, JSON Lines or CSV file, or a folder.

    \b
    Examples:
      hn-datasets mine pairs.jsonl --teacher BAAI/bge-m3 --method topk-percpos --margin 0.95 --output mined
      hn-datasets mine me/qa --teacher bm25 --tokenizer kiwi --num-negatives 4 --output mined
      hn-datasets mine pairs.jsonl --teacher BAAI/bge-m3 --teacher bm25 --ensemble agree --output mined
      hn-datasets mine me/qa --teacher BAAI/bge-m3 --method topk --guard similar-to-positive --output mined
      hn-datasets mine pairs.parquet --config mined/recipe.json --margin 0.9 --output mined-90
    """
    from hn_datasets.commands.teachers import choose_teacher
    from hn_datasets.sources import check_output, write_mined

    cluster = read_cluster(engine, num_proc, options)
    if output is None and not plan:
        raise click.UsageError("Missing option '--output'.")
    if output is not None and engine == "local":
        check_output(Path(output), overwrite=overwrite)
    recipe, saved = None, None
    if config is not None:
        trust = options["trust_remote_code"]
        recipe, saved = _read_recipe(config, with_teacher=not options["teacher"], trust_remote_code=trust)
    with options_in_errors():
        load_teacher = choose_teacher(saved, options)
        if plan or output is None:
            costs: Plan | ClusterPlan
            if engine == "ray":
                costs = plan_cluster_mining(source, load_teacher(), _choices(recipe, options), cluster, options)
            else:
                costs = _plan(source, recipe, load_teacher, options)
            click.echo(json.dumps(costs.to_dict()) if as_json else costs.to_table())
            return
        if engine == "ray":
            choices = {**_choices(recipe, options), "guards": read_guards(options.pop("guards"), recipe)}
            record = mine_on_cluster(source, load_teacher, choices, output, overwrite, cluster, options)
            show_statistics(record, as_json=as_json)
            show_seconds(record)
            return
        mined, record = _mine(source, recipe, load_teacher, num_proc, options)
    folder = Path(output)
    record = write_mined(mined, record, folder, overwrite=overwrite)
    show_statistics(record, as_json=as_json)
    if not as_json:
        _show_row(mined, record)
    show_seconds(record)
    click.echo(f"Written: {_loading_code(folder, record)}", err=True)


def _loading_code(output: Path, record: MiningRecord) -> str:
    """Return the line of Python that loads the first split, and after it the names of the others."""
    written = {path.name.rsplit("-", 3)[0] for path in (output / "data").iterdir()}  # "train[:9]" is written as train_9
    first, *others = [name for name in record.rows if name in written] or sorted(written)
    code = f"load_dataset({json.dumps(str(output), ensure_ascii=False)}, split={json.dumps(first)})"
    return f"{code}; other splits: {', '.join(others)}" if others else code


def _show_row(mined: Dataset | DatasetDict, record: MiningRecord) -> None:
    """Print the row with a middling positive score of the first split that has one: figures alone show no text."""
    from hn_datasets.display import pick_rows, render_row

    for split in mined.values() if isinstance(mined, dict) else [mined]:
        for number in pick_rows(split, [0.5]):
            recipe = record.recipe
            click.echo("\n" + render_row(split[number], recipe.anchor_column_name, recipe.positive_column_name))
            return


def _plan(source: str, recipe: Recipe | None, load_teacher: Callable[[], Teacher], options: dict[str, Any]) -> Plan:
    """Load the source and return what mining it would take."""
    from hn_datasets.planning import plan_mining
    from hn_datasets.sources import load_source

    choices = _choices(recipe, options)
    dataset = load_source(source, **{name: options.pop(name) for name in ("config_name", "split", "revision")})
    names = ("anchor_column_name", "positive_column_name", "on_empty", "index")
    given = {name: choices[name] for name in names if name in choices}
    corpus = {name: options.pop(name) for name in ("corpus", "corpus_column_name")}
    return plan_mining(dataset, teacher=load_teacher(), **given, **corpus)


def _mine(
    source: str,
    recipe: Recipe | None,
    load_teacher: Callable[[], Teacher],
    num_proc: int | None,
    options: dict[str, Any],
) -> tuple[Dataset | DatasetDict, MiningRecord]:
    """Load the source, mine it and return the mined dataset with its record; what is cheap to check comes first."""
    from hn_datasets.columns import resolve_columns
    from hn_datasets.estimation.calibration import estimate_false_negatives
    from hn_datasets.miner import HardNegativeMiner
    from hn_datasets.record import MiningRecord
    from hn_datasets.row_mining import block_rows_of
    from hn_datasets.sources import describe_source, find_commit, load_source

    choices = _choices(recipe, options)
    choices["guards"] = read_guards(options.pop("guards"), recipe)
    loading = {name: options.pop(name) for name in ("config_name", "split", "revision")}
    corpus = {name: options.pop(name) for name in ("corpus", "corpus_column_name")}
    estimating = options.pop("estimate")
    loading["revision"] = find_commit(source, loading["revision"])
    start = time.perf_counter()
    dataset = load_source(source, **loading)
    resolve_columns(dataset, choices.get("anchor_column_name"), choices.get("positive_column_name"))
    teacher = load_teacher()
    seconds = time.perf_counter() - start
    miner = HardNegativeMiner.from_dataset(dataset, teacher=teacher, **choices, **corpus)
    miner.timings = {"load": seconds, **miner.timings}
    estimate, start = None, time.perf_counter()
    if estimating:
        try:
            estimate = estimate_false_negatives(miner, dataset)
        except ArgumentError as error:  # the library can ask a judge as well
            reason = str(error).partition("; ")[0]
            raise ArgumentError(
                f"--estimate: {reason}; leave it out; publish --estimate can ask a cross-encoder."
            ) from error
        miner.timings["estimate"] = time.perf_counter() - start
    start = time.perf_counter()
    with _workers_left_to_parent(), _explain_full_cache():
        mined = dataset.map(
            miner, batched=True, batch_size=2 * block_rows_of(miner.recipe.index), num_proc=num_proc, desc="Mining"
        )
    timings = {"search": time.perf_counter() - start}
    where = describe_source(source, **loading)
    return mined, MiningRecord.of(mined, miner, source=where, timings=timings, estimate=estimate)


@contextlib.contextmanager
def _explain_full_cache() -> Iterator[None]:
    """Turn what ``map`` says when its rows find no room into one line.

    Raises:
        StoreError: the disk with the cache of ``datasets`` is full.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, HNDatasetsError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise StoreError(
            error.errno,
            f"Could not write mined rows to the cache of datasets ({error.strerror or error}); free some space, or set "
            "HF_DATASETS_CACHE to a larger disk, and run again.",
        ) from error


@contextlib.contextmanager
def _workers_left_to_parent() -> Iterator[None]:
    """Let Ctrl-C, which a terminal sends to workers too, act in this process alone: it is the one that ends them.

    A worker that is forked in here inherits the handler; else each would print a traceback of its own.
    """
    parent = os.getpid()

    def interrupt(*_: Any) -> None:
        if os.getpid() == parent:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _read_recipe(path: Path, *, with_teacher: bool, trust_remote_code: bool | None) -> tuple[Recipe, Teacher | None]:
    """Return the recipe in a file, and its teacher where that is wanted; errors name the file."""
    from hn_datasets.recipe import Recipe
    from hn_datasets.teachers.loading import teacher_from_spec

    try:
        recipe = Recipe.from_json(path.read_text(encoding="utf-8"))
        if not with_teacher:
            return recipe, None
        return recipe, teacher_from_spec(recipe.teacher, trust_remote_code=bool(trust_remote_code))
    except HNDatasetsError as error:
        raise ArgumentError(f"{path}: {error.args[-1]}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ArgumentError(
            f"Expected a recipe.json as mining writes it, got {str(path)!r}, which cannot be read ({error}); "
            "name another file."
        ) from error


def _choices(recipe: Recipe | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the miner: those of the recipe, overridden by options."""
    columns = ("anchor_column_name", "positive_column_name")
    picking = ("sampling", "pool", "temperature", "seed", "relabel_candidates")
    names = ("num_negatives", *picking, "on_empty", "index", *columns)
    given = {name: value for name in names if (value := options.pop(name)) is not None}
    method, margin = options.pop("method"), options.pop("margin")
    if method is None and margin is not None:
        method = recipe.method.name if recipe else "topk-percpos"
    if method is not None:
        given["method"] = _method(method, margin)
    base = {} if recipe is None else {name: value for name in names if (value := getattr(recipe, name)) is not None}
    if recipe is not None:
        base["method"] = method_from_dict(recipe.method.to_dict())
    return {**base, **given}


def _method(name: str, margin: float | None) -> Method:
    try:
        return method_from_name(name, margin)
    except ArgumentError as error:  # the library calls the number by what it is: percentage, margin, max_score, n
        raise ArgumentError(f"--margin: {error}") from error
