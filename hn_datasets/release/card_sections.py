"""What the body of a card says, section by section, as plain values for the template.

Every text that comes from the data, from a human or from a file is escaped here, so that no template has to.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import LargeList, List, Value

from hn_datasets.batches import LABEL_COLUMNS
from hn_datasets.methods import Method, RandomNegatives, TopK, TopKAbs, TopKMarginPos, TopKPercPos, TopKShifted
from hn_datasets.release.card_data import CardMetadata, ConfigFiles, VersionRow, default_config, sources_of
from hn_datasets.release.markdown import code, code_json, collapse, escape, fence, link, shorten
from hn_datasets.statistics import MiningStatistics, ScoreDistribution

if TYPE_CHECKING:
    from hn_datasets.record import MiningRecord

HUB = "https://huggingface.co"

PICTURES = {
    "assets/scores.png": "How positive scores, negative scores and the ceiling are distributed",
    "assets/margin.png": "How the difference between positive and negative score is distributed",
    "assets/negatives_per_row.png": "How many negatives the rows have",
}
"""The pictures that ``draw_pictures`` makes, by their place beside the card, and what a reader without eyes is told."""

STUDENT = "sentence-transformers/all-MiniLM-L6-v2"
RERANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"

_TUPLES = "`SentenceTransformerTrainer` with `MultipleNegativesRankingLoss`"
_SCORED_TUPLES = "`SentenceTransformerTrainer` with `MarginMSELoss`"
LAYOUTS = {
    "triplet": ("one row for each negative", _TUPLES),
    "n-tuple": ("one row with all its negatives, each in a column of its own", _TUPLES),
    "labeled-pair": ("one row for each passage, labelled right (1) or wrong (0)", "`CrossEncoderTrainer`"),
    "labeled-list": ("one row with a list of passages and a list of labels", "`CrossEncoderTrainer`"),
    "scored": ("everything that was mined: lists of negatives with ids and scores", "not as it is"),
    "normalized": ("every text once, joined by ids", "not as it is: `sentence_transformers.util.resolve_ids`"),
}

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
    "positive_score": "the teacher's score of the positive, the lowest of several; NaN: the row was skipped as empty",
    "ceiling": "every negative of the row scores strictly below; inf: no ceiling",
    "top_score": "the highest score of any passage that is no positive, ceiling ignored",
    "query_id": "number of the query",
    "query": "text of the query",
    "document_id": "number of the passage",
    "document": "text of the passage",
    "document_ids": "numbers of the passages, positives first",
    "split": "the split that the row belongs to",
}


def build_sections(
    record: MiningRecord,
    metadata: CardMetadata,
    configs: Sequence[ConfigFiles],
    *,
    repo_id: str | None,
    title: str,
    examples: Sequence[Mapping[str, Any]],
    versions: Sequence[VersionRow],
    pictures: Sequence[str],
) -> dict[str, Any]:
    """Return the variables of the template; the comment at its head explains them."""
    default = default_config(configs)
    tag = _tag(record)
    return {
        "title": escape(title),
        "summary": describe_summary(record),
        "made_with": escape(str(record.environment.get("packages", {}).get("hn-datasets", ""))),
        "method": describe_method(record.recipe.method),
        "loading": _loading(default, repo_id, tag),
        "training": _training(default),
        "configs": [_config(config, record) for config in configs],
        "choices": list(_choices(record, metadata)),
        "statistics": _statistics(record.statistics),
        "short": _short(record, configs),
        "pictures": [{"path": path, "alt": PICTURES.get(path, "")} for path in pictures],
        "has_ceiling_picture": not _has_no_ceiling(record.recipe.method),
        "examples": [_example(row, record) for row in examples],
        "false_negatives": estimate_false_negatives(record),
        "reproduction": _reproduction(record, repo_id, tag),
        "versions": [_version(row, repo_id) for row in versions],
        "parent": _parent(record, repo_id),
        "licenses": _licenses(record, metadata),
        "citation": fence(metadata.citation, "bibtex") if metadata.citation else None,
    }


def estimate_false_negatives(record: MiningRecord) -> str | None:
    """Return, in a sentence, how many negatives are likely to be right answers; None: nobody has estimated it.

    The record holds no such estimate yet; the guards that judge negatives will give one.
    """
    return None


def describe_summary(record: MiningRecord) -> str:
    """Return what the dataset is, in one sentence."""
    recipe, statistics = record.recipe, record.statistics
    anchor, positive = code(recipe.anchor_column_name), code(recipe.positive_column_name)
    up_to = "up to " if statistics.short_rows or statistics.skipped_rows else ""
    noun = "negative" if recipe.num_negatives == 1 else "negatives"
    if isinstance(recipe.method, RandomNegatives):
        how = f"random {noun}, drawn from"
    else:
        how = f"hard {noun}, found by {_teacher_name(recipe.teacher)} among"
    return (
        f"{statistics.rows:,} pairs of {anchor} and {positive}, each with {up_to}{recipe.num_negatives} {how} "
        f"{record.corpus['passages']:,} passages."
    )


def describe_method(method: Method) -> str:
    """Return which passages can be negatives, in one sentence."""
    if isinstance(method, TopKPercPos):
        return (
            f"Every negative scores below {method.percentage * 100:g}% of the score of its row's positive (the lowest "
            "of several)."
        )
    if isinstance(method, TopKMarginPos):
        return (
            f"Every negative scores more than {method.margin:g} below its row's positive (the lowest of several): "
            "what scores higher may be a right answer."
        )
    if isinstance(method, TopKAbs):
        return f"Every negative scores below {method.max_score:g}, whatever its row's positive scores."
    if isinstance(method, TopKShifted):
        return f"The {method.n} best passages of every anchor are left out, and there is no ceiling on the score."
    if isinstance(method, RandomNegatives):
        return "Every passage that is no positive can be a negative: a baseline, not hard negatives."
    return "There is no ceiling on the score: the best passages that are not labelled as right are the negatives."


def _has_no_ceiling(method: Method) -> bool:
    return isinstance(method, (TopK, TopKShifted, RandomNegatives))


def _tag(record: MiningRecord) -> str | None:
    version = record.release.get("version")
    return f"v{str(version).removeprefix('v')}" if version else None


def _loading(config: ConfigFiles, repo_id: str | None, tag: str | None) -> str:
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


def _training(config: ConfigFiles) -> str | None:
    """Return the lines that train on a configuration; None if no trainer reads it as it is."""
    scored = not {"score", "scores"}.isdisjoint(config.features)
    if (config.layout, scored) not in _TRAINING:
        return None
    lines, loss, student = _TRAINING[config.layout, scored]
    return lines.format(loss=loss, student=student)


def _config(config: ConfigFiles, record: MiningRecord) -> dict[str, Any]:
    what, trainer = LAYOUTS.get(config.layout, (escape(config.layout), "unknown"))
    if trainer == _TUPLES and "scores" in config.features:
        trainer = _SCORED_TUPLES
    splits = ", ".join(f"{code(split)} {rows:,}" for split, rows in config.num_examples.items())
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
        if name in LABEL_COLUMNS:
            meaning += "; the trainer's label"
        yield {"name": label, "type": _type(feature), "meaning": meaning}


def _type(feature: Any) -> str:
    if isinstance(feature, (List, LargeList)):
        return f"list of {_type(feature.feature)}"
    return escape(str(feature.dtype)) if isinstance(feature, Value) else escape(type(feature).__name__)


def _choices(record: MiningRecord, metadata: CardMetadata) -> Iterator[tuple[str, str]]:
    """Yield name and value of everything that decided which negatives came out."""
    recipe, method = record.recipe, record.recipe.method
    yield from describe_teacher(recipe.teacher)
    yield "Method", _method_name(method)
    if _has_no_ceiling(method):
        yield "Ceiling", escape(method.formula)
    else:
        yield "Ceiling", f"{code(method.formula)}, where p is the lowest score among all positives of the anchor"
    yield "Negatives per row", f"{recipe.num_negatives}"
    yield "Picked", _sampling(record)
    yield (
        "Never a negative",
        "any positive of the same anchor in any row, and any passage equal to the anchor or to one of these after "
        "Unicode NFKC, case folding and white-space folding",
    )
    for guard in recipe.guards:
        if guard.get("name") != "duplicates":
            yield "Guard", code_json(guard)
    yield "Corpus", f"{record.corpus['passages']:,} distinct passages, digest {code(record.corpus['digest'])}"
    yield "Source of the pairs", _source(record, metadata)
    yield "Rows without a text", "were an error" if recipe.on_empty == "error" else "were skipped"
    yield "Version of the algorithm", f"{recipe.algorithm_version}"


def _method_name(method: Method) -> str:
    settings = [f"{code(method.setting)} = {getattr(method, method.setting):g}"] if method.setting else []
    paper = link("arXiv 2407.15831", "https://arxiv.org/abs/2407.15831")
    return ", ".join([f"{code(method.name)} ({paper})", *settings])


def _sampling(record: MiningRecord) -> str:
    recipe = record.recipe
    seed = f"seed {recipe.seed or 0}"
    if isinstance(recipe.method, RandomNegatives):
        return f"uniformly from the corpus, {seed}"
    if recipe.sampling == "top":
        return "the best that qualify; nothing is drawn, so there is no seed"
    temperature = "" if "softmax" not in recipe.sampling else f", temperature {recipe.temperature or 1.0:g}"
    return f"{code(recipe.sampling)} from the {recipe.pool_size} best that qualify{temperature}, {seed}"


def _source(record: MiningRecord, metadata: CardMetadata) -> str:
    source = record.source
    parts = []
    if source.get("repo_id"):
        parts.append(link(str(source["repo_id"]), f"{HUB}/datasets/{source['repo_id']}"))
    elif source.get("path") or source.get("description"):
        parts.append(escape(str(source.get("description") or source["path"])))
    else:
        parts += [link(name, f"{HUB}/datasets/{name}") for name in metadata.source_datasets if name != "original"]
    for name in ("config_name", "split", "revision"):
        if source.get(name):
            parts.append(f"{name.replace('config_name', 'configuration')} {code(str(source[name]))}")
    if source.get("repo_id") and not source.get("revision"):
        parts.append("revision not recorded")
    prints = source.get("fingerprints", {})
    parts += [f"fingerprint of {code(split)} {code(str(value))}" for split, value in prints.items()]
    return ", ".join(parts) or "where they came from was not recorded"


def describe_teacher(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and value of everything that decides a teacher's scores.

    Args:
        spec: of a dense, BM25 or precomputed teacher; of another one, every field is shown as JSON.
    """
    yield "Teacher", _teacher_name(spec)
    if spec.get("type") == "dense":
        yield from _dense(spec)
    elif spec.get("type") == "bm25":
        numbers = [f"{code(name)} = {spec[name]:g}" for name in ("k1", "b", "epsilon", "delta") if name in spec]
        yield "Settings", ", ".join([f"variant {code(spec['variant'])}", *numbers])
        yield "Tokenizer", code_json({**spec["tokenizer"], **_named(spec["tokenizer"], "path")})
        yield "Scores", "raw: neither normalised nor clipped"
    elif spec.get("type") == "precomputed":
        yield "Vectors", f"{spec['dimension']} dimensions; the model that made them is not recorded"
        yield "Digests", f"of the anchors {code(spec['queries'])}, of the passages {code(spec['passages'])}"
        yield "Similarity", escape(spec["similarity"])
    else:
        yield from ((escape(name), code_json(value)) for name, value in spec.items() if name != "type")


def _dense(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    revision = spec.get("revision")
    yield "Revision", code(revision) if revision else "not recorded: the weights' digest identifies the model"
    yield "Digest of the weights", code(spec["weights"])
    for key, name in (("query_prompt", "Prompt of anchors"), ("corpus_prompt", "Prompt of passages")):
        yield name, code_json(spec[key]) if spec.get(key) else "none"
    length = spec.get("max_seq_length")
    yield "Length", f"texts are cut after {length:,} tokens" if length else "texts are not cut"
    yield "Precision", f"{escape(spec['precision'])}; {spec['dimension']} dimensions, {escape(spec['similarity'])}"
    if spec.get("trust_remote_code"):
        yield "Remote code", "the model runs code of its own"


def _teacher_name(spec: Mapping[str, Any]) -> str:
    kind = spec.get("type")
    if kind == "bm25":
        return "BM25"
    if kind == "precomputed":
        return "ready vectors"
    name = str(spec.get("model", kind))
    revision = spec.get("revision")
    if revision and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith("."):
        owner = "" if "/" in name else "sentence-transformers/"  # which stands for a bare name
        return link(name, f"{HUB}/{owner}{name}/tree/{revision}")
    return code(_named(spec, "model").get("model", name))


def _named(spec: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return a field that holds a path with the folder's own name in it: where it lay on one machine says nothing."""
    path = str(spec.get(key) or "")
    if path.count("/") < 2 and not path.startswith((".", "/", "~")) and "\\" not in path:
        return {}
    return {key: re.split(r"[/\\]", path.rstrip("/\\"))[-1]}


def _statistics(statistics: MiningStatistics) -> dict[str, Any]:
    """Return the table and the sentences below it."""
    columns = (statistics.positive_score, statistics.negative_score, statistics.difference)
    rows = [("Count", [f"{column.count:,}" for column in columns])]
    for label, values in _metrics(columns):
        rows.append((label, ["–" if value is None else f"{value:.4f}" for value in values]))
    rows.append(("0 or below", [_share(column.at_most_zero, column.count) for column in columns]))
    rows.append(("Most frequent value", [_most_common(column) for column in columns]))
    return {
        "rows": rows,
        "lead": _lead(statistics),
        "not_best": _percent(statistics.positive_not_best),
        "always_best": statistics.positive_not_best == 0,
        "diagnoses": [escape(sentence) for sentence in statistics.diagnoses],
    }


def _metrics(columns: Sequence[ScoreDistribution]) -> Iterator[tuple[str, list[float | None]]]:
    yield "Mean", [column.mean for column in columns]
    yield "Standard deviation", [column.standard_deviation for column in columns]
    yield "Minimum", [column.minimum for column in columns]
    for place, label in enumerate(("25%", "Median", "75%")):
        yield label, [column.quartiles[place] if column.quartiles else None for column in columns]
    yield "Maximum", [column.maximum for column in columns]


def _lead(statistics: MiningStatistics) -> str:
    positive, negative, margin = (
        column.mean for column in (statistics.positive_score, statistics.negative_score, statistics.difference)
    )
    if positive is None:
        return "No row was mined: there are no scores."
    if negative is None or margin is None:
        return f"On average a positive scores {positive:.3f}; there are no negatives."
    return (
        f"On average a positive scores {positive:.3f} and a negative {negative:.3f}; a negative lies {margin:.3f} "
        "below the positive of its row."
    )


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else "–"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def _most_common(column: ScoreDistribution) -> str:
    if column.most_common is None or column.most_common_count < 2:
        return "none twice" if column.count else "–"
    return f"{column.most_common:.4f}, {_share(column.most_common_count, column.count)}"


def _short(record: MiningRecord, configs: Sequence[ConfigFiles]) -> dict[str, Any]:
    """Return which rows have fewer negatives than asked for, and why."""
    statistics, recipe = record.statistics, record.recipe
    counts = enumerate(statistics.negatives_per_row[: statistics.num_negatives])
    without_ceiling = _has_no_ceiling(recipe.method)
    lexical = recipe.teacher.get("type") == "bm25" and statistics.positive_score.at_most_zero > 0
    kept = next((sum(c.num_examples.values()) for c in configs if c.layout == "n-tuple"), None)
    return {
        "rows": f"{statistics.short_rows:,}",
        "share": _percent(statistics.short_share),
        "any": bool(statistics.short_rows),
        "num_negatives": statistics.num_negatives,
        "counts": [(number, f"{rows:,}") for number, rows in counts if rows],
        "why": "the corpus has too few other passages"
        if without_ceiling
        else "too few passages score below the ceiling",
        "zero_positives": f"{statistics.positive_score.at_most_zero:,}" if lexical and not without_ceiling else None,
        "skipped": f"{statistics.skipped_rows:,}" if statistics.skipped_rows else None,
        "tuples": None if kept is None else f"{kept:,}",
    }


def _example(row: Mapping[str, Any], record: MiningRecord) -> list[tuple[str, str, str]]:
    """Return the lines of one row: what it is, its score, its text; the ceiling stands where it cuts."""
    recipe = record.recipe
    positives = row[recipe.positive_column_name]
    positives = [positives] if isinstance(positives, str) else list(positives or ())
    lowest = "" if len(positives) < 2 else "≥ "
    lines = [("**anchor**", "", escape(shorten(row[recipe.anchor_column_name] or "")))]
    lines += [("**positive**", lowest + _score(row["positive_score"]), escape(shorten(text))) for text in positives]
    ceiling = row.get("ceiling")
    if ceiling is not None and math.isfinite(ceiling):
        lines.append(("*ceiling*", f"*{ceiling:.4f}*", "*every negative scores below*"))
    negatives = zip(row["negatives"], row["negative_scores"], strict=True)
    lines += [(f"negative {n}", _score(score), escape(shorten(text))) for n, (text, score) in enumerate(negatives, 1)]
    return lines if row["negatives"] else [*lines, ("*no negative*", "", "*no passage of the corpus qualifies*")]


def _score(score: float | None) -> str:
    return "–" if score is None or math.isnan(score) else f"{score:.4f}"


def _reproduction(record: MiningRecord, repo_id: str | None, tag: str | None) -> dict[str, Any]:
    """Return the commands, the recipe and what it ran on."""
    recipe = record.recipe.to_dict()
    teacher = {**recipe["teacher"], **_named(recipe["teacher"], "model")}
    if isinstance(teacher.get("tokenizer"), dict):
        teacher["tokenizer"] = {**teacher["tokenizer"], **_named(teacher["tokenizer"], "path")}
    recipe["teacher"] = teacher
    return {
        "command": f"hn-datasets reproduce {shlex.quote(f'{repo_id}@{tag}')}" if repo_id and tag else None,
        "mine": _mine_command(record),
        "source_unknown": not (record.source.get("repo_id") or record.source.get("path")),
        "recipe": fence(json.dumps(recipe, indent=2, sort_keys=True, ensure_ascii=False), "json"),
        "local_teacher": teacher != record.recipe.teacher,
        "environment": _environment(record.environment),
        "seconds": ", ".join(f"{escape(stage)} {seconds:.1f}" for stage, seconds in record.timings.items()) or None,
    }


def _mine_command(record: MiningRecord) -> str:
    source = record.source
    words = ["hn-datasets", "mine", collapse(str(source.get("repo_id") or source.get("path") or "SOURCE"))]
    for name in ("config_name", "split", "revision"):
        if source.get(name):
            words += [f"--{name.replace('_', '-')}", collapse(str(source[name]))]
    return shlex.join([*words, "--config", "recipe.json", "--output", "mined"])


def _environment(environment: Mapping[str, Any]) -> str | None:
    packages = [f"{escape(name)} {escape(str(version))}" for name, version in environment.get("packages", {}).items()]
    hardware = environment.get("hardware", {})
    if hardware.get("processor"):
        cores = f" ({hardware['cores']} cores)" if hardware.get("cores") else ""
        packages.append(f"{escape(str(hardware['processor']))}{cores}")
    packages += [escape(str(name)) for name in hardware.get("gpus", ())]
    return ", ".join(packages) or None


def _version(row: VersionRow, repo_id: str | None) -> dict[str, str]:
    tag = f"v{row.version.removeprefix('v')}"
    return {
        "version": link(tag, f"{HUB}/datasets/{repo_id}/tree/{tag}") if repo_id else escape(tag),
        "date": escape(row.date),
        "rows": f"{row.rows:,}",
        "mean_margin": "–" if row.mean_margin is None else f"{row.mean_margin:.4f}",
        "common": _percent(row.common_share) or "–",
        "notes": escape(row.notes),
    }


def _parent(record: MiningRecord, repo_id: str | None) -> str | None:
    """Return the release that this one follows; it may be one of another repository, as ``me/other@v1.0.0``."""
    parent = record.release.get("parent")
    if not parent:
        return None
    repo, _, version = str(parent).rpartition("@")
    repo, tag = repo or repo_id or "", f"v{version.removeprefix('v')}"
    return link(f"{repo}@{tag}", f"{HUB}/datasets/{repo}/tree/{tag}") if repo else code(tag)


def _licenses(record: MiningRecord, metadata: CardMetadata) -> list[tuple[str, str]]:
    """Return what each licence covers, and the licence; what is unknown is said to be unknown."""
    own = escape(metadata.license_name or metadata.license)
    if metadata.license_link:
        own = link(metadata.license_name or metadata.license, metadata.license_link)
    sources = [link(name, f"{HUB}/datasets/{name}") for name in sources_of(record, metadata) if name != "original"]
    source = escape(metadata.source_license) if metadata.source_license else "unknown: it was not stated"
    if sources:
        source += f" (see {', '.join(sources)})"
    if record.recipe.teacher.get("type") == "bm25":
        teacher = "none: BM25 has no weights"
    else:
        teacher = escape(metadata.teacher_license) if metadata.teacher_license else "unknown: it was not stated"
    return [("This dataset", own), ("The texts it is made from", source), ("The teacher", teacher)]
