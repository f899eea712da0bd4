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


class NodeKiller(HashTeacher):
    """Takes its node of a Ray cluster with it, once, when it is asked for vectors anywhere but on the head.

    Args:
        marker: a file that says that it has happened.
        head: id of the node that is spared.
    """

    def __init__(self, marker, head, **options):
        super().__init__(**options)
        self.marker, self.head = str(marker), head

    def encode(self, texts, role):
        import ray

        if ray.get_runtime_context().get_node_id() != self.head and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getppid(), signal.SIGKILL)  # the parent of a worker is its node
            signal.pause()
        return super().encode(texts, role)


class PickyTeacher(HashTeacher):
    """Fails on texts with certain words."""

    def encode(self, texts, role):
        if any("no 77" in text or "no 1002" in text for text in texts):
            raise ValueError("cannot read that")
        return super().encode(texts, role)
