"""The guard that keeps evaluation texts out of the negatives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from hn_datasets.columns import AnyDataset, iter_texts
from hn_datasets.errors import ArgumentError, TextError
from hn_datasets.files import open_arrow, write_arrow
from hn_datasets.guards.base import Block, Guard, Rule, Sources
from hn_datasets.texts import (
    AnyCorpus,
    Digests,
    digest_of,
    digest_texts,
    fixed_size_binary,
    fixed_size_bytes,
    normalise,
)

CHUNK_TEXTS = 10_000


@dataclass(frozen=True, init=False)
class HeldOut(Guard):
    """Evaluation anchors and passages never become negatives; a passage counts as one of them after ``normalise``.

    Only negatives are looked at: rows whose own anchor or positive is held out are mined as all others. Leave them out
    of the training data before mining.

    Args:
        texts: strings, or a dataset with all its splits.
        columns: the columns of a dataset, strings or lists of strings; all such columns if None.

    Attributes:
        num_texts: how many different texts.
        digest: of the set of their normalised forms. The texts themselves are in no recipe; digests of them are kept in
            the store, where later runs find them.

    Raises:
        TextError: there is no text, or one is no string.
        ColumnError: a column is missing or holds no text.
        ArgumentError: ``columns`` without a dataset; or every passage of the corpus is held out, or the texts are not
            in the store.
    """

    num_texts: int
    digest: str
    name: ClassVar[str] = "held-out"

    def __init__(self, texts: Iterable[str] | AnyDataset, columns: Sequence[str] | str | None = None) -> None:
        chunks = [digest_texts(chunk, normalise) for chunk in _chunks(texts, columns)]
        keys = np.unique(np.concatenate([digest_texts([]), *chunks]))
        if not len(keys):
            raise TextError("HeldOut needs at least one text, got none; check the split.")
        self._set(len(keys), digest_of(keys.tobytes()), keys)

    def _set(self, num_texts: int, digest: str, keys: Digests | None) -> None:
        for name, value in (("num_texts", num_texts), ("digest", digest), ("_keys", keys)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Return the guard of a recipe, whose texts have to be in the store."""
        guard = cls.__new__(cls)
        guard._set(keys=None, **settings)
        return guard

    @property
    def kind(self) -> tuple[str, ...]:
        """Several sets of texts can be held out."""
        return (self.name, self.digest)

    def prepare(self, sources: Sources) -> None:
        """Write the digests of the texts to the store."""
        path, keys = self._path(sources), self.__dict__["_keys"]
        if not path.exists():
            if keys is None:
                raise ArgumentError(
                    f"Expected the {self.num_texts:,} held-out texts of the recipe in the store, got none with the "
                    f"digest {self.digest}; give them again by HeldOut(texts)."
                )
            write_arrow(pa.table({"key": fixed_size_binary(keys)}), path)
        if _blocked(path, sources.corpus).all():
            raise ArgumentError(
                f"Expected passages that are not held out, got {len(sources.corpus):,} that all are; hold out other "
                "texts, or add passages by corpus=...."
            )

    def rule(self, block: Block, sources: Sources) -> Rule:
        """Return the passages that are held out."""
        return Rule(blocked=_blocked(self._path(sources), sources.corpus))

    def _path(self, sources: Sources) -> Path:
        return sources.store.derived / "held-out" / f"{self.digest}.arrow"


@lru_cache(maxsize=8)
def _blocked(texts: Path, corpus: AnyCorpus) -> npt.NDArray[np.bool_]:
    """Return which passages of a corpus are held out; the same for every block."""
    return corpus.have_form(fixed_size_bytes(open_arrow(texts)["key"]))


def _chunks(texts: Any, columns: Sequence[str] | str | None) -> Iterator[Iterable[str]]:
    """Yield the texts in chunks.

    Raises:
        TextError: one is no string.
        ArgumentError: ``columns`` without a dataset, or one string, whose characters nobody wants to hold out.
    """
    if isinstance(texts, (Dataset, DatasetDict, IterableDataset, IterableDatasetDict)):
        yield from iter_texts(texts, [columns] if isinstance(columns, str) else columns)
        return
    if columns is not None:
        raise ArgumentError("columns has no effect on a list of strings; leave it out.")
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise ArgumentError(f"HeldOut needs strings or a dataset, got {texts!r:.60}; load a file by load_dataset.")
    listed = list(texts)
    wrong = next((text for text in listed if not isinstance(text, str)), None)
    if wrong is not None or None in listed:
        raise TextError(f"HeldOut needs strings, got {type(wrong).__name__}: {wrong!r:.60}.")
    for start in range(0, len(listed), CHUNK_TEXTS):
        yield listed[start : start + CHUNK_TEXTS]
