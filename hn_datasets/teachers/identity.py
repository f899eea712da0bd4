"""What a model is: its name, and digests that no other model has."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash
from huggingface_hub import try_to_load_from_cache

from hn_datasets.teachers.graphs import digest_graph
from hn_datasets.teachers.models import is_sentence_transformer

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

_PROBES = ("a", "What is a hard negative?", "한국어 문장", "0.95")


def digest_model(model: SentenceTransformer | CrossEncoder) -> str:
    """Return a digest of all that makes a model: modules and their settings, tokenizer and weights.

    A model without weights that torch knows is told apart by its exported graph, or else by the vectors that it gives.
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
    graph, tensors = digest_graph(model), model.state_dict()
    state.update(graph.encode())
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    if not graph and not tensors and is_sentence_transformer(model):
        vectors = model.encode(list(_PROBES), show_progress_bar=False, normalize_embeddings=True)
        state.update((np.round(vectors, 3) + 0.0).astype(np.float32).tobytes())  # + 0.0 turns -0.0 into 0.0
    return state.hexdigest()


def sum_weights(model: torch.nn.Module) -> torch.Tensor:
    """Return the sum of every weight tensor, shape ``[num_tensors]``, float64: quick to compare on any device."""
    sums = [tensor.detach().sum(dtype=torch.float64).cpu() for _, tensor in sorted(model.state_dict().items())]
    return torch.stack(sums) if sums else torch.empty(0)


def name_of(model: SentenceTransformer) -> str:
    """Return what a loaded model was loaded from, or the type of its first module."""
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
