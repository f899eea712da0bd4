"""SentenceTransformers as teachers need them: loaded, in a precision, with texts of a length."""

from __future__ import annotations

import copy
import platform
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.teachers.encoder_layers import quicken_layers
from hn_datasets.teachers.graphs import describe_graph, graph_options

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

NO_LENGTH = 10**9
"""Tokenizers and static embeddings without a longest text have lengths above this, or infinity, which JSON lacks."""

_ABSOLUTE = (None, "absolute")


def is_sentence_transformer(value: object) -> TypeGuard[SentenceTransformer]:
    """Return whether a value is a loaded SentenceTransformer."""
    return _is_loaded(value, "SentenceTransformer")


def is_cross_encoder(value: object) -> TypeGuard[CrossEncoder]:
    """Return whether a value is a loaded CrossEncoder."""
    return _is_loaded(value, "CrossEncoder")


def _is_loaded(value: object, kind: str) -> bool:
    # Nothing can be one before somebody has imported the package, which takes seconds.
    package = sys.modules.get("sentence_transformers")
    return isinstance(value, getattr(package, kind, ()))  # nor while another thread imports it


def load_model(
    model: str | Path,
    device: str | list[str] | None,
    revision: str | None,
    trust_remote_code: bool,
    graph: dict[str, Any] | None = None,
) -> SentenceTransformer:
    """Load a SentenceTransformer on the first of the devices.

    Args:
        model: a name on the Hub, or a folder.
        device: one, several, or what sentence-transformers chooses if None.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run code that comes with the model.
        graph: loads an exported graph that ``describe_graph`` described.

    Raises:
        TeacherError: it cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - seconds to import

    name = str(model)
    first = device[0] if isinstance(device, list) else device
    try:
        return SentenceTransformer(
            name,
            device=first,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **({} if graph is None else graph_options(graph)),
        )
    except Exception as error:  # a damaged file or the model's own code can raise anything
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            advice = "read that code, and pass trust_remote_code=True to run it"
        elif graph is not None:
            advice = f"install what the {graph['backend']} backend needs, or use the model with backend='torch'"
        elif Path(name).exists():
            advice = "check what is in that folder"
        else:
            advice = f"check the name, or download it once (`hf download {name}`) and set HF_HUB_OFFLINE=1"
        raise TeacherError(
            f"Could not load the teacher {name!r} as a SentenceTransformer, neither from a folder nor from the Hub "
            f"({reason}); {advice}."
        ) from error


def with_precision(
    model: SentenceTransformer, precision: str, *, keep: bool, travels: bool = False
) -> tuple[SentenceTransformer, str]:
    """Return the model with its transformer in a precision, and the name of that precision.

    Args:
        model: any.
        precision: a name, or "auto".
        keep: whether the model belongs to somebody else; then a copy is changed.
        travels: whether it goes to other processes, which know only what comes with ``transformers``.
    """
    if graph := describe_graph(model):
        if precision not in ("auto", graph["precision"]):
            raise ArgumentError(
                f"precision={precision!r} has no effect on a model with the {graph['backend']} backend, which computes "
                f"in {graph['precision']}; choose it when the model is exported or loaded."
            )
        return model, graph["precision"]
    parameters = list(model.parameters())
    present = str(parameters[0].dtype).removeprefix("torch.") if parameters else "float32"
    if precision == "auto":
        # Word vectors are looked up, not multiplied: they would only be rounded.
        wanted = present if keep or model.transformers_model is None else fast_precision(model.device)
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
    if model.device.type == "cpu" and wanted == "bfloat16" == fast_precision(model.device) and not travels:
        quicken_layers(model)
    return model, wanted


def _to_float32(_module: torch.nn.Module, _inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Let pooling and normalising, which follow the transformer, work in float32."""
    floats = {
        key: value.float() for key, value in features.items() if torch.is_tensor(value) and value.is_floating_point()
    }
    return {**features, **floats}


def fast_precision(device: torch.device) -> str:
    """Return what ``precision="auto"`` means on a device."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if device.type != "cpu":
        return "float32"
    fast = torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and _is_of_amd())
    return "bfloat16" if fast else "float32"


@lru_cache(maxsize=1)
def _is_of_amd() -> bool:
    """Return whether this is a processor of AMD.

    That a processor has the instruction for bfloat16 says nothing of its rate: AMD's take from a third to a half of the
    time of float32, Intel's without AMX twice the time. The answer is part of what vectors are kept under, so it has to
    be the same every time: products timed on a busy machine were not.
    """
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        about = platform.processor()
    return "AuthenticAMD" in about


def resolve_length(model: SentenceTransformer, given: int | None) -> int | None:
    """Return how many tokens of a text count; None for a model that takes texts of any length.

    Raises:
        ArgumentError: a length is given that has no effect, or for which the model has no positions.
    """
    if given is None:
        length = model.max_seq_length
        return None if length is None or length >= NO_LENGTH else int(length)
    attribute = getattr(type(model[0]), "max_seq_length", None)
    if not hasattr(model[0], "max_seq_length") or (isinstance(attribute, property) and attribute.fset is None):
        raise ArgumentError(f"max_seq_length has no effect on a {type(model[0]).__name__}; leave it out.")
    most = _num_positions(model)
    if most is not None and given > most:
        raise ArgumentError(f"Expected max_seq_length of at most {most}, the model's positions, got {given}; lower it.")
    return given


def _num_positions(model: SentenceTransformer) -> int | None:
    """Return for how many tokens a transformer has learned positions; None where they are relative or rotary."""
    network = model.transformers_model
    config = getattr(network, "config", None)
    if not isinstance(network, torch.nn.Module) or getattr(config, "position_embedding_type", None) not in _ABSOLUTE:
        return None
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa and its kin count positions from the one after that of padding.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def set_length(model: SentenceTransformer, length: int | None) -> None:
    """Let a model cut texts after so many tokens; some refuse any number, even the one that they have."""
    if model.max_seq_length != length:
        model.max_seq_length = length


def similarity_of(model: SentenceTransformer) -> str:
    """Return ``"cosine"`` or ``"dot"``.

    Raises:
        ArgumentError: the model has another similarity.
    """
    name = str(model.similarity_fn_name)
    if name not in ("cosine", "dot"):
        raise ArgumentError(f"Expected a teacher with cosine or dot similarity, got {name!r}; set similarity_fn_name.")
    return name
