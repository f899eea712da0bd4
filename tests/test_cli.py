"""The command line, as its users meet it."""

import gc
import json
import logging
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from dataclasses import replace

import click
import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict, load_dataset

from hn_datasets import BM25Teacher, HardNegativeMiner, TopKPercPos
from hn_datasets.cli import COMMANDS, INTERRUPTED, main
from hn_datasets.commands.errors import name_options
from hn_datasets.display import pick_rows, render_row
from hn_datasets.modes import MODES
from hn_datasets.recipe import SAMPLINGS, Recipe
from hn_datasets.store import SHARD_TEXTS
from hn_datasets.teachers.dense import PRECISIONS
from tests.test_map import PAIRS
from tests.tiny_cross_encoder import save_tiny_cross_encoder

pytestmark = pytest.mark.filterwarnings("default::hn_datasets.errors.WeakTeacherWarning")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "pairs.jsonl"
    Dataset.from_list(PAIRS).to_json(str(path))
    return str(path)


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def command_of(name):
    return main.get_command(click.Context(main), name)


def with_progress_bars():
    """The environment of a new process that shows progress bars where somebody watches."""
    return {name: value for name, value in os.environ.items() if "PROGRESS_BARS" not in name}


def test_mine_writes_data_and_recipe_and_prints_the_statistics(source, tmp_path, minilm_path):
    out = tmp_path / "mined"
    done = call("mine", source, "--teacher", minilm_path, "--method", "topk-percpos", "--margin", 0.95,
                "--num-negatives", 3, "--output", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Metric")
    stages = ["load", "collect", "encode", "index", "search", "write"]
    timings = json.loads((out / "mining.json").read_text())["timings"]
    assert sorted(timings) == sorted(stages)
    assert all(seconds > 0 for seconds in timings.values())
    printed = ", ".join(rf"{stage} [\d.]+" for stage in stages)
    assert re.search(f"^Seconds: {printed}$", done.stderr, re.MULTILINE)
    mined = load_dataset(str(out), split="train")
    assert mined.column_names[:3] == ["query", "answer", "negatives"]
    assert len(mined) == len(PAIRS)
    assert Recipe.from_json((out / "recipe.json").read_text()).num_negatives == 3
    again = tmp_path / "again"
    assert call("mine", source, "--config", out / "recipe.json", "--output", again).exit_code == 0
    assert load_dataset(str(again), split="train").to_dict() == mined.to_dict()
    assert (
        call("mine", source, "--config", out / "recipe.json", "--margin", 0.5, "--output", tmp_path / "o").exit_code
        == 0
    )
    other = load_dataset(str(tmp_path / "o"), split="train")
    assert max(scores[0] for scores in other["negative_scores"] if scores) < 0.5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mined_rows_that_find_no_room_are_one_clear_error(source, tmp_path):
    """The store has all that it needs from a first run; only ``map`` has a large file to write."""
    mine = ("mine", source, "--teacher", "bm25", "--output")
    assert call(*mine, tmp_path / "first").exit_code == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        done = call(*mine, tmp_path / "second", "--num-negatives", 9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    code, last = done.exit_code, done.stderr.splitlines()[-1]
    del done  # and with it the file that datasets leaves open, which complains as it is closed
    gc.collect()
    assert code == 1
    assert "Could not write mined rows" in last
    assert "HF_DATASETS_CACHE" in last
    assert not (tmp_path / "second").exists()
    assert call(*mine, tmp_path / "second", "--num-negatives", 9).exit_code == 0


def test_mine_with_bm25_keeps_splits_and_prints_json(tmp_path):
    splits = DatasetDict({"train": Dataset.from_list(PAIRS), "test": Dataset.from_list(PAIRS[:4])})
    splits.save_to_disk(str(tmp_path / "saved"))
    done = call("mine", tmp_path / "saved", "--teacher", "bm25", "--tokenizer", "char-bigrams", "--json",
                "--output", tmp_path / "mined")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == len(PAIRS) + 4
    assert "0.5002" in done.stderr
    assert {name: len(split) for name, split in load_dataset(str(tmp_path / "mined")).items()} == {
        "train": 32,
        "test": 4,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher", "bm25", "--anchor-column", "qeury"], "'qeury'.*query (string)"),
        (["--teacher", "no/such-model"], "HF_HUB_OFFLINE"),
        (["--teacher", "bm25", "--margin", "95"], "--margin: .*write 95 % as 0.95"),
        (["--teacher", "bm25", "--method", "topk", "--margin", "0.5"], "--margin: Method 'topk' has no margin"),
        (["--teacher", "bm25", "--precision", "float32"], "--precision has no effect"),
        (["--teacher", "x", "--tokenizer", "kiwi"], "--tokenizer has no effect"),
        (["--teacher", "bm25", "--pool", "20"], "--pool has no effect with --sampling top"),
        (["--teacher", "bm25", "--sampling", "random", "--pool", "3"], "--pool of at least --num-negatives 4, got 3"),
        (["--teacher", "bm25", "--sampling", "softmax", "--temperature", "0"], "--temperature above 0, got 0.0"),
        (["--teacher", "bm25", "--corpus-column", "x"], "--corpus-column has no effect without a corpus"),
        (["--teacher", "bm25", "--config-name", "x"], "--config-name has no effect on the local source"),
        (["--teacher", "bm25", "--num-negatives", "0"], "--num-negatives of at least 1, got 0"),
        (["--teacher", "bm25", "--corpus", "missing.jsonl"], "nothing is there"),
        (["--teacher", "bm25", "--revision", "main"], "no effect on the local source"),
        (["--teacher", "bm25", "--tokenizer", "no/such-tokenizer"], "no/such-tokenizer"),
        (["--teacher", "bm25", "--estimate"], "--estimate: Expected at least 30 .* got 0; leave it out"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_exit_status_1(source, tmp_path, options, message):
    done = call("mine", source, "--output", tmp_path / "mined", *options)
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("Warning")]
    assert re.match("Error: .*" + ".*".join(map(re.escape, message.split(".*"))), line)
    assert done.stdout == ""
    assert not (tmp_path / "mined").exists()


@pytest.mark.filterwarnings("default::hn_datasets.errors.ShortRowsWarning")
def test_a_message_names_what_the_command_has(source, tmp_path):
    folder = tmp_path / "mined"
    Dataset.from_dict({"a": ["x"], "b": ["y"]}).to_json(str(tmp_path / "corpus.jsonl"))
    mine = ("mine", source, "--teacher", "bm25", "--output", folder)
    assert "; name it by --corpus-column." in call(*mine, "--corpus", tmp_path / "corpus.jsonl").stderr
    short = call(*mine, "--num-negatives", 32)
    assert "Warning: The corpus has 32 distinct passages" in short.stderr
    assert "add passages by --corpus ..., or" in short.stderr
    publish = ("publish", folder, "--to-folder", tmp_path / "release", "--version", "1.0.0")
    assert "--license cc-by-4.0, or --license other with --license-name." in call(*publish).stderr
    language = call(*publish, "--license", "mit", "--language", "korean").stderr
    assert language.startswith("Error: Expected --language as BCP-47 codes such as ('en', 'ko'), got 'korean'")


def test_missing_sources_empty_texts_and_taken_folders(source, tmp_path):
    missing = call("mine", tmp_path / "none.jsonl", "--teacher", "bm25", "--output", tmp_path / "mined")
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
    Dataset.from_list([*PAIRS, {"query": " ", "answer": "x"}]).to_json(str(tmp_path / "empty.jsonl"))
    empty = call("mine", tmp_path / "empty.jsonl", "--teacher", "bm25", "--output", tmp_path / "mined")
    assert "1 rows (32)" in empty.stderr
    assert "pass --on-empty skip" in empty.stderr
    skipped = call(
        "mine", tmp_path / "empty.jsonl", "--teacher", "bm25", "--on-empty", "skip", "--output", tmp_path / "m"
    )
    assert skipped.exit_code == 0
    taken = call("mine", source, "--teacher", "bm25", "--output", tmp_path)
    assert "holds something else" in taken.stderr
    twice = call("mine", source, "--teacher", "bm25", "--output", tmp_path / "m")
    assert "--overwrite" in twice.stderr
    assert call("mine", source, "--teacher", "bm25", "--overwrite", "--output", tmp_path / "m").exit_code == 0


def test_wrong_usage_is_exit_status_2(source, tmp_path):
    assert call("mine", source, "--output", tmp_path / "mined").exit_code == 2
    assert call("mine", source, "--teacher", "bm25", "--method", "best", "--output", tmp_path / "mined").exit_code == 2
    assert call("mien").exit_code == 2


def test_the_cache_is_listed_and_pruned(source, tmp_path, minilm_path, monkeypatch):
    monkeypatch.setenv("HN_DATASETS_CACHE", str(tmp_path / "cache"))
    guard = save_tiny_cross_encoder(tmp_path / "guard", ["what", "is"])
    options = ("--guard", f"cross-encoder={guard}", "--output", tmp_path / "mined")
    assert call("mine", source, "--teacher", minilm_path, *options).exit_code == 0
    (tmp_path / "cache" / "ray").mkdir()
    (tmp_path / "cache" / "ray" / "rows.parquet").write_bytes(b"of a cluster")
    listed = json.loads(call("cache", "--json").stdout)
    assert {space["teacher"] for space in listed["spaces"]} == {str(minilm_path), guard}
    assert listed["bytes"] > sum(listed["others"].values()) > 0
    assert listed["others"]["ray"] == len(b"of a cluster")
    assert "cluster runs" in call("cache").stdout
    assert {space["address"][:12] for space in listed["spaces"]} <= set(call("cache").stdout.split())
    assert call("cache", "--prune", "zzzz").exit_code == 1
    assert call("cache", "--prune-days", 0).exit_code == 0
    assert json.loads(call("cache", "--json").stdout)["bytes"] == 0


def test_the_cache_tells_vectors_of_one_model_apart(source, tmp_path, minilm_path, monkeypatch):
    monkeypatch.setenv("HN_DATASETS_CACHE", str(tmp_path / "cache"))
    for number, options in enumerate([(), ("--max-seq-length", 64), ("--query-prompt", "query: ")]):
        mine = ("mine", source, "--teacher", minilm_path, "--precision", "float32", *options)
        assert call(*mine, "--output", tmp_path / str(number)).exit_code == 0
    shown = [line.split(str(minilm_path)) for line in call("cache").stdout.splitlines() if str(minilm_path) in line]
    assert sorted((before.split()[-1], after.strip()) for before, after in shown) == [
        ("anchor", "256 tokens, 384 dimensions, float32, prompt 'query: '"),
        ("both", "256 tokens, 384 dimensions, float32"),
        ("both", "64 tokens, 384 dimensions, float32"),
    ]
    listed = json.loads(call("cache", "--json").stdout)["spaces"]
    assert sorted((space["role"], space["max_seq_length"], space["prompt"]) for space in listed) == [
        ("anchor", 256, "query: "), ("both", 64, ""), ("both", 256, ""),
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["demo", "mine", "cache"])
def test_every_command_has_an_example_that_its_options_accept(command, tmp_path, monkeypatch):
    text = call(command, "--help").stdout
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("hn-datasets ")]
    assert examples
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mined").mkdir()
    (tmp_path / "mined/recipe.json").write_text("{}")
    for example in examples:
        arguments = shlex.split(example)[1:]
        assert arguments[0] == command
        command_of(command).make_context(command, arguments[1:])


def test_the_installed_command_is_quiet_when_nobody_watches(source, tmp_path):
    arguments = ["mine", source, "--teacher", "bm25", "--output", str(tmp_path / "mined")]
    run = [sys.executable, "-c", "from hn_datasets.cli import main; main()", *arguments]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=with_progress_bars())
    assert done.stdout.startswith("Metric")
    assert "%|" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_row_is_shown_with_its_scores():
    row = {
        "query": "What is the\ncard limit?",
        "answer": ["It is 500.", "x" * 300],
        "positive_score": 0.75,
        "negatives": ["The loan limit is 900. " * 20],
        "negative_scores": [0.5],
    }
    text = render_row(row, "query", "answer", width=60)
    assert "anchor" in text
    assert "What is the card limit?" in text
    assert text.count("0.7500") == 1
    assert "0.5000" in text
    assert max(map(len, text.splitlines())) <= 60
    empty = {**row, "negatives": [], "negative_scores": []}
    assert "no passage of the corpus qualifies" in render_row(empty, "query", "answer")


def test_rows_with_high_middling_and_low_positive_scores_are_shown():
    scores = [0.5, float("nan"), 0.1, 0.9, 0.3, 0.7, 0.2, 0.6, 0.8, 0.4, 0.0, 1.0]
    assert [scores[number] for number in pick_rows(Dataset.from_dict({"positive_score": scores}))] == [0.9, 0.5, 0.1]
    assert pick_rows(Dataset.from_dict({"positive_score": [float("nan")]})) == []


def write_pairs(path):
    dataset = Dataset.from_list(PAIRS)
    writers = {".parquet": dataset.to_parquet, ".jsonl": dataset.to_json, ".csv": dataset.to_csv}
    writers.get(path.suffix, dataset.save_to_disk)(str(path))
    return path


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl", "pairs.csv", "saved"])
@pytest.mark.parametrize("lexical", [False, True], ids=["minilm", "bm25"])
def test_every_kind_of_local_source_gives_the_rows_that_the_library_gives(tmp_path, minilm_path, name, lexical):
    options = ["--teacher", "bm25", "--tokenizer", "char-bigrams"] if lexical else ["--teacher", minilm_path]
    done = call("mine", write_pairs(tmp_path / name), *options, "--output", tmp_path / "mined")
    assert done.exit_code == 0, done.output
    teacher = BM25Teacher(tokenizer="char-bigrams") if lexical else minilm_path
    expected = Dataset.from_list(PAIRS).map(
        HardNegativeMiner.from_dataset(Dataset.from_list(PAIRS), teacher=teacher), batched=True
    )
    assert load_dataset(str(tmp_path / "mined"), split="train").to_dict() == expected.to_dict()


def test_options_override_the_recipe_and_the_recipe_beside_the_data_says_so(source, tmp_path):
    call("mine", source, "--teacher", "bm25", "--margin", 0.95, "--num-negatives", 3, "--output", tmp_path / "one")
    done = call("mine", source, "--config", tmp_path / "one/recipe.json", "--margin", 0.9, "--output", tmp_path / "two")
    assert done.exit_code == 0, done.output
    one, two = (Recipe.from_json((tmp_path / name / "recipe.json").read_text()) for name in ("one", "two"))
    assert (one.method, two.method) == (TopKPercPos(0.95), TopKPercPos(0.9))
    assert two == replace(one, method=TopKPercPos(0.9))


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"{nope", 1, "Expected a recipe as JSON"),
        (b"[1]", 1, "JSON object, got list"),
        (b"\xff\xfe", 1, "cannot be read"),
        (b'{"teachr": {}}', 1, "Unknown recipe field teachr"),
        (b'{"teacher": {"type": "bm25"}, "method": "topk"}', 1, "recipe.json: Expected method to be an object"),
        (b'{"teacher": {"type": "other"}}', 1, "recipe.json: Expected a teacher of type"),
        (b'{"teacher": [1]}', 1, "recipe.json: Expected teacher to be an object, the teacher's spec, got [1]."),
        (
            b'{"teacher": {"type": [1]}}',
            1,
            "recipe.json: Expected a teacher of type dense, bm25, precomputed, ensemble, got [1]",
        ),
        (b'{"teacher": {"type": "dense"}}', 1, "recipe.json: Expected 'model' (str) in the spec of a dense teacher"),
        (b'{"teacher": {}, "num_negatives": "4"}', 1, "recipe.json: Expected num_negatives of at least 1, got '4'."),
        (None, 2, "is a directory"),
    ],
)
def test_a_recipe_that_is_none_is_refused(source, tmp_path, content, status, message):
    path = tmp_path / "recipe.json"
    path.mkdir() if content is None else path.write_bytes(content)
    names = ["--anchor-column", "query", "--positive-column", "answer"]
    done = call("mine", source, "--config", path, *names, "--output", tmp_path / "mined")
    assert done.exit_code == status
    assert message in done.stderr.splitlines()[-1]
    assert status == 2 or done.stderr.count("\n") == 1
    assert not (tmp_path / "mined").exists()


def test_options_without_effect_are_called_by_their_names(source, tmp_path):
    out = tmp_path / "mined"
    done = call("mine", source, "--teacher", "bm25", "--model-revision", "v1", "--device", "cpu", "--output", out)
    assert "--model-revision, --device have no effect on the teacher 'bm25'" in done.stderr
    call("mine", source, "--teacher", "bm25", "--output", out)
    done = call("mine", source, "--config", out / "recipe.json", "--tokenizer", "kiwi", "--output", tmp_path / "other")
    assert "--tokenizer has no effect on the recipe's teacher" in done.stderr


def test_options_of_the_teacher_reach_it(source, tmp_path, minilm_path):
    out = tmp_path / "mined"
    done = call("mine", source, "--teacher", minilm_path, "--max-seq-length", 64, "--query-prompt", "query: ",
                "--precision", "float32", "--model-revision", "v1", "--output", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    teacher = Recipe.from_json((out / "recipe.json").read_text()).teacher
    expected = {"max_seq_length": 64, "query_prompt": "query: ", "precision": "float32", "revision": "v1"}
    assert expected.items() <= teacher.items()


def test_several_teachers_are_an_ensemble(source, tmp_path, minilm_path):
    out = tmp_path / "mined"
    given = ["--teacher", minilm_path, "--teacher", "bm25", "--precision", "float32", "--bm25-variant", "plus"]
    done = call("mine", source, *given, "--ensemble", "cross-sample", "--seed", 3, "--output", out)
    assert done.exit_code == 0, done.output
    assert "By teacher: " in done.stdout
    recipe = Recipe.from_json((out / "recipe.json").read_text())
    assert [member["type"] for member in recipe.teacher["members"]] == ["dense", "bm25"]
    assert (recipe.teacher["members"][0]["precision"], recipe.teacher["members"][1]["variant"]) == ("float32", "plus")
    assert (recipe.teacher["mode"], recipe.seed) == ("cross-sample", 3)
    again = tmp_path / "again"
    assert call("mine", source, "--config", out / "recipe.json", "--output", again).exit_code == 0
    assert load_dataset(str(again), split="train").to_dict() == load_dataset(str(out), split="train").to_dict()
    assert call("audit", out).exit_code == 0
    assert "(ensemble, `cross-sample`)" in (out / "README.md").read_text()
    plan = call("mine", source, *given, "--ensemble", "agree", "--plan", "--output", tmp_path / "no")
    assert "bm25: postings of the corpus" in plan.stdout


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--teacher", "bm25", "--teacher", "x"], 2, "Missing option '--ensemble'"),
        (["--teacher", "bm25", "--ensemble", "agree"], 2, "needs '--teacher' at least twice"),
        (["--teacher", "bm25", "--teacher", "bm25", "--ensemble", "agree"], 1, "'bm25' and 'bm25-2' are the same"),
        (["--teacher", "a", "--teacher", "b", "--ensemble", "agree", "--query-prompt", "q: "], 1,
         "--query-prompt cannot be given to several models"),
        (["--teacher", "a", "--teacher", "b", "--ensemble", "agree", "--tokenizer", "kiwi"], 1,
         "--tokenizer has no effect on the teachers a, b"),
        (["--teacher", "bm25", "--teacher", "a/b", "--ensemble", "agree", "--seed", "1"], 1, "Teacher 'a/b' of the"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_ensemble_is_one_line(source, tmp_path, options, status, message):
    done = call("mine", source, *options, "--output", tmp_path / "mined")
    assert done.exit_code == status
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("options", [["none.jsonl"], ["pairs.jsonl", "--anchor-column", "qeury"]])
def test_source_and_columns_are_checked_before_the_teacher_is_loaded(source, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    done = call("mine", *options, "--teacher", "no/such-model", "--output", "mined")
    assert done.exit_code == 1
    assert options[-1] in done.stderr
    assert "no/such-model" not in done.stderr


def test_a_number_of_processes_is_at_least_1(source, tmp_path):
    done = call("mine", source, "--teacher", "bm25", "--num-proc", 0, "--output", tmp_path / "mined")
    assert done.exit_code == 2
    done = call("mine", source, "--teacher", "bm25", "--num-proc", 2, "--output", tmp_path / "mined")
    assert done.exit_code == 0, done.output


def examples_of(command):
    lines = (line.strip() for line in call(command, "--help").stdout.splitlines())
    return [shlex.split(line)[1:] for line in lines if line.startswith("hn-datasets ")]


def test_the_examples_of_mine_run(tmp_path, minilm_path, monkeypatch):
    """Files and folders of the same names stand in for what the examples name, the model and the Hub id too."""
    for number, example in enumerate(examples_of("mine")):
        folder = tmp_path / str(number)
        (folder / "BAAI").mkdir(parents=True)
        (folder / "BAAI/bge-m3").symlink_to(minilm_path)
        for name in ("pairs.jsonl", "pairs.parquet", "me/qa"):
            write_pairs(folder / name)
        monkeypatch.chdir(folder)
        if "--config" in example:
            call("mine", "pairs.jsonl", "--teacher", "bm25", "--output", "mined")
        done = call(*example)
        assert done.exit_code == 0, (example, done.output)
        assert "negatives" in load_dataset(example[example.index("--output") + 1], split="train").column_names


def test_mine_takes_guards_and_a_recipe_brings_its_own(tmp_path, minilm_path):
    pairs = [{**pair, "day": number % 3} for number, pair in enumerate(PAIRS)]
    Dataset.from_list(pairs).to_json(str(tmp_path / "pairs.jsonl"))
    held_out = [{"text": pair["answer"].upper()} for pair in PAIRS[:2]]
    Dataset.from_list(held_out).to_json(str(tmp_path / "test.jsonl"))
    guards = ["similar-to-positive=0.8", "same-group=day", f"held-out={tmp_path / 'test.jsonl'}", "near-duplicate"]
    mined = ["mine", tmp_path / "pairs.jsonl", "--teacher", minilm_path, "--method", "topk", "--num-negatives", 2]
    options = [part for guard in guards for part in ("--guard", guard)]
    done = call(*mined, *options, "--output", tmp_path / "one")
    assert done.exit_code == 0, done.output
    assert re.search(r"took out: similar-to-positive \d+, same-group day \d+, held-out \d+, near-dup", done.stdout)
    rows = load_dataset(str(tmp_path / "one"), split="train")
    days = {pair["answer"]: pair["day"] for pair in pairs}
    for row in rows:
        assert row["negatives"] and row["day"] not in {days[text] for text in row["negatives"]}
        assert not {text.upper() for text in row["negatives"]} & {row["text"] for row in held_out}
    recipe = tmp_path / "one/recipe.json"
    assert call("mine", tmp_path / "pairs.jsonl", "--config", recipe, "--output", tmp_path / "two").exit_code == 0
    assert load_dataset(str(tmp_path / "two"), split="train")["guard_removals"] == rows["guard_removals"]
    call(
        "mine",
        tmp_path / "pairs.jsonl",
        "--config",
        recipe,
        "--guard",
        "near-duplicate=0.9",
        "--output",
        tmp_path / "x",
    )
    assert [guard["name"] for guard in json.loads((tmp_path / "x/recipe.json").read_text())["guards"]] == [
        "near-duplicate"
    ]


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ("same-group", "Expected --guard as similar-to-positive[=PERCENTAGE], same-group=COLUMN, held-out="),
        ("duplicates", "got 'duplicates'; name one of them."),
        ("near-duplicate=high", "Expected --guard with a number behind '=', such as 0.3, got 'near-duplicate=high'."),
        ("similar-to-positive=30", "SimilarToPositive needs a percentage in (0, 1], got 30.0"),
        ("same-group=ticker", "Expected a column 'ticker', for SameGroup, the dataset has the columns"),
        ("held-out=gone.jsonl", "got 'gone.jsonl': no such file; check"),
        ("cross-encoder=gone", "Could not load the cross-encoder 'gone'"),
    ],
)
def test_guards_that_mine_refuses_in_one_line(source, tmp_path, guard, message):
    done = call("mine", source, "--teacher", "bm25", "--guard", guard, "--output", tmp_path / "mined")
    assert done.exit_code == 1
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_the_examples_of_cache_run(source, tmp_path, minilm_path, monkeypatch):
    monkeypatch.setenv("HN_DATASETS_CACHE", str(tmp_path / "cache"))
    for number, example in enumerate(examples_of("cache")):
        call("mine", source, "--teacher", minilm_path, "--output", tmp_path / str(number))
        address = json.loads(call("cache", "--json").stdout)["spaces"][0]["address"]
        done = call(*(address if argument == "3fa9" else argument for argument in example))
        assert done.exit_code == 0, (example, done.output)


INTERRUPTING_TEACHER = """
import os, signal
from pathlib import Path
import torch
from sentence_transformers.base.modules import InputModule

class Interrupted(InputModule):
    def preprocess(self, inputs, prompt=None, **kwargs):
        return {"numbers": torch.tensor([[float(len(text)), float(sum(map(ord, text)) % 97)] for text in inputs])}

    def forward(self, features, **kwargs):
        encoded = Path(os.environ["ENCODED"])
        count = int(encoded.read_text()) + len(features["numbers"])
        encoded.write_text(str(count))
        if count > int(os.environ["STOP_AFTER"]):
            signal.raise_signal(signal.SIGINT)
        return {**features, "sentence_embedding": features["numbers"]}

    def get_embedding_dimension(self):
        return 2

    def save(self, *args, **kwargs):
        pass

    @classmethod
    def load(cls, *args, **kwargs):
        return cls()
"""
"""A teacher that presses Ctrl-C when it has encoded so many texts."""


def test_ctrl_c_keeps_what_was_embedded_and_shows_no_traceback(tmp_path, monkeypatch):
    teacher, encoded = tmp_path / "teacher", tmp_path / "encoded"
    teacher.mkdir()
    (teacher / "interrupted.py").write_text(INTERRUPTING_TEACHER)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "interrupted.Interrupted"}]
    (teacher / "modules.json").write_text(json.dumps(modules))
    num_rows = SHARD_TEXTS + 900
    rows = Dataset.from_dict({"q": [f"q {n}" for n in range(num_rows)], "a": [f"a {n}" for n in range(num_rows)]})
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    arguments = ["mine", str(tmp_path / "rows.parquet"), "--teacher", str(teacher), "--trust-remote-code",
                 "--output", str(tmp_path / "mined")]  # fmt: skip
    run = [sys.executable, "-c", "from hn_datasets.cli import main; main()", *arguments]

    settings = {"HN_DATASETS_CACHE": tmp_path / "cache", "ENCODED": encoded, "STOP_AFTER": SHARD_TEXTS + 100}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    encoded.write_text("0")
    stopped = subprocess.run(run, capture_output=True, text=True, check=False, env=with_progress_bars())
    assert stopped.returncode == INTERRUPTED
    assert stopped.stdout == ""
    assert stopped.stderr == "Interrupted.\n"
    assert not (tmp_path / "mined").exists()
    monkeypatch.setenv("STOP_AFTER", str(10**9))
    encoded.write_text("0")
    again = call(*arguments)
    assert again.exit_code == 0, again.stderr
    num_probes = 100  # at most: texts that tell what the weights are
    assert int(encoded.read_text()) <= 2 * num_rows - SHARD_TEXTS + num_probes
    assert len(load_dataset(str(tmp_path / "mined"), split="train")) == num_rows


def run_with_hook(hook, arguments):
    """Run the command line in a process and a process group of its own, with ``hook`` watching what it does."""
    code = f"import os, signal, sys\n{hook}\nsys.addaudithook(watch)\nfrom hn_datasets.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, start_new_session=True, timeout=120, env=with_progress_bars(),
    )  # fmt: skip


DURING_AN_IMPORT = """
def watch(event, arguments):
    if event == "import" and arguments[0] == "MODULE":
        signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize("module", ["numpy", "datasets", "torch._C", "numba", "hn_datasets.miner"])
def test_ctrl_c_during_an_import_is_one_line(source, tmp_path, module):
    arguments = ["mine", source, "--teacher", "bm25", "--output", tmp_path / "mined"]
    stopped = run_with_hook(DURING_AN_IMPORT.replace("MODULE", module), arguments)
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (INTERRUPTED, "", "Interrupted.\n")


IN_A_WORKER = """
first = os.getpid()
def watch(event, arguments):
    if event == "pickle.find_class" and os.getpid() != first and arguments[1] == "HardNegativeMiner":
        os.killpg(0, signal.SIGINT)
"""
"""What a terminal does at Ctrl-C, to all processes, when a worker has got its task."""


def test_ctrl_c_in_workers_is_one_line_too(source, tmp_path):
    arguments = ["mine", source, "--teacher", "bm25", "--num-proc", 2, "--output", tmp_path / "mined"]
    stopped = run_with_hook(IN_A_WORKER, arguments)
    assert stopped.returncode == INTERRUPTED
    assert [line for line in stopped.stderr.splitlines() if not line.startswith("Warning")] == ["Interrupted."]
    assert not (tmp_path / "mined").exists()


@pytest.mark.parametrize("command", [[], ["mine"], ["cache"], ["demo"]])
def test_help_imports_no_large_library(command):
    large = ["torch", "datasets", "pyarrow", "sentence_transformers", "transformers"]
    code = (
        "import atexit, sys; from hn_datasets.cli import main\n"
        f"atexit.register(lambda: print([name for name in {large} if name in sys.modules], file=sys.stderr))\n"
        f"main([*{command}, '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_has_what_each_says_of_itself(name):
    command = command_of(name)
    assert command.name == name
    assert f"  {name} " in call("--help").stdout
    first, listed = (text.rstrip(".").split() for text in (command.get_short_help_str(200), COMMANDS[name][1]))
    assert first[:4] == listed[:4]


def test_the_module_runs_as_the_command_does():
    done = subprocess.run(
        [sys.executable, "-m", "hn_datasets.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("hn-datasets, version ")


def test_choices_are_those_of_the_library():
    options = {option.name: option for option in command_of("mine").params}
    assert tuple(options["sampling"].type.choices) == SAMPLINGS
    assert tuple(options["precision"].type.choices) == PRECISIONS
    assert tuple(options["ensemble"].type.choices) == tuple(MODES)


def test_the_help_of_mine_lists_every_option_once_in_sections():
    text = call("mine", "--help").stdout
    places = [text.index(f"\n{section}:\n") for section in ("Data", "Teacher", "Method", "Output", "Cluster", "Other")]
    assert places == sorted(places)
    listed = re.findall(r"^  (?:-h, )?(--[\w-]+)", text, re.MULTILINE)
    assert sorted(listed) == sorted(
        ["--help", *(option.opts[0] for option in command_of("mine").params if option.name != "source")]
    )
    sections = dict(zip(("Data", "Teacher", "Method", "Output"), re.split(r"\n\w+:\n", text)[1:], strict=False))
    for section, options in {"Data": ["--split", "--corpus"], "Teacher": ["--device", "--tokenizer"],
                             "Method": ["--margin", "--config"], "Output": ["--output", "--json"]}.items():  # fmt: skip
        assert all(f"  {option} " in sections[section] for option in options)


def test_columns_and_words_are_not_taken_for_options():
    options = [option for option in command_of("mine").params if isinstance(option, click.Option)]
    for message in (
        "Expected a column 'num_negatives', the dataset has the columns batch_size (string), pool (string).",
        "Expected an existing corpus file, got 'data/on_empty.jsonl': nothing is there; enlarge the pool.",
        "Could not read on_empty.jsonl; got query_prompt (string).",
    ):
        assert name_options(message, options) == message
    said = name_options("Pass query_prompt='a b', or trust_remote_code=True, split=x.", options)
    assert said == "Pass --query-prompt 'a b', or --trust-remote-code, --split x."


class Messages(logging.Handler):
    """What libraries log, whether or not it would be shown."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.mark.parametrize("damaged", ["pairs.jsonl", "pairs.parquet", "teacher"])
def test_what_cannot_be_read_is_one_line_and_no_library_logs_another(tmp_path, monkeypatch, damaged):
    monkeypatch.chdir(tmp_path)
    name = damaged if damaged != "teacher" else "good.jsonl"
    write_pairs(tmp_path / name)
    if damaged != "teacher":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
    messages = Messages()
    loggers = [logging.getLogger(library) for library in ("datasets", "sentence_transformers")]
    for logger in loggers:
        logger.addHandler(messages)
    done = call("mine", name, "--teacher", "bm25" if damaged != "teacher" else "./nofolder", "--output", "mined")
    for logger in loggers:
        logger.removeHandler(messages)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert messages.texts == []


@pytest.mark.parametrize("output", ["file/mined", "file", "file/a/b", "n" * 300])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("something")
    done = call("mine", "no-such-source.jsonl", "--teacher", "bm25", "--output", output)
    assert done.exit_code == 1
    assert re.fullmatch(r"Error: Expected an? (output folder that can be written|new or mined folder).*\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_output_in_a_folder_of_another_user_is_refused(source, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = call("mine", source, "--teacher", "bm25", "--output", tmp_path / "locked/mined")
    assert "Permission denied" in done.stderr


def test_mine_shows_one_row_and_how_to_load_the_splits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DatasetDict({"train": Dataset.from_list(PAIRS), "test": Dataset.from_list(PAIRS[:4])}).save_to_disk("saved")
    done = call("mine", "saved", "--teacher", "bm25", "--output", "mined")
    table, shown = done.stdout.rstrip().split("\n\n")[0], done.stdout.rstrip().split("\n\n")[-1]
    assert table.startswith("Metric")
    mined = load_dataset("mined", split="train")
    assert shown == render_row(mined[pick_rows(mined, [0.5])[0]], "query", "answer")
    code = re.search(r"^Written: (.*)$", done.stderr, re.MULTILINE)[1]
    assert code == 'load_dataset("mined", split="train"); other splits: test'
    quiet = call("mine", "saved", "--teacher", "bm25", "--json", "--output", "quiet")
    assert json.loads(quiet.stdout)["rows"] == len(PAIRS) + 4


@pytest.mark.parametrize("split", ["train", "train[:20]", "test"])
def test_what_mine_says_was_written_can_be_pasted(source, tmp_path, split):
    folder = tmp_path / 'a "quoted" folder'
    Dataset.from_list(PAIRS).to_parquet(str(tmp_path / f"saved/{split.split('[')[0]}.parquet"))
    done = call("mine", tmp_path / "saved", "--split", split, "--teacher", "bm25", "--output", folder)
    assert done.exit_code == 0, done.output
    code = re.search(r"^Written: (.*)$", done.stderr, re.MULTILINE)[1]
    assert eval(code, {"load_dataset": load_dataset}).num_rows == (20 if "[" in split else len(PAIRS))


def test_a_dataset_of_skipped_rows_alone_has_no_row_to_show(tmp_path):
    rows = [*PAIRS[:2], {"query": " ", "answer": "x"}]
    splits = {"train": Dataset.from_list(rows[2:]), "test": Dataset.from_list(rows[:2])}
    DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    options = ["--teacher", "bm25", "--num-negatives", 1, "--on-empty", "skip"]
    done = call("mine", tmp_path / "saved", *options, "--output", tmp_path / "mined")
    assert done.exit_code == 0, done.output
    assert "\nanchor  " in done.stdout


def test_a_text_that_the_terminal_cannot_show_does_not_end_in_a_traceback(tmp_path):
    rows = [{**row, "answer": f"한도 {row['answer']}"} for row in PAIRS]
    Dataset.from_list(rows).to_json(str(tmp_path / "pairs.jsonl"), force_ascii=False)
    arguments = ["mine", tmp_path / "pairs.jsonl", "--teacher", "bm25", "--output", tmp_path / "mined"]
    done = subprocess.run(
        [sys.executable, "-m", "hn_datasets.cli", *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert "\\ud55c\\ub3c4" in done.stdout
