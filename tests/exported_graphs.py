"""Stand-ins for ``optimum``, which no test may need: sentence-transformers loads them as it loads the real one.

A graph computes with the torch weights of its folder. Like OpenVINO's, what it saves has other names each time, and it
computes in the precision that it is told to, else in one that the machine chooses. Like ONNX's, it knows its file.
"""

import itertools
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from transformers import AutoModel

COUNTER = itertools.count()
MACHINE = {"precision": "bf16"}
NAMES = ("CausalLM", "FeatureExtraction", "MaskedLM", "SequenceClassification")
TYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


class Graph:
    def __init__(self, folder, config, precision):
        self.config, self._network = config, AutoModel.from_pretrained(folder, config=config).eval()
        self._network.to(TYPES[precision])

    def forward(self, input_ids, attention_mask, token_type_ids=None, **_):
        states = self._network(input_ids, attention_mask, token_type_ids).last_hidden_state
        return SimpleNamespace(last_hidden_state=states.float())

    def __call__(self, **features):
        return self.forward(**features)

    def eval(self):
        return self

    def save_pretrained(self, folder):
        self.config.save_pretrained(folder)
        self._save_pretrained(Path(folder))

    def _weights(self):
        return b"".join(tensor.float().numpy().tobytes() for tensor in self._network.state_dict().values())


class OpenVINOGraph(Graph):
    def __init__(self, folder, config, precision):
        super().__init__(folder, config, precision)
        self._precision, self.request = precision, None

    @classmethod
    def from_pretrained(cls, folder, *, config, export, ov_config, **_):
        return cls(folder, config, ov_config.get("INFERENCE_PRECISION_HINT", MACHINE["precision"]))

    def compile(self):
        hint = SimpleNamespace(to_string=lambda: self._precision)
        self.request = SimpleNamespace(get_property={"INFERENCE_PRECISION_HINT": hint}.get)

    def _save_pretrained(self, folder):
        number = next(COUNTER)
        layer = f'<layer id="0" name="MatMul_{number}" type="MatMul"><port names="{number}"/></layer>'
        (folder / "openvino_model.xml").write_text(f"<net>{layer}<rt_info>\n<v value='{number}'/>\n</rt_info></net>")
        (folder / "openvino_model.bin").write_bytes(self._weights())


class ONNXGraph(Graph):
    def __init__(self, folder, config, precision, file_name):
        super().__init__(folder, config, precision)
        self.path = Path(folder) / file_name

    @classmethod
    def from_pretrained(cls, folder, *, config, export, provider, file_name="model.onnx", **_):
        return cls(folder, config, "bf16" if "bf16" in file_name else "f32", file_name)

    def _save_pretrained(self, folder):
        (folder / self.path.name).write_bytes(self._weights())


def install(monkeypatch):
    """Let ``import optimum`` find the stand-ins."""
    modules = {name: ModuleType(name) for name in ("optimum", "optimum.intel", "optimum.onnxruntime", "onnxruntime")}
    openvino = modules["optimum.intel.openvino"] = ModuleType("optimum.intel.openvino")
    openvino.OV_XML_FILE_NAME = "openvino_model.xml"
    modules["optimum.onnxruntime"].ONNX_WEIGHTS_NAME = "model.onnx"
    modules["onnxruntime"].get_available_providers = lambda: ["CPUExecutionProvider"]
    for name in NAMES:
        setattr(openvino, f"OVModelFor{name}", OpenVINOGraph)
        setattr(modules["optimum.onnxruntime"], f"ORTModelFor{name}", ONNXGraph)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
