"""Train and evaluate one student on prepared sets; needs torch and sentence-transformers only."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from student_report import TOP, ndcg, reciprocal_rank
from tokenizers import Tokenizer
from torch import Tensor, nn

SCALE = 20.0
CLS, SEP = 101, 102
WARMUP = 0.1
DIMENSION = 384
"""Of a static student that starts from random vectors."""

IN_BATCH, UNTRAINED = "in-batch", "untrained"

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Training:
    """How a student is trained, the same for every variant.

    Attributes:
        batch_size: pairs of a step.
        learning_rate: highest one; warmed up over ``WARMUP`` of the steps, then linear to 0.
        least_steps: whole epochs are repeated until there are as many; one epoch if 0.
        budget: padded tokens of an evaluation batch.
    """

    batch_size: int
    learning_rate: float
    least_steps: int
    budget: dict[str, int]


TRAININGS = {
    "static": Training(32, 0.003, 60, {"cpu": 200_000, "cuda": 2_000_000}),
    "minilm": Training(16, 3e-5, 50, {"cpu": 8_192, "cuda": 131_072}),
}


@dataclass(frozen=True)
class PreparedSet:
    """One set of a prepared folder.

    Attributes:
        tokens: of all texts, queries first.
        offsets: where each text begins, and the end.
        num_queries: passage ``i`` is text ``num_queries + i``.
        train: (query, positive passage), ``[n, 2]``.
        held_out: labels of the evaluation, ``[m, 2]``.
        negatives: passages per training pair by variant, padded with -1.
        tokenizer: of the static student.
    """

    name: str
    tokens: npt.NDArray[np.uint16]
    offsets: Numbers
    num_queries: int
    train: Numbers
    held_out: Numbers
    negatives: dict[str, Numbers]
    tokenizer: Path
    encoder: bool

    @classmethod
    def read(cls, folder: Path) -> PreparedSet:
        """Read a set that ``student_sets.prepare`` wrote."""
        texts, pairs = np.load(folder / "texts.npz"), np.load(folder / "pairs.npz")
        settings = json.loads((folder.parent / "settings.json").read_text())["sets"][folder.name]
        train = pairs["train"].astype(np.int64)
        return cls(
            name=folder.name,
            tokens=np.concatenate([texts["query_tokens"], texts["passage_tokens"]]),
            offsets=np.concatenate([texts["query_offsets"], texts["query_offsets"][-1] + texts["passage_offsets"][1:]]),
            num_queries=len(texts["query_offsets"]) - 1,
            train=train,
            held_out=pairs["held_out"].astype(np.int64),
            negatives={path.stem: np.load(path).astype(np.int64) for path in folder.glob("negatives/*.npy")}
            | {IN_BATCH: np.empty((len(train), 0), dtype=np.int64)},
            tokenizer=folder / "tokenizer.json",
            encoder=settings["encoder"],
        )

    def with_special_tokens(self) -> tuple[npt.NDArray[np.int64], Numbers]:
        """Return tokens and offsets as a transformer reads them."""
        texts = np.split(self.tokens.astype(np.int64), self.offsets[1:-1])
        cut = [np.concatenate([[CLS], text, [SEP]]) for text in texts]
        return np.concatenate(cut), np.cumsum([0, *map(len, cut)])


class Student(nn.Module):
    """A sentence-transformers module over texts whose tokens lie on the device; gives unit vectors in float32."""

    def __init__(self, tokens: npt.NDArray[Any], offsets: Numbers, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.lengths = np.diff(offsets)
        self._tokens = torch.from_numpy(tokens.astype(np.int32)).to(device)
        self._starts = torch.from_numpy(offsets[:-1]).to(device)
        self._lengths = torch.from_numpy(self.lengths).to(device)

    def embed(self, numbers: Numbers) -> Tensor:
        """Return the vectors of texts, ``[n, d]``, not of unit length."""
        raise NotImplementedError

    def forward(self, numbers: Numbers) -> Tensor:
        """Return the unit vectors of texts, ``[n, d]``."""
        return nn.functional.normalize(self.embed(numbers).float(), dim=-1)


class StaticStudent(Student):
    """``StaticEmbedding``: the mean of word vectors, which start from the encoder's own, or at random.

    Its table has the words of the set alone: without weight decay the others would never change.
    """

    def __init__(self, data: PreparedSet, encoder: SentenceTransformer, device: torch.device) -> None:
        used, tokens = np.unique(data.tokens, return_inverse=True)
        super().__init__(tokens, data.offsets, device)
        tokenizer = Tokenizer.from_file(str(data.tokenizer))
        if data.encoder:
            words = encoder[0].auto_model.get_input_embeddings().weight.detach().float().clone()
        else:
            words = torch.randn(tokenizer.get_vocab_size(), DIMENSION, generator=torch.Generator().manual_seed(0))
        words = words[torch.from_numpy(used.astype(np.int64))]
        self.module = StaticEmbedding(tokenizer, embedding_weights=words / words.norm(dim=1).mean()).to(device)

    def embed(self, numbers: Numbers) -> Tensor:
        """Return the vectors of texts."""
        chosen = torch.from_numpy(numbers).to(self.device)
        lengths = self._lengths[chosen]
        ends = lengths.cumsum(0)
        total = int(self.lengths[numbers].sum())
        shifts = torch.repeat_interleave(self._starts[chosen] - ends + lengths, lengths, output_size=total)
        tokens = self._tokens[torch.arange(total, device=self.device) + shifts]
        return self.module({"input_ids": tokens.long(), "offsets": ends - lengths})["sentence_embedding"]


class TransformerStudent(Student):
    """The encoder itself, under bfloat16 autocast unless ``exact``."""

    def __init__(
        self, data: PreparedSet, encoder: SentenceTransformer, device: torch.device, *, exact: bool = False
    ) -> None:
        super().__init__(*data.with_special_tokens(), device)
        self.module = encoder.to(device)
        self.exact = exact

    def embed(self, numbers: Numbers) -> Tensor:
        """Return the vectors of texts, padded to the longest."""
        chosen = torch.from_numpy(numbers).to(self.device)
        places = torch.arange(int(self.lengths[numbers].max()), device=self.device)
        mask = places < self._lengths[chosen, None]
        tokens = self._tokens[(self._starts[chosen, None] + places).clamp_(max=len(self._tokens) - 1)] * mask
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=not self.exact):
            return self.module({"input_ids": tokens.long(), "attention_mask": mask.long()})["sentence_embedding"]


STUDENTS = {"static": StaticStudent, "minilm": TransformerStudent}


@dataclass(frozen=True)
class Step:
    """The numbers of one step: queries, distinct passages, the passage of each query, known positives to leave out."""

    queries: Numbers
    passages: Numbers
    targets: Numbers
    known: npt.NDArray[np.bool_]


def plan_steps(data: PreparedSet, negatives: Numbers, training: Training, seed: int) -> Iterator[Step]:
    """Yield the steps of a run: which pairs come together depends on the seed alone.

    A passage that stands several times in a step is one candidate; known positives of a query are none, except its own.
    """
    labelled = data.train[:, 0] << 32 | data.train[:, 1]
    rng, batch_size = np.random.default_rng(seed), min(training.batch_size, len(data.train))
    per_epoch = len(data.train) // batch_size
    for _ in range(max(1, -(-training.least_steps // per_epoch))):
        for rows in rng.permutation(len(data.train))[: per_epoch * batch_size].reshape(per_epoch, batch_size):
            queries, positives = data.train[rows].T
            chosen = negatives[rows]
            passages = np.unique(np.concatenate([positives, chosen[chosen >= 0]]))
            targets = np.searchsorted(passages, positives)
            known = np.isin(queries[:, None] << 32 | passages, labelled)
            known[np.arange(batch_size), targets] = False
            yield Step(queries, passages + data.num_queries, targets, known)


def train(student: Student, data: PreparedSet, variant: str, training: Training, seed: int) -> dict[str, Any]:
    """Train a student by cross-entropy over the passages of a step; returns seconds, steps and the mean last losses."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    steps = list(plan_steps(data, data.negatives[variant], training, seed))
    optimizer = torch.optim.AdamW(student.parameters(), lr=training.learning_rate, weight_decay=0.0, fused=True)
    warmup = max(1, round(WARMUP * len(steps)))
    rates = [min((step + 1) / warmup, (len(steps) - step) / max(1, len(steps) - warmup)) for step in range(len(steps))]
    losses = []
    student.train()
    for step, rate in zip(steps, rates, strict=True):
        optimizer.param_groups[0]["lr"] = training.learning_rate * rate
        scores = SCALE * student(step.queries) @ student(step.passages).T
        known = torch.from_numpy(step.known).to(student.device)
        targets = torch.from_numpy(step.targets).to(student.device)
        loss = nn.functional.cross_entropy(scores.masked_fill(known, -torch.inf), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    last = float(torch.stack(losses[-10:]).mean())
    return {"steps": len(steps), "last_loss": round(last, 4), "train_seconds": round(time.perf_counter() - start, 2)}


@torch.no_grad()
def evaluate(student: Student, data: PreparedSet, budget: int) -> dict[str, list[float]]:
    """Return NDCG@10 and MRR@10 of every held-out query, against all passages."""
    student.eval()
    queries = np.unique(data.held_out[:, 0])
    passages = np.arange(data.num_queries, len(data.offsets) - 1)
    vectors = [encode(student, numbers, budget) for numbers in (queries, passages)]
    ranked = torch.topk(vectors[0] @ vectors[1].T, TOP).indices.cpu().numpy()
    labels = np.unique(data.held_out[:, 0] << 32 | data.held_out[:, 1])
    hits = np.isin(queries[:, None] << 32 | ranked, labels)
    counts = np.unique(labels >> 32, return_counts=True)[1]
    return {"ndcg": ndcg(hits, counts).round(4).tolist(), "mrr": reciprocal_rank(hits).round(4).tolist()}


def encode(student: Student, numbers: Numbers, budget: int) -> Tensor:
    """Return the vectors of many texts, in batches of similar length."""
    order = np.argsort(-student.lengths[numbers], kind="stable")
    parts, start = [], 0
    while start < len(order):
        stop = start + max(1, budget // int(student.lengths[numbers[order[start]]]))
        parts.append(student(numbers[order[start:stop]]))
        start = stop
    back = torch.from_numpy(np.argsort(order, kind="stable")).to(student.device)
    return torch.cat(parts)[back]


@torch.no_grad()
def teacher_vectors(folder: Path, name: str, device: str) -> list[npt.NDArray[np.float32]]:
    """Return the encoder's float32 unit vectors of all queries and of all passages of a set."""
    data = PreparedSet.read(folder / name)
    teacher = TransformerStudent(data, load_encoder(folder), torch.device(device), exact=True).eval()
    numbers = np.split(np.arange(len(data.offsets) - 1), [data.num_queries])
    return [encode(teacher, part, TRAININGS["minilm"].budget[device]).cpu().numpy() for part in numbers]


def load_encoder(folder: Path) -> SentenceTransformer:
    """Return the encoder of a prepared folder, in float32."""
    return SentenceTransformer(str(folder / "model"), device="cpu").float()


class Bench:
    """Prepared sets and one student on a device; every run starts from the same weights.

    Args:
        folder: a prepared folder.
        name: of the set.
        student: "static" or "minilm".
        device: "cpu" or "cuda".
    """

    def __init__(self, folder: Path, name: str, student: str, device: str) -> None:
        self.data = PreparedSet.read(folder / name)
        self.training = TRAININGS[student]
        self.student = STUDENTS[student](self.data, load_encoder(folder), torch.device(device))
        self._start = {key: value.clone() for key, value in self.student.state_dict().items()}

    def run(self, variant: str, seed: int) -> dict[str, Any]:
        """Train on one variant with one seed, unless it is "untrained", and evaluate."""
        start = time.perf_counter()
        self.student.load_state_dict(self._start)
        figures = {} if variant == UNTRAINED else train(self.student, self.data, variant, self.training, seed)
        scores = evaluate(self.student, self.data, self.training.budget[self.student.device.type])
        return {**figures, "seconds": round(time.perf_counter() - start, 2), **scores}
