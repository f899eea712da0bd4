"""All methods over a grid of settings, from one pass over the scores: which one to choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt

from hn_datasets.columns import AnyDataset, splits_of
from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.calibration import FEWEST_ANCHORS, HIDDEN_ANCHORS, typical_score
from hn_datasets.estimation.hiding import Trial, hide_positives, show_positives
from hn_datasets.estimation.rates import Rate, estimate_rate, jaccard
from hn_datasets.estimation.report import Survey, SurveyRow
from hn_datasets.estimation.settings import survey_settings
from hn_datasets.guards import Block, same_texts
from hn_datasets.methods import Method, RandomNegatives, TopK
from hn_datasets.miner import HardNegativeMiner, TeacherLike
from hn_datasets.picking import guarded, mine_block
from hn_datasets.row_mining import BLOCK_ROWS
from hn_datasets.search import Found, Search, k_best_below
from hn_datasets.teachers.base import Ids
from hn_datasets.teachers.ensemble import EnsembleTeacher

TYPICAL_ANCHORS = 500
_DIGITS = 6
_CHOSEN_HERE = {"method", "sampling", "pool", "temperature"}


def survey(
    dataset: AnyDataset,
    *,
    teacher: TeacherLike,
    settings: Sequence[Method] | None = None,
    num_negatives: int = 4,
    target_false_negative_rate: float = 0.05,
    num_anchors: int = HIDDEN_ANCHORS,
    seed: int = 0,
    **mining: Any,
) -> Survey:
    """Mine a dataset by all methods at once, and tell how they differ.

    Every setting is one more search in the same pass over the scores. False negatives are estimated where at least 30
    anchors have several positives, by hiding all but one of them, as in ``calibrate``.

    Args:
        dataset: rows with anchors and positives.
        teacher: as for ``HardNegativeMiner.from_dataset``.
        settings: the methods to compare; all six, with numbers that suit the scores, if None.
        num_negatives: negatives per row.
        target_false_negative_rate: what the choice has to keep to; above 0, below 1.
        num_anchors: how many anchors positives are hidden of, at most; 30 or more.
        seed: of random negatives, and of what is hidden.
        mining: further arguments of ``HardNegativeMiner.from_dataset``: corpus, columns, guards, prompts, store.

    Raises:
        ArgumentError: an argument is out of range or unknown.
        HNDatasetsError: as ``HardNegativeMiner.from_dataset``.
    """
    if not 0 < target_false_negative_rate < 1:
        raise ArgumentError(
            f"Expected a target_false_negative_rate between 0 and 1, got {target_false_negative_rate!r}; 0.05 is 5 %."
        )
    if settings is not None and not len(settings):
        raise ArgumentError("Expected settings to compare, got none; leave settings out for all methods.")
    if wrong := [method for method in settings or () if not isinstance(method, Method)]:
        raise ArgumentError(f"Expected settings such as TopKPercPos(0.9), got {wrong[0]!r}; write each as a method.")
    if num_anchors < FEWEST_ANCHORS:
        raise ArgumentError(f"Expected num_anchors of at least {FEWEST_ANCHORS}, got {num_anchors!r}; raise it.")
    if unknown_names := mining.keys() - signature(HardNegativeMiner.from_dataset).parameters.keys():
        raise ArgumentError(
            f"Expected arguments of survey or of HardNegativeMiner.from_dataset, got {', '.join(sorted(unknown_names))}"
            "; leave it out."
        )
    if useless := _CHOSEN_HERE & mining.keys():
        raise ArgumentError(
            f"{', '.join(sorted(useless))} has no effect on a survey, which compares all; leave it out."
        )
    if isinstance(teacher, EnsembleTeacher):
        raise ArgumentError(
            "Expected one teacher, whose scores a survey compares methods by, got an ensemble; name one of it."
        )
    if sifting := [guard.name for guard in mining.get("guards", ()) if guard.sifts]:
        raise ArgumentError(
            f"Expected guards that a survey can search with, got {', '.join(sifting)}, which sift afterwards; leave "
            "them out here, and mine with them."
        )
    miner = HardNegativeMiner.from_dataset(
        dataset, teacher=teacher, method=TopK(), num_negatives=num_negatives, **mining
    )
    if settings is None:
        sample = show_positives(miner, dataset, num_anchors=TYPICAL_ANCHORS, seed=seed)
        settings = survey_settings(typical_score(miner.mine_anew(sample.batch)["positive_score"]))
    tally = _Tally.start(len(settings), num_negatives)
    for split in splits_of(dataset).values():
        for batch in split.with_format(None).iter(batch_size=BLOCK_ROWS):
            for block in miner.blocks(batch):
                tally.add(_search(miner, block, settings, seed))
    trials, unknown = _estimate(miner, dataset, settings, num_anchors, seed)
    return Survey(
        rows=tally.num_rows,
        passages=len(miner.corpus),
        num_negatives=num_negatives,
        guards=miner.recipe.guards,
        settings=tuple(
            SurveyRow(method, *measures, *trial)
            for method, measures, trial in zip(settings, tally.measures(), trials, strict=True)
        ),
        overlap=tally.overlap(),
        unknown=unknown,
        target=target_false_negative_rate,
    )


@dataclass
class _Tally:
    """Sums over the rows so far, for each of s settings.

    Attributes:
        num_negatives: that make a row full.
        num_rows: how many rows were added.
        full: shape ``[s]``, full rows.
        scores: shape ``[s]``, float64, sum of the negatives' scores.
        common: shape ``[s, s]``, negatives that two settings have in common; on the diagonal, how many each has.
    """

    num_negatives: int
    num_rows: int
    full: Ids
    scores: npt.NDArray[np.float64]
    common: Ids

    @classmethod
    def start(cls, num_settings: int, num_negatives: int) -> _Tally:
        """Return the sums of no rows."""
        shape = (num_settings, num_settings)
        return cls(num_negatives, 0, np.zeros(shape[0], np.int64), np.zeros(shape[0]), np.zeros(shape, np.int64))

    def add(self, answers: Sequence[Found]) -> None:
        """Add a block of rows, the answers of all settings."""
        self.num_rows += len(answers[0].ids)
        for place, found in enumerate(answers):
            valid = found.ids >= 0
            self.full[place] += (valid.sum(axis=1) == self.num_negatives).sum()
            self.scores[place] += found.scores[valid].sum(dtype=np.float64)
            for before, other in enumerate(answers[: place + 1]):
                same = (found.ids[:, :, None] == other.ids[:, None, :]) & valid[:, :, None]
                self.common[place, before] += same.sum()

    def measures(self) -> list[tuple[float, float | None]]:
        """Return, for each setting, the share of full rows and the mean score of the negatives.

        Rounded, because the last bits of a sum depend on the order of the rows.
        """
        counts = np.diag(self.common)
        return [
            (int(full) / self.num_rows, round(float(total / count), _DIGITS) if count else None)
            for full, total, count in zip(self.full, self.scores, counts, strict=True)
        ]

    def overlap(self) -> tuple[tuple[float | None, ...], ...]:
        """Return the Jaccard index of each pair of settings."""
        common = np.maximum(self.common, self.common.T).tolist()
        places = range(len(common))
        return tuple(
            tuple(jaccard(common[one][other], common[one][one], common[other][other]) for other in places)
            for one in places
        )


def _search(miner: HardNegativeMiner, block: Block, settings: Sequence[Method], seed: int) -> list[Found]:
    """Return the negatives by every setting, shape ``[n, num_negatives]`` each, from one pass over the scores."""
    same, wanted = same_texts(block, miner.corpus), miner.recipe.num_negatives
    rules = [guard.rule(block, miner.sources) for guard in miner.guards]
    searched = [method for method in settings if not isinstance(method, RandomNegatives)]
    answers = iter(
        k_best_below(
            block.scores,
            [guarded(Search(one.ceiling(block.lowest), one.skip + wanted, same), rules) for one in searched],
        )
    )
    found = []
    for method in settings:
        if isinstance(method, RandomNegatives):
            sources = replace(miner.sources, recipe=replace(miner.recipe, method=method, seed=seed))
            found.append(mine_block(block, miner.scorer, miner.guards, sources).found)
        else:
            answer = next(answers)
            found.append(Found(answer.ids[:, method.skip :], answer.scores[:, method.skip :]))
    return found


def _estimate(
    miner: HardNegativeMiner, dataset: AnyDataset, settings: Sequence[Method], num_anchors: int, seed: int
) -> tuple[list[tuple[Rate | None, float | None]], str | None]:
    """Return the rate of each setting and the mean score of the negatives on trial, and why there is none."""
    trial = hide_positives(miner, dataset, num_anchors=num_anchors, seed=seed)
    if trial.num_available < FEWEST_ANCHORS:
        reason = f"{trial.num_available:,} anchors have several known positives and at least {FEWEST_ANCHORS} have to"
        return [(None, None)] * len(settings), reason
    forgetful = miner.with_method(miner.recipe.method, forget_positives=True)
    blocks = [_search(miner, block, settings, seed) for block in forgetful.blocks(trial.batch)]
    return [_rate(trial, _join(found)) for found in zip(*blocks, strict=True)], None


def _join(blocks: Sequence[Found]) -> Found:
    return Found(np.concatenate([one.ids for one in blocks]), np.concatenate([one.scores for one in blocks]))


def _rate(trial: Trial, found: Found) -> tuple[Rate | None, float | None]:
    """Return how many of the negatives on trial were hidden, and their mean score."""
    ids, valid = found.ids, found.ids >= 0
    if not valid.any():
        return None, None
    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    hidden = trial.is_hidden(rows, ids.ravel()).reshape(ids.shape) & valid
    mean = round(float(found.scores[valid].mean(dtype=np.float64)), _DIGITS)
    return estimate_rate(hidden.sum(axis=1), valid.sum(axis=1)), mean
