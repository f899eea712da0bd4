"""Known positives that are hidden on purpose: those that come back among the negatives are false for sure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hn_datasets.columns import AnyDataset, iter_pairs, splits_of
from hn_datasets.guards import merge
from hn_datasets.miner import HardNegativeMiner
from hn_datasets.sampling import row_seeds, uniforms
from hn_datasets.teachers.base import Ids
from hn_datasets.texts import Digests, Ragged, digest_texts, find, normalise

READ_ROWS = 1000
_ANCHOR = np.zeros(1, np.uint64)


@dataclass(frozen=True)
class Trial:
    """Rows to mine on trial, one for each of n anchors.

    Attributes:
        batch: the columns of the rows, as lists; the positive column has one text, the one that is shown.
        anchors: their texts.
        shown: the positive of each.
        hidden: corpus ids, in rising order, of the passages that are known to be right and are not shown.
        num_available: how many anchors there were to choose from.
    """

    batch: dict[str, list[Any]]
    anchors: list[str]
    shown: list[str]
    hidden: Ragged
    num_available: int

    def is_hidden(self, rows: Ids, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return whether each passage is a hidden positive of the anchor in its row (shape ``[n]``)."""
        width = max(int(self.hidden.values.max(initial=0)), int(ids.max(initial=0))) + 1
        found: npt.NDArray[np.bool_] = np.isin(rows * width + ids, self.hidden.rows * width + self.hidden.values)
        return found


@dataclass(frozen=True)
class _Labels:
    """Distinct anchors and the corpus ids of their positives.

    Attributes:
        anchors: n texts, in the order of their digests.
        digests: of the anchors, rising.
        own: positives in the dataset.
        known: these, and what else the miner knows.
    """

    anchors: list[str]
    digests: Digests
    own: Ragged
    known: Ragged

    def of(self, anchors: list[str]) -> Ragged:
        """Return all known positives of some of the anchors."""
        return self.known.take(find(self.digests, digest_texts(anchors)))


def hide_positives(miner: HardNegativeMiner, dataset: AnyDataset, *, num_anchors: int, seed: int) -> Trial:
    """Return anchors that have several positives, each with one of them shown and the others hidden.

    Which anchors, and which positive of each, depends on the seed and the texts alone. Positives that ``normalise``
    makes equal count as one.

    Args:
        miner: whose corpus it is; positives that only the miner knows are hidden, too.
        dataset: rows with both columns.
        num_anchors: at most so many, drawn at random.
        seed: of both draws.
    """
    labels = _read_labels(miner, dataset)
    trial = _draw(miner, dataset, labels, _find_several(miner, labels), num_anchors, seed)
    known = labels.of(trial.anchors)
    right = miner.corpus.ids_of_same(miner.corpus.texts(known.values), known.rows, len(known))
    owners = np.tile(np.arange(len(known)), 2)
    seen = miner.corpus.ids_of_same([*trial.anchors, *trial.shown], owners, len(known))
    return replace(trial, hidden=_subtract(right, seen))


def show_positives(miner: HardNegativeMiner, dataset: AnyDataset, *, num_anchors: int, seed: int) -> Trial:
    """Return any anchors, one row of each, with nothing hidden; drawn as in ``hide_positives``."""
    labels = _read_labels(miner, dataset)
    return _draw(miner, dataset, labels, np.flatnonzero(labels.own.counts), num_anchors, seed)


def draw_anchors(digests: Digests, num_anchors: int, seed: int) -> Ids:
    """Return the places of at most so many anchors, rising; which ones, depends on the seed and the texts alone."""
    order = np.argsort(uniforms(row_seeds(seed, digests), _ANCHOR), kind="stable")
    return np.sort(order[:num_anchors])


def _read_labels(miner: HardNegativeMiner, dataset: AnyDataset) -> _Labels:
    recipe = miner.recipe
    blocks = list(iter_pairs(dataset, recipe.anchor_column_name, recipe.positive_column_name, recipe.on_empty))
    anchors = pa.chunked_array([block.anchors.take(pa.array(block.rows)) for block in blocks])
    ids = np.concatenate([miner.corpus.ids(block.positives.to_pylist()) for block in blocks])
    digests, first, rows = np.unique(digest_texts(anchors.to_pylist()), return_index=True, return_inverse=True)
    texts = anchors.take(pa.array(first)).to_pylist()
    inside = ids >= 0
    own = Ragged.from_pairs(rows[inside], ids[inside], len(digests))
    more = miner.positives_of(texts)
    return _Labels(texts, digests, own, merge([own, more], len(digests)))


def _find_several(miner: HardNegativeMiner, labels: _Labels) -> Ids:
    """Return the anchors with more than one positive after ``normalise``."""
    some = np.flatnonzero((labels.known.counts > 1) & (labels.own.counts > 0))
    lists = labels.known.take(some)
    _, forms = np.unique(digest_texts(miner.corpus.texts(lists.values), normalise), return_inverse=True)
    return some[Ragged.from_pairs(lists.rows, forms.astype(np.int64), len(some)).counts > 1]


def _draw(
    miner: HardNegativeMiner, dataset: AnyDataset, labels: _Labels, anchors: Ids, num_anchors: int, seed: int
) -> Trial:
    """Draw anchors, and the positive of each that is shown, and find their rows."""
    chosen = anchors[draw_anchors(labels.digests[anchors], num_anchors, seed)]
    own = labels.own.take(chosen)
    keys = miner.corpus.digests[own.values].view(np.uint64).reshape(-1, 2)[:, 0]
    draws = uniforms(row_seeds(seed, labels.digests[chosen])[own.rows], keys)
    shown = miner.corpus.texts(own.values[np.lexsort((draws, own.rows))[own.offsets[:-1]]])
    wanted = dict(zip([labels.anchors[number] for number in chosen], shown, strict=True))
    batch = _collect_rows(dataset, miner.recipe.anchor_column_name, miner.recipe.positive_column_name, wanted)
    texts = batch[miner.recipe.anchor_column_name]
    nothing = Ragged(np.zeros(len(texts) + 1, np.int64), np.zeros(0, np.int64))
    return Trial(batch, texts, [wanted[text] for text in texts], nothing, len(anchors))


def _collect_rows(dataset: AnyDataset, anchor: str, positive: str, wanted: dict[str, str]) -> dict[str, list[Any]]:
    """Return the first row of each wanted anchor that has the wanted positive, with that positive alone."""
    rows: dict[str, dict[str, Any]] = {}
    for split in splits_of(dataset).values():
        for batch in split.with_format(None).iter(batch_size=READ_ROWS):
            for number, text in enumerate(batch[anchor]):
                own = batch[positive][number] or ()
                if text in wanted and text not in rows and wanted[text] in ([own] if isinstance(own, str) else own):
                    rows[text] = {name: values[number] for name, values in batch.items()} | {positive: wanted[text]}
    names = dict.fromkeys([anchor, positive, *(name for row in rows.values() for name in row)])
    return {name: [rows[text].get(name) for text in wanted if text in rows] for name in names}


def _subtract(lists: Ragged, others: Ragged) -> Ragged:
    """Return each list without the members of the other one in its place."""
    width = max(int(lists.values.max(initial=0)), int(others.values.max(initial=0))) + 1
    kept = ~np.isin(lists.rows * width + lists.values, others.rows * width + others.values)
    return Ragged.from_pairs(lists.rows[kept], lists.values[kept], len(lists))
