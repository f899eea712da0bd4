"""What a model is, remembered: a teacher whose vectors are all there is made without its model."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer

from hn_datasets import DenseTeacher
from hn_datasets.errors import ArgumentError, MissingPromptWarning, TeacherError
from tests.static_model import save_static_model

TEXTS = ["the bank rate", "a bond yield"]
LOADED = """
import sys
from hn_datasets import DenseTeacher
DenseTeacher(sys.argv[1])
sys.exit("sentence_transformers" in sys.modules and "it loads the model")
"""


def make_older(folder, seconds=60):
    """Let the files of a folder look as if they had been there for a while."""
    then = time.time() - seconds
    for path in folder.rglob("*"):
        os.utime(path, (then, then))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HN_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return make_older(save_static_model(tmp_path / "model"))


class Snapshot(NamedTuple):
    """A model in the cache of the Hub's client."""

    name: str
    folder: Path


@pytest.fixture
def snapshot(request):
    """A model of its own for each test."""
    name = f"someone/{request.node.originalname}"
    place = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    return Snapshot(name, save_static_model(place / "snapshots" / ("a" * 40)))


def in_another_process(folder):
    return subprocess.run([sys.executable, "-c", LOADED, folder], capture_output=True, text=True, check=False).stderr


def test_a_teacher_is_made_again_without_its_model_and_encodes_with_it(folder):
    assert "it loads the model" in in_another_process(folder)
    assert in_another_process(folder) == ""
    first = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    again = DenseTeacher(folder)
    assert "_model" not in again.__dict__
    np.testing.assert_array_equal(again.encode(TEXTS, "passage"), first)


def test_the_same_teacher_comes_back(folder, cache):
    options = {"query_prompt": "query: ", "truncate_dim": 8}
    first = DenseTeacher(folder, **options)
    again = DenseTeacher(folder, **options)
    assert again.spec() == first.spec() and again.space("anchor") == first.space("anchor")
    assert DenseTeacher(folder, truncate_dim=4).dimension == 4
    assert DenseTeacher(folder, query_prompt="other: ").spec()["query_prompt"] == "other: "
    with pytest.raises(ArgumentError, match="truncate_dim of at most"):
        DenseTeacher(folder, truncate_dim=1000)
    for path in (cache / "teachers").iterdir():
        path.write_text("{")
    assert DenseTeacher(folder, **options).spec() == first.spec()


@pytest.mark.parametrize("age", [60, 30, 0])
def test_a_folder_with_other_files_is_another_model(folder, age):
    """The files have other times, or (at 0) such that could come twice."""
    first = DenseTeacher(folder)
    save_static_model(folder, seed=1)
    make_older(folder, age)
    other = DenseTeacher(folder)
    assert other.spec()["weights"] != first.spec()["weights"]


def test_files_that_were_just_written_are_not_trusted(tmp_path, cache):
    DenseTeacher(save_static_model(tmp_path / "new"))
    assert not (cache / "teachers").exists()


def test_other_files_of_the_same_size_and_time_are_another_model(folder):
    times = {path: path.stat() for path in folder.rglob("*")}
    first = DenseTeacher(folder)
    save_static_model(folder, seed=1)
    for path, about in times.items():
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert DenseTeacher(folder).spec()["weights"] != first.spec()["weights"]


def test_a_model_that_is_another_one_all_the_same_is_noticed(snapshot):
    DenseTeacher(snapshot.name)
    save_static_model(snapshot.folder, seed=1)
    with pytest.raises(TeacherError, match="the model has changed since"):
        DenseTeacher(snapshot.name).encode(TEXTS, "anchor")
    assert len(DenseTeacher(snapshot.name).encode(TEXTS, "anchor")) == 2


def test_an_adapter_is_not_remembered_for_its_model_may_change(folder, snapshot, cache):
    for place in (folder, snapshot.folder):
        (place / "adapter_config.json").write_text("{}")
        make_older(place)
    for name in (folder, snapshot.name):
        DenseTeacher(name)
    assert not (cache / "teachers").exists()


def test_a_link_that_leads_nowhere_is_no_obstacle(folder):
    (folder / "latest").symlink_to("nowhere")
    assert DenseTeacher(folder).spec() == DenseTeacher(folder).spec()


def test_settings_that_change_what_is_loaded_or_recorded_are_kept_apart(folder):
    assert [DenseTeacher(folder, revision=name).spec()["revision"] for name in ("a", "b")] == ["a", "b"]
    known = [DenseTeacher(folder), DenseTeacher(folder, device=["cpu"]), DenseTeacher(folder, device=["cpu"])]
    assert ["_model" in teacher.__dict__ for teacher in known] == [True, True, False]


def test_a_missing_prompt_is_said_every_time(tmp_path):
    folder = make_older(save_static_model(tmp_path / "e5-small"))
    for _ in range(2):
        with pytest.warns(MissingPromptWarning) as caught:
            DenseTeacher(folder)
        assert caught[0].filename == __file__


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(folder, cache):
    cache.write_text("in the way")
    assert DenseTeacher(folder).spec() == DenseTeacher(folder).spec()


def test_a_model_on_the_hub_is_known_by_its_commit():
    cache = Path(constants.HF_HUB_CACHE) / "models--someone--remembered"
    (cache / "refs").mkdir(parents=True)
    found = []
    for seed, digit in ((0, "a"), (1, "b")):
        save_static_model(cache / "snapshots" / (digit * 40), seed=seed)
        (cache / "refs" / "main").write_text(digit * 40)
        teachers = [DenseTeacher("someone/remembered") for _ in range(2)]
        assert ["_model" in teacher.__dict__ for teacher in teachers] == [True, False]
        assert teachers[0].spec() == teachers[1].spec()
        found.append(teachers[1].spec())
    assert [spec["revision"] for spec in found] == ["a" * 40, "b" * 40]
    assert found[0]["weights"] != found[1]["weights"]
    assert DenseTeacher("someone/remembered", revision="a" * 40).spec()["weights"] == found[0]["weights"]
