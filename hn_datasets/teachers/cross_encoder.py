"""Cross-encoders: scores of pairs, kept in the store like vectors of one component."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import numpy as np
import torch

from hn_datasets.errors import ArgumentError, TeacherError, VectorError
from hn_datasets.teachers.base import Floats, Role
from hn_datasets.teachers.identity import commit_of, digest_model, sum_weights
from hn_datasets.teachers.models import is_cross_encoder
from hn_datasets.texts import DIGEST_BYTES, Digests, digest_of
from hn_datasets.threads import is_forked, leave_parents_threads

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

BATCH_SIZE = 32
"""Pairs per forward pass."""

_LIVE: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""Scorers of this process by their spec: a forked worker finds here the model that its parent has loaded."""


class PairScorer:
    """Gives each (anchor, passage) pair the score of a CrossEncoder; to the store, an encoder of joined pairs.

    Args:
        model: a name on the Hub, a folder, or a loaded CrossEncoder (which is not changed).
        max_length: pairs are cut after so many tokens; the model's own length if None.
        batch_size: pairs per forward pass.
        revision: branch, tag or commit on the Hub.
        device: where the model is loaded.

    Raises:
        TeacherError: the model cannot be loaded.
        ArgumentError: the model has several labels, or an argument is out of range or has no effect.
    """

    similarity: Literal["cosine", "dot"] = "dot"
    dimension = 1

    def __init__(
        self,
        model: str | Path | CrossEncoder,
        *,
        max_length: int | None = None,
        batch_size: int | None = None,
        revision: str | None = None,
        device: str | None = None,
    ) -> None:
        for name, value in (("max_length", max_length), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ArgumentError(f"Expected {name} of at least 1, got {value}.")
        if is_cross_encoder(model):
            if revision is not None or device is not None:
                raise ArgumentError("revision and device have no effect on a loaded CrossEncoder; leave them out.")
            loaded, name = model, str(getattr(model.config, "name_or_path", "") or "CrossEncoder")
        else:
            loaded, name = _load(str(model), revision, device), str(model)
        _check_labels(loaded, name)
        length = max_length or loaded.max_seq_length
        self.batch_size = batch_size or BATCH_SIZE
        self._spec: dict[str, Any] = {
            "model": name,
            "revision": commit_of(name, revision),
            "weights": _digest(loaded),
            "max_length": int(length) if length else None,
        }
        self.__dict__["_model"] = loaded
        self._sums: torch.Tensor | None = sum_weights(model) if is_cross_encoder(model) else None
        _LIVE[_key(self._spec)] = self

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> PairScorer:
        """Return the scorer whose ``spec`` this is; the model is loaded when the first pair has to be scored."""
        live: PairScorer | None = _LIVE.get(_key(spec))
        if live is not None:
            return live
        scorer = cls.__new__(cls)
        scorer._spec = dict(spec)
        scorer.batch_size = BATCH_SIZE
        scorer._sums = None
        _LIVE[_key(spec)] = scorer
        return scorer

    def spec(self) -> dict[str, Any]:
        """Return name, revision, digest of the weights, and length."""
        return dict(self._spec)

    def space(self, role: Role) -> str:
        """Return the address of the scores in the store."""
        return digest_of("cross-encoder", self._spec["weights"], str(self._spec["max_length"]))

    def check(self) -> None:
        """Load the model, and score one pair.

        Raises:
            TeacherError: the model cannot be loaded, or is another one than it was.
            VectorError: the score is NaN or infinite.
        """
        self.encode([join_pair("What is a hard negative?", "A passage that looks right and is not.")], "pair")

    def encode(self, texts: Sequence[str], role: Role) -> Floats:
        """Return the scores of joined pairs, shape ``[len(texts), 1]``, float32.

        Raises:
            VectorError: a score is NaN or infinite.
            TeacherError: the model is not at hand any more, or it is on a GPU and this process is a forked worker.
        """
        model = self._model
        if self._sums is not None and not torch.equal(self._sums, sum_weights(model)):
            raise TeacherError(
                f"Expected the cross-encoder {self._spec['model']!r} with the weights that this guard was made with, "
                "but it has been trained since; make a new guard from it."
            )
        if is_forked():
            if model.device.type == "cuda":
                raise TeacherError(
                    "Expected one process for a cross-encoder on a GPU, got a forked worker; leave num_proc out."
                )
            leave_parents_threads()
        pairs = [_split_pair(text) for text in texts]
        before = model.max_seq_length
        model.max_seq_length = self._spec["max_length"] or before
        try:
            scores = model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False)
        finally:
            model.max_seq_length = before
        array = np.asarray(scores, dtype=np.float32).reshape(len(pairs), 1)
        bad = np.flatnonzero(~np.isfinite(array[:, 0]))
        if len(bad):
            raise VectorError(
                f"Expected finite scores from the cross-encoder {self._spec['model']!r}, got NaN or infinite ones for "
                f"{len(bad)} of {len(pairs)} pairs, first of the anchor {pairs[bad[0]][0][:60]!r}; choose another."
            )
        return array

    @cached_property
    def _model(self) -> CrossEncoder:
        spec = self._spec
        loaded = _load(spec["model"], spec["revision"], None)
        if _digest(loaded) != spec["weights"]:
            raise TeacherError(
                f"Expected the cross-encoder {spec['model']!r} with weights {spec['weights']}, got {_digest(loaded)}: "
                "the model has changed since; name its revision, or build the miner again."
            )
        return loaded


def join_pair(anchor: str, passage: str) -> str:
    """Return a pair as one text that can be taken apart again."""
    return f"{len(anchor)} {anchor}{passage}"


def digest_pairs(anchors: Digests, passages: Digests) -> Digests:
    """Return the digest of each pair (shape ``[n]``) from the digests of its two texts (both of shape ``[n]``)."""
    sides = [np.ascontiguousarray(side).view(np.uint8).reshape(-1, DIGEST_BYTES) for side in (anchors, passages)]
    rows = np.concatenate(sides, axis=1)
    joined = b"".join(hashlib.blake2b(row.tobytes(), digest_size=DIGEST_BYTES).digest() for row in rows)
    return np.frombuffer(joined, dtype=f"S{DIGEST_BYTES}")


def _split_pair(text: str) -> tuple[str, str]:
    length, _, rest = text.partition(" ")
    return rest[: int(length)], rest[int(length) :]


def _load(model: str, revision: str | None, device: str | None) -> CrossEncoder:
    from sentence_transformers import CrossEncoder  # noqa: PLC0415 - seconds to import

    try:
        loaded: CrossEncoder = CrossEncoder(model, revision=revision, device=device)
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise TeacherError(
            f"Could not load the cross-encoder {model!r}, neither from a folder nor from the Hub ({reason}); check the "
            f"name, or download it once (`hf download {model}`) and set HF_HUB_OFFLINE=1."
        ) from error
    return loaded


def _check_labels(model: CrossEncoder, name: str) -> None:
    if model.num_labels != 1:
        raise ArgumentError(
            f"Expected a cross-encoder with one label, a score, got {name!r} with {model.num_labels}; choose another."
        )


def _digest(model: CrossEncoder) -> str:
    """Return a digest of all that decides a score but the length."""
    from sentence_transformers.util import fullname  # noqa: PLC0415 - seconds to import

    settings = [fullname(model.activation_fn), model.prompts, model.default_prompt_name]
    return digest_of(digest_model(model), json.dumps(settings, sort_keys=True))


def _key(spec: dict[str, Any]) -> str:
    return digest_of(json.dumps(spec, sort_keys=True))
