"""The sets that students are trained on: split, tokenised and mined once into small files; needs ``hn_datasets``.

A prepared folder holds ``settings.json``, ``model/`` (the encoder, float16) and for every set ``texts.npz`` (tokens of
queries and passages without special ones), ``pairs.npz`` (training pairs, and the labels of the held-out queries),
``tokenizer.json`` and ``negatives/VARIANT.npy``: rows of the corpus, ``[num_pairs, NUM_NEGATIVES]`` int32, padded with
-1. No text travels.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, disable_progress_bars
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

import hn_datasets
from hn_datasets.record import describe_environment

NUM_NEGATIVES = 4
SEED = 0
"""Of the splits, of the one positive that is shown, and of the random negatives."""

MOST_TOKENS = 254
"""Of a text, for all students: what the encoder reads, besides its two special tokens."""

VOCABULARY = 16_000
"""Of the BPE tokeniser of a set whose language the encoder's tokeniser does not know."""

Pairs = npt.NDArray[np.int32]
"""(query, passage) numbers, ``[n, 2]``."""


@dataclass(frozen=True)
class SetPlan:
    """How a set is split.

    Attributes:
        encoder: whether the encoder, an English one, teaches and is trained; a multilingual one teaches otherwise.
        split: "given" (``qrels_train`` and ``held_out``), "queries" (half of them, one positive shown of each training
            query) or "passages" (queries of half of the passages).
        held_out: labels of the evaluation, for "given".
        own_corpus: negatives come from the passages of the training queries alone.
        most_pairs: training pairs, drawn if there are more.
        most_queries: held-out queries, likewise.
        bm25: tokeniser of the BM25 teacher.
    """

    encoder: bool
    split: str
    held_out: str = ""
    own_corpus: bool = False
    most_pairs: int = 4000
    most_queries: int = 1500
    bm25: str = "words"


PLANS = {
    "scifact": SetPlan(True, "given", "qrels_test.tsv"),
    "banking77": SetPlan(True, "queries"),
    "cranfield": SetPlan(True, "queries"),
    "korquad1-dev": SetPlan(False, "passages", own_corpus=True, bm25="kiwi"),
    "jaquad": SetPlan(False, "given", "qrels_dev.tsv", own_corpus=True, bm25="char-bigrams"),
}


@dataclass(frozen=True)
class StudentSet:
    """Texts and labels of one set.

    Attributes:
        queries: texts.
        passages: texts.
        train: the shown (query, positive) pairs.
        held_out: all (query, positive) pairs of the held-out queries.
        labels: all pairs of the set, for counting false negatives.
    """

    queries: list[str]
    passages: list[str]
    train: Pairs
    held_out: Pairs
    labels: Pairs


def guarded(teacher: Any, method: Any) -> dict[str, Any]:
    """Return the miner's arguments of a method with the recommended guard."""
    return {"teacher": teacher, "method": method, "guards": (hn_datasets.SimilarToPositive(percentage=0.3),)}


def ensemble(teacher: Any, bm25: str) -> dict[str, Any]:
    """Return the miner's arguments of the dense teacher together with BM25."""
    both = hn_datasets.EnsembleTeacher([teacher, hn_datasets.BM25Teacher(tokenizer=bm25)], mode="agree")
    return {"teacher": both, "method": hn_datasets.TopKPercPos(0.95)}


VARIANTS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "random": lambda teacher, _: {"teacher": teacher, "method": hn_datasets.RandomNegatives(), "seed": SEED},
    "bm25": lambda _, bm25: {"teacher": hn_datasets.BM25Teacher(tokenizer=bm25)},
    "naive": lambda teacher, _: {"teacher": teacher, "method": hn_datasets.TopK()},
    "shifted": lambda teacher, _: {"teacher": teacher, "method": hn_datasets.TopKShifted(10)},
    "abs": lambda teacher, _: {"teacher": teacher, "method": hn_datasets.TopKAbs(0.5)},
    "margin": lambda teacher, _: {"teacher": teacher, "method": hn_datasets.TopKMarginPos(0.05)},
    "perc": lambda teacher, _: {"teacher": teacher, "method": hn_datasets.TopKPercPos(0.95)},
    "guarded": lambda teacher, _: guarded(teacher, hn_datasets.TopK()),
    "perc-guarded": lambda teacher, _: guarded(teacher, hn_datasets.TopKPercPos(1.0)),
    "ensemble": ensemble,
}
"""From a dense teacher and a BM25 tokeniser to the miner's arguments. BM25 alone has PercPos 95 %, as in NV-Retriever's
comparison of teachers (arXiv 2407.15831)."""


def read_texts(path: Path) -> dict[str, str]:
    """Return the texts of a JSON Lines file by their ids; titles are left out."""
    with path.open(encoding="utf-8") as file:
        return {row["_id"]: row["text"] for row in map(json.loads, file)}


def read_set(folder: Path) -> StudentSet:
    """Read and split one set; see ``PLANS``."""
    plan = PLANS[folder.name]
    texts, passages = (read_texts(folder / name) for name in ("queries.jsonl", "corpus.jsonl"))
    query_of, passage_of = ({key: number for number, key in enumerate(part)} for part in (texts, passages))

    def read(name: str) -> Pairs:
        lines = (line.split("\t") for line in (folder / name).read_text(encoding="utf-8").splitlines()[1:])
        pairs = [(query_of[query], passage_of[passage]) for query, passage, score in lines if float(score) > 0]
        return np.array(pairs, dtype=np.int32)

    rng = np.random.default_rng(SEED)
    labels = read("qrels.tsv")
    if plan.split == "given":
        train, held_out = read("qrels_train.tsv"), read(plan.held_out)
    else:
        half = halve(np.unique(labels[:, 0 if plan.split == "queries" else 1]), rng)
        shown = np.isin(labels[:, 0 if plan.split == "queries" else 1], half)
        train, held_out = labels[shown], labels[~shown]
        train = one_positive(train, rng) if plan.split == "queries" else train
    train = train[np.sort(rng.permutation(len(train))[: plan.most_pairs])]
    queries = rng.permutation(np.unique(held_out[:, 0]))[: plan.most_queries]
    held_out = held_out[np.isin(held_out[:, 0], queries)]
    return StudentSet(list(texts.values()), list(passages.values()), train, held_out, labels)


def halve(numbers: npt.NDArray[np.int32], rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return half of the numbers, drawn."""
    return rng.permutation(numbers)[: len(numbers) // 2]


def one_positive(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Return one drawn pair of every query: what a dataset of (anchor, positive) rows would show."""
    drawn = pairs[rng.permutation(len(pairs))]
    return drawn[np.unique(drawn[:, 0], return_index=True)[1]]


def make_tokenizer(data: StudentSet, plan: SetPlan, model: SentenceTransformer) -> Tokenizer:
    """Return the encoder's tokeniser, or a BPE of the set's passages where that one does not know the language."""
    if plan.encoder:
        tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.Whitespace()])
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["[UNK]"], max_token_length=8)
    tokenizer.train_from_iterator(data.passages, trainer)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """Return all tokens in one array, and where each text begins; shapes ``[num_tokens]`` and ``[num_texts + 1]``."""
    ids = [encoding.ids[:MOST_TOKENS] or [0] for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    return np.concatenate(ids).astype(np.uint16), np.cumsum([0, *map(len, ids)])


def dense_teacher(data: StudentSet, plan: SetPlan, model: Path, vectors: Path | None, use: Path) -> Any:
    """Return the teacher of a set: the encoder in float32, from ready vectors if there are any, or the packaged USE."""
    if not plan.encoder:
        from use_module import save_use_model

        saved = use if use.exists() else save_use_model(use)
        return hn_datasets.DenseTeacher(saved, trust_remote_code=True, precision="float32")
    if vectors is None:
        return hn_datasets.DenseTeacher(model, precision="float32", device="cpu")
    parts = (np.load(vectors.parent / f"{vectors.name}.{part}.npy") for part in "QP")
    return hn_datasets.PrecomputedTeacher(*zip((data.queries, data.passages), parts, strict=True))


def mine(data: StudentSet, plan: SetPlan, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Mine one variant: ``ids`` as in the module's docstring, and figures about them."""
    queries, positives = ([texts[number] for number in column] for texts, column in columns(data))
    pairs = Dataset.from_dict({"anchor": queries, "positive": positives})
    corpus = None if plan.own_corpus else data.passages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hn_datasets.errors.WeakTeacherWarning)
        miner = hn_datasets.HardNegativeMiner.from_dataset(
            pairs, corpus=corpus, num_negatives=NUM_NEGATIVES, **arguments
        )
    mined = pairs.map(miner, batched=True, load_from_cache_file=False)
    number_of = {text: number for number, text in reversed(list(enumerate(data.passages)))}
    ids = np.full((len(pairs), NUM_NEGATIVES), -1, dtype=np.int32)
    for row, negatives in enumerate(mined["negatives"]):
        ids[row, : len(negatives)] = [number_of[text] for text in negatives]
    scores = [score for row in mined["negative_scores"] for score in row]
    rule = {name: value for name, value in json.loads(miner.recipe.to_json()).items() if name in ("method", "guards")}
    return {"ids": ids, **rule, **describe(data, ids), "mean_score": mean(scores)}


def columns(data: StudentSet) -> tuple[tuple[list[str], list[int]], tuple[list[str], list[int]]]:
    """Return texts and numbers of the anchors, and of their positives."""
    return (data.queries, data.train[:, 0].tolist()), (data.passages, data.train[:, 1].tolist())


def mean(values: Sequence[float]) -> float | None:
    """Return the mean with four digits, None if there is nothing."""
    return round(float(np.mean(values)), 4) if len(values) else None


def describe(data: StudentSet, ids: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Count the rows that are short, and the negatives that are labelled positives after all, in percent."""
    labelled = data.labels[:, 0].astype(np.int64) * len(data.passages) + data.labels[:, 1]
    wrong = np.isin(data.train[:, :1].astype(np.int64) * len(data.passages) + ids, labelled)[ids >= 0]
    return {"short": int((ids < 0).any(axis=1).sum()), "false_negatives": mean(100 * wrong)}


def prepare(
    folder: Path, data_folder: Path, sets: Sequence[str], variants: Sequence[str], model: Path, vectors: Path | None
) -> None:
    """Make a prepared folder, or add sets and variants to one.

    Args:
        folder: what is written.
        data_folder: has a folder for each set.
        sets: names in ``PLANS``.
        variants: names in ``VARIANTS``; "in-batch" needs no mining.
        model: folder of the encoder.
        vectors: folder of its ready unit vectors, ``SET.Q.npy`` and ``SET.P.npy`` in the order of the set's files.
    """
    disable_progress_bars()
    encoder = SentenceTransformer(str(model), device="cpu")
    save_model(model, folder / "model")
    settings = json.loads((folder / "settings.json").read_text()) if (folder / "settings.json").exists() else {}
    settings["environment"] = describe_environment()
    for name in sets:
        plan, data = PLANS[name], read_set(data_folder / name)
        write_set(folder / name, data, make_tokenizer(data, plan, encoder))
        teacher = dense_teacher(data, plan, model, vectors / name if vectors else None, folder / "use")
        figures = settings.setdefault("sets", {}).setdefault(name, {"mined": {}})
        figures |= {"encoder": plan.encoder, "pairs": len(data.train), "passages": len(data.passages)}
        figures["held_out"] = len(np.unique(data.held_out[:, 0]))
        for variant in variants:
            if variant in VARIANTS:
                mined = mine(data, plan, VARIANTS[variant](teacher, plan.bm25))
                np.save(folder / name / "negatives" / f"{variant}.npy", mined.pop("ids"))
                figures["mined"][variant] = mined
                print(name, variant, mined, flush=True)
        (folder / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def save_model(model: Path, folder: Path) -> None:
    """Save the encoder in float16, half the size."""
    if not folder.exists():
        SentenceTransformer(str(model), device="cpu").half().save(str(folder), create_model_card=False)


def write_set(folder: Path, data: StudentSet, tokenizer: Tokenizer) -> None:
    """Write tokens, pairs and the tokeniser of a set."""
    (folder / "negatives").mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    queries, passages = tokenize(tokenizer, data.queries), tokenize(tokenizer, data.passages)
    np.savez_compressed(
        folder / "texts.npz",
        query_tokens=queries[0],
        query_offsets=queries[1],
        passage_tokens=passages[0],
        passage_offsets=passages[1],
    )
    np.savez_compressed(folder / "pairs.npz", train=data.train, held_out=data.held_out)
