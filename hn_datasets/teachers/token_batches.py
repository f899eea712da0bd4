"""Forward passes over as many texts as fill a budget of tokens, taken in the order of their true length.

A fixed number of texts per pass is too many long ones for the caches and too few short ones to be efficient, and texts
of one number of characters differ in tokens: the padding of questions came to 23-42 % in batches of 32, to 1-8 % here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device

WINDOW_CHARACTERS = 1 << 20
"""Padded characters of the texts that are tokenised at once, so of a table of tokens; batches are cut within it."""

CPU_TOKENS = 2048
"""Padded tokens of a forward pass: what it works on stays in the caches (within 3 % of the best of 512 to 8,192)."""

ACCELERATOR_TOKENS = 1 << 14

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


@torch.inference_mode()
def encode_by_tokens(
    model: SentenceTransformer, texts: Sequence[str], prompt: str, task: Task, max_tokens: int
) -> torch.Tensor:
    """Return what the last module of a model makes of each text, shape ``[len(texts), n]``, on the CPU.

    These are the vectors of ``model.encode`` to rounding, before they are cut and normalised. All passes are handed to
    the device before the first result is fetched, so that tokenising goes on while an accelerator computes.

    Args:
        model: one for which ``longest_of`` gives a number.
        texts: at least one text.
        prompt: put before every text.
        task: which side of the model.
        max_tokens: padded tokens of a pass; a longer text has a pass of its own.
    """
    model.eval()
    sizes = np.array([len(text) for text in texts])
    order = np.argsort(-sizes, kind="stable")
    rows: list[npt.NDArray[np.int64]] = []
    parts: list[torch.Tensor] = []
    for window in cut_by_padded_size(sizes[order], WINDOW_CHARACTERS):
        features = model.preprocess([texts[row] for row in order[window]], prompt=prompt, task=task)
        lengths = features["attention_mask"].sum(dim=1).numpy()
        by_length = np.argsort(-lengths, kind="stable")
        for batch in cut_by_padded_size(lengths[by_length], max_tokens):
            inputs = batch_to_device(_take(features, by_length[batch]), model.device)
            parts.append(model(inputs, task=task)["sentence_embedding"])
            rows.append(order[window][by_length[batch]])
    return torch.cat(parts).cpu()[torch.from_numpy(np.argsort(np.concatenate(rows)))]


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
