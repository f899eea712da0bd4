"""``hn-datasets publish``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hn_datasets.commands.errors import one_line_errors, options_in_errors
from hn_datasets.commands.sections import SectionedCommand, section_option
from hn_datasets.errors import ArgumentError

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hn_datasets.record import MiningRecord
    from hn_datasets.release.card_data import CardMetadata
    from hn_datasets.release.publishing import Release

# As in the modules that check them, which are slow to import.
LAYOUTS = ("triplet", "n-tuple", "labeled-pair", "labeled-list", "scored", "normalized")
_METADATA = ("license", "license_name", "license_link", "pretty_name", "source_license", "teacher_license")

ESTIMATE_FORMS = "relevant=COLUMN, which has all right answers of each anchor, or cross-encoder=MODEL"

release_option, card_option, hub_option, output_option = map(section_option, ("Release", "Card", "Hub", "Output"))


@click.command("publish", cls=SectionedCommand)
@click.argument("directory", metavar="DIR")
@click.argument("repo_id", metavar="[REPO]", required=False)
@release_option("--version", required=True, help="1.0.0, or major, minor or patch to count up from the last one.")
@card_option("--license", help="Licence of the dataset, as the Hub's id; 'other' needs --license-name.")
@card_option("--license-name", help="Name of a licence without an id, or why there is none.")
@card_option("--license-link", help="Its text: an address, or LICENSE for the file in the repository.")
@card_option("--pretty-name", help="Title of the card.")
@card_option("--language", multiple=True, metavar="CODE", help="BCP-47 code of the texts; several times for several.")
@card_option("--source-dataset", "source_datasets", multiple=True, metavar="REPO", help="Where the texts come from.")
@card_option("--source-license", help="Licence of the source, in words.")
@card_option("--teacher-license", help="Licence of the teacher, in words.")
@card_option("--task-category", "task_categories", multiple=True, metavar="ID", help="The Hub's id of a task.")
@card_option(
    "--estimate",
    metavar="HOW",
    help=f"Estimate the false negatives, by what is already mined: {ESTIMATE_FORMS}.  [default: that of mine]",
)
@card_option("--citation", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with BibTeX.")
@release_option(
    "--layout",
    "layouts",
    multiple=True,
    type=click.Choice(LAYOUTS),
    help="Configurations, the default one first; several times for several.  [default: n-tuple]",
)
@release_option("--notes", default="", help="What has changed, on one line.")
@release_option("--parent", metavar="REPO@VERSION", help="What this one follows.  [default: the one before]")
@output_option("--to-folder", type=click.Path(path_type=Path), help="Write the release here, and upload nothing.")
@output_option("--overwrite", is_flag=True, help="Replace an earlier release in --to-folder.")
@output_option("--file-by-file", is_flag=True, help="Read, check and send one file of DIR after another.")
@output_option("--dry-run", is_flag=True, help="Stop before the upload, and show what would go up.")
@hub_option("--private/--public", default=None, help="Of a repository that is made.")
@hub_option("--revision", help="Branch that the release is committed to.  [default: main]")
@hub_option("--create-pr", is_flag=True, help="Propose the release by a pull request.")
@hub_option("--commit-message", help='Title of the commit.  [default: "Release 1.0.0"]')
@card_option("--template", type=click.Path(path_type=Path), help="Jinja template of the card's body.")
@hub_option("--retry-seconds", type=float, default=300.0, show_default=True, help="How long to try again.")
@output_option("--json", "as_json", is_flag=True, help="Print as JSON.")
@one_line_errors
def publish_command(directory: str, as_json: bool, estimate: str | None, file_by_file: bool, **options: Any) -> None:
    """Publish DIR, a folder that `mine` or `publish` wrote, as a version of the dataset REPO on the Hub.

    The token is that of `hf auth login`, or HF_TOKEN. A command that was interrupted is simply run again.

    What `mine --engine ray` wrote may be larger than this machine. With --file-by-file, and always where DIR is an
    address such as s3://bucket/mined, no more than one of its files is here at a time.

    \b
    Examples:
      hn-datasets publish mined me/qa-hard-negatives --version 1.0.0 --license cc-by-4.0 --language ko
      hn-datasets publish mined me/qa-hard-negatives --version minor --license cc-by-4.0 --notes "New teacher"
      hn-datasets publish mined me/qa-hard-negatives --version patch --license mit --estimate cross-encoder=MODEL
      hn-datasets publish mined --to-folder release --version 1.0.0 --license cc-by-4.0 --layout n-tuple --layout scored
    """
    from datasets import DatasetDict

    from hn_datasets.estimation.mined import estimate_mined
    from hn_datasets.release.card_data import validate_metadata
    from hn_datasets.release.publishing import publish
    from hn_datasets.release.versions import parse_version

    choices = _read_estimate(estimate)
    with options_in_errors():
        mined, record = _choose(directory, choices, file_by_file=file_by_file)
        options["layouts"] = options["layouts"] or ("n-tuple",)
        metadata = _metadata(options)
        parse_version(options["version"])  # an estimate can take a while
        validate_metadata(metadata)
        made = None
        if isinstance(mined, DatasetDict) and record is not None and choices:
            made = estimate_mined(mined, record.recipe, **choices)
        release = publish(mined, record=record, estimate=made, metadata=metadata, **options)
    click.echo(json.dumps(release.to_dict(), ensure_ascii=False) if as_json else _describe(release))


def _choose(
    directory: str, estimate: dict[str, Any], *, file_by_file: bool
) -> tuple[DatasetDict, MiningRecord] | tuple[str, None]:
    """Return what a folder holds, or only its address where it is published file by file."""
    if not file_by_file and "://" not in directory:
        if not Path(directory).is_dir():
            raise ArgumentError(f"Expected a folder that mine wrote as DIR, got {directory!r}: there is none.")
        return _open(Path(directory))
    if estimate:
        raise ArgumentError("--estimate has no effect file by file: it needs rows of all files; pass it to mine.")
    return directory, None


def _open(directory: Path) -> tuple[DatasetDict, MiningRecord]:
    """Return what a folder of mined data holds, or a release of which nothing was left out."""
    from hn_datasets.inspection.opening import open_source
    from hn_datasets.record import MiningRecord

    record = MiningRecord.read(directory)
    opened = open_source(directory)
    name = opened.choose_config()
    if opened.config_names and name is None:
        raise ArgumentError(
            f"Expected a folder that mine wrote, or a release with the layout scored, got a release with "
            f"{', '.join(opened.config_names)} only in {directory}; name another folder."
        )
    return opened.load(name), record


def _read_estimate(how: str | None) -> dict[str, Any]:
    """Return what ``--estimate`` is given as an argument of ``estimate_mined``; nothing where it is not."""
    if how is None:
        return {}
    kind, _, value = how.partition("=")
    names = {"relevant": "relevant_column_name", "cross-encoder": "cross_encoder"}
    if kind not in names or not value:
        raise ArgumentError(f"Expected --estimate as {ESTIMATE_FORMS}, got {how!r}; name one of them.")
    return {names[kind]: value}


def _metadata(options: dict[str, Any]) -> CardMetadata:
    """Return what the options say about the dataset, and take them out."""
    from hn_datasets.release.card_data import CardMetadata

    given = {name: options.pop(name) for name in _METADATA}
    lists = {name: options.pop(name) for name in ("language", "source_datasets", "task_categories")}
    citation = options.pop("citation")
    return CardMetadata(
        **{**given, "license": given["license"] or ""},
        **{name: values for name, values in lists.items() if values},
        citation=citation.read_text(encoding="utf-8") if citation is not None else None,
    )


def _describe(release: Release) -> str:
    """Return what was made, and how it is loaded."""
    lines = [f"{size:>15,}  {path}" for path, size in release.files.items()]
    if lines:
        lines.append(f"{sum(release.files.values()):>15,}  bytes in {len(lines)} files")
    if release.folder is not None and release.repo_id is not None and release.commit is None:
        lines.append(
            f"Version {release.version} of {release.repo_id}, staged in {release.folder}; nothing was uploaded."
        )
    if release.folder is not None:
        lines.append(f'load_dataset("{release.folder}", split=...)')
    elif release.pull_request is not None:
        lines.append(f"Proposed: {release.pull_request}; run the same again when it is merged, to set the tag.")
    else:
        state = "Published" if release.files else "Published already"
        lines.append(f'{state}: load_dataset("{release.repo_id}", revision="{release.tag}")')
    return "\n".join(lines)
