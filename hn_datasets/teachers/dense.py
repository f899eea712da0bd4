"""Dense teachers: sentence-transformers models whose vectors are addressed by what decides them."""

from __future__ import annotations

import copy
import itertools
import json
import re
import warnings
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import xxhash
from huggingface_hub import try_to_load_from_cache
from sentence_transformers import CrossEncoder, SentenceTransformer

from hn_datasets.errors import ArgumentError, MissingPromptWarning, TeacherError
from hn_datasets.teachers.base import Floats, Role
from hn_datasets.teachers.token_batches import Task, encode_by_tokens, longest_of, num_tokens_of
from hn_datasets.texts import digest_of
from hn_datasets.threads import is_forked

Precision = Literal["auto", "float32", "bfloat16", "float16"]
_Pool = dict[Literal["input", "output", "processes"], Any]
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

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

NO_LENGTH = 10**9
"""Tokenizers and static embeddings without a longest text have lengths above this, or infinity, which JSON lacks."""

BATCH_SIZE = 32
"""Texts per forward pass of a model whose inputs are no table of tokens."""

CALL_WORK = {"cpu": 1 << 41, "accelerator": 1 << 52}
"""Characters times weights of a call: about 10 s at 100 GFLOPS and 100 TFLOPS, at 4 characters a token."""

SMALLEST_CALL = 1 << 14
LARGEST_CALL = {"cpu": 1 << 18, "accelerator": 1 << 21}

_PROBES = ("a", "What is a hard negative?", "한국어 문장", "0.95")


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
            hardware has fast bfloat16 products (CUDA, CPUs with AMX or AVX512-BF16), else float32; a loaded model
            stays as it is.
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
        _check(precision, batch_size, max_seq_length, truncate_dim)
        self.batch_size = batch_size
        self._device = device
        self._pool: _Pool | None = None
        if isinstance(model, SentenceTransformer):
            _check_loaded(device, revision, trust_remote_code)
            # Serving several devices moves a model to the CPU and shares its memory: that is done to a copy.
            loaded = copy.deepcopy(model) if isinstance(device, list) else model
        else:
            loaded = _load(model, device, revision, trust_remote_code)
        name = str(model) if not isinstance(model, SentenceTransformer) else _name_of(model)
        weights = digest_model(loaded)
        loaded, used = _with_precision(loaded, precision, keep=isinstance(model, SentenceTransformer))
        full = loaded.get_embedding_dimension() or len(loaded.encode(_PROBES[0], show_progress_bar=False))
        if truncate_dim is not None and truncate_dim > full:
            raise ArgumentError(f"Expected truncate_dim of at most {full}, the model's dimension, got {truncate_dim}.")
        self._spec: dict[str, Any] = {
            "type": "dense",
            "model": name,
            "revision": commit_of(name, revision),
            "weights": weights,
            "query_prompt": _resolve_prompt(loaded, query_prompt, ("query",), "query_prompt"),
            "corpus_prompt": _resolve_prompt(loaded, corpus_prompt, PASSAGE_PROMPT_NAMES, "corpus_prompt"),
            "max_seq_length": _resolve_length(loaded, max_seq_length),
            "dimension": truncate_dim or int(full),
            "precision": used,
            "similarity": _similarity(loaded),
            "trust_remote_code": trust_remote_code,
        }
        self._roles_differ = any(type(module).__name__ == "Router" for module in loaded)
        self.__dict__["_model"] = loaded
        self._sums = sum_weights(loaded) if loaded is model else None
        if query_prompt is None and corpus_prompt is None:
            _warn_of_missing_prompts(self._spec)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> DenseTeacher:
        """Return the teacher whose ``spec`` this is; the model is loaded when the first text has to be encoded."""
        teacher = cls.__new__(cls)
        teacher._spec = dict(spec)
        teacher._roles_differ = bool(spec.get("roles_differ", False))
        teacher._device = None
        teacher._pool = None
        teacher._sums = None
        teacher.batch_size = None
        return teacher

    def spec(self) -> dict[str, Any]:
        """Return name, revision, digest of the weights, prompts, length, dimension and precision."""
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
        if self._roles_differ:
            parts["role"] = role
        return digest_of(json.dumps(parts, sort_keys=True))

    def encode(self, texts: Sequence[str], role: Role) -> Floats:
        """Return vectors, shape ``[len(texts), dimension]``, float32; of unit length unless the similarity is "dot".

        Raises:
            TeacherError: the model is not at hand any more, or its weights have changed.
        """
        model = self._model
        self._check_weights(model)
        before, length = model.max_seq_length, self._spec["max_seq_length"]
        _set_length(model, before if length is None else length)
        try:
            vectors = self._forward(model, list(texts), role)
        finally:
            _set_length(model, before)
        array = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.similarity == "cosine" and self._spec["precision"] != "float32":
            # A model that its owner has loaded in bfloat16 normalises in bfloat16: lengths are 0.3 % off.
            array /= np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
        return array

    @property
    def call_characters(self) -> int:
        """How many characters of text a call of ``encode`` should get: seconds of work, however large the model."""
        device = "cpu" if self._model.device.type == "cpu" else "accelerator"
        num_weights = sum(
            weight.numel()
            for module in self._model.modules()
            if not isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)
            for weight in module.parameters(recurse=False)
        )
        return int(np.clip(CALL_WORK[device] // max(1, num_weights), SMALLEST_CALL, LARGEST_CALL[device]))

    def _forward(self, model: SentenceTransformer, texts: list[str], role: Role) -> Any:
        """Return vectors, shape ``[len(texts), dimension]``, of unit length unless the similarity is "dot"."""
        prompt, pool, batch_size = self._prompt(role), self._open_pool(model), self.batch_size
        task: Task = "query" if role == "anchor" else "document"
        if batch_size is None and texts:
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
        spec = self._spec
        loaded = _load(spec["model"], None, spec["revision"], spec["trust_remote_code"])
        if digest_model(loaded) != spec["weights"]:
            raise TeacherError(
                f"Expected {spec['model']!r} with weights {spec['weights']}, got {digest_model(loaded)}: the model has "
                "changed since; name its revision, or build the miner again."
            )
        return _with_precision(loaded, spec["precision"], keep=False)[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(DenseTeacher.from_spec(state["spec"]).__dict__)


def digest_model(model: SentenceTransformer | CrossEncoder) -> str:
    """Return a digest of all that makes a model: modules and their settings, tokenizer and weights.

    A module without weights of its own (a numpy model, an exported graph) is told apart by the vectors that it gives.
    """
    state = xxhash.xxh3_128()
    for module in model:
        settings: dict[str, Any] = getattr(module, "get_config_dict", dict)()
        state.update(json.dumps([type(module).__qualname__, settings], sort_keys=True, default=str).encode())
    tokenizer = getattr(model[0], "tokenizer", None)
    backend: Any = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        # How the last batch was cut and padded says nothing of the model.
        settings = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
        state.update(json.dumps([settings, getattr(tokenizer, "padding_side", None)], sort_keys=True).encode())
    tensors = model.state_dict()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    if not tensors and isinstance(model, SentenceTransformer):
        vectors = model.encode(list(_PROBES), show_progress_bar=False, normalize_embeddings=True)
        state.update((np.round(vectors, 3) + 0.0).astype(np.float32).tobytes())  # + 0.0 turns -0.0 into 0.0
    return state.hexdigest()


def _load(
    model: str | Path, device: str | list[str] | None, revision: str | None, trust_remote_code: bool
) -> SentenceTransformer:
    name = str(model)
    first = device[0] if isinstance(device, list) else device
    try:
        return SentenceTransformer(name, device=first, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged file or the model's own code can raise anything
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            advice = "read that code, and pass trust_remote_code=True to run it"
        elif Path(name).exists():
            advice = "check what is in that folder"
        else:
            advice = f"check the name, or download it once (`hf download {name}`) and set HF_HUB_OFFLINE=1"
        raise TeacherError(
            f"Could not load the teacher {name!r} as a SentenceTransformer, neither from a folder nor from the Hub "
            f"({reason}); {advice}."
        ) from error


def _check_loaded(device: str | list[str] | None, revision: str | None, trust_remote_code: bool) -> None:
    """Refuse what has no effect on a loaded model."""
    if revision is not None or trust_remote_code:
        raise ArgumentError("revision and trust_remote_code have no effect on a loaded model; leave them out.")
    if isinstance(device, str):
        raise ArgumentError(f"device={device!r} has no effect on a loaded model; move it: model.to({device!r}).")


def _stop_pool(pool: _Pool) -> None:
    if not is_forked():
        SentenceTransformer.stop_multi_process_pool(pool)


def sum_weights(model: torch.nn.Module) -> torch.Tensor:
    """Return the sum of every weight tensor, shape ``[num_tensors]``, float64: quick to compare on any device."""
    sums = [tensor.detach().sum(dtype=torch.float64).cpu() for _, tensor in sorted(model.state_dict().items())]
    return torch.stack(sums) if sums else torch.empty(0)


def _with_precision(model: SentenceTransformer, precision: str, *, keep: bool) -> tuple[SentenceTransformer, str]:
    """Return the model with its transformer in a precision, and the name of that precision."""
    parameters = list(model.parameters())
    present = str(parameters[0].dtype).removeprefix("torch.") if parameters else "float32"
    if precision == "auto":
        # Word vectors are looked up, not multiplied: they would only be rounded.
        wanted = present if keep or model.transformers_model is None else _fast_precision(model.device)
    else:
        wanted = precision
    if wanted == present and (keep or wanted == "float32"):
        return model, present
    if not parameters:
        raise ArgumentError(f"precision={precision!r} has no effect on a model without torch weights; leave it out.")
    model = copy.deepcopy(model) if keep else model
    for number, module in enumerate(model):
        module.to(torch.float32 if number else getattr(torch, wanted))
    if wanted != "float32":
        model[0].register_forward_hook(_to_float32)
    return model, wanted


def _to_float32(_module: torch.nn.Module, _inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Let pooling and normalising, which follow the transformer, work in float32."""
    floats = {
        key: value.float() for key, value in features.items() if torch.is_tensor(value) and value.is_floating_point()
    }
    return {**features, **floats}


def _fast_precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    fast = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bfloat16" if fast else "float32"


def _resolve_length(model: SentenceTransformer, given: int | None) -> int | None:
    """Return how many tokens of a text count; None for a model that takes texts of any length."""
    if given is None:
        length = model.max_seq_length
        return None if length is None or length >= NO_LENGTH else int(length)
    attribute = getattr(type(model[0]), "max_seq_length", None)
    if not hasattr(model[0], "max_seq_length") or (isinstance(attribute, property) and attribute.fset is None):
        raise ArgumentError(f"max_seq_length has no effect on a {type(model[0]).__name__}; leave it out.")
    return given


def _set_length(model: SentenceTransformer, length: int | None) -> None:
    if model.max_seq_length != length:
        model.max_seq_length = length


def _similarity(model: SentenceTransformer) -> str:
    name = str(model.similarity_fn_name)
    if name not in ("cosine", "dot"):
        raise ArgumentError(f"Expected a teacher with cosine or dot similarity, got {name!r}; set similarity_fn_name.")
    return name


def _resolve_prompt(model: SentenceTransformer, given: str | None, names: tuple[str, ...], argument: str) -> str:
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


def _warn_of_missing_prompts(spec: dict[str, Any]) -> None:
    if spec["query_prompt"] or spec["corpus_prompt"]:
        return
    for pattern, advice in FAMILIES_WITH_PROMPTS.items():
        if re.search(pattern, spec["model"].lower()):
            warnings.warn(
                f"{spec['model']} belongs to a family that was trained with prompts, and none is set: pass {advice} "
                "(or '' to say that you want none).",
                MissingPromptWarning,
                stacklevel=3,
            )
            return


def _name_of(model: SentenceTransformer) -> str:
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return str(getattr(config, "name_or_path", "") or model.model_card_data.model_id or type(model[0]).__name__)


def commit_of(name: str, revision: str | None) -> str | None:
    """Return the commit that a Hub name was loaded at, from the local cache, or the revision as given."""
    if Path(name).exists() or name.count("/") > 1:
        return revision
    # sentence-transformers puts its own organisation before a bare name that is its own.
    names = (name,) if "/" in name else (name, f"sentence-transformers/{name}")
    for repo_id, file in itertools.product(names, ("modules.json", "config.json")):
        path = try_to_load_from_cache(repo_id, file, revision=revision)
        if isinstance(path, str):
            parts = Path(path).parts
            return parts[parts.index("snapshots") + 1] if "snapshots" in parts else revision
    return revision


def _check(precision: str, batch_size: int | None, max_seq_length: int | None, truncate_dim: int | None) -> None:
    if precision not in PRECISIONS:
        raise ArgumentError(f"Expected precision to be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    for name, value in (("batch_size", batch_size), ("max_seq_length", max_seq_length), ("truncate_dim", truncate_dim)):
        if value is not None and value < 1:
            raise ArgumentError(f"Expected {name} of at least 1, got {value}.")
