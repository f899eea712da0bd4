"""How a release is loaded and trained with: the code of a card, its configurations and their columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from datasets import LargeList, List, Value

from hn_datasets.batches import LABEL_COLUMNS, TRAINABLE_FORMATS
from hn_datasets.markdown import code, escape
from hn_datasets.release.card_data import ConfigFiles

if TYPE_CHECKING:
    from hn_datasets.record import MiningRecord

STUDENT = "sentence-transformers/all-MiniLM-L6-v2"
RERANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"

_TUPLES = "`SentenceTransformerTrainer` with `MultipleNegativesRankingLoss`"
_SCORED_TUPLES = "`SentenceTransformerTrainer` with `MarginMSELoss`"
LAYOUTS = {
    "triplet": ("an anchor, a positive and one negative", _TUPLES),
    "n-tuple": ("an anchor, a positive and all negatives, each in a column of its own", _TUPLES),
    "labeled-pair": ("an anchor and one passage, labelled right (1) or wrong (0)", "`CrossEncoderTrainer`"),
    "labeled-list": ("an anchor with a list of passages and a list of labels", "`CrossEncoderTrainer`"),
    "scored": ("everything that was mined: lists of negatives with ids and scores", "not as it is"),
}
_NOT_ALONE = "after `sentence_transformers.util.resolve_ids`"
_NORMALIZED = {
    "query": "a query and its number",
    "document": "a passage and its number",
    "document_ids": "the number of a query, and those of its passages with scores and labels",
}
"""What a row of the layout ``normalized`` is, by a column that only one of its parts has."""

_BI_ENCODER = """\
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import {loss}

model = SentenceTransformer("{student}")  # or any other
trainer = SentenceTransformerTrainer(model=model, train_dataset=train, loss={loss}(model))
trainer.train()"""
_CROSS_ENCODER = """\
from sentence_transformers import CrossEncoder, CrossEncoderTrainer
from sentence_transformers.cross_encoder.losses import {loss}

model = CrossEncoder("{student}", num_labels=1)  # or any other
trainer = CrossEncoderTrainer(model=model, train_dataset=train, loss={loss}(model))
trainer.train()"""
_TRAINING = {
    ("triplet", False): (_BI_ENCODER, "MultipleNegativesRankingLoss", STUDENT),
    ("n-tuple", False): (_BI_ENCODER, "MultipleNegativesRankingLoss", STUDENT),
    ("triplet", True): (_BI_ENCODER, "MarginMSELoss", STUDENT),
    ("n-tuple", True): (_BI_ENCODER, "MarginMSELoss", STUDENT),
    ("labeled-pair", False): (_CROSS_ENCODER, "BinaryCrossEntropyLoss", RERANKER),
    ("labeled-pair", True): (_CROSS_ENCODER, "MSELoss", RERANKER),
    ("labeled-list", False): (_CROSS_ENCODER, "LambdaLoss", RERANKER),
    ("labeled-list", True): (_CROSS_ENCODER, "LambdaLoss", RERANKER),
}
"""How a layout trains, without and with scores in the place of labels."""

_MEANINGS = {
    "negative": "a hard negative",
    "label": "1: a right passage, 0: a hard negative",
    "labels": "for each passage 1: right, 0: a hard negative",
    "score": "the teacher's score of the passage",
    "scores": "the teacher's scores, in the order of the passages",
    "negatives": "the hard negatives, the best first",
    "negative_ids": "their rows in the corpus; -1: a random passage that filled a short row",
    "negative_scores": "the teacher's scores of the negatives, falling",
    "negative_teachers": "the teacher that each negative comes from",
    "positive_score": "the teacher's score of the positive, the lowest of several; NaN: the row was skipped as empty",
    "ceiling": "every negative of the row scores strictly below; inf: no ceiling",
    "top_score": "the highest score of any passage that is no positive, ceiling ignored",
    "relabel_candidates": "passages that were kept out of the negatives because they may be right answers",
    "guard_removals": "how many passages each guard took out, in the order of the recipe",
    "query_id": "number of the query",
    "query": "text of the query",
    "document_id": "number of the passage",
    "document": "text of the passage",
    "document_ids": "numbers of the passages, positives first",
    "split": "the split that the row belongs to",
}


def loading_code(config: ConfigFiles, repo_id: str | None, tag: str | None) -> str:
    """Return the lines that load the default configuration."""
    split = "train" if "train" in config.data_files else next(iter(config.data_files))
    # "." is no name for load_dataset, which names the data after the folder.
    arguments = [json.dumps(repo_id) if repo_id else "os.getcwd()"]
    if repo_id and tag:
        arguments.append(f"revision={json.dumps(tag)}")
    arguments.append(f"split={json.dumps(split)}")
    hint = "" if repo_id else "  # in the folder of this card"
    imports = "from datasets import load_dataset" if repo_id else "import os\n\nfrom datasets import load_dataset"
    return f"{imports}\n\ntrain = load_dataset({', '.join(arguments)}){hint}"


def training_code(config: ConfigFiles) -> str | None:
    """Return the lines that train on a configuration; None if no trainer reads it as it is."""
    scored = not {"score", "scores"}.isdisjoint(config.features)
    if (config.layout, scored) not in _TRAINING:
        return None
    lines, loss, student = _TRAINING[config.layout, scored]
    return lines.format(loss=loss, student=student)


def describe_config(config: ConfigFiles, record: MiningRecord) -> dict[str, Any]:
    """Return a configuration's name, rows, use and columns."""
    if config.layout == "normalized":
        part = next((column for column in _NORMALIZED if column in config.features), "document_ids")
        what, trainer = _NORMALIZED[part], _NOT_ALONE
    else:
        what, trainer = LAYOUTS.get(config.layout, (escape(config.layout), "unknown"))
    if trainer == _TUPLES and "scores" in config.features:
        trainer = _SCORED_TUPLES
    splits = ", ".join(f"{rows:,} in {code(split)}" for split, rows in config.num_examples.items())
    return {
        "name": code(config.config_name),
        "default": config.default,
        "what": what,
        "trainer": trainer,
        "splits": splits,
        "columns": list(_columns(config, record)),
    }


def _columns(config: ConfigFiles, record: MiningRecord) -> Iterator[dict[str, str]]:
    """Yield a line for each column; ``negative_1`` to ``negative_n`` share one."""
    numbered = [name for name in config.features if re.fullmatch(r"negative_\d+", name)]
    recipe = record.recipe
    passages = "passages, the right ones first" if config.layout == "labeled-list" else "a passage, right or wrong"
    own = {
        recipe.anchor_column_name: "the anchor: what is asked or searched",
        recipe.positive_column_name: passages
        if config.layout.startswith("labeled")
        else "the positive: a right passage",
    }
    for name, feature in config.features.items():
        label, meaning = code(name), own.get(name) or _MEANINGS.get(name, "a column of the source, unchanged")
        if name in numbered:
            if name != numbered[0]:
                continue
            label = " … ".join(map(code, dict.fromkeys((numbered[0], numbered[-1]))))
            meaning = "hard negatives, the best first" if len(numbered) > 1 else "a hard negative"
        if name in LABEL_COLUMNS and config.layout in TRAINABLE_FORMATS:
            meaning += "; the trainer's label"
        yield {"name": label, "type": _type(feature), "meaning": meaning}


def _type(feature: Any) -> str:
    if isinstance(feature, (List, LargeList)):
        return f"list of {_type(feature.feature)}"
    return escape(str(feature.dtype)) if isinstance(feature, Value) else escape(type(feature).__name__)
