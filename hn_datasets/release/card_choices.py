"""How the negatives of a release were chosen: teacher, method, guards, corpus and source, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hn_datasets.markdown import code, code_json, escape, link
from hn_datasets.methods import Method, RandomNegatives, TopK, TopKAbs, TopKMarginPos, TopKPercPos, TopKShifted
from hn_datasets.modes import MODES, draws_teacher, is_ensemble, members_of
from hn_datasets.release.card_data import CardMetadata

if TYPE_CHECKING:
    from hn_datasets.recipe import Recipe
    from hn_datasets.record import MiningRecord

HUB = "https://huggingface.co"


def describe_method(recipe: Recipe) -> str:
    """Return which passages can be negatives, in one sentence."""
    method = recipe.method
    if isinstance(method, TopKPercPos):
        return (
            f"Every negative scores below {method.percentage * 100:g}% of what the positive of its row scores: what "
            "scores higher may be a right answer."
        )
    if isinstance(method, TopKMarginPos):
        return (
            f"Every negative scores more than {method.margin:g} below the positive of its row: what scores higher may "
            "be a right answer."
        )
    if isinstance(method, TopKAbs):
        return f"Every negative scores below {method.max_score:g}, whatever the positive of its row scores."
    if isinstance(method, TopKShifted):
        return f"The {method.n} best passages of every anchor are left out, and there is no ceiling on the score."
    if isinstance(method, RandomNegatives):
        right = "is no positive, and that the guards let pass," if recipe.guards else "is no positive"
        return f"Every passage that {right} can be a negative: a baseline, not hard negatives."
    left = "neither labelled as right nor taken out by a guard" if recipe.guards else "not labelled as right"
    return f"There is no ceiling on the score: the best passages that are {left} are the negatives."


def has_no_ceiling(method: Method) -> bool:
    """Return whether a passage may be a negative however high it scores."""
    return isinstance(method, (TopK, TopKShifted, RandomNegatives))


def list_choices(record: MiningRecord, metadata: CardMetadata) -> Iterator[tuple[str, str]]:
    """Yield name and value of everything that decided which negatives came out."""
    recipe, method = record.recipe, record.recipe.method
    yield from describe_teacher(recipe.teacher)
    yield "Method", _method_name(method)
    if has_no_ceiling(method):
        yield "Ceiling", escape(method.formula)
    else:
        yield "Ceiling", f"{code(method.formula)}, where p is the score of the positive, the lowest of several"
    yield "Negatives per row", f"{recipe.num_negatives}"
    yield "Picked", _sampling(record)
    yield (
        "Never a negative",
        "the anchor, its positives in any row, and what differs from these only in case, white space or Unicode form "
        "(NFKC)",
    )
    counts = record.statistics.guard_removals
    for number, guard in enumerate(recipe.guards):
        if guard.get("name") != "duplicates":
            removed = f", took out {counts[number]:,} passages" if len(counts) == len(recipe.guards) else ""
            yield "Guard", code_json({**guard, **name_folder(guard, "model")}) + removed
    if recipe.relabel_candidates:
        yield "Suspected positives", f"kept apart in the column {code('relabel_candidates')}"
    yield "Corpus", f"{record.corpus['passages']:,} distinct passages, digest {code(record.corpus['digest'])}"
    if recipe.index is not None:
        yield (
            "Search",
            f"approximate, by inverted lists of FAISS, {code(recipe.index)}; scores are exact, and rows that the lists "
            "do not reach are searched exactly" + _recall(record),
        )
    yield "Pairs", _source(record, metadata)
    if recipe.on_empty == "skip":
        yield "Rows with an empty text", "skipped"


def _recall(record: MiningRecord) -> str:
    return f". {record.index_recall.describe()}" if record.index_recall is not None else ""


def _method_name(method: Method) -> str:
    settings = [f"{code(method.setting)} = {getattr(method, method.setting):g}"] if method.setting else []
    paper = link("arXiv 2407.15831", "https://arxiv.org/abs/2407.15831")
    return ", ".join([f"{code(method.name)} ({paper})", *settings])


def _sampling(record: MiningRecord) -> str:
    recipe = record.recipe
    seed = f"seed {recipe.seed or 0}"
    if isinstance(recipe.method, RandomNegatives):
        return f"uniformly from the corpus, {seed}"
    if recipe.sampling == "top" and draws_teacher(recipe.teacher):
        return f"the best that qualify; the teacher of a row is drawn, {seed}"
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
    return ", ".join(parts) or "where they came from was not recorded"


def describe_teacher(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and value of everything that decides a teacher's scores.

    Args:
        spec: of a dense, BM25 or precomputed teacher, or an ensemble of them; of another one, every field is shown as
            JSON.
    """
    if is_ensemble(spec):
        yield from _ensemble(spec)
        return
    yield "Teacher", name_teacher(spec)
    if spec.get("type") == "dense":
        yield from _dense(spec)
    elif spec.get("type") == "bm25":
        numbers = [f"{code(name)} = {spec[name]:g}" for name in ("k1", "b", "epsilon", "delta") if name in spec]
        yield "Settings", ", ".join([f"variant {code(spec['variant'])}", *numbers])
        yield "Tokenizer", code_json({**spec["tokenizer"], **name_folder(spec["tokenizer"], "path")})
        yield "Scores", "raw: neither normalised nor clipped"
    elif spec.get("type") == "precomputed":
        yield "Vectors", f"{spec['dimension']} dimensions; the model that made them is not recorded"
        yield "Digests", f"of the anchors {code(spec['queries'])}, of the passages {code(spec['passages'])}"
        yield "Similarity", escape(spec["similarity"])
    else:
        yield from ((escape(name), code_json(value)) for name, value in spec.items() if name != "type")


def _ensemble(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the mode, and name and value of everything that decides the scores of each member."""
    yield "Teachers", name_teacher(spec)
    ranked = f", of its {spec['num_ranked']} best each" if spec["mode"] == "mean-rank" else ""
    yield "Mode", f"{code(spec['mode'])}: {MODES[spec['mode']]}{ranked}"
    of_row = (
        "of the row's teacher, so that the figures below mix several scales"
        if draws_teacher(spec)
        else f"of {code(spec['names'][0])}, the first teacher"
    )
    yield "Scores and ceiling of a row", of_row
    for name, member in members_of(spec).items():
        for field, value in describe_teacher(member):
            yield f"{code(name)}: {field[0].lower()}{field[1:]}", value


def _dense(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Revision", code(spec["revision"]) if spec.get("revision") else "not recorded; the digest tells the model"
    yield "Digest of the weights", code(spec["weights"])
    prompts = [code_json(spec[key]) if spec.get(key) else "none" for key in ("query_prompt", "corpus_prompt")]
    yield "Prompts", "none" if prompts == ["none"] * 2 else f"of anchors {prompts[0]}, of passages {prompts[1]}"
    length = spec.get("max_seq_length")
    yield "Length", f"texts are cut after {length:,} tokens" if length else "texts are not cut"
    yield "Precision", f"{escape(spec['precision'])}; {spec['dimension']} dimensions, {escape(spec['similarity'])}"
    if spec.get("roles_differ"):
        yield "Roles", "the model itself encodes anchors and passages in two ways"
    if spec.get("trust_remote_code"):
        yield "Remote code", "the model runs code of its own"


def name_teacher(spec: Mapping[str, Any]) -> str:
    """Return a teacher's name; a link where it is sure to be on the Hub, which a revision shows."""
    kind = spec.get("type")
    if is_ensemble(spec):
        *names, last = map(name_teacher, spec["members"])
        return f"{', '.join(names)} and {last}"
    if kind == "bm25":
        return "BM25"
    if kind == "precomputed":
        return "ready vectors"
    name = str(spec.get("model", kind))
    revision = spec.get("revision")
    if revision and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith("."):
        owner = "" if "/" in name else "sentence-transformers/"  # which stands for a bare name
        return link(name, f"{HUB}/{owner}{name}/tree/{revision}")
    return code(name_folder(spec, "model").get("model", name))


def name_folder(spec: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return a field that holds a path with the folder's own name in it: where it lay on one machine says nothing."""
    path = str(spec.get(key) or "")
    if path.count("/") < 2 and not path.startswith((".", "/", "~")) and "\\" not in path:
        return {}
    return {key: re.split(r"[/\\]", path.rstrip("/\\"))[-1]}


def hide_paths(recipe: Recipe) -> Recipe:
    """Return a recipe that names folders of this machine by their own names alone."""
    guards = tuple({**guard, **name_folder(guard, "model")} for guard in recipe.guards)
    return replace(recipe, teacher=_hide_paths_of(recipe.teacher), guards=guards)


def _hide_paths_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    teacher = {**spec, **name_folder(spec, "model")}
    if isinstance(teacher.get("tokenizer"), dict):
        teacher["tokenizer"] = {**teacher["tokenizer"], **name_folder(teacher["tokenizer"], "path")}
    if is_ensemble(teacher):
        teacher["members"] = [_hide_paths_of(member) for member in teacher["members"]]
    return teacher


def is_local(spec: Mapping[str, Any]) -> bool:
    """Return whether a teacher, or one of an ensemble, is a model from a folder, of which a reader needs a copy."""
    if is_ensemble(spec):
        return any(map(is_local, spec["members"]))
    name = str(spec.get("model", ""))
    return (
        spec.get("type") == "dense"
        and not spec.get("revision")
        and ("/" not in name or bool(name_folder(spec, "model")))
    )
