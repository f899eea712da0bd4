"""Attention in bfloat16 on a CPU that multiplies bfloat16.

The kernel of torch multiplies in float32 there, unless it has AMX. These steps take less than half of its time:
products of bfloat16, a softmax of them in one compiled pass, and products again, on as many scores at once as memory
should hold.

Scores are bfloat16 before they are weights, so weights are as far off as scores are high: one of 2**5 by up to 4 %.
With MiniLM, whose scores reach 2**7, vectors are as near to those of float32 as with the kernel of torch: cosines of
0.99995 (abstracts) and 0.99991 (short questions in a language that it hardly knows).
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch

BLOCK_SCORES = 1 << 22
"""Scores at once: 8 MiB. Fewer take longer, for each product has a start of its own."""

SMALLEST_POWER = -120.0
"""Smaller powers of two weigh nothing; a normal number of float32 has at least 2**-126."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what each query takes from the values, by a softmax of its products with the keys.

    Args:
        query: shape ``[num_texts, heads, num_tokens, d]``, bfloat16, without gaps in memory, as are key and value.
        key: one for each token.
        value: what the tokens give.
        scaling: of the products.
        counted: shape ``[num_texts, num_tokens]``, bool: tokens that are no padding; all if None.

    Returns:
        Shape ``[num_texts, heads, num_tokens, d]``, bfloat16; 0 where nothing counts.
    """
    num_texts, heads, num_tokens, _ = query.shape
    taken = query.new_empty((num_texts, heads, num_tokens, value.shape[3]))
    factor = np.float32(scaling * math.log2(math.e))
    matrices = max(1, BLOCK_SCORES // max(1, num_tokens * num_tokens))
    lines = max(1, BLOCK_SCORES // max(1, num_tokens))
    every = counted if counted is not None else torch.ones((), dtype=torch.bool, device=query.device)
    counts = every.expand(num_texts, num_tokens).repeat_interleave(heads, dim=0).numpy()
    queries, keys, values, answers = (part.flatten(0, 1) for part in (query, key, value, taken))
    for first in range(0, num_texts * heads, matrices):
        own = slice(first, first + matrices)
        for line in range(0, num_tokens, lines):
            weights = torch.bmm(queries[own, line : line + lines], keys[own].transpose(1, 2))
            _weigh(weights.view(torch.uint16).numpy(), factor, counts[own])
            torch.bmm(weights, values[own], out=answers[own, line : line + lines])
    return taken


@numba.njit(  # type: ignore[untyped-decorator]
    nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy"
)
def _weigh(bits: Any, factor: Any, counted: Any) -> None:
    """Put in the place of scores the powers of two of ``factor`` times them, as shares of the sum of each row.

    Every loop over a row compiles to vector code, the largest of integers that rise as the floats do among them.

    Args:
        bits: shape ``[n, num_queries, num_tokens]``, uint16: bfloat16 numbers.
        factor: float32.
        counted: shape ``[n, num_tokens]``, bool: what else has no share.
    """
    width = bits.shape[2]
    powers, negative, shift = np.empty(width, np.float32), np.int32(0x7FFFFFFF), np.uint32(16)
    for line in range(bits.shape[0] * bits.shape[1]):
        matrix, row = line // bits.shape[1], line % bits.shape[1]
        top = np.int32(-(2**31))
        for key in range(width):
            power = np.uint32(np.uint32(bits[matrix, row, key]) << shift).view(np.float32) * factor
            power = power if counted[matrix, key] else np.float32(-np.inf)
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
