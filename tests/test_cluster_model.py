"""The model of a run on a cluster: arithmetic that is checked by hand, and what has to hold for any numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hn_datasets.cli import main
from hn_datasets.cluster_model import Rates, Sizes, plan_cluster
from tests.static_model import save_static_model

SIZES = Sizes(passages=1_000_000, anchors=100_000, dimension=1000, text_bytes=400)
RATES = Rates(encoded_texts=100, products=1e11, read_texts=10_000, call_seconds=0.01, storage_bytes=1e9)


def stages(plan):
    return {stage.name: stage for stage in plan.stages}


def test_the_hours_are_those_of_the_slowest_part_of_each_stage():
    plan = plan_cluster(SIZES, RATES, workers=10)
    assert str(plan) == plan.to_table()
    found = stages(plan)
    assert found["encode"].hours == pytest.approx(1_100_000 / 100 / 10 / 3600)
    assert found["encode"].bound == "teacher"
    assert found["search"].hours == pytest.approx(1e5 * 1e6 * 1e3 / 1e11 / 10 / 3600)
    assert found["search"].bound == "products"
    assert found["index"].bound == "storage"
    assert found["encode"].disk_bytes == 1_100_000 * 4016
    assert plan.hours == pytest.approx(sum(stage.hours for stage in plan.stages))
    assert plan.piece_bytes == 4e8
    assert plan.to_dict()["workers"] == 10


def test_many_pieces_make_the_calls_count():
    search = stages(plan_cluster(replace(SIZES, passages=1000), RATES, workers=1, slices=1000))["search"]
    assert search.bound == "calls"
    assert search.hours == pytest.approx(49 * 1000 * 0.01 / 3600)


def test_a_teacher_without_vectors_encodes_nothing():
    encode = stages(plan_cluster(SIZES, replace(RATES, encoded_texts=0), workers=2))["encode"]
    assert (encode.hours, encode.disk_bytes) == (0, 0)


@given(st.integers(1, 10**10), st.integers(1, 10**8), st.integers(1, 512))
def test_more_workers_are_never_slower_and_no_memory_grows_with_the_corpus_per_piece(passages, anchors, workers):
    sizes = replace(SIZES, passages=passages, anchors=anchors)
    one, more = (plan_cluster(sizes, RATES, workers=count, slices=workers) for count in (workers, 2 * workers))
    assert all(after.hours <= before.hours for before, after in zip(one.stages, more.stages, strict=True))
    twice = plan_cluster(replace(sizes, passages=2 * passages), RATES, workers=workers, slices=2 * workers)
    for before, after in zip(one.stages, twice.stages, strict=True):
        assert after.memory_bytes == pytest.approx(before.memory_bytes)
        assert after.hours >= before.hours


def test_the_readme_has_what_the_model_says():
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    table = text.split("| passages | anchors | workers |")[1].split("\n\n")[0].splitlines()[2:]
    rates = Rates(encoded_texts=1000, products=6e11, storage_bytes=5e9)
    for line in table:
        passages, anchors, workers, *cells = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        plan = plan_cluster(Sizes(int(passages), int(anchors), 1024), rates, int(workers))
        hours = [stages(plan)[name].hours for name in ("encode", "index", "search")]
        disk = sum(stage.disk_bytes for stage in plan.stages) / 1e12
        memory = max(stage.memory_bytes for stage in plan.stages) / 1e9
        numbers = [f"{number:.1f} h" for number in (*hours, plan.hours)]
        assert cells == [*numbers, f"{disk:.1f} TB", f"{memory:.1f} GB"]
    assert len(table) == 3


def test_the_command_plans_without_a_cluster_from_sizes_that_are_given(tmp_path):
    rows = [f"hard negative query {number}" for number in range(40)]
    Dataset.from_dict({"anchor": rows, "positive": [f"passage of {row}" for row in rows]}).to_parquet(
        tmp_path / "p.parquet"
    )
    model = save_static_model(tmp_path / "model")
    command = [
        "mine",
        tmp_path / "p.parquet",
        "--teacher",
        model,
        "--plan",
        "--engine",
        "ray",
    ]
    command += ["--workers", 64, "--plan-passages", 10**9, "--plan-anchors", 10**7, "--plan-encoding", 1000]
    result = CliRunner().invoke(main, list(map(str, command)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "10,000,000 anchors x 1,000,000,000 passages" in result.output
    hours = float(next(line for line in result.output.splitlines() if line.startswith("encode")).split()[1])
    assert np.isclose(hours, 1.01e9 / 1000 / 64 / 3600, atol=0.01)
    assert "64 workers, 64 pieces" in result.output
