"""What a run will cost: what is missing is counted exactly, and nothing is encoded twice for it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from datasets import Dataset

from hn_datasets import BM25Teacher, HardNegativeMiner
from hn_datasets.cli import main
from hn_datasets.errors import ArgumentError, ColumnError
from hn_datasets.planning import SAMPLE_TEXTS, Stage, _advise, plan_mining
from hn_datasets.store import EmbeddingStore
from tests.mined import PAIRS
from tests.teachers import HashTeacher

DATASET = Dataset.from_list([*PAIRS, PAIRS[0]])


def stages_of(plan):
    return {stage.name: stage for stage in plan.stages}


def test_distinct_texts_without_a_vector_are_counted(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    plan = plan_mining(DATASET, teacher=HashTeacher(), corpus=["one more", PAIRS[0]["answer"]], store=store)
    encode = stages_of(plan)["encode"]
    assert encode.work == "33 of 33 passages and 32 of 32 anchors have no vector yet"
    assert encode.disk_bytes == 4 * 65 * 8 and encode.seconds > 0
    assert stages_of(plan)["search"].work == "33 anchors x 33 passages"
    assert list(stages_of(plan)) == ["collect", "encode", "index", "search"]


def test_what_is_in_the_store_costs_nothing_and_new_rows_cost_their_own(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    HardNegativeMiner.from_dataset(DATASET, teacher=HashTeacher(), num_negatives=2, store=store)
    log = tmp_path / "log"
    plan = plan_mining(DATASET, teacher=HashTeacher(log=log), store=store)
    assert (stages_of(plan)["encode"].seconds, stages_of(plan)["encode"].disk_bytes) == (0, 0)
    assert not log.exists()
    more = Dataset.from_list([*PAIRS, {"query": "Who is the clerk?", "answer": "The clerk works here."}])
    plan = plan_mining(more, teacher=HashTeacher(log=log), store=store)
    assert stages_of(plan)["encode"].work.startswith("1 of 33 passages and 1 of 33 anchors")


def test_only_a_sample_is_encoded_and_none_of_it_is_kept(tmp_path):
    store, log = EmbeddingStore(tmp_path / "store"), tmp_path / "log"
    many = Dataset.from_list([{"query": f"question {n}", "answer": f"answer {n} " * (n % 7 + 1)} for n in range(500)])
    plan_mining(many, teacher=HashTeacher(log=log), store=store)
    assert len(log.read_text().splitlines()) == 2 * (SAMPLE_TEXTS + 1)
    assert stages_of(plan_mining(many, teacher=HashTeacher(), store=store))["encode"].work.startswith("500 of 500")


def test_the_sample_stands_for_all_lengths(tmp_path):
    """A teacher that takes as long as its texts: the estimate is the whole, whatever the lengths."""

    class Clock:
        now = 0.0

    class SlowTeacher(HashTeacher):
        def encode(self, texts, role):
            Clock.now += sum(map(len, texts))
            return super().encode(texts, role)

    rows = [{"query": f"q{n}", "answer": "x" * (1 + n**2 % 997) + str(n)} for n in range(300)]
    monkey = pytest.MonkeyPatch()
    monkey.setattr("hn_datasets.planning.time.perf_counter", lambda: Clock.now)
    plan = plan_mining(Dataset.from_list(rows), teacher=SlowTeacher(), store=EmbeddingStore(tmp_path / "store"))
    monkey.undo()
    expected = sum(len(text) for row in rows for text in row.values())
    assert stages_of(plan)["encode"].seconds == pytest.approx(expected, rel=1e-6)


def test_bm25_has_no_vectors(tmp_path):
    plan = plan_mining(DATASET, teacher=BM25Teacher(), store=EmbeddingStore(tmp_path / "store"))
    assert list(stages_of(plan)) == ["collect", "index", "search"]
    assert stages_of(plan)["index"].seconds > 0


def test_inverted_lists_are_part_of_the_plan(tmp_path):
    """What they add on disk is what they add when they are made; a short search is not worth making them."""
    store = EmbeddingStore(tmp_path / "store")
    rows = Dataset.from_list([{"query": f"question {n}", "answer": f"answer {n}"} for n in range(2000)])
    exact = plan_mining(rows, teacher=HashTeacher(), store=store)
    plan = plan_mining(rows, teacher=HashTeacher(), index="IVF16,SQ8", store=store)
    assert stages_of(plan)["index"].work.endswith(", and 16 inverted lists")
    assert stages_of(plan)["search"].work == "2,000 anchors x 2,000 passages, through inverted lists, at most"
    assert stages_of(plan)["index"].seconds > stages_of(exact)["index"].seconds
    assert plan.memory_bytes > exact.memory_bytes
    assert any("leave out --index" in line for line in plan.advice) and not exact.advice
    HardNegativeMiner.from_dataset(rows, teacher=HashTeacher(), index="IVF16,SQ8", num_negatives=2, store=store)
    (lists,) = store.derived.rglob("*.faiss")
    added = stages_of(plan)["index"].disk_bytes - stages_of(exact)["index"].disk_bytes
    made = sum(path.stat().st_size for path in lists.parent.glob(f"{lists.name.partition('-')[0]}-*"))
    assert added == pytest.approx(made, rel=0.05)


def test_auto_is_planned_as_it_is_mined(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    plan = plan_mining(DATASET, teacher=HashTeacher(), index="auto", store=store)
    assert stages_of(plan)["search"].work == "33 anchors x 32 passages"


@pytest.mark.parametrize(
    ("teacher", "index", "message"),
    [(BM25Teacher(), "auto", "single teacher with vectors"), (HashTeacher(), "IVF64,SQ8", "at least 64 passages")],
)
def test_an_index_that_mining_would_refuse_is_not_planned(tmp_path, teacher, index, message):
    with pytest.raises(ArgumentError, match=message):
        plan_mining(DATASET, teacher=teacher, index=index, store=EmbeddingStore(tmp_path / "store"))


def test_a_printed_plan_is_its_table(tmp_path):
    plan = plan_mining(DATASET, teacher=HashTeacher(), store=EmbeddingStore(tmp_path))
    assert str(plan) == plan.to_table()


def test_wrong_columns_are_named_first(tmp_path):
    with pytest.raises(ColumnError, match="no_such"):
        plan_mining(DATASET, teacher=HashTeacher(), anchor_column_name="no_such", store=EmbeddingStore(tmp_path))


def test_the_command_prints_a_plan_and_mines_nothing(tmp_path):
    DATASET.to_json(str(tmp_path / "pairs.jsonl"))
    call = ["mine", str(tmp_path / "pairs.jsonl"), "--teacher", "bm25", "--plan"]
    done = CliRunner().invoke(main, call, catch_exceptions=False)
    assert done.exit_code == 0
    to_folder = CliRunner().invoke(main, [*call, "--output", str(tmp_path / "out")], catch_exceptions=False)
    assert [line.split()[0] for line in to_folder.stdout.splitlines()[:2]] == ["Stage", "collect"]
    without = CliRunner().invoke(main, call[:-1], catch_exceptions=False)
    assert (without.exit_code, without.output.splitlines()[-1]) == (2, "Error: Missing option '--output'.")
    assert [line.split()[0] for line in done.stdout.splitlines()[:5]] == ["Stage", "collect", "index", "search", "all"]
    assert not Path(tmp_path / "out").exists()
    done = CliRunner().invoke(main, [*call, "--json"], catch_exceptions=False)
    assert [stage["name"] for stage in json.loads(done.stdout)["stages"]] == ["collect", "index", "search"]


@pytest.mark.parametrize(("may_use_lists", "named"), [(True, True), (False, False)])
def test_a_long_search_of_a_large_corpus_names_the_index(may_use_lists, named):
    stages = [Stage("encode", "", 60, 0), Stage("search", "", 3600, 0)]
    (advice,) = _advise(stages, may_use_lists=may_use_lists)
    assert advice.startswith("Most of it is the search") and ("--index auto" in advice) == named
