import json
from dataclasses import FrozenInstanceError, replace

import pytest

from hn_datasets.errors import ArgumentError
from hn_datasets.methods import RandomNegatives, TopKPercPos, TopKShifted
from hn_datasets.recipe import ALGORITHM_VERSION, Recipe

RECIPE = Recipe(teacher={"type": "bm25"}, method=TopKShifted(3), sampling="softmax", pool=20, temperature=0.1, seed=5)


def test_the_json_form_gives_the_recipe_back():
    again = Recipe.from_json(RECIPE.to_json())
    assert again == RECIPE
    assert again.digest == RECIPE.digest


def test_every_field_counts_in_the_digest():
    digests = {
        RECIPE.digest,
        replace(RECIPE, method=TopKPercPos(0.9)).digest,
        replace(RECIPE, seed=6).digest,
        replace(RECIPE, teacher={"type": "dense"}).digest,
        replace(RECIPE, algorithm_version=ALGORITHM_VERSION + 1).digest,
    }
    assert len(digests) == 5


def test_a_recipe_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        RECIPE.num_negatives = 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_negatives": 0}, "num_negatives of at least 1, got 0"),
        ({"num_negatives": 2.0}, "num_negatives of at least 1, got 2.0"),
        ({"method": "topk"}, "Expected a method"),
        ({"sampling": "best"}, "top, random, softmax"),
        ({"sampling": "random", "pool": 3}, "pool of at least num_negatives=4, got 3"),
        ({"sampling": "softmax", "temperature": 0.0}, "temperature above 0"),
        ({"on_empty": "drop"}, "'error' or 'skip'"),
        ({"anchor_column_name": "a", "positive_column_name": "a"}, "two different columns"),
        ({"pool": 10}, "pool has no effect"),
        ({"temperature": 1.0}, "temperature has no effect"),
        ({"sampling": "random", "temperature": 1.0}, "temperature has no effect"),
        ({"seed": 1}, "seed has no effect"),
        ({"method": RandomNegatives(), "sampling": "random"}, "no effect with RandomNegatives"),
    ],
)
def test_contradictions_and_arguments_without_effect_are_refused(changes, message):
    with pytest.raises(ArgumentError, match=message):
        Recipe(**{"teacher": {}, **changes})


def test_the_default_pool_is_the_papers_ten_or_twice_the_negatives():
    assert Recipe(teacher={}, sampling="random").pool_size == 10
    assert Recipe(teacher={}, sampling="random", num_negatives=8).pool_size == 16
    assert Recipe(teacher={}, num_negatives=8).pool_size == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not"),
        ("[]", "JSON object"),
        ("{}", "'teacher'"),
        (json.dumps({"teacher": {}, "marign": 1}), "marign"),
        ('{"teacher": [1]}', r"teacher to be an object, the teacher's spec, got \[1\]"),
        ('{"teacher": {}, "method": "topk"}', "method to be an object with a name, .* got 'topk'"),
        ('{"teacher": {}, "method": {"name": [1]}}', "method to be an object with a name"),
        ('{"teacher": {}, "guards": 1}', "guards to be a list of objects, got 1"),
        ('{"teacher": {}, "guards": ["duplicates"]}', "guards to be a list of objects, got .'duplicates'"),
        ('{"teacher": {}, "num_negatives": "4"}', "num_negatives of at least 1, got '4'"),
        ('{"teacher": {}, "sampling": [1]}', r"sampling to be one of .*, got \[1\]"),
        ('{"teacher": {}, "sampling": "random", "pool": "10"}', "pool of at least num_negatives=4, got '10'"),
        ('{"teacher": {}, "sampling": "softmax", "temperature": "1"}', "temperature to be a number, got '1'"),
        ('{"teacher": {}, "sampling": "random", "seed": 1.5}', "seed to be a whole number, got 1.5"),
        ('{"teacher": {}, "anchor_column_name": 1}', "anchor_column_name to be a string, got 1"),
        ('{"teacher": {}, "positive_column_name": null}', "positive_column_name to be a string, got None"),
        ('{"teacher": {}, "on_empty": {}}', "on_empty to be 'error' or 'skip', got {}"),
        ('{"teacher": {}, "algorithm_version": "1"}', "algorithm_version to be a whole number, got '1'"),
    ],
)
def test_a_text_that_is_no_recipe_is_refused(text, message):
    with pytest.raises(ArgumentError, match=message):
        Recipe.from_json(text)
