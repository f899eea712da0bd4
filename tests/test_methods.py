import numpy as np
import pytest

from hn_datasets.errors import ArgumentError
from hn_datasets.methods import (
    METHODS,
    RandomNegatives,
    TopK,
    TopKAbs,
    TopKMarginPos,
    TopKPercPos,
    TopKShifted,
    method_from_dict,
    method_from_name,
)

SCORES = np.array([0.8, 0.0, -0.4], dtype=np.float32)


def test_ceilings_for_positive_zero_and_negative_scores():
    assert np.isposinf(TopK().ceiling(SCORES)).all()
    assert np.isposinf(TopKShifted(3).ceiling(SCORES)).all()
    assert TopKAbs(0.7).ceiling(SCORES).tolist() == [0.7, 0.7, 0.7]
    np.testing.assert_allclose(TopKMarginPos(0.05).ceiling(SCORES), [0.75, -0.05, -0.45], atol=1e-7)
    np.testing.assert_allclose(TopKPercPos(0.95).ceiling(SCORES), [0.76, 0.0, -0.42], atol=1e-7)


def test_a_relative_ceiling_never_rises_above_the_positive():
    scores = np.linspace(-1, 1, 201, dtype=np.float32)
    assert (TopKPercPos(0.8).ceiling(scores) <= scores).all()


def test_ceilings_are_float64_so_that_strictly_below_means_it():
    assert TopKPercPos(0.95).ceiling(SCORES).dtype == np.float64


def test_only_the_shifted_method_skips():
    skips = {name: method().skip for name, method in METHODS.items()}
    assert skips == {**dict.fromkeys(METHODS, 0), "topk-shifted": 10}


@pytest.mark.parametrize(
    "make",
    [
        lambda: TopKShifted(0),
        lambda: TopKShifted(1.5),
        lambda: TopKAbs(float("nan")),
        lambda: TopKMarginPos(-0.01),
        lambda: TopKMarginPos(float("inf")),
        lambda: TopKPercPos(0),
        lambda: TopKPercPos(1.01),
        lambda: TopKPercPos(95),
        lambda: TopKPercPos("0.95"),
        lambda: method_from_name("top-k"),
        lambda: method_from_name("topk", 0.5),
        lambda: method_from_name("topk-shifted", 2.5),
        lambda: method_from_dict({"name": "topk", "n": 3}),
        lambda: method_from_dict({}),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(ArgumentError, match=r"needs|Unknown|has no margin|takes"):
        make()


@pytest.mark.parametrize(
    "method", [TopK(), TopKShifted(7), TopKAbs(0.3), TopKMarginPos(0.1), TopKPercPos(0.9), RandomNegatives()]
)
def test_the_json_form_gives_the_method_back(method):
    assert method_from_dict(method.to_dict()) == method


def test_names_take_the_one_setting_of_their_method():
    assert method_from_name("topk-percpos", 0.9) == TopKPercPos(0.9)
    assert method_from_name("topk-shifted", 5.0) == TopKShifted(5)
    assert method_from_name("topk-marginpos") == TopKMarginPos(0.05)
