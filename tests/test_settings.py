"""Which numbers of a method are tried: on the scale of the scores, from strict to loose."""

import numpy as np
import pytest

from hn_datasets import RandomNegatives, TopK, TopKAbs, TopKMarginPos, TopKPercPos, TopKShifted
from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.settings import list_settings, settings_of, survey_settings


@pytest.mark.parametrize("typical", [0.6, 20.0, -2.0])
@pytest.mark.parametrize("kind", [TopKPercPos, TopKMarginPos, TopKAbs])
def test_ceilings_rise_from_far_below_the_typical_score_to_it_or_above(kind, typical):
    ceilings = [float(method.ceiling(np.array([typical]))[0]) for method in list_settings(kind, typical, 0.1)]
    assert ceilings == sorted(set(ceilings)) and len(ceilings) >= 8
    highest = typical + 0.4 * abs(typical) if kind is TopKAbs else typical
    assert ceilings[0] == pytest.approx(typical - 0.7 * abs(typical), rel=0.02)
    assert ceilings[-1] == pytest.approx(highest, rel=0.02)
    steps = np.diff(ceilings)
    assert steps == pytest.approx(np.full(len(steps), 0.1 * abs(typical)), rel=0.1)


def test_fewer_skipped_ranks_are_looser():
    shifts = [method.n for method in list_settings(TopKShifted, 0.6, 0.1)]
    assert shifts == sorted(set(shifts), reverse=True) and shifts[-1] == 1


@pytest.mark.parametrize(
    ("kind", "numbers", "expected"),
    [
        (TopKPercPos, [1.0, 0.5, 0.5], [0.5, 1.0]),
        (TopKAbs, [0.7, 0.2], [0.2, 0.7]),
        (TopKMarginPos, [0.0, 0.2, 0.1], [0.2, 0.1, 0.0]),
        (TopKShifted, [1, 30], [30, 1]),
    ],
)
def test_numbers_of_the_user_go_from_strict_to_loose_each_once(kind, numbers, expected):
    assert [getattr(method, kind.setting) for method in settings_of(kind, numbers)] == expected


@pytest.mark.parametrize("kind", [TopK, RandomNegatives])
def test_a_method_without_a_number_is_refused(kind):
    for make in (lambda: list_settings(kind, 0.5, 0.1), lambda: settings_of(kind, [0.5])):
        with pytest.raises(ArgumentError, match=f"a method with a number.*got {kind.__name__}"):
            make()


def test_a_survey_has_each_method_from_strict_to_loose():
    settings = survey_settings(0.6)
    assert len(set(settings)) == len(settings)
    kinds = list(dict.fromkeys(map(type, settings)))
    assert kinds == [TopKPercPos, TopKMarginPos, TopKAbs, TopKShifted, TopK, RandomNegatives]
    for kind in kinds[:3]:
        ceilings = [method.ceiling(np.array([0.6]))[0] for method in settings if type(method) is kind]
        assert ceilings == sorted(ceilings) and len(ceilings) >= 6
