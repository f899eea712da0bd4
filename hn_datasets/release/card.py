"""The card of a release: a YAML head for the Hub and a body for people, written between two marks.

What stands outside the marks, and every key of the head that this package does not know, is somebody else's and stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import yaml  # type: ignore[import-untyped]
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump
from jinja2.meta import find_undeclared_variables

from hn_datasets.errors import ArgumentError
from hn_datasets.release.card_data import (
    CardMetadata,
    ConfigFiles,
    VersionRow,
    merge_data,
    size_category,
    validate_metadata,
)
from hn_datasets.release.card_sections import PICTURES, build_sections

if TYPE_CHECKING:
    from hn_datasets.record import MiningRecord

__all__ = [
    "CARD_FILE",
    "PICTURES",
    "CardMetadata",
    "ConfigFiles",
    "VersionRow",
    "render_card",
    "size_category",
    "validate_metadata",
]

CARD_FILE = "README.md"
TEMPLATE = "dataset_card.md.j2"

_MARK = "<!-- hn_datasets"
_END = f"{_MARK} end -->"
_BEGIN = re.compile(rf"{_MARK} begin(.*?)-->", re.DOTALL)
_EMPTY_HEAD = re.compile(r"\A\s*---[ \t]*(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\r|\n|\Z)")
_UNTITLED = "Mined hard negatives"


class _Existing(NamedTuple):
    """A card that is there already.

    Attributes:
        data: its YAML head.
        before: its body before our part.
        after: its body behind it.
        outdated: the configurations that our part told of.
        newline: how its lines end.
        marked: whether it has our part.
    """

    data: dict[str, Any]
    before: str
    after: str
    outdated: tuple[str, ...]
    newline: str
    marked: bool


def render_card(
    record: MiningRecord,
    metadata: CardMetadata,
    configs: Sequence[ConfigFiles],
    *,
    repo_id: str | None,
    examples: Sequence[Mapping[str, Any]],
    versions: Sequence[VersionRow],
    existing: str | None = None,
    template: str | Path | None = None,
    pictures: Sequence[str] = tuple(PICTURES),
) -> str:
    """Return the text of a card.

    Of an existing card the body around the two marks stays to the letter, and so do the configurations and keys of its
    head that no release of ours wrote. A card without marks keeps its body, and our part comes below it: a human's
    title and introduction stay the first thing that is read.

    Args:
        record: what was mined, and how; ``record.release`` gives the version.
        metadata: what a human says.
        configs: those of this release; one is the default.
        repo_id: the repository; None for a release in a folder, whose card loads from the working directory.
        examples: rows of the mined dataset to show; texts are cut and escaped.
        versions: the table of versions, the last release first.
        existing: the text of the card that is there; its kind of line ends is kept.
        template: file to use in the place of ours; it may extend ours, ``dataset_card.md.j2``.
        pictures: files to show, relative to the card.

    Raises:
        ArgumentError: the licence or another entry of ``metadata`` is wrong; there is not exactly one default
            configuration; the existing card has a head that is no YAML mapping, or only one of our marks; the template
            cannot be read, has an error, or has a variable that does not exist.
    """
    validate_metadata(metadata)
    card = _read_existing(existing or "")
    data = merge_data(card.data, record, metadata, configs, repo_id=repo_id, outdated=card.outdated)
    sections = build_sections(
        record,
        metadata,
        configs,
        repo_id=repo_id,
        title=data.get("pretty_name") or _UNTITLED,
        examples=examples,
        versions=versions,
        pictures=pictures,
    )
    part = _mark(_render(template, sections), [config.config_name for config in configs])
    head = yaml_dump(data, sort_keys=False)
    ours = [text.replace("\n", card.newline) for text in (f"---\n{head}---\n", part)]
    return ours[0] + _join(card, ours[1])


def _join(card: _Existing, part: str) -> str:
    """Return the body: ours in its place, or below what is there, or alone."""
    if card.marked:
        return card.before + part + card.after
    gap = card.newline if card.before.endswith(("\n", "\r")) else card.newline * 2
    before = f"{card.before}{gap}" if card.before.strip() else card.newline
    return before + part + card.newline


def _mark(body: str, names: Sequence[str]) -> str:
    """Return the body between its marks; nothing inside can be taken for one."""
    inside = body.replace(_MARK, "&lt;!-- hn_datasets").strip("\n")
    listed = json.dumps(list(names), ensure_ascii=True)
    return f"{_MARK} begin {listed}: every release writes this part anew; write above or below it -->\n{inside}\n{_END}"


def _read_existing(text: str) -> _Existing:
    text = _EMPTY_HEAD.sub("", text.removeprefix("\ufeff"))
    newline = "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"
    head = REGEX_YAML_BLOCK.search(text)
    body = text[head.end() :] if head else text
    begins, ends = list(_BEGIN.finditer(body)), body.count(_END)
    if (len(begins), ends) == (0, 0):
        return _Existing(_read_head(head), body, "", (), newline, False)
    end = body.find(_END)
    reversed_ = len(begins) == ends == 1 and end < begins[0].end()
    if (len(begins), ends) != (1, 1) or reversed_:
        raise ArgumentError(
            f"Expected one pair of hn_datasets marks in {CARD_FILE}, got {len(begins)} begin and {ends} end"
            f"{', the end first' if reversed_ else ''}; restore the pair, or remove the marks to have a new part below "
            "the text."
        )
    return _Existing(
        _read_head(head), body[: begins[0].start()], body[end + len(_END) :], _read_names(begins[0]), newline, True
    )


def _read_names(begin: re.Match[str]) -> tuple[str, ...]:
    """Return the configurations that the mark at the beginning of our part names."""
    listed = " ".join(begin[1].split())
    try:
        names, _ = json.JSONDecoder().raw_decode(listed)
    except json.JSONDecodeError:
        names = None
    if not isinstance(names, list):
        raise ArgumentError(
            "Expected a list of configurations as JSON in the mark where the part of hn_datasets begins in "
            f"{CARD_FILE}, got {listed!r:.80}; restore it."
        )
    return tuple(map(str, names))


def _read_head(head: re.Match[str] | None) -> dict[str, Any]:
    try:
        data = (yaml.safe_load(head[2]) if head else None) or {}
    except (yaml.YAMLError, ValueError) as error:  # a date that does not exist is a ValueError
        raise ArgumentError(
            f"Expected YAML at the head of {CARD_FILE}, got text that is not ({' '.join(str(error).split())}); "
            "correct it."
        ) from error
    if not isinstance(data, dict):
        raise ArgumentError(f"Expected keys and values at the head of {CARD_FILE}, got {data!r:.80}; correct it.")
    for key in ("configs", "dataset_info"):
        entries = data.get(key) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, dict):
                raise ArgumentError(f"Expected {key} of {CARD_FILE} to be mappings, got {entry!r:.80}; correct it.")
    return data


def _render(template: str | Path | None, sections: dict[str, Any]) -> str:
    """Return the body from our template or another one.

    Raises:
        ArgumentError: the template cannot be read, has an error, or has a variable that does not exist.
    """
    environment = jinja2.Environment(  # noqa: S701  (Markdown, not HTML: the sections are escaped where they are made)
        loader=jinja2.FunctionLoader(_own_template),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    name = str(template or TEMPLATE)
    try:
        source = Path(template).read_text(encoding="utf-8") if template else _own_template(TEMPLATE) or ""
        # Rendering finds a name only where it comes by; this finds it behind every condition.
        unknown = sorted(find_undeclared_variables(environment.parse(source)) - sections.keys())
        if unknown:
            raise ArgumentError(
                f"Expected variables that the card knows in the template {name}, got {', '.join(unknown)}; known are "
                f"{', '.join(sections)}."
            )
        body = environment.from_string(source).render(sections)
    except jinja2.TemplateSyntaxError as error:
        raise ArgumentError(
            f"Expected a Jinja template in {name}, got an error in line {error.lineno}: {error}."
        ) from error
    except jinja2.TemplateNotFound as error:
        raise ArgumentError(
            f"Expected a template of hn_datasets in {name}, got {str(error)!r}; include ours."
        ) from error
    except jinja2.UndefinedError as error:
        raise ArgumentError(
            f"Expected variables that exist in the template {name}, got {error}; correct it."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"Expected a template in {name}, which cannot be read ({error}); correct it.") from error
    return re.sub(r"\n{3,}", "\n\n", body)


def _own_template(name: str) -> str | None:
    """Return the text of one of the package's templates, None if there is no such one."""
    path = files("hn_datasets.cards").joinpath(name)
    return path.read_text(encoding="utf-8") if path.is_file() else None
