"""``cards/mining.schema.json``: it takes every record that this package makes, and nothing that is none."""

import copy
import json
from dataclasses import fields
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from jsonschema import Draft202012Validator

from hn_datasets import BM25Teacher, DenseTeacher, EnsembleTeacher, HardNegativeMiner, PrecomputedTeacher
from hn_datasets.distributions import ScoreDistribution
from hn_datasets.estimation.rates import Rate
from hn_datasets.estimation.results import FalseNegativeEstimate
from hn_datasets.layouts import _SHAPES
from hn_datasets.methods import METHODS
from hn_datasets.modes import MODES
from hn_datasets.recipe import SAMPLINGS, Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.release.card import VersionRow
from hn_datasets.statistics import MiningStatistics, compute_statistics
from tests.static_model import make_static_model

CARDS = Path(__file__).parent.parent / "cards"
SCHEMA = json.loads((CARDS / "mining.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
PAIRS = {"anchor": ["hard query", "a text", "right of"], "positive": ["hard passage", "a right text", "of a wrong one"]}
RELEASE = {
    "repo_id": "me/mined", "version": "1.0.0", "parent": "them/mined@v0.9.0", "notes": "First", "date": "2026-11-23",
    "files": {"n-tuple/train-00000-of-00001.parquet": {"sha256": "0" * 64, "size": 9}}, "layouts": ["n-tuple"],
    "versions": [
        {"version": "1.0.0", "date": "2026-11-23", "rows": 3, "mean_margin": 0.5, "common_share": 0.9, "notes": "1"},
        {"version": "0.9.0", "date": "2026-11-22", "rows": 0, "mean_margin": None, "common_share": None, "notes": ""},
    ],
}  # fmt: skip


def teacher_of(kind):
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    made = {
        "dense": lambda: DenseTeacher(make_static_model(), query_prompt="query: ", corpus_prompt=""),
        "bm25": BM25Teacher,
        "bm25+": lambda: BM25Teacher(variant="plus", tokenizer="char-bigrams"),
        "precomputed": lambda: PrecomputedTeacher(
            (PAIRS["anchor"], vectors), (PAIRS["positive"], vectors), normalize=True
        ),
        "ensemble": lambda: EnsembleTeacher([teacher_of("precomputed"), "bm25"], mode="mean-rank"),
    }
    return made[kind]()


def mine(kind, store, **choices):
    dataset = Dataset.from_dict(PAIRS)
    miner = HardNegativeMiner.from_dataset(dataset, teacher=teacher_of(kind), store=store, num_negatives=1, **choices)
    source = {"repo_id": "me/pairs", "config_name": "qa", "split": "train", "revision": "abc"}
    return MiningRecord.of(dataset.map(miner, batched=True), miner, source=source, timings={"map": 0.5})


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A record of a release, as JSON data."""
    return json.loads(mine("dense", tmp_path_factory.mktemp("store")).with_release(**RELEASE).to_json())


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.filterwarnings("ignore:BM25 is the only teacher")
@pytest.mark.parametrize("kind", ["dense", "bm25", "bm25+", "precomputed", "ensemble"])
def test_a_record_of_every_teacher_passes(kind, tmp_path):
    VALIDATOR.validate(json.loads(mine(kind, tmp_path).to_json()))


def test_a_release_passes(record):
    VALIDATOR.validate(record)


@pytest.mark.parametrize("path", sorted(CARDS.glob("examples/*/mining.json")), ids=lambda path: path.parent.name)
def test_the_examples_pass(path):
    VALIDATOR.validate(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("name", "sampling"), [pair for pair in product(METHODS, SAMPLINGS) if pair[0] != "random" or pair[1] == "top"]
)
def test_every_method_and_sampling_passes(record, name, sampling):
    method = METHODS[name]()
    drawn = {"pool": 20, "seed": 3} if sampling != "top" else {}
    warm = {"temperature": 0.5} if "softmax" in sampling else {}
    recipe = Recipe(
        record["recipe"]["teacher"],
        method=method,
        sampling=sampling,
        on_empty="skip",
        index="IVF64,SQ8",
        **drawn,
        **warm,
    )
    VALIDATOR.validate({**record, "recipe": json.loads(recipe.to_json())})


@pytest.mark.parametrize(
    "columns",
    [
        {"positive_score": [], "negative_scores": []},
        {"positive_score": [float("nan")], "negative_scores": [[]]},
        {"positive_score": [0.5], "negative_scores": [[]]},
        {"positive_score": [0.5], "negative_scores": [[0.5]], "top_score": [0.75]},
    ],
)
def test_statistics_of_nothing_and_of_little_pass(record, columns):
    VALIDATOR.validate({**record, "statistics": compute_statistics(columns).to_dict()})


def test_what_may_be_unknown_may_be_missing(record):
    VALIDATOR.validate({**record, "source": {}, "environment": {}, "timings": {}, "release": {}})
    VALIDATOR.validate({**record, "release": {**RELEASE, "repo_id": None, "parent": None, "notes": None, "files": {}}})
    VALIDATOR.validate({**record, "release": {**RELEASE, "parent": "v0.9.0"}})
    VALIDATOR.validate({**record, "recipe": {**record["recipe"], "teacher": {"type": "mine", "anything": [1]}}})


CLOSED = [
    (), ("recipe",), ("recipe", "teacher"), ("recipe", "method"), ("corpus",), ("statistics",),
    ("statistics", "positive_score"), ("statistics", "negative_score"), ("statistics", "difference"), ("release",),
    ("release", "versions", 0), ("release", "files", "n-tuple/train-00000-of-00001.parquet"),
]  # fmt: skip


def at(data, place):
    for key in place:
        data = data[key]
    return data


@pytest.mark.parametrize("place", [*CLOSED, ("environment",), ("environment", "hardware")])
def test_an_unknown_field_is_refused(record, place):
    data = copy.deepcopy(record)
    at(data, place)["colour"] = "red"
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize("place", CLOSED)
def test_no_field_may_be_missing(record, place):
    for key in at(record, place):
        data = copy.deepcopy(record)
        del at(data, place)[key]
        assert not VALIDATOR.is_valid(data), key


@pytest.mark.parametrize("kind", ["bm25", "precomputed", "ensemble"])
def test_fields_of_other_teachers_are_closed_too(record, kind):
    spec = teacher_of(kind).spec()
    VALIDATOR.validate({**record, "recipe": {**record["recipe"], "teacher": spec}})
    optional = {"epsilon"}  # not every variant of BM25 has it
    wrong = [{**spec, "colour": 1}, *({k: v for k, v in spec.items() if k != name} for name in spec.keys() - optional)]
    for teacher in wrong:
        assert not VALIDATOR.is_valid({**record, "recipe": {**record["recipe"], "teacher": teacher}}), teacher


def leaves(data, place=()):
    """The places of all values that hold no others."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if pairs is None:
        yield place
        return
    for key, value in pairs:
        yield from leaves(value, (*place, key))


def test_every_value_has_a_type(record):
    """An object in the place of any number, string or truth value is refused."""
    for place in leaves(record):
        data = copy.deepcopy(record)
        at(data, place[:-1])[place[-1]] = {"no": "value"}
        assert not VALIDATOR.is_valid(data), place


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema_version",), 2),
        (("rows", "train"), -1),
        (("recipe", "num_negatives"), 0),
        (("recipe", "sampling"), "best"),
        (("recipe", "method"), {"name": "topk-percpos", "percentage": 1.5}),
        (("recipe", "method"), {"name": "topk-percpos", "percentage": 0.9, "margin": 0.1}),
        (("recipe", "method"), {"name": "topk", "n": 1}),
        (("recipe", "method"), {"name": "other"}),
        (("recipe", "guards"), [{}]),
        (("statistics", "positive_score", "quartiles"), [1, 2]),
        (("statistics", "positive_not_best"), 31.2),
        (("timings", "map"), -1),
        (("release", "version"), "one"),
        (("release", "version"), "v1.0.0"),
        (("release", "parent"), "0.9.0"),
        (("release", "date"), "23.11.2026"),
        (("release", "layouts"), []),
        (("release", "layouts"), ["n-tuple", "n-tuple"]),
        (("release", "layouts"), ["table"]),
        (("release", "files"), {"a": {"sha256": "A" * 64, "size": 1}}),
        (("release", "files"), {"a": {"sha256": "0" * 64, "size": -1}}),
        (("release", "versions", 0, "common_share"), 90),
    ],
)
def test_a_wrong_value_is_refused(record, place, value):
    data = copy.deepcopy(record)
    at(data, place[:-1])[place[-1]] = value
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (SCHEMA["$defs"]["recipe"], Recipe),
        (SCHEMA["$defs"]["statistics"], MiningStatistics),
        (SCHEMA["$defs"]["distribution"], ScoreDistribution),
        (SCHEMA["$defs"]["release"]["properties"]["versions"]["items"], VersionRow),
        (SCHEMA["$defs"]["false_negatives"], FalseNegativeEstimate),
        (SCHEMA["$defs"]["false_negatives"]["properties"]["rate"], Rate),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_schema_has_the_fields_of_the_classes(schema, kind):
    names = {item.name for item in fields(kind)}
    assert set(schema["properties"]) == names
    assert set(schema["required"]) == names - ({"index"} if kind is Recipe else set())


def test_a_recipe_of_approximate_search_passes(record):
    recipe = Recipe(record["recipe"]["teacher"], index="IVF16,SQ8")
    VALIDATOR.validate({**record, "recipe": json.loads(recipe.to_json())})


def test_the_schema_has_the_names_of_the_package():
    assert set(SCHEMA["$defs"]["ensemble"]["properties"]["mode"]["enum"]) == set(MODES)
    recipe, release = (SCHEMA["$defs"][name]["properties"] for name in ("recipe", "release"))
    assert set(recipe["sampling"]["enum"]) == set(SAMPLINGS)
    assert set(release["layouts"]["items"]["enum"]) == set(_SHAPES)
