"""Route: the check of a card's metadata; what a wrong card would be refused for, roughly."""

from __future__ import annotations

import re
from typing import Any

import yaml  # type: ignore[import-untyped]

from .messages import HubError, Request, Response, route
from .store import Hub

_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(\r?\n|$)", re.DOTALL)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The identifiers that the Hub lists for datasets, as far as this package's users could need them.
LICENSES = _words(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc "
    "cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 "
    "cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl "
    "openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown other"
)
TASK_CATEGORIES = _words(
    "text-classification token-classification table-question-answering question-answering "
    "zero-shot-classification translation summarization feature-extraction text-generation text-ranking fill-mask "
    "sentence-similarity text-retrieval multiple-choice other"
)
TASK_IDS = _words(
    "document-retrieval utterance-retrieval entity-linking-retrieval fact-checking-retrieval extractive-qa "
    "open-domain-qa closed-domain-qa closed-book-qa open-book-qa semantic-similarity-scoring "
    "semantic-similarity-classification natural-language-inference text-scoring fact-checking multiple-choice-qa "
    "community-qa news-articles-summarization news-articles-headline-generation language-modeling "
    "masked-language-modeling dialogue-modeling topic-classification sentiment-classification "
    "intent-classification multi-class-classification multi-label-classification"
)


def read_metadata(card: str) -> dict[str, Any] | None:
    """Return the YAML at the head of a card; None where there is none.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    match = _FRONT_MATTER.match(card)
    metadata = yaml.safe_load(match[1]) if match else None
    return metadata if isinstance(metadata, dict) else None


def find_errors(card: str, *, require_license: bool = False) -> list[str]:
    """Return what a card would be refused for.

    A license may be left out, as ``push_to_hub`` of datasets does, unless it is required.
    """
    try:
        metadata = read_metadata(card) or {}
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {' '.join(str(error).split())}"]
    errors = []
    if "license" in metadata or require_license:
        errors += _check_choices(metadata.get("license"), "license", LICENSES, may_be_one=True)
    for key, choices in (("task_categories", TASK_CATEGORIES), ("task_ids", TASK_IDS)):
        if key in metadata:
            errors += _check_choices(metadata[key], key, choices)
    return errors + _check_configs(metadata.get("configs", []))


def _check_choices(value: Any, key: str, choices: frozenset[str], *, may_be_one: bool = False) -> list[str]:
    values = [value] if may_be_one and isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(one, str) for one in values):
        return [f'"{key}" must be {"a string or " if may_be_one else ""}a list of strings']
    return [f'"{key}" must be one of the listed values, got {one!r}' for one in values if one not in choices]


def _check_configs(configs: Any) -> list[str]:
    if not isinstance(configs, list) or not all(isinstance(one, dict) for one in configs):
        return ['"configs" must be a list of mappings']
    return [
        f'"configs[{number}].config_name" is required' for number, one in enumerate(configs) if "config_name" not in one
    ]


def check_card(card: str, *, require_license: bool = False) -> None:
    """Refuse a card with wrong metadata.

    Raises:
        HubError: 400, with a list of ``errors``.
    """
    errors = find_errors(card, require_license=require_license)
    if errors:
        raise HubError(400, "Invalid metadata in README.md", details={"errors": [{"message": one} for one in errors]})


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: Hub, request: Request) -> Response:
    """Check a card before it is uploaded; anyone may ask."""
    card = request.json()["content"]
    check_card(card, require_license=hub.require_license)
    warnings = [] if read_metadata(card) else [{"message": "empty or missing yaml metadata in repo card"}]
    return Response.of({"errors": [], "warnings": warnings})
