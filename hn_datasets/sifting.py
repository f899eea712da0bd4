"""Sifting: going down the ranking of every row until it has enough passages that no sieve refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from hn_datasets.guards import Sieve
from hn_datasets.search import Found
from hn_datasets.teachers.base import Ids

MOST_CANDIDATES = 1 << 21
"""Candidates of all rows that are searched together."""


def sift(
    search: Callable[[Ids, int], Found], found: Found, sieves: Sequence[Sieve], wanted: int
) -> tuple[Found, npt.NDArray[np.int32]]:
    """Keep the best ``wanted`` passages of every row that no sieve refuses.

    Rows that are not full are searched again for twice as many candidates, until they are full, have no more, or a
    sieve sees no more. What a row gets depends on its own ranking alone.

    Args:
        search: gives so many of the best passages of some rows (shape ``[n]``).
        found: that of all rows, to begin with.
        sieves: asked in their order; the first that refuses a candidate counts it.
        wanted: how many passages make a row full.

    Returns:
        The answer, and of shape ``[num_rows, num_sieves]`` how many candidates each sieve refused in each row before
        the row was full.
    """
    most = min(sieve.most_candidates for sieve in sieves)
    answer, removals = _walk(np.arange(len(found.ids)), found, sieves, wanted)
    rows, width = _short_rows(answer, found), found.ids.shape[1]
    while len(rows) and width < most:
        width, short = min(2 * width, most), []
        for part in np.array_split(rows, -(-len(rows) * width // MOST_CANDIDATES)):
            found = search(part, width)
            kept, removals[part] = _walk(part, found, sieves, wanted)
            answer.ids[part], answer.scores[part] = kept.ids, kept.scores
            short.append(part[_short_rows(kept, found)])
        rows = np.concatenate(short)
    return answer, removals


def _short_rows(kept: Found, found: Found) -> Ids:
    """Return the rows that are not full although they may have more candidates."""
    return np.flatnonzero((kept.ids[:, -1] < 0) & (found.ids[:, -1] >= 0))


def _walk(rows: Ids, found: Found, sieves: Sequence[Sieve], wanted: int) -> tuple[Found, npt.NDArray[np.int32]]:
    """Take some rows down their candidates, all of them together rank by rank."""
    ids = np.full((len(rows), wanted), -1, dtype=np.int64)
    scores = np.full((len(rows), wanted), -np.inf, dtype=np.float32)
    removals = np.zeros((len(rows), len(sieves)), dtype=np.int32)
    counts = np.zeros(len(rows), dtype=np.int64)
    for sieve in sieves:
        sieve.prepare(rows, found.ids)
    for rank in range(found.ids.shape[1]):
        places = np.flatnonzero((counts < wanted) & (found.ids[:, rank] >= 0))
        if not len(places):
            break
        for number, sieve in enumerate(sieves):
            refused = sieve.refuses(rows[places], found.ids[places, rank], ids[places])
            removals[places[refused], number] += 1
            places = places[~refused]
        ids[places, counts[places]] = found.ids[places, rank]
        scores[places, counts[places]] = found.scores[places, rank]
        counts[places] += 1
    return Found(ids, scores), removals
