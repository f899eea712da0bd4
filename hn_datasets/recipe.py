"""The recipe: every choice that decides which negatives come out, in one frozen object with one JSON form."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hn_datasets.errors import ArgumentError, DataSourceError
from hn_datasets.methods import Method, RandomNegatives, TopKPercPos, method_from_dict
from hn_datasets.modes import check_combination, draws_teacher, is_ensemble
from hn_datasets.texts import digest_of

ALGORITHM_VERSION = 1
"""Raised with every change of what comes out of the same recipe; part of the fingerprint of a ``map`` call, because
``datasets`` does not see a change of library code and would return old rows."""

_RECORD_SCHEMA = 1
"""That of ``record.SCHEMA_VERSION``, which this module comes before; a test holds both together."""

Sampling = Literal["top", "random", "softmax", "top1+softmax"]
SAMPLINGS = ("top", "random", "softmax", "top1+softmax")
OnEmpty = Literal["error", "skip"]

INDEX_PATTERN = r"IVF[1-9][0-9]*,SQ8"
"""FAISS factory strings that approximate search takes: inverted lists of 8-bit codes."""

SMALLEST_POOL = 10
"""NV-Retriever samples from the ten best; larger pools gave worse students (arXiv 2407.15831)."""


@dataclass(frozen=True)
class Recipe:
    """How negatives are chosen.

    Attributes:
        teacher: the teacher's ``spec``.
        method: the ceiling, and how many ranks to skip.
        num_negatives: negatives per row, at least 1.
        sampling: ``"top"``, or drawn from the ``pool`` best: ``"random"`` uniformly, ``"softmax"`` with probabilities
            ``softmax(score / temperature)``, ``"top1+softmax"`` the best one and the others by softmax.
        pool: how many of the best qualifying passages are drawn from; the larger of 10 and twice ``num_negatives`` if
            None.
        temperature: of the softmax, above 0; 1 if None.
        seed: of everything that is drawn; 0 if None.
        guards: the JSON forms of the guards.
        relabel_candidates: whether suspected positives, which a ceiling or guard keeps out, get a column of their own.
        anchor_column_name: the column of the anchors.
        positive_column_name: the column of the positives.
        on_empty: what happens with None, empty or white-space texts: ``"error"``, or ``"skip"`` the row.
        index: how the corpus is searched: exactly if None or ``"exact"``, approximately by inverted lists with
            ``"IVF4096,SQ8"`` (a FAISS factory string), as its size suggests with ``"auto"``. That of a miner is None
            or the factory string.

    Raises:
        ArgumentError: a value is out of range, contradicts another one, or has no effect.
    """

    teacher: dict[str, Any]
    method: Method = field(default_factory=TopKPercPos)
    num_negatives: int = 4
    sampling: Sampling = "top"
    pool: int | None = None
    temperature: float | None = None
    seed: int | None = None
    guards: tuple[dict[str, Any], ...] = ()
    relabel_candidates: bool = False
    anchor_column_name: str = "anchor"
    positive_column_name: str = "positive"
    on_empty: OnEmpty = "error"
    index: str | None = None
    algorithm_version: int = ALGORITHM_VERSION

    def __post_init__(self) -> None:
        self._check_types()
        self._check_values()
        self._check_effects()

    def _check_types(self) -> None:
        """Refuse what a recipe written by hand can hold, and what would fail later with less to say."""
        expected = {
            "teacher": (isinstance(self.teacher, dict), "an object, the teacher's spec"),
            "guards": (
                isinstance(self.guards, tuple) and all(isinstance(guard, dict) for guard in self.guards),
                "a list of objects",
            ),
            "temperature": (self.temperature is None or _is_number(self.temperature), "a number"),
            "seed": (self.seed is None or _is_whole(self.seed), "a whole number"),
            "relabel_candidates": (isinstance(self.relabel_candidates, bool), "true or false"),
            "anchor_column_name": (isinstance(self.anchor_column_name, str), "a string"),
            "positive_column_name": (isinstance(self.positive_column_name, str), "a string"),
            "algorithm_version": (_is_whole(self.algorithm_version), "a whole number"),
        }
        for name, (holds, kind) in expected.items():
            if not holds:
                raise ArgumentError(f"Expected {name} to be {kind}, got {getattr(self, name)!r}.")

    def _check_values(self) -> None:
        if not isinstance(self.method, Method):
            raise ArgumentError(f"Expected a method such as TopKPercPos(0.95), got {self.method!r}.")
        if not _is_whole(self.num_negatives) or self.num_negatives < 1:
            raise ArgumentError(f"Expected num_negatives of at least 1, got {self.num_negatives!r}.")
        if self.sampling not in SAMPLINGS:
            raise ArgumentError(f"Expected sampling to be one of {', '.join(SAMPLINGS)}, got {self.sampling!r}.")
        if self.pool is not None and (not _is_whole(self.pool) or self.pool < self.num_negatives):
            raise ArgumentError(
                f"Expected a pool of at least num_negatives={self.num_negatives}, got {self.pool!r}; "
                "enlarge the pool or ask for fewer negatives."
            )
        if self.temperature is not None and not self.temperature > 0:
            raise ArgumentError(f"Expected a temperature above 0, got {self.temperature!r}; near 0 is like 'top'.")
        if self.on_empty not in ("error", "skip"):
            raise ArgumentError(f"Expected on_empty to be 'error' or 'skip', got {self.on_empty!r}.")
        if self.index not in (None, "exact", "auto") and not re.fullmatch(INDEX_PATTERN, str(self.index)):
            raise ArgumentError(
                f"Expected index to be 'exact', 'auto' or inverted lists such as 'IVF4096,SQ8', got {self.index!r}."
            )
        if self.anchor_column_name == self.positive_column_name:
            raise ArgumentError(
                f"Expected two different columns, got {self.anchor_column_name!r} for anchors and for positives; "
                "name the column of the positives."
            )

    def _check_effects(self) -> None:
        if isinstance(self.method, RandomNegatives) and self.sampling != "top":
            raise ArgumentError(f"sampling={self.sampling!r} has no effect with RandomNegatives; leave it out.")
        if self.pool is not None and self.sampling == "top":
            raise ArgumentError(
                "pool has no effect with sampling='top'; choose 'random' or 'softmax', or leave it out."
            )
        if self.temperature is not None and "softmax" not in self.sampling:
            raise ArgumentError(f"temperature has no effect with sampling={self.sampling!r}; leave it out.")
        if is_ensemble(self.teacher):
            check_combination(self.teacher, self.method, self.sampling, self.method.skip + self.num_negatives)
        if self.relabel_candidates and not self.guards and np.isposinf(self.method.ceiling(np.zeros(1, np.float32))):
            raise ArgumentError(
                f"relabel_candidates has no effect with {type(self.method).__name__} and no guard, which keep nothing "
                "out; leave it out."
            )
        if self.seed is not None and not self.draws:
            raise ArgumentError("seed has no effect where nothing is drawn (sampling='top'); leave it out.")

    @property
    def draws(self) -> bool:
        """Whether chance, and so the seed, has a part in it."""
        return self.sampling != "top" or isinstance(self.method, RandomNegatives) or draws_teacher(self.teacher)

    @property
    def guard_names(self) -> list[str]:
        """What tables call the guards: the name, and the column where it has one."""
        return [" ".join(str(guard[key]) for key in ("name", "column") if key in guard) for guard in self.guards]

    @property
    def pool_size(self) -> int:
        """How many qualifying passages the search has to find for each row."""
        if self.sampling == "top":
            return self.num_negatives
        return self.pool if self.pool is not None else max(SMALLEST_POOL, 2 * self.num_negatives)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as a dictionary."""
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        if self.index is None:  # so a recipe of exact search stays what it was before there was another one
            del data["index"]
        return {**data, "method": self.method.to_dict(), "guards": [dict(guard) for guard in self.guards]}

    def to_json(self) -> str:
        """Return the JSON form, with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Return the recipe whose ``to_dict`` this is.

        Raises:
            ArgumentError: a field is unknown or missing, or a value is of another type or out of range.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ArgumentError(f"Unknown recipe field {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        if "teacher" not in data:
            raise ArgumentError("A recipe needs the field 'teacher', got none; add it.")
        values = dict(data)
        if "method" in values:
            if not isinstance(values["method"], dict) or not isinstance(values["method"].get("name"), str):
                raise ArgumentError(
                    f"Expected method to be an object with a name, as {TopKPercPos().to_dict()}, "
                    f"got {values['method']!r}."
                )
            values["method"] = method_from_dict(values["method"])
        if isinstance(values.get("guards"), list):
            values["guards"] = tuple(values["guards"])
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Return the recipe whose ``to_json`` this is.

        Raises:
            ArgumentError: the text is no JSON object, or no recipe.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ArgumentError(f"Expected a recipe as JSON, got text that is not ({error}).") from error
        if not isinstance(data, dict):
            raise ArgumentError(f"Expected a recipe as a JSON object, got {type(data).__name__}.")
        return cls.from_dict(data)

    @classmethod
    def from_release(cls, repo_id: str, revision: str, *, token: str | None = None) -> Recipe:
        """Return the recipe of a release on the Hub.

        Args:
            repo_id: the dataset repository.
            revision: the release's tag, for instance ``"v1.0.0"``, a branch or a commit.
            token: for the Hub; the one of the environment if None.

        Raises:
            DataSourceError: there is no such repository or revision, or no ``mining.json`` in it, or one of a later
                schema.
            ArgumentError: the ``mining.json`` there holds no recipe.
        """
        where = f"{repo_id!r} at {revision!r}"
        try:
            path = hf_hub_download(repo_id, "mining.json", repo_type="dataset", revision=revision, token=token)
        except (HFValidationError, RepositoryNotFoundError) as error:
            raise DataSourceError(
                f"Expected a dataset on the Hub, got {repo_id!r}: there is none, or the token may not read it."
            ) from error
        except RevisionNotFoundError as error:
            raise DataSourceError(
                f"Expected a release such as 'v1.0.0', got {revision!r}: {repo_id!r} has no such tag, branch or commit."
            ) from error
        except RemoteEntryNotFoundError as error:
            raise DataSourceError(f"Expected mining.json in {where}, got none; name a release.") from error
        record = _read_json(Path(path), where)
        if record.get("schema_version") != _RECORD_SCHEMA:
            raise DataSourceError(
                f"Expected mining.json of schema version {_RECORD_SCHEMA} in {where}, got "
                f"{record.get('schema_version')!r}; upgrade hn_datasets."
            )
        if not isinstance(record.get("recipe"), dict):
            raise ArgumentError(f"Expected a recipe in mining.json of {where}, got none; name a release.")
        return cls.from_dict(record["recipe"])

    @property
    def digest(self) -> str:
        """Digest of all fields, 32 hexadecimal characters."""
        return digest_of(json.dumps(self.to_dict(), sort_keys=True))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_json(path: Path, where: str) -> dict[str, Any]:
    """Return what a ``mining.json`` holds.

    Raises:
        DataSourceError: it is no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataSourceError(f"Expected JSON in mining.json of {where}, got text that is not ({error}).") from error
    if not isinstance(data, dict):
        raise DataSourceError(f"Expected a JSON object in mining.json of {where}, got {type(data).__name__}.")
    return data
