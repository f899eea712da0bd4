"""Forward passes over as many texts as fill a budget of tokens, taken in the order of their true length.

A fixed number of texts per pass is too many long ones for the caches and too few short ones to be efficient, and texts
of one number of characters differ in tokens: the padding of questions came to 23-42 % in batches of 32, to 1-8 % here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.threads import over_items

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

WINDOW_BATCHES = 16
"""Texts of so many forward passes are tokenised at once, while the passes before them compute."""

CHARACTERS_PER_TOKEN = 4

CPU_TOKENS = 1024
"""Padded tokens of a forward pass: what a core works on stays in its caches. 512 and 2,048 take 4 % to 12 % longer."""

ACCELERATOR_TOKENS = 1 << 14

STATELESS_TYPES = frozenset({"bert", "roberta", "xlm-roberta", "mpnet", "distilbert"})
"""Architectures of ``transformers`` with absolute or relative positions that are looked up in weights."""

Task = Literal["query", "document"]


def num_tokens_of(device: torch.device) -> int:
    """Return how many tokens, padding counted, a forward pass on a device gets."""
    return CPU_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS


def longest_of(model: SentenceTransformer, texts: Sequence[str], prompt: str, task: Task) -> int | None:
    """Return how many tokens the text with the most characters has, at least 1.

    None for a model whose inputs cannot be cut into batches after they were made: one without a table of tokens and a
    mask, one that lays texts end to end, one spread over devices.
    """
    if getattr(getattr(model, "transformers_model", None), "hf_device_map", None):
        return None
    features = model.preprocess([max(texts, key=len)], prompt=prompt, task=task)
    return max(1, features["input_ids"].shape[1]) if _is_table(features, 1) else None


def encode_by_tokens(
    model: SentenceTransformer, texts: Sequence[str], prompt: str, task: Task, max_tokens: int
) -> torch.Tensor:
    """Return what the last module of a model makes of each text, shape ``[len(texts), n]``, on the CPU.

    These are the vectors of ``model.encode`` to rounding, before they are cut and normalised. All passes are handed to
    an accelerator before the first result is fetched, so that tokenising goes on while it computes. On a CPU every core
    makes passes of its own: that gives the same bits as all cores in one pass, and nobody waits for the slowest at
    every layer.

    Args:
        model: one for which ``longest_of`` gives a number.
        texts: at least one text.
        prompt: put before every text.
        task: which side of the model.
        max_tokens: padded tokens of a pass; a longer text has a pass of its own.
    """
    from sentence_transformers.util import batch_to_device  # noqa: PLC0415 - seconds to import

    model.eval()
    batches = _cut(model, texts, prompt, task, max_tokens)

    @torch.inference_mode()  # which is a setting of each thread
    def compute(batch: _Batch) -> torch.Tensor:
        vectors: torch.Tensor = model(batch_to_device(batch.features, model.device), task=task)["sentence_embedding"]
        return vectors

    rows = []

    def noted() -> Iterator[_Batch]:
        for batch in batches:
            rows.append(batch.rows)
            yield batch

    side_by_side = model.device.type == "cpu" and _keeps_nothing(model)
    parts = over_items(compute, noted()) if side_by_side else [compute(batch) for batch in noted()]
    return torch.cat(parts).cpu()[torch.from_numpy(np.argsort(np.concatenate(rows)))]


def tokenise(model: SentenceTransformer, texts: Sequence[str], prompt: str, task: Task) -> dict[str, Any]:
    """Return what a model takes of texts, tables of tokens as tensors.

    Where it is known that nothing looks at the tensors on the way, the tables come as lists and become tensors at once:
    ``transformers`` would look at each number in Python, which takes half as long as the tokenizer itself.
    """
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - seconds to import
    from sentence_transformers.base.modules import Transformer  # noqa: PLC0415

    first: Any = model[0]
    if (
        type(model) is not SentenceTransformer
        or type(first) is not Transformer
        or first.transformer_task != "feature-extraction"
        or getattr(first, "query_expansion", None) is not None
        or "message" in first.modality_config
    ):
        return dict(model.preprocess(list(texts), prompt=prompt, task=task))
    as_lists = {"common": {"return_tensors": None}}
    features = model.preprocess(list(texts), prompt=prompt, task=task, processing_kwargs=as_lists)
    return {name: _table_of(value) if isinstance(value, list) else value for name, value in features.items()}


def _table_of(rows: list[list[int]] | list[list[float]]) -> torch.Tensor:
    """Return a table as torch makes it: of int64 or float32 numbers."""
    table = np.array(rows)
    return torch.from_numpy(table.astype(np.float32) if table.dtype == np.float64 else table)


@dataclass(frozen=True)
class _Batch:
    """The rows of some texts (shape ``[n]``) and what the model takes of them."""

    rows: npt.NDArray[np.int64]
    features: dict[str, Any]


def _cut(
    model: SentenceTransformer, texts: Sequence[str], prompt: str, task: Task, max_tokens: int
) -> Iterator[_Batch]:
    sizes = np.array([len(text) for text in texts])
    order = np.argsort(-sizes, kind="stable")
    for window in cut_by_padded_size(sizes[order], WINDOW_BATCHES * CHARACTERS_PER_TOKEN * max_tokens):
        features = tokenise(model, [texts[row] for row in order[window]], prompt, task)
        lengths = features["attention_mask"].sum(dim=1).numpy()
        by_length = np.argsort(-lengths, kind="stable")
        for batch in cut_by_padded_size(lengths[by_length], max_tokens):
            yield _Batch(order[window][by_length[batch]], _take(features, by_length[batch]))


def _keeps_nothing(model: SentenceTransformer) -> bool:
    """Return whether a model is known to change nothing of itself in a pass, so that passes may run side by side.

    Others do: rotary embeddings, for instance, keep tables that grow with the longest text.
    """
    from sentence_transformers.base.modules import Transformer  # noqa: PLC0415 - seconds to import
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling  # noqa: PLC0415

    transformer = model.transformers_model
    return (
        transformer is not None
        and type(transformer).__module__.startswith("transformers.")
        and transformer.config.model_type in STATELESS_TYPES
        and all(isinstance(module, Transformer | Pooling | Dense | Normalize) for module in model)
    )


def cut_by_padded_size(lengths: npt.NDArray[np.int64], max_size: int) -> Iterator[slice]:
    """Cut n texts (``lengths``: shape ``[n]``, falling) into runs of one text, or of number times longest in budget."""
    start = 0
    while start < len(lengths):
        stop = min(len(lengths), start + max(1, max_size // max(1, int(lengths[start]))))
        yield slice(start, stop)
        start = stop


def _is_table(features: dict[str, Any], num_texts: int) -> bool:
    """Return whether every tensor is a table of one row per text and one column per token."""
    tensors = [value for value in features.values() if torch.is_tensor(value)]
    if not {"input_ids", "attention_mask"} <= features.keys() or features["input_ids"].ndim != 2:
        return False
    shape = features["input_ids"].shape
    return shape[0] == num_texts and all(tensor.shape == shape for tensor in tensors)


def _take(features: dict[str, Any], rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return some rows of a table without the columns, left or right, that are padding in all of them."""
    chosen = torch.from_numpy(rows)
    used = torch.nonzero(features["attention_mask"][chosen].any(dim=0)).flatten()
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    return {
        key: value[chosen, first : last + 1] if torch.is_tensor(value) else value for key, value in features.items()
    }
