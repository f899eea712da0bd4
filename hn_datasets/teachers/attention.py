"""Attention in bfloat16 on a CPU that multiplies bfloat16.

The kernel of torch multiplies in float32 there, unless it has AMX, and takes 2.4 to 2.6 times as long as these steps on
all texts of a pass: products, powers of two without the search for the largest that a softmax begins with, products
that sum values and weights at once, and the quotient of the two sums. Padding is taken out where it is small, in the
values. Texts whose powers leave the range of float32, and passes with more of them than memory should hold, are left to
the kernel of torch.

Scores are bfloat16 before they are powers, so weights are as far off as scores are high: one of 2**5 by up to 4 %. With
MiniLM, whose scores reach 2**7, vectors are as near to those of float32 as with the kernel of torch: cosines of 0.99995
(abstracts) and 0.99991 (short questions in a language that it hardly knows).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NAME = "hn_datasets_bfloat16"
"""What ``transformers`` knows this attention by."""

MODEL_TYPES = frozenset({"bert", "roberta", "xlm-roberta", "distilbert"})
"""Encoders whose attention is nothing but a softmax of products, with one mask for all queries of a text."""

MOST_SCORES = 1 << 24
"""Scores of a pass, of all heads: 32 MiB, which is a text of 1,024 tokens in 16 heads."""

SMALLEST_SUM = 2.0**-100
"""Sums below it have lost weights that count; the largest number is 2**128."""


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
    others = getattr(module, "is_causal", False) or any(options.get(name) for name in ("dropout", "is_causal"))
    others = others or any(options.get(name) is not None for name in ("position_bias", "cache"))
    if others or num_texts * heads * num_tokens * key.shape[2] > MOST_SCORES:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    scale = (scaling if scaling is not None else dimension**-0.5) * math.log2(math.e)
    weights = torch.matmul(query * scale, key.transpose(2, 3)).exp2_()
    counted = attention_mask[:, :, 0, :, None] if attention_mask is not None else value.new_ones(())
    given = torch.cat([value * counted, counted.to(value.dtype).expand(*value.shape[:3], 1)], dim=3)
    both = torch.matmul(weights, given)
    taken, sums = both[..., :dimension], both[..., dimension:]
    found = (taken / sums).transpose(1, 2).contiguous()
    in_range = (sums.amin(dim=(1, 2, 3)) > SMALLEST_SUM) & both.sum(dim=(1, 2, 3)).isfinite()
    if not in_range.all():
        rest = ~in_range
        masks = attention_mask[rest] if attention_mask is not None else None
        of_rest = sdpa_attention_forward(module, query[rest], key[rest], value[rest], masks, scaling=scaling, **options)
        found[rest] = of_rest[0]
    return found, None
