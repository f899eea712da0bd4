"""Dense teachers: sentence-transformers models whose vectors are addressed by what decides them."""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.teachers.base import Floats, Role
from hn_datasets.teachers.graphs import describe_graph
from hn_datasets.teachers.identity import commit_of, digest_model, name_of, sum_weights
from hn_datasets.teachers.models import (
    fast_precision,
    is_sentence_transformer,
    load_model,
    resolve_length,
    set_length,
    similarity_of,
    with_precision,
)
from hn_datasets.teachers.prompts import PASSAGE_PROMPT_NAMES, resolve_prompt, warn_of_missing_prompts
from hn_datasets.teachers.remembered import Memory
from hn_datasets.teachers.token_batches import Task, encode_by_tokens, longest_of, num_tokens_of
from hn_datasets.texts import digest_of
from hn_datasets.threads import is_forked, leave_parents_threads

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Precision = Literal["auto", "float32", "bfloat16", "float16"]
_Pool = dict[Literal["input", "output", "processes"], Any]
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

BATCH_SIZE = 32
"""Texts per forward pass of a model whose inputs are no table of tokens."""

CALL_WORK = {"cpu": 1 << 41, "cpu in bfloat16": 1 << 43, "accelerator": 1 << 52}
"""Characters times weights of a call: about 10 s at 100 GFLOPS, 400 GFLOPS and 200 TFLOPS, at 4 characters a token."""

SMALLEST_CALL = 1 << 14
LARGEST_CALL = {"cpu": 1 << 18, "cpu in bfloat16": 1 << 20, "accelerator": 1 << 21}


class DenseTeacher:
    """Scores are products of the vectors of a SentenceTransformer.

    Args:
        model: a name on the Hub, a folder, or a loaded SentenceTransformer (which is not changed).
        query_prompt: put before every anchor; the name of one of the model's prompts, or the text itself. The model's
            own query prompt if None; ``""`` for none.
        corpus_prompt: put before every passage, likewise.
        max_seq_length: texts are cut after so many tokens; the model's own length if None.
        truncate_dim: keep the first so many components, for Matryoshka models.
        precision: of the transformer; pooling and normalising are always float32. ``"auto"``: bfloat16 where the
            hardware has fast bfloat16 products (CUDA, CPUs with AMX, those of AMD with AVX512-BF16), else float32; a
            loaded model stays as it is, and one with the ONNX or OpenVINO backend computes in its own.
        device: one device, or a list of devices that share the work. A loaded model stays on its device.
        batch_size: texts per forward pass; as many as fill a budget of tokens if None.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run code that comes with the model.

    Raises:
        TeacherError: the model cannot be loaded.
        ArgumentError: an argument is out of range or has no effect on a loaded model.
    """

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        *,
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
        max_seq_length: int | None = None,
        truncate_dim: int | None = None,
        precision: Precision = "auto",
        device: str | list[str] | None = None,
        batch_size: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        leave_parents_threads()
        _check(precision, batch_size, max_seq_length, truncate_dim)
        self.batch_size = batch_size
        self._device = device
        self._pool: _Pool | None = None
        self._sums: torch.Tensor | None = None
        self._memory: Memory | None = None
        if is_sentence_transformer(model):
            _check_loaded(model, device, revision, trust_remote_code)
            # Serving several devices moves a model to the CPU and shares its memory: that is done to a copy.
            loaded, name = copy.deepcopy(model) if isinstance(device, list) else model, name_of(model)
        else:
            name = str(model)
            if not trust_remote_code:  # code may do anything
                arguments = [query_prompt, corpus_prompt, max_seq_length, truncate_dim, precision]
                self._memory = Memory(name, revision, device, arguments)
                known = self._memory.read()
                if known is not None:
                    self._take(known)
                    self._warn(query_prompt, corpus_prompt)
                    return
            loaded = load_model(name, device, revision, trust_remote_code)
        weights = digest_model(loaded)
        loaded, used = with_precision(
            loaded, precision, keep=is_sentence_transformer(model), travels=isinstance(device, list)
        )
        full = loaded.get_embedding_dimension() or len(loaded.encode("a", show_progress_bar=False))
        if truncate_dim is not None and truncate_dim > full:
            raise ArgumentError(f"Expected truncate_dim of at most {full}, the model's dimension, got {truncate_dim}.")
        self._spec: dict[str, Any] = {
            "type": "dense",
            "model": name,
            "revision": commit_of(name, revision),
            "weights": weights,
            "query_prompt": resolve_prompt(loaded, query_prompt, ("query",), "query_prompt"),
            "corpus_prompt": resolve_prompt(loaded, corpus_prompt, PASSAGE_PROMPT_NAMES, "corpus_prompt"),
            "max_seq_length": resolve_length(loaded, max_seq_length),
            "dimension": truncate_dim or int(full),
            "precision": used,
            "similarity": similarity_of(loaded),
            "trust_remote_code": trust_remote_code,
            **{key: value for key, value in describe_graph(loaded).items() if key != "precision"},
        }
        self._roles_differ = any(type(module).__name__ == "Router" for module in loaded)
        self.__dict__["_model"] = loaded
        self._sums = sum_weights(loaded) if loaded is model else None
        if self._memory is not None:
            self._memory.write(self.spec())
        self._warn(query_prompt, corpus_prompt)

    def _warn(self, query_prompt: str | None, corpus_prompt: str | None) -> None:
        if query_prompt is None and corpus_prompt is None:
            warn_of_missing_prompts(self._spec)

    def _take(self, spec: dict[str, Any]) -> None:
        """Be the teacher of a spec, whose model is not loaded yet."""
        self._spec = dict(spec)
        self._roles_differ = bool(self._spec.pop("roles_differ", False))

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> DenseTeacher:
        """Return the teacher whose ``spec`` this is; the model is loaded when the first text has to be encoded."""
        teacher = cls.__new__(cls)
        teacher._take(spec)
        teacher._device = None
        teacher._pool = None
        teacher._sums = None
        teacher._memory = None
        teacher.batch_size = None
        return teacher

    def spec(self) -> dict[str, Any]:
        """Return name, revision, digest of the weights, prompts, length, dimension and precision.

        And the backend, where the model is an exported graph, with the name of its file if the model knows it.
        """
        return {**self._spec, "roles_differ": True} if self._roles_differ else dict(self._spec)

    @property
    def similarity(self) -> Literal["cosine", "dot"]:
        """``"cosine"`` (unit vectors) or ``"dot"``, as the model says."""
        return cast(Literal["cosine", "dot"], self._spec["similarity"])

    @property
    def dimension(self) -> int:
        """Number of components of a vector."""
        return int(self._spec["dimension"])

    def space(self, role: Role) -> str:
        """Return the address of the vectors of one role; both roles share it where both get the same prompt."""
        decisive = ("weights", "max_seq_length", "dimension", "precision", "similarity")
        parts: dict[str, Any] = {key: self._spec[key] for key in decisive}
        parts["prompt"] = self._prompt(role)
        if "backend" in self._spec:
            parts["backend"] = self._spec["backend"]
        if self._roles_differ:
            parts["role"] = role
        return digest_of(json.dumps(parts, sort_keys=True))

    def encode(self, texts: Sequence[str], role: Role) -> Floats:
        """Return vectors, shape ``[len(texts), dimension]``, float32; of unit length unless the similarity is "dot".

        Raises:
            TeacherError: the model is not at hand any more, or its weights have changed.
        """
        leave_parents_threads()
        model = self._model
        self._check_weights(model)
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        before, length = model.max_seq_length, self._spec["max_seq_length"]
        set_length(model, before if length is None else length)
        try:
            vectors = self._forward(model, list(texts), role)
        finally:
            set_length(model, before)
        array = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.similarity == "cosine" and self._spec["precision"] != "float32":
            # A model that its owner has loaded in bfloat16 normalises in bfloat16: lengths are 0.3 % off.
            array /= np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
        return array

    @property
    def call_characters(self) -> int:
        """How many characters of text a call of ``encode`` should get: seconds of work, however large the model."""
        fast = self._spec["precision"] == "bfloat16" == fast_precision(self._model.device)
        device = "accelerator" if self._model.device.type != "cpu" else "cpu in bfloat16" if fast else "cpu"
        num_weights = sum(
            weight.numel()
            for module in self._model.modules()
            if not isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)
            for weight in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        )
        return int(np.clip(CALL_WORK[device] // max(1, num_weights), SMALLEST_CALL, LARGEST_CALL[device]))

    def _forward(self, model: SentenceTransformer, texts: list[str], role: Role) -> Any:
        """Return vectors, shape ``[len(texts), dimension]``, of unit length unless the similarity is "dot"."""
        prompt, pool, batch_size = self._prompt(role), self._open_pool(model), self.batch_size
        task: Task = "query" if role == "anchor" else "document"
        if batch_size is None:
            max_tokens, longest = num_tokens_of(model.device), longest_of(model, texts, prompt, task)
            if longest is not None and pool is None:
                vectors = encode_by_tokens(model, texts, prompt, task, max_tokens)[:, : self.dimension].float()
                return torch.nn.functional.normalize(vectors) if self.similarity == "cosine" else vectors
            batch_size = max(1, max_tokens // longest) if longest is not None else None
        encode = model.encode_query if role == "anchor" else model.encode_document
        return encode(
            texts,
            prompt=prompt,
            batch_size=batch_size or BATCH_SIZE,
            show_progress_bar=False,
            normalize_embeddings=self.similarity == "cosine",
            truncate_dim=self.dimension,
            pool=pool,
        )

    def close(self) -> None:
        """Stop the processes that serve several devices."""
        if self._pool is not None and not is_forked():
            self._stop_pool()
            self._pool = None

    def _open_pool(self, model: SentenceTransformer) -> _Pool | None:
        """Return the processes that serve several devices; they stop with the teacher, or with the interpreter.

        A forked worker encodes by itself: answers to it and to its siblings would come back through one queue.
        """
        if not isinstance(self._device, list) or is_forked():
            return None
        if self._pool is None:
            self._pool = model.start_multi_process_pool(self._device)
            self._stop_pool = weakref.finalize(self, _stop_pool, self._pool)
        return self._pool

    def _check_weights(self, model: SentenceTransformer) -> None:
        """Refuse a model that its owner has trained since: its vectors would come under the old address."""
        if self._sums is None or torch.equal(self._sums, sum_weights(model)):
            return
        if digest_model(model) != self._spec["weights"]:
            raise TeacherError(
                f"Expected {self._spec['model']!r} with the weights that this teacher was made with, but the model has "
                "been trained since; make a new teacher from it."
            )

    def _prompt(self, role: Role) -> str:
        return str(self._spec["query_prompt" if role == "anchor" else "corpus_prompt"])

    @cached_property
    def _model(self) -> SentenceTransformer:
        leave_parents_threads()
        spec = self._spec
        graph = spec if "backend" in spec else None
        loaded = load_model(spec["model"], self._device, spec["revision"], spec["trust_remote_code"], graph)
        if digest_model(loaded) != spec["weights"]:
            if self._memory is not None:
                self._memory.forget()
            raise TeacherError(
                f"Expected {spec['model']!r} with weights {spec['weights']}, got {digest_model(loaded)}: the model has "
                "changed since; name its revision, or build the miner again."
            )
        return with_precision(loaded, spec["precision"], keep=False, travels=isinstance(self._device, list))[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(DenseTeacher.from_spec(state["spec"]).__dict__)


def _check_loaded(
    model: SentenceTransformer, device: str | list[str] | None, revision: str | None, trust_remote_code: bool
) -> None:
    """Refuse what has no effect on a loaded model."""
    if isinstance(device, list) and (graph := describe_graph(model)):
        raise ArgumentError(
            f"device={device!r} has no effect on a model with the {graph['backend']} backend, which uses all cores by "
            "itself; leave it out."
        )
    if revision is not None or trust_remote_code:
        raise ArgumentError("revision and trust_remote_code have no effect on a loaded model; leave them out.")
    if isinstance(device, str):
        raise ArgumentError(f"device={device!r} has no effect on a loaded model; move it: model.to({device!r}).")


def _stop_pool(pool: _Pool) -> None:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - seconds to import

    if not is_forked():
        SentenceTransformer.stop_multi_process_pool(pool)


def _check(precision: str, batch_size: int | None, max_seq_length: int | None, truncate_dim: int | None) -> None:
    if precision not in PRECISIONS:
        raise ArgumentError(f"Expected precision to be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    for name, value in (("batch_size", batch_size), ("max_seq_length", max_seq_length), ("truncate_dim", truncate_dim)):
        if value is not None and value < 1:
            raise ArgumentError(f"Expected {name} of at least 1, got {value}.")
