"""``hn-datasets survey``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hn_datasets.commands.errors import one_line_errors, options_in_errors
from hn_datasets.commands.guards import GUARD_FORMS, read_guards
from hn_datasets.commands.mine import mine_command
from hn_datasets.commands.sections import SectionedCommand, SectionOption, section_option
from hn_datasets.errors import ArgumentError

survey_option, output_option = map(section_option, ("Survey", "Output"))


@click.command("survey", cls=SectionedCommand)
@click.argument("source")
@survey_option("--num-negatives", type=click.IntRange(min=1), default=4, show_default=True, help="Negatives per row.")
@survey_option(
    "--target-false-negative-rate",
    type=float,
    default=0.05,
    show_default=True,
    help="Share of false negatives that the choice has to keep to.",
)
@survey_option(
    "--num-anchors",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Anchors with several positives to estimate false negatives from, at most.",
)
@survey_option("--guard", "guards", multiple=True, help=f"Keep likely right answers out; repeatable: {GUARD_FORMS}.")
@survey_option("--seed", type=int, default=0, show_default=True, help="Of random negatives, and of what is hidden.")
@output_option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this PNG file.")
@output_option("--json", "as_json", is_flag=True, help="Print as JSON.")
@one_line_errors
def survey_command(source: str, picture: Path | None, as_json: bool, **options: Any) -> None:
    """Compare all methods on SOURCE, by one search: what to choose, at a glance.

    For each method and number: the share of rows that stay full, the mean score of the negatives, the rate of false
    negatives where anchors have several known positives, and what it has in common with the choice.

    \b
    Examples:
      hn-datasets survey pairs.jsonl --teacher BAAI/bge-m3
      hn-datasets survey me/qa --teacher BAAI/bge-m3 --picture survey.png --json > survey.json
    """
    if picture is not None and (picture.suffix != ".png" or not picture.absolute().parent.is_dir()):
        raise ArgumentError(f"Expected a file that ends in .png, in a folder that exists, got {str(picture)!r}.")
    from hn_datasets.columns import resolve_columns
    from hn_datasets.commands.teachers import choose_teacher
    from hn_datasets.estimation.survey import survey
    from hn_datasets.sources import load_source

    with options_in_errors():
        teacher = choose_teacher(None, options)
        dataset = load_source(source, **{name: options.pop(name) for name in ("config_name", "split", "revision")})
        guards = read_guards(options.pop("guards"), None)
        given = {name: value for name, value in options.items() if value is not None}
        resolve_columns(dataset, given.get("anchor_column_name"), given.get("positive_column_name"))
        found = survey(dataset, teacher=teacher(), guards=guards, **given)
    if picture is not None:
        picture.write_bytes(found.draw())
    click.echo(json.dumps(found.to_dict(), ensure_ascii=False) if as_json else found.to_table())


# The options that say which data and which teacher are those of `mine`.
survey_command.params[1:1] = [
    option
    for option in mine_command.params
    if isinstance(option, SectionOption) and option.section in ("Data", "Teacher")
]
