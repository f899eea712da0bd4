"""Attention in bfloat16 on a CPU that multiplies bfloat16.

The kernel of torch multiplies in float32 there, unless it has AMX. These steps take less than half of its time on all
texts of a pass: products of bfloat16, a softmax of them in one compiled pass, and products again. Passes with more
scores than memory should hold are left to the kernel of torch.

Scores are bfloat16 before they are weights, so weights are as far off as scores are high: one of 2**5 by up to 4 %.
With MiniLM, whose scores reach 2**7, vectors are as near to those of float32 as with the kernel of torch: cosines of
0.99995 (abstracts) and 0.99991 (short questions in a language that it hardly knows).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NAME = "hn_datasets_bfloat16"
"""What ``transformers`` knows this attention by."""

MODEL_TYPES = frozenset({"bert", "roberta", "xlm-roberta", "distilbert"})
"""Encoders whose attention is nothing but a softmax of products, with one mask for all queries of a text."""

MOST_SCORES = 1 << 24
"""Scores of a pass, of all heads: 32 MiB, which is a text of 1,024 tokens in 16 heads."""

SMALLEST_POWER = -120.0
"""Smaller powers of two weigh nothing; a normal number of float32 has at least 2**-126."""


def quicken_attention(model: SentenceTransformer) -> None:
    """Let a model in bfloat16 on a CPU attend in this way, if it is an encoder that is known to allow it."""
    network = model.transformers_model
    if network is None or network.config.model_type not in MODEL_TYPES or getattr(network.config, "is_decoder", False):
        return
    if network.config._attn_implementation == "sdpa":
        _register()
        network.set_attn_implementation(NAME)


@lru_cache(maxsize=1)
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface  # noqa: PLC0415 - seconds to import
    from transformers.masking_utils import sdpa_mask  # noqa: PLC0415

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return what each query takes from the values, as ``transformers`` asks its attention functions.

    Args:
        module: the layer.
        query: shape ``[num_texts, heads, num_tokens, d]``, as are key and value.
        key: one for each token.
        value: what the tokens give.
        attention_mask: shape ``[num_texts, 1, num_tokens, num_tokens]``, bool, one for all queries of a text; or None.
        scaling: of the products; one over the root of d if None.
        options: what else the function of torch takes.

    Returns:
        Shape ``[num_texts, num_tokens, heads, d]``, and None.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: PLC0415 - seconds to import

    num_texts, heads, num_tokens, dimension = query.shape
    others = query.dtype != torch.bfloat16 or (torch.is_grad_enabled() and query.requires_grad)
    others = others or getattr(module, "is_causal", False)
    others = others or any(options.get(name) for name in ("dropout", "is_causal"))
    others = others or any(options.get(name) is not None for name in ("position_bias", "cache"))
    if others or num_texts * heads * num_tokens * key.shape[2] > MOST_SCORES:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    # Products of what does not lie in one piece copy it themselves, which takes half as long as they do.
    query, key, value = (part.contiguous().flatten(0, 1) for part in (query, key, value))
    weights = torch.bmm(query, key.transpose(1, 2))
    factor = (scaling if scaling is not None else dimension**-0.5) * math.log2(math.e)
    counted = attention_mask[:, 0, 0] if attention_mask is not None else torch.ones((), dtype=torch.bool)
    counted = counted.expand(num_texts, key.shape[1]).contiguous()
    _weigh(weights.view(torch.uint16).numpy(), np.float32(factor), counted.numpy())
    found = torch.bmm(weights, value).view(num_texts, heads, num_tokens, value.shape[2])
    return found.transpose(1, 2).contiguous(), None


@numba.njit(  # type: ignore[untyped-decorator]
    nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy"
)
def _weigh(bits: Any, factor: Any, counted: Any) -> None:
    """Put in the place of scores the powers of two of ``factor`` times them, as shares of the sum of each row.

    Every loop over a row compiles to vector code, the largest of integers that rise as the floats do among them.

    Args:
        bits: shape ``[num_texts * heads, num_tokens, n]``, uint16: bfloat16 numbers.
        factor: float32.
        counted: shape ``[num_texts, n]``, bool: what else has no share.
    """
    heads, width = bits.shape[0] // max(1, len(counted)), bits.shape[2]
    powers, negative, shift = np.empty(width, np.float32), np.int32(0x7FFFFFFF), np.uint32(16)
    for line in range(bits.shape[0] * bits.shape[1]):
        matrix, row = line // bits.shape[1], line % bits.shape[1]
        text = matrix // heads
        top = np.int32(-(2**31))
        for key in range(width):
            power = np.uint32(np.uint32(bits[matrix, row, key]) << shift).view(np.float32) * factor
            power = power if counted[text, key] else np.float32(-np.inf)
            powers[key] = power
            number = np.float32(power).view(np.int32)
            top = max(top, np.int32(number ^ np.int32(np.int32(number >> np.int32(31)) & negative)))
        highest = np.int32(top ^ np.int32(np.int32(top >> np.int32(31)) & negative)).view(np.float32)
        if highest == np.float32(-np.inf):  # nothing counts
            highest = np.float32(0)
        total = np.float32(0)
        for key in range(width):
            power = powers[key] - highest
            whole = np.floor(power)
            part = power - whole
            # 2**part to 0.00009, and exactly 1 for the highest.
            cubic = np.float32(0.2276450) + part * np.float32(0.0770671)
            fraction = np.float32(1) + part * (np.float32(0.6951168) + part * cubic)
            exponent = np.int32(max(whole, np.float32(SMALLEST_POWER))) << np.int32(23)
            weight = np.int32(np.float32(fraction).view(np.int32) + exponent).view(np.float32)
            small = np.float32(0) if power <= np.float32(SMALLEST_POWER) else power  # which is no number, then
            weight = weight if power > np.float32(SMALLEST_POWER) else small
            powers[key] = weight
            total += weight
        share = np.float32(1) / total if total != np.float32(0) else np.float32(0)
        for key in range(width):
            number = np.float32(powers[key] * share).view(np.uint32)
            bits[matrix, row, key] = np.uint16(np.uint32(number + np.uint32(1 << 15)) >> shift)
