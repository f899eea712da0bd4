"""``hn-datasets publish``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hn_datasets.batches import OUTPUT_FORMATS
from hn_datasets.commands.errors import one_line_errors
from hn_datasets.errors import ArgumentError
from hn_datasets.inspection.opening import open_source
from hn_datasets.record import MiningRecord
from hn_datasets.release.card_data import CardMetadata
from hn_datasets.release.publishing import RETRY_SECONDS, Release, publish

_METADATA = ("license", "license_name", "license_link", "pretty_name", "source_license", "teacher_license")


@click.command("publish")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo_id", metavar="[REPO]", required=False)
@click.option("--version", required=True, help="1.0.0, or major, minor or patch to count up from the last one.")
@click.option("--license", help="Licence of the dataset, as the Hub's id; 'other' needs --license-name.")
@click.option("--license-name", help="Name of a licence without an id, or why there is none.")
@click.option("--license-link", help="Its text: an address, or LICENSE for the file in the repository.")
@click.option("--pretty-name", help="Title of the card.")
@click.option("--language", multiple=True, metavar="CODE", help="BCP-47 code of the texts; several times for several.")
@click.option("--source-dataset", "source_datasets", multiple=True, metavar="REPO", help="Where the texts come from.")
@click.option("--source-license", help="Licence of the source, in words.")
@click.option("--teacher-license", help="Licence of the teacher, in words.")
@click.option("--task-category", "task_categories", multiple=True, metavar="ID", help="The Hub's id of a task.")
@click.option("--citation", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with BibTeX.")
@click.option(
    "--layout",
    "layouts",
    multiple=True,
    type=click.Choice(OUTPUT_FORMATS),
    help="Configurations, the default one first; several times for several.  [default: n-tuple]",
)
@click.option("--notes", default="", help="What has changed, on one line.")
@click.option("--parent", metavar="REPO@VERSION", help="The release that this one follows.  [default: the one before]")
@click.option("--to-folder", type=click.Path(path_type=Path), help="Write the release here, and upload nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier release in --to-folder.")
@click.option("--dry-run", is_flag=True, help="Stop before the upload, and show what would go up.")
@click.option("--private/--public", default=None, help="Of a repository that is made.")
@click.option("--revision", help="Branch that the release is committed to.  [default: main]")
@click.option("--create-pr", is_flag=True, help="Propose the release by a pull request.")
@click.option("--commit-message", help='Title of the commit.  [default: "Release 1.0.0"]')
@click.option("--template", type=click.Path(path_type=Path), help="Jinja template of the card's body.")
@click.option("--retry-seconds", type=float, default=RETRY_SECONDS, show_default=True, help="How long to try again.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@one_line_errors
def publish_command(directory: Path, as_json: bool, **options: Any) -> None:
    """Publish DIR, a folder that `mine` or `publish` wrote, as a version of the dataset REPO on the Hub.

    The token is that of `hf auth login`, or HF_TOKEN. A command that was interrupted is simply run again.

    \b
    Examples:
      hn-datasets publish mined me/qa-hard-negatives --version 1.0.0 --license cc-by-4.0 --language ko
      hn-datasets publish mined me/qa-hard-negatives --version minor --license cc-by-4.0 --notes "New teacher"
      hn-datasets publish mined --to-folder release --version 1.0.0 --license cc-by-4.0 --layout n-tuple --layout scored
    """
    metadata = _metadata(options)
    record = MiningRecord.read(directory)
    opened = open_source(directory)
    name = opened.choose_config()
    if opened.config_names and name is None:
        raise ArgumentError(
            f"Expected a folder that `mine` wrote, or a release with the layout scored, {directory} is a release with "
            f"{', '.join(opened.config_names)} only; name another folder."
        )
    options["layouts"] = options["layouts"] or ("n-tuple",)
    release = publish(opened.load(name), record=record, metadata=metadata, **options)
    click.echo(json.dumps(release.to_dict(), ensure_ascii=False) if as_json else _describe(release))


def _metadata(options: dict[str, Any]) -> CardMetadata:
    """Return what the options say about the dataset, and take them out."""
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
