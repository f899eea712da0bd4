"""The layers of BERT and its relatives in bfloat16, for a CPU that multiplies bfloat16.

The same steps as in ``transformers``: weights are packed once as the processor multiplies them, query, key and value
are one product, and what lies between products is one compiled pass each, where torch takes several. A pass through
MiniLM took 0.81 to 0.86 of the time of theirs (1,024 tokens, texts of 256 to 28, AMD Zen 4). A sum and its norm round
once, so that vectors are as near to those of float32 as with their layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
import torch
from torch.nn import LayerNorm, Linear, Module

from hn_datasets.teachers.attention import attend

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKS = hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
"""Whether torch has the operation that packs weights, which it does not promise."""

GELU_END = np.float32(4.4)
"""From here on GELU(x) is x, and 0 from the negative of it on, to 0.00003."""


def quicken_layers(model: SentenceTransformer) -> None:
    """Put layers of this module in the place of those of a model in bfloat16 on a CPU, if all of them are known.

    The model can only compute then: it cannot be copied, saved, moved, or trained.
    """
    from sentence_transformers.base.modules import Transformer  # noqa: PLC0415 - seconds to import
    from transformers import BertModel, DistilBertModel, RobertaModel, XLMRobertaModel  # noqa: PLC0415

    first: Any = model[0]
    if type(first) is not Transformer or type(first.model) not in (
        BertModel, DistilBertModel, RobertaModel, XLMRobertaModel
    ):  # fmt: skip
        return
    network, outputs = first.model, [value["method_output_name"] for value in first.modality_config.values()]
    settings = ("is_decoder", "add_cross_attention", "output_hidden_states", "output_attentions")
    if (
        network.config._attn_implementation != "sdpa"
        or any(getattr(network.config, name, False) for name in settings)
        or outputs != ["last_hidden_state"]
    ):
        return
    layers: Any = network.transformer.layer if isinstance(network, DistilBertModel) else network.encoder.layer
    if all(_is_untouched(module, type(network).__module__) for module in layers.modules()):
        for number, layer in enumerate(layers):
            layers[number] = EncoderLayer(_parts_of(layer))


def _is_untouched(module: Module, source: str) -> bool:
    """Return whether a module computes what its type says, and its type is known here or of the network's source."""
    weights = module.parameters(recurse=False)
    sources = ("torch.nn.modules.activation", "transformers.activations", source)
    known = type(module) in (Linear, LayerNorm, torch.nn.Dropout, torch.nn.ModuleList)
    return (
        (known or type(module).__module__.startswith(sources))
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and all(
            type(weight) is torch.nn.Parameter and weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
            for weight in weights
        )
    )


class _Parts(NamedTuple):
    """What a layer is made of."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    attention_norm: LayerNorm
    up: Linear
    activation: Any
    down: Linear
    norm: LayerNorm
    head_size: int
    scaling: float


def _parts_of(layer: Any) -> _Parts:
    """Return the parts of a layer of DistilBERT, or of one of the others."""
    if hasattr(layer, "ffn"):
        own, feed = layer.attention, layer.ffn
        return _Parts(
            own.q_lin, own.k_lin, own.v_lin, own.out_lin, layer.sa_layer_norm, feed.lin1, feed.activation, feed.lin2,
            layer.output_layer_norm, own.attention_head_size, own.scaling,
        )  # fmt: skip
    own, after, inner, output = layer.attention.self, layer.attention.output, layer.intermediate, layer.output
    return _Parts(
        own.query, own.key, own.value, after.dense, after.LayerNorm, inner.dense, inner.intermediate_act_fn,
        output.dense, output.LayerNorm, own.attention_head_size, own.scaling,
    )  # fmt: skip


class EncoderLayer(Module):
    """One layer: attention, and two products with an activation between them, each added to what came in.

    Args:
        parts: of a layer in bfloat16; its weights are not kept.
    """

    def __init__(self, parts: _Parts) -> None:
        from transformers.activations import GELUActivation  # noqa: PLC0415 - seconds to import

        super().__init__()
        self.head_size, self.scaling = parts.head_size, parts.scaling
        self.query_key_value, self.out = _Product(parts.query, parts.key, parts.value), _Product(parts.out)
        self.up, self.down = _Product(parts.up), _Product(parts.down)
        self.activation = _gelu if type(parts.activation) is GELUActivation else parts.activation
        self.attention_norm, self.norm = _Norm(parts.attention_norm), _Norm(parts.norm)

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor | None = None, *others: Any, **options: Any
    ) -> torch.Tensor:
        """Return new states of tokens.

        Args:
            states: shape ``[num_texts, num_tokens, width]``, bfloat16.
            mask: shape ``[num_texts, 1, num_tokens, num_tokens]``, bool, one for all queries of a text; or None.
            others: what layers that look at another text get, all None.
            options: names of it, likewise.

        Raises:
            NotImplementedError: there is more to look at than the tokens themselves.
        """
        further = (*others, *(options.get(name) for name in ("past_key_values", "encoder_attention_mask")))
        if any(value is not None for value in further) or (mask is not None and mask.dtype != torch.bool):
            raise NotImplementedError("Expected tokens and a mask of bools, got more; use precision='float32'.")
        num_texts, num_tokens, width = states.shape
        parts = self.query_key_value(states)
        parts = parts.view(num_texts, num_tokens, 3, width // self.head_size, self.head_size)
        query, key, value = parts.permute(2, 0, 3, 1, 4).contiguous()
        taken = attend(query, key, value, self.scaling, mask[:, 0, 0] if mask is not None else None)
        taken = taken.transpose(1, 2).reshape(num_texts, num_tokens, width)
        states = self.attention_norm(self.out(taken), states)
        ended: torch.Tensor = self.norm(self.down(self.activation(self.up(states))), states)
        return ended


class _Product(Module):
    """One or more linear layers side by side, whose weights lie as the processor multiplies them, where torch can.

    Args:
        layers: of the same input.
    """

    def __init__(self, *layers: Linear) -> None:
        super().__init__()
        weight = torch.cat([layer.weight.detach() for layer in layers])
        biases: list[torch.Tensor] = [
            layer.bias if layer.bias is not None else weight.new_zeros(layer.out_features) for layer in layers
        ]
        self._is_packed = PACKS
        self.weight = torch.nn.Buffer(torch.ops.mkldnn._reorder_linear_weight(weight) if PACKS else weight)
        self.bias = torch.nn.Buffer(torch.cat(biases).detach())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if not self._is_packed:
            return torch.nn.functional.linear(states, self.weight, self.bias)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
        return product


class _Norm(Module):
    """The layer norm of a sum; its weights are float32."""

    def __init__(self, layer: LayerNorm) -> None:
        super().__init__()
        self._weight, self._bias = (
            given.detach().float().numpy()
            if given is not None
            else np.full(layer.normalized_shape, neutral, np.float32)
            for given, neutral in ((layer.weight, 1.0), (layer.bias, 0.0))
        )
        self._epsilon = np.float32(layer.eps)

    def forward(self, states: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        _add_and_normalise(_bits_of(states), _bits_of(others), self._weight, self._bias, self._epsilon)
        return states


def _gelu(states: torch.Tensor) -> torch.Tensor:
    _put_gelu(_bits_of(states))
    return states


def _bits_of(states: torch.Tensor) -> Any:
    """Return the bits of bfloat16 numbers, shape ``[num_tokens, width]``, uint16, in the same memory."""
    return states.view(torch.uint16).flatten(0, -2).numpy()


@numba.njit(  # type: ignore[untyped-decorator]
    nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy"
)
def _add_and_normalise(bits: Any, others: Any, weight: Any, bias: Any, epsilon: Any) -> None:
    """Put the layer norm of each row of a sum in the place of its first part; both are bits of bfloat16 numbers."""
    width, shift = bits.shape[1], np.uint32(16)
    row = np.empty(width, np.float32)
    for token in range(bits.shape[0]):
        total, squares = np.float32(0), np.float32(0)
        for place in range(width):
            number = np.uint32(np.uint32(bits[token, place]) << shift).view(np.float32)
            row[place] = number + np.uint32(np.uint32(others[token, place]) << shift).view(np.float32)
            total += row[place]
        mean = total / np.float32(width)
        for place in range(width):
            squares += (row[place] - mean) * (row[place] - mean)
        scale = np.float32(1) / np.sqrt(squares / np.float32(width) + epsilon)
        if squares == np.float32(np.inf):  # beyond what float32 holds: that has to be noticed
            scale = np.float32(np.nan)
        for place in range(width):
            number = np.float32((row[place] - mean) * scale * weight[place] + bias[place]).view(np.uint32)
            bits[token, place] = np.uint16(np.uint32(number + np.uint32(1 << 15)) >> shift)


@numba.njit(  # type: ignore[untyped-decorator]
    nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy"
)
def _put_gelu(bits: Any) -> None:
    """Put GELU(x) in the place of each x, bits of bfloat16 numbers; off by at most 0.00005 before it is rounded."""
    shift = np.uint32(16)
    for token in range(bits.shape[0]):
        for place in range(bits.shape[1]):
            number = np.uint32(np.uint32(bits[token, place]) << shift).view(np.float32)
            inside = min(max(number, -GELU_END), GELU_END)
            square = inside * inside
            # The normal distribution, fitted so that the error of GELU is smallest, and 1 at the end.
            rest = np.float32(1.7409268e-7) + square * (np.float32(-3.7542797e-9) + square * np.float32(3.5697049e-11))
            rest = np.float32(8.4294533e-5) + square * (np.float32(-4.7250136e-6) + square * rest)
            rest = np.float32(9.6430563e-3) + square * (np.float32(-1.0550015e-3) + square * rest)
            rest = np.float32(0.39876162) + square * (np.float32(-6.6076470e-2) + square * rest)
            share = np.float32(0.5) + inside * rest if number > -GELU_END else np.float32(0)
            value = np.float32(number * share).view(np.uint32)
            bits[token, place] = np.uint16(np.uint32(value + np.uint32(1 << 15)) >> shift)
