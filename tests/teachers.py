"""A teacher for tests: unit vectors made from the digests of texts, the same in every process."""

import hashlib
import os
import signal
from pathlib import Path

import numpy as np


class HashTeacher:
    """Deterministic unit vectors; counts encoded texts in a file, and may kill its own process.

    Args:
        log: one line is appended for each text that is encoded.
        die_after: the process kills itself in the call after so many calls of ``encode``.
    """

    similarity = "cosine"

    def __init__(self, dimension=8, log=None, die_after=None, name="hash"):
        self.dimension, self.name, self.log, self.die_after = dimension, name, log, die_after
        self.calls = 0

    def spec(self):
        return {"type": "hash", "name": self.name, "dimension": self.dimension}

    def space(self, role):
        return hashlib.blake2b(f"{self.name} {self.dimension}".encode(), digest_size=16).hexdigest()

    def encode(self, texts, role):
        if self.die_after is not None and self.calls >= self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1
        if self.log:
            with Path(self.log).open("a") as file:
                file.writelines(f"{text}\n" for text in texts)
        seeds = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in texts]
        vectors = np.stack([np.random.default_rng(seed).standard_normal(self.dimension) for seed in seeds])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
