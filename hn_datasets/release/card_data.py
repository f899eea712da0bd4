"""What a card is made from beside the record, and its YAML head."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from datasets import DatasetInfo, Features
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hn_datasets.errors import ArgumentError
from hn_datasets.methods import METHODS

if TYPE_CHECKING:
    from hn_datasets.record import MiningRecord

TASK_CATEGORIES = ("text-retrieval", "sentence-similarity", "feature-extraction")
"""Where the Hub files retrieval sets (the first), and the training sets of sentence-transformers (the other two)."""

TAGS = ("hard-negatives", "sentence-transformers", "hn_datasets")

SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LICENSE_LINK = re.compile(r"https?://\S+|LICENSE(\.md)?")
_LANGUAGE = re.compile(r"code|multilingual|[a-zA-Z]{2,3}(-[a-zA-Z0-9]{1,8})*")
_WORDS = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class CardMetadata:
    """What only a human can say of a dataset.

    Attributes:
        license: the Hub's id of the licence of this dataset, such as ``"cc-by-4.0"``; never guessed. ``"other"`` needs
            ``license_name``, ``"unknown"`` says that nobody knows.
        license_name: name of a licence that has no id, or the reason why there is none.
        license_link: its text: an address, or ``"LICENSE"`` or ``"LICENSE.md"`` for the file beside the card.
        pretty_name: title of the card; the repository's name if None.
        language: BCP-47 codes of the texts; the Hub's words ``"code"`` and ``"multilingual"`` go too.
        source_datasets: Hub ids of the datasets that the texts come from; that of the record's source if empty.
        source_license: licence of the source, in words; said to be unknown if None.
        teacher_license: licence of the teacher's weights, in words; said to be unknown if None.
        task_categories: the Hub's ids of tasks.
        citation: what to cite, for instance BibTeX entries.
    """

    license: str
    license_name: str | None = None
    license_link: str | None = None
    pretty_name: str | None = None
    language: tuple[str, ...] = ()
    source_datasets: tuple[str, ...] = ()
    source_license: str | None = None
    teacher_license: str | None = None
    task_categories: tuple[str, ...] = TASK_CATEGORIES
    citation: str | None = None


@dataclass(frozen=True)
class ConfigFiles:
    """One configuration of a release.

    Attributes:
        config_name: what ``load_dataset`` takes as its second argument.
        layout: the output format, as of ``format_dataset``.
        default: whether it is loaded where none is named.
        data_files: pattern of the files of each split, relative to the card.
        features: the columns, the same in every split.
        num_examples: rows of each split.
        num_bytes: bytes of each split in memory.
        description: one line that no other release's configuration has. ``load_dataset`` keeps what it read from a
            folder under the folder's name and what the card says, not under the files: without such a line it would
            return the rows of another folder of the same name.
    """

    config_name: str
    layout: str
    default: bool
    data_files: dict[str, str]
    features: Features
    num_examples: dict[str, int]
    num_bytes: dict[str, int]
    description: str | None = None


@dataclass(frozen=True)
class VersionRow:
    """One line of the table of versions.

    Attributes:
        version: without the ``v`` of its tag.
        date: year-month-day.
        rows: of all splits.
        mean_margin: mean of the positive score minus the negative score; None if there are no negatives.
        common_share: share, 0 to 1, of its negatives that the version before has too; None if unknown.
        notes: what has changed, on one line; None if nobody said.
    """

    version: str
    date: str
    rows: int
    mean_margin: float | None
    common_share: float | None
    notes: str | None


def validate_metadata(metadata: CardMetadata) -> None:
    """Check what a human has said, before anything is staged.

    Raises:
        ArgumentError: the licence is missing or no id of the Hub's form; ``"other"`` has no name, or another licence
            has one; the licence's link leads nowhere; a language, source dataset or task category is no id.
    """
    _check_license(metadata)
    for name, pattern, example in (
        ("language", _LANGUAGE, "BCP-47 codes such as ('en', 'ko')"),
        ("task_categories", _WORDS, "task ids of the Hub such as ('text-retrieval',)"),
    ):
        values = getattr(metadata, name)
        wrong = [values] if isinstance(values, str) else [item for item in values if not _matches(pattern, item)]
        if wrong:
            raise ArgumentError(f"Expected {name} as a tuple of {example}, got {wrong[0]!r}; correct it.")
    sources = metadata.source_datasets
    for source in (sources,) if isinstance(sources, str) else sources:
        if isinstance(sources, str) or not _is_source(source):
            raise ArgumentError(
                f"Expected source_datasets as a tuple of Hub ids such as ('me/questions',), got {source!r}; correct it."
            )


def _check_license(metadata: CardMetadata) -> None:
    if not metadata.license:
        raise ArgumentError(
            "Expected the licence of the dataset, got none; it is never guessed: pass for instance "
            "license='cc-by-4.0', or license='other' with license_name."
        )
    if not _matches(_LICENSE, metadata.license):
        raise ArgumentError(
            f"Expected a licence id of the Hub, in small letters, got {metadata.license!r}; write for instance "
            "'apache-2.0', or 'other' with license_name."
        )
    if metadata.license == "other" and not (metadata.license_name or "").strip():
        raise ArgumentError("license='other' needs license_name: the licence's name, or why there is none; pass it.")
    if metadata.license != "other" and metadata.license_name:
        raise ArgumentError(
            f"license_name={metadata.license_name!r} has no effect with license={metadata.license!r}; leave it out, "
            "or use license='other'."
        )
    if metadata.license_link is not None and not _matches(_LICENSE_LINK, metadata.license_link):
        raise ArgumentError(
            "Expected license_link as an https address, 'LICENSE' or 'LICENSE.md', got "
            f"{metadata.license_link!r}; correct it."
        )


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_source(value: object) -> bool:
    if value == "original":
        return True
    if not isinstance(value, str):
        return False
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


def size_category(num_rows: int) -> str:
    """Return the Hub's class of a number of rows: ``n<1K``, ``1K<n<10K`` to ``n>1T``."""
    bounds = [10**power for power in range(3, 3 + len(SIZES))]
    place = sum(num_rows >= bound for bound in bounds)
    if place == 0:
        return f"n<{SIZES[0]}"
    return f"{SIZES[place - 1]}<n<{SIZES[place]}" if place < len(SIZES) else f"n>{SIZES[-1]}"


def default_config(configs: Sequence[ConfigFiles], others: Sequence[Mapping[str, Any]] = ()) -> ConfigFiles:
    """Return the configuration that is loaded where none is named.

    Args:
        configs: those of this release.
        others: entries of the YAML head that stay beside them.

    Raises:
        ArgumentError: none or several are the default, or one of the others is it already.
    """
    chosen = [config for config in configs if config.default]
    if len(chosen) != 1:
        names = ", ".join(config.config_name for config in chosen) or "none"
        raise ArgumentError(f"Expected exactly one default configuration, got {names}; mark one.")
    for entry in others:
        if entry.get("default") or entry["config_name"] == "default":
            raise ArgumentError(
                f"Expected no other default configuration in README.md, got {entry['config_name']!r}, which is kept; "
                "take `default: true` from it, rename it, or publish to another repository."
            )
    return chosen[0]


def check_one_reader(others: Sequence[Mapping[str, Any]]) -> None:
    """Check that the other configurations are of Parquet files too.

    ``load_dataset`` takes one reader for a whole repository, the one that suits the first configuration, so a release
    beside files of another kind would make them unreadable (datasets 5.2).

    Args:
        others: entries of ``configs`` that stay beside those of a release.

    Raises:
        ArgumentError: one of them names files of another kind.
    """
    for entry in others:
        for name in _file_names(entry.get("data_files")):
            suffix = PurePosixPath(name).suffix
            if suffix not in ("", ".parquet") and "*" not in suffix:
                raise ArgumentError(
                    f"Expected Parquet files in the configuration {entry['config_name']!r} of README.md, which is "
                    f"kept, got {name!r}: datasets reads all of a repository by one reader; publish to another one."
                )


def _file_names(data_files: Any) -> list[str]:
    """Return the paths and patterns of ``data_files``, in whatever form they stand."""
    if isinstance(data_files, str):
        return [data_files]
    entries = list(data_files.values()) if isinstance(data_files, dict) else list(data_files or ())
    paths = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
    return [name for path in paths for name in ([path] if isinstance(path, str) else path or [])]


def sources_of(record: MiningRecord, metadata: CardMetadata) -> tuple[str, ...]:
    """Return the Hub ids that the texts come from: those given, else that of the record's source."""
    recorded = record.source.get("repo_id")
    return metadata.source_datasets or ((str(recorded),) if recorded else ())


def merge_data(
    existing: Mapping[str, Any],
    record: MiningRecord,
    metadata: CardMetadata,
    configs: Sequence[ConfigFiles],
    *,
    repo_id: str | None,
    outdated: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the YAML head: what is there, with what this release knows in its place.

    Args:
        existing: the head of the card that is there; what this release does not know stays as it is.
        record: what was mined.
        metadata: what a human says.
        configs: those of this release.
        repo_id: the repository; gives the pretty name if there is none.
        outdated: names of configurations that an earlier release wrote; they go unless they are in ``configs``.
    """
    data = copy.deepcopy(dict(existing))
    others = {key: _keep(_entries(data, key), configs, outdated) for key in ("configs", "dataset_info")}
    default = default_config(configs, others["configs"])
    check_one_reader(others["configs"])
    given: dict[str, Any] = {
        "pretty_name": metadata.pretty_name or data.get("pretty_name") or (repo_id or "").split("/")[-1] or None,
        **(_languages(metadata.language) or {"language": data.get("language")}),
        **_license(metadata),
        "size_categories": [size_category(sum(default.num_examples.values()))],
        "source_datasets": list(sources_of(record, metadata)) or data.get("source_datasets"),
        "task_categories": _union(data.get("task_categories"), metadata.task_categories),
        "tags": _union(_without(data.get("tags"), METHODS), (*TAGS, record.recipe.method.name)),
        "configs": [*map(_config_entry, configs), *others["configs"]],
        "dataset_info": [*map(_info_entry, configs), *others["dataset_info"]],
    }
    if len(given["dataset_info"]) == 1:
        given["dataset_info"] = given["dataset_info"][0]
    data.update(given)
    return {name: value for name, value in data.items() if value is not None or name not in given}


def _license(metadata: CardMetadata) -> dict[str, str | None]:
    """Return the Hub's keys of a licence, None where one goes.

    The Hub wants a name that looks like an id: of another one it gets the small letters, and all of it as details.
    """
    words = " ".join((metadata.license_name or "").split())
    name = re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.")
    return {
        "license": metadata.license,
        "license_name": name or None,
        "license_link": metadata.license_link,
        "license_details": words if words != name else None,
    }


def _languages(codes: Sequence[str]) -> dict[str, Any]:
    """Return the Hub's two keys: ``language`` takes bare ISO codes, ``language_bcp47`` those with a region."""
    if not codes:
        return {}
    regional = list(dict.fromkeys(code for code in codes if "-" in code))
    return {
        "language": list(dict.fromkeys(code.split("-")[0].lower() for code in codes)),
        "language_bcp47": regional or None,
    }


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _union(present: object, added: Sequence[str]) -> list[Any]:
    return list(dict.fromkeys([*_as_list(present), *added]))


def _without(present: object, gone: Mapping[str, Any]) -> list[Any]:
    return [item for item in _as_list(present) if item not in gone]


def _entries(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return ``configs`` or ``dataset_info`` as a list whose entries have names."""
    return [{"config_name": "default", **entry} for entry in _as_list(data.get(key))]


def _keep(
    entries: Sequence[dict[str, Any]], configs: Sequence[ConfigFiles], outdated: Sequence[str]
) -> list[dict[str, Any]]:
    gone = {*outdated, *(config.config_name for config in configs)}
    return [entry for entry in entries if entry["config_name"] not in gone]


def _config_entry(config: ConfigFiles) -> dict[str, Any]:
    files = [{"split": split, "path": path} for split, path in config.data_files.items()]
    entry: dict[str, Any] = {"config_name": config.config_name, "data_files": files}
    if config.description is not None:
        entry["description"] = config.description
    return {**entry, **({"default": True} if config.default else {})}


def _info_entry(config: ConfigFiles) -> dict[str, Any]:
    splits = SplitDict()
    for split, num_examples in config.num_examples.items():
        splits.add(SplitInfo(split, num_bytes=config.num_bytes[split], num_examples=num_examples))
    info = DatasetInfo(features=config.features, splits=splits, dataset_size=sum(config.num_bytes.values()))
    entry = {name: value for name, value in info._to_yaml_dict().items() if value is not None}
    return {"config_name": config.config_name, **entry}
