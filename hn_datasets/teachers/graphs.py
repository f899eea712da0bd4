"""Models whose transformer is an exported graph, run by ONNX Runtime or OpenVINO, and what tells them apart.

Torch sees no weights in them. OpenVINO computes in the precision that suits the machine, whatever the graph holds.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

OPENVINO_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""OpenVINO's names of the precisions that it computes in."""

PRECISION_OF_FILE = "as exported"
"""The precision of an ONNX graph, which is part of it."""

_CHANCE = re.compile(rb'<rt_info>.*?</rt_info>| names?="[^"]*"', re.DOTALL)
"""What differs between two exports of one model to OpenVINO: versions, and names that are counted on."""

_BLOCK = 1 << 24


def describe_graph(model: SentenceTransformer | CrossEncoder) -> dict[str, str]:
    """Return what identifies an exported graph beside its digest: backend, precision, and the file if it says so.

    Nothing for a model of torch.
    """
    graph = _graph_of(model)
    if graph is None:
        return {}
    described = {"backend": str(model.get_backend()), "precision": PRECISION_OF_FILE}
    if described["backend"] == "openvino":
        graph.compile()
        name = graph.request.get_property("INFERENCE_PRECISION_HINT").to_string()
        described["precision"] = OPENVINO_TYPES.get(name, name)
    elif (path := getattr(graph, "path", None)) is not None:
        described["file"] = Path(path).name
    return described


def graph_options(described: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of SentenceTransformer that load such a graph again."""
    options: dict[str, Any] = {}
    if described["backend"] == "openvino":
        names = {precision: name for name, precision in OPENVINO_TYPES.items()}
        options["ov_config"] = {"INFERENCE_PRECISION_HINT": names.get(described["precision"], described["precision"])}
    if "file" in described:
        options["file_name"] = described["file"]
    return {"backend": described["backend"], "model_kwargs": options}


def digest_graph(model: SentenceTransformer | CrossEncoder) -> str:
    """Return a digest of the weights and operations of an exported graph; empty for a model of torch.

    A graph that is exported twice, or exported, saved and loaded, has one digest.
    """
    graph = _graph_of(model)
    if graph is None:
        return ""
    state = xxhash.xxh3_128()
    with tempfile.TemporaryDirectory() as folder:
        graph.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix == ".xml":
                state.update(_CHANCE.sub(b"", path.read_bytes()))
            elif path.is_file() and path.suffix != ".json":
                with path.open("rb") as file:
                    while block := file.read(_BLOCK):
                        state.update(block)
    return state.hexdigest()


def _graph_of(model: SentenceTransformer | CrossEncoder) -> Any:
    """Return the exported graph in a model, or None."""
    return None if model.get_backend() == "torch" else model.transformers_model
