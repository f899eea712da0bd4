"""The prompts that a model was trained with."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from hn_datasets.errors import ArgumentError, MissingPromptWarning

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PASSAGE_PROMPT_NAMES = ("document", "passage", "corpus")
"""Where a model keeps its prompt for passages, in the order in which sentence-transformers looks."""

FAMILIES_WITH_PROMPTS = {
    r"e5-mistral|e5.*-instruct": "query_prompt='Instruct: <your task>\\nQuery: '",
    r"\be5-": "query_prompt='query: ', corpus_prompt='passage: '",
    r"bge-.*-en\b": "query_prompt='Represent this sentence for searching relevant passages: '",
    r"arctic-embed": "query_prompt='Represent this sentence for searching relevant passages: '",
    r"nomic-embed": "query_prompt='search_query: ', corpus_prompt='search_document: '",
    r"nv-embed|gte-qwen|qwen3-embedding": "query_prompt='Instruct: <your task>\\nQuery: '",
}
"""Model families whose cards ask for prompts: a pattern of the name, and what to pass."""


def resolve_prompt(model: SentenceTransformer, given: str | None, names: tuple[str, ...], argument: str) -> str:
    """Return the text that is put before every text of one side.

    Args:
        model: has prompts, each under a name.
        given: a name, or the text itself; None for the model's own.
        names: where the model's own prompt is looked for, in this order.
        argument: what ``given`` is called in an error.

    Raises:
        ArgumentError: ``given`` looks like a name, and the model has no prompt of that name.
    """
    prompts = {name: text for name, text in model.prompts.items() if text is not None}
    if given is None:
        return next((prompts[name] for name in names if prompts.get(name)), "")
    if given in prompts:
        return prompts[given]
    if given.isidentifier():
        known = ", ".join(sorted(prompts)) or "none"
        raise ArgumentError(
            f"{argument}={given!r} is no prompt of the model (it has: {known}); name one, or give a text: 'query: '."
        )
    return given


def warn_of_missing_prompts(spec: dict[str, Any]) -> None:
    """Warn, in the name of whoever called the caller, when a model wants prompts by its name and gets none."""
    if spec["query_prompt"] or spec["corpus_prompt"]:
        return
    for pattern, advice in FAMILIES_WITH_PROMPTS.items():
        if re.search(pattern, spec["model"].lower()):
            warnings.warn(
                f"{spec['model']} belongs to a family that was trained with prompts, and none is set: pass {advice} "
                "(or '' to say that you want none).",
                MissingPromptWarning,
                stacklevel=4,
            )
            return
