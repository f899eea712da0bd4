"""The card: what it says, that nothing in a row can break it, and that what is somebody else's stays."""

import ast
import html
import io
import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset, Features, List, Value, get_dataset_config_names, load_dataset
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt
from PIL import Image

from hn_datasets import TopK, TopKAbs, TopKMarginPos, TopKPercPos, TopKShifted
from hn_datasets.errors import ArgumentError
from hn_datasets.markdown import code, collapse, escape, fence
from hn_datasets.methods import RandomNegatives
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.release.card import (
    PICTURES,
    CardMetadata,
    ConfigFiles,
    VersionRow,
    render_card,
    size_category,
    validate_metadata,
)
from hn_datasets.statistics import compute_statistics
from tests.static_model import save_static_model

CARDS = Path(__file__).parent.parent / "cards"
EXAMPLES = sorted(path.parent for path in CARDS.glob("examples/*/mining.json"))
DENSE = {
    "type": "dense", "model": "me/teacher", "revision": "abc123", "weights": "f00d", "query_prompt": "query: ",
    "corpus_prompt": "", "max_seq_length": 512, "dimension": 8, "precision": "bfloat16", "similarity": "cosine",
    "trust_remote_code": False,
}  # fmt: skip
BM25 = {"type": "bm25", "variant": "okapi", "tokenizer": {"name": "words"}, "k1": 1.5, "b": 0.75, "epsilon": 0.25}
NASTY = [
    "a | b || c", "line\nbreak\r\nand\u2028another\x0b", "`code` ``` fence", "<script>alert(1)</script><b>bold</b>",
    "---", "\n---\nlicense: mit\n---\n", "{{ title }} {% include 'x' %} {# c #}", "[link](http://x.example)",
    "![image](http://x.example/i.png)", "# heading", "- item", "1. item", "> quote", "&lt;b&gt; &#124;", "\\| \\",
    "*a* _b_ ~~c~~ $x$", "<!-- hn_datasets end -->", "<!-- comment", "</td></tr></table>", "\u202eright to left",
    "|:--|", "[ref]: http://x.example", "~~~", "    indented", "\0\x1b[31m", "\ud800 lone", "\u200f\u061cright to left",
    "&#124; &lt;", "<details>", "<!--", "``", "```bibtex", "#", "=", "***", "a\\", "%}", "}}", "\ttab", "\r---\r",
]  # fmt: skip


def make_record(method=None, teacher=DENSE, rows=4, scores=(0.9, 0.8), release=None, **recipe):
    """A record with one full row and three like it."""
    columns = {"positive_score": [scores[0]] * rows, "negative_scores": [[scores[1], scores[1] - 0.1]] * rows}
    return MiningRecord(
        recipe=Recipe(teacher=teacher, method=method or TopKPercPos(0.95), num_negatives=2, **recipe),
        rows={"train": rows},
        corpus={"passages": 9, "digest": "c0ffee"},
        statistics=compute_statistics({**columns, "top_score": [scores[1]] * rows}),
        source={"repo_id": "them/pairs", "revision": "beef", "fingerprints": {"train": "abcd"}},
        environment={"packages": {"hn-datasets": "0.1.0"}},
        timings={"encode": 1.25},
        release=release or {},
    )


TUPLE = Features({name: Value("string") for name in ("anchor", "positive", "negative_1", "negative_2")})
PAIR = Features({"anchor": Value("string"), "positive": Value("string"), "label": Value("int64")})


def config_of(name="n-tuple", layout=None, default=True, features=TUPLE, rows=4):
    return ConfigFiles(
        name, layout or name, default, {"train": f"{name}/train-*.parquet"}, features, {"train": rows}, {"train": 100}
    )


def row_of(anchor="question", positive="answer", negatives=("wrong", "also wrong")):
    scores = [0.8, 0.7, 0.6][: len(negatives)]
    return {
        "anchor": anchor, "positive": positive, "negatives": list(negatives), "negative_scores": scores,
        "negative_ids": list(range(len(negatives))), "positive_score": 0.9, "ceiling": 0.855, "top_score": 0.8,
    }  # fmt: skip


def card_of(record=None, metadata=None, configs=None, **choices):
    given = {"repo_id": "me/mined", "examples": [row_of()], "versions": [], **choices}
    return render_card(
        record or make_record(release={"version": "1.0.0"}),
        metadata or CardMetadata("cc-by-4.0"),
        configs or [config_of()],
        **given,
    )


def head_of(card):
    return DatasetCard(card).data.to_dict()


def body_of(card):
    return DatasetCard(card).text


def html_of(card):
    return MarkdownIt("commonmark").enable("table").render(body_of(card))


def tokens_of(card):
    return MarkdownIt("commonmark").enable("table").parse(body_of(card))


def blocks_of(card, language="python"):
    return [token.content for token in tokens_of(card) if token.type == "fence" and token.info == language]


# The examples.


MAKE = runpy.run_path(str(CARDS / "examples" / "make.py"))


def test_there_is_one_example_of_each_kind():
    teachers = [MiningRecord.read(folder).recipe.teacher["type"] for folder in EXAMPLES]
    assert sorted(teachers) == ["bm25", "dense", "dense"]


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_example_is_rendered_again_to_the_byte(folder):
    assert MAKE["render"](folder).encode() == (folder / "README.md").read_bytes()


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_pictures_of_an_example_are_those_of_its_mining_json(folder):
    """Versions of matplotlib differ by a shade at the edges of letters, so pixels are compared, not bytes."""
    drawn = MAKE["draw"](folder)
    assert {str(path.relative_to(folder)) for path in folder.glob("assets/*")} == set(drawn) == set(PICTURES)
    for name, content in drawn.items():
        now, kept = (
            np.asarray(Image.open(file).convert("RGBA"), dtype=float) for file in (io.BytesIO(content), folder / name)
        )
        assert now.shape == kept.shape
        assert (abs(now - kept).max(axis=2) > 64).mean() < 0.002, name


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_example_has_what_a_card_must_have(folder):
    card = MAKE["render"](folder)
    sections = (
        "Load and train", "Columns", "How the negatives were chosen", "What the scores say", "Negatives per row",
        "Example rows", "Negatives that may be right answers", "How to reproduce", "Versions", "Licences",
    )  # fmt: skip
    for section in sections:
        assert f"\n\n## {section}\n\n" in card or f"\n\n### {section}\n\n" in card, section
    assert "More Information Needed" not in card
    assert "hn-datasets reproduce example/" in card
    assert all(f"]({path})" in card for path in PICTURES)
    assert not re.search(r"\b(None|nan|inf|Undefined)\b|\{\{|\{%|\{#|\n\n\n", card)


def test_a_reader_sees_low_scores_of_long_passages():
    card = (CARDS / "examples" / "market-notes" / "README.md").read_text(encoding="utf-8")
    assert "On average a positive scores 0.377" in card
    assert "**Signs of trouble**" in card
    assert "as with long or diverse passages" in card
    assert "In 56.2% of the rows the teacher scores some other passage above the positive" in card


def test_a_reader_sees_bm25_scores_that_pile_up():
    card = (CARDS / "examples" / "korean-finance-bm25" / "README.md").read_text(encoding="utf-8")
    assert "| Most frequent | 0.000: 24 (50.0%) | 0.000: 88 (91.7%) | 1.200: 48 (50.0%) |" in card
    assert "negatives score exactly 0: with BM25 they share no word with the anchor" in card
    assert "Positives that score 0, as they share no word with their anchor: 24." in card
    assert "A bar with an arrow is cut off" in card


def test_examples_are_small_and_the_wheel_has_none():
    assert sum(path.stat().st_size for path in CARDS.glob("examples/*/*.*")) < 100_000
    assert all(path.stat().st_size < 30_000 for path in CARDS.glob("examples/*/assets/*"))
    assert not list(CARDS.glob("*.md"))


# The head.


def test_head_has_what_the_hub_reads():
    metadata = CardMetadata(
        "other",
        license_name="In-house: ask us",
        license_link="LICENSE",
        pretty_name="No: really",
        language=("no", "ko-KR", "ko"),
    )
    head = head_of(card_of(metadata=metadata))
    assert head["license"] == "other"
    assert (head["license_name"], head["license_link"]) == ("in-house-ask-us", "LICENSE")
    assert head["license_details"] == "In-house: ask us"
    assert head["pretty_name"] == "No: really"
    assert head["language"] == ["no", "ko"]
    assert head["language_bcp47"] == ["ko-KR"]
    assert head["source_datasets"] == ["them/pairs"]
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["text-retrieval", "sentence-similarity", "feature-extraction"]
    assert head["tags"] == ["hard-negatives", "sentence-transformers", "hn_datasets", "topk-percpos"]


def test_what_nobody_said_is_left_out_of_the_head():
    record = replace(make_record(), source={})
    head = head_of(card_of(record, repo_id=None))
    assert not {"pretty_name", "language", "source_datasets", "license_name", "license_link"} & set(head)


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10_000, "10K<n<100K"), (999_999, "100K<n<1M"),
        (10**6, "1M<n<10M"), (10**9, "1B<n<10B"), (10**12 - 1, "100B<n<1T"), (10**12, "n>1T"),
    ],
)  # fmt: skip
def test_size_category(rows, name):
    assert size_category(rows) == name


def stage(folder, card, tables):
    folder.mkdir()
    (folder / "README.md").write_text(card, encoding="utf-8")
    for config, splits in tables.items():
        (folder / config).mkdir()
        for split, table in splits.items():
            table.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture
def release(tmp_path):
    """A small release in a folder: two configurations, two splits in the second."""
    tuples = Dataset.from_dict({name: [f"{name} {n}" for n in range(6)] for name in TUPLE}, features=TUPLE)
    pairs = {
        split: Dataset.from_dict({"anchor": ["a"] * n, "positive": ["p"] * n, "label": [1] * n}, features=PAIR)
        for split, n in (("train", 5), ("test", 2))
    }
    second = replace(
        config_of("labeled-pair", default=False, features=PAIR),
        data_files={split: f"labeled-pair/{split}-*.parquet" for split in pairs},
        num_examples={"train": 5, "test": 2},
        num_bytes={"train": 50, "test": 20},
    )
    card = card_of(configs=[config_of(rows=6), second], repo_id=None, pictures=())
    return stage(tmp_path / "release", card, {"n-tuple": {"train": tuples}, "labeled-pair": pairs})


def test_every_configuration_and_split_loads(release):
    assert set(get_dataset_config_names(release)) == {"n-tuple", "labeled-pair"}
    default = load_dataset(release, split="train")
    assert default.features == TUPLE
    assert len(default) == 6
    for split, rows in (("train", 5), ("test", 2)):
        loaded = load_dataset(release, "labeled-pair", split=split)
        assert (loaded.features, len(loaded)) == (PAIR, rows)


def test_a_configuration_of_lists_loads(tmp_path):
    features = Features({"anchor": Value("string"), "positive": List(Value("string")), "labels": List(Value("int64"))})
    rows = Dataset.from_dict({"anchor": ["a"], "positive": [["p", "n"]], "labels": [[1, 0]]}, features=features)
    card = card_of(configs=[config_of("labeled-list", features=features, rows=1)], pictures=())
    folder = stage(tmp_path / "lists", card, {"labeled-list": {"train": rows}})
    assert load_dataset(folder, split="train").features == features
    assert "| `labels` | list of int64 |" in card


# The blocks of code.


def test_the_block_loads_what_the_card_promises(release):
    loading, training = blocks_of(Path(release, "README.md").read_text(encoding="utf-8"))
    before = Path.cwd()
    os.chdir(release)
    try:
        names = {}
        exec(loading, names)
    finally:
        os.chdir(before)
    assert names["train"].column_names == list(TUPLE)
    assert "MultipleNegativesRankingLoss(model)" in training


@pytest.mark.parametrize(
    ("layout", "features"),
    [
        ("n-tuple", TUPLE),
        ("triplet", TUPLE),
        ("n-tuple", Features({**TUPLE, "scores": List(Value("float32"))})),
        ("labeled-pair", PAIR),
        ("labeled-pair", Features({"anchor": Value("string"), "positive": Value("string"), "score": Value("float32")})),
        ("labeled-list", Features({"anchor": Value("string"), "positive": List(Value("string"))})),
    ],
)
def test_the_training_block_imports_what_there_is(layout, features):
    card = card_of(configs=[config_of(layout, features=features)])
    block, names = blocks_of(card)[1], {}
    exec("\n".join(line for line in block.splitlines() if line.startswith("from ")), names)
    called = {node.func.id for node in ast.walk(ast.parse(block)) if isinstance(getattr(node, "func", None), ast.Name)}
    assert len(called) == 3 and called <= set(names), "model, trainer and loss"


@pytest.mark.filterwarnings("ignore:.*pin_memory")
def test_the_training_block_trains(release, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    save_static_model(tmp_path / "student")
    loading, training = blocks_of(Path(release, "README.md").read_text(encoding="utf-8"))
    monkeypatch.chdir(release)
    student = json.dumps(str(tmp_path / "student"))
    names = {}
    exec(loading + "\n" + training.replace('"sentence-transformers/all-MiniLM-L6-v2"', student), names)
    assert names["trainer"].state.global_step > 0


def test_a_layout_that_no_trainer_reads_has_no_training_block():
    assert len(blocks_of(card_of(configs=[config_of("scored")]))) == 1


def test_loading_names_tag_and_split():
    card = card_of()
    assert 'load_dataset("me/mined", revision="v1.0.0", split="train")' in card
    config = replace(config_of(), data_files={"test": "t/*"}, num_examples={"test": 1}, num_bytes={"test": 1})
    assert 'split="test")' in card_of(configs=[config])


# What it says of the mining.


def test_teacher_is_named_with_its_revision_and_prompts():
    card = card_of()
    assert "[me/teacher](https://huggingface.co/me/teacher/tree/abc123)" in card
    for text in ('| Prompts | of anchors `"query: "`, of passages none |', "cut after 512 tokens"):
        assert text in card
    assert "| Prompts | none |" in card_of(make_record(teacher={**DENSE, "query_prompt": ""}))
    assert "| Precision | bfloat16; 8 dimensions, cosine |" in card


@pytest.mark.parametrize(
    "path", ["/data/someone/models/student", "./out/student", "C:\\someone\\student", "a/b/student", "~/student"]
)
def test_a_folder_of_one_machine_is_shown_by_its_own_name(path):
    card = card_of(make_record(teacher={**DENSE, "model": path, "revision": None}))
    assert "| Teacher | `student` |" in card
    assert path not in card
    assert "someone" not in card
    assert "The teacher was loaded from a folder" in card
    assert "| Revision | not recorded" in card


def test_a_relative_folder_is_no_link_even_with_a_revision():
    assert "| Teacher | `student` |" in card_of(make_record(teacher={**DENSE, "model": "./student"}))


def test_other_teachers_are_told_of():
    precomputed = {"type": "precomputed", "dimension": 3, "similarity": "dot", "queries": "q1", "passages": "p1"}
    card = card_of(make_record(teacher=precomputed))
    assert "the model that made them is not recorded" in card
    card = card_of(make_record(teacher=BM25))
    assert "variant `okapi`, `k1` = 1.5, `b` = 0.75, `epsilon` = 0.25" in card
    assert "none: BM25 has no weights" in card
    assert "| weight | `2` |" in card_of(make_record(teacher={"type": "new", "weight": 2}))


@pytest.mark.parametrize(
    ("method", "texts"),
    [
        (TopK(), ["There is no ceiling on the score"]),
        (TopKShifted(7), ["The 7 best passages of every anchor are left out"]),
        (TopKAbs(0.6), ["below 0.6, whatever", "`max_score` = 0.6"]),
        (TopKMarginPos(0.05), ["more than 0.05 below", "`p - margin`"]),
        (TopKPercPos(0.9), ["below 90% of what the positive", "<code>p - &#124;p&#124; &#42; (1 - percentage)</code>"]),
        (RandomNegatives(), ["a baseline, not hard negatives", "uniformly from the corpus, seed 0"]),
    ],
)
def test_method_is_told_in_words_and_as_a_formula(method, texts):
    card = card_of(make_record(method))
    for text in texts:
        assert text in card
    low, high = method.ceiling(np.float32([0.5, 0.6]))
    assert ("each row has its own" in card) is bool(low < high)


def test_what_is_drawn_has_a_seed():
    card = card_of(make_record(sampling="top1+softmax", seed=3))
    assert "`top1+softmax` from the 10 best that qualify, temperature 1, seed 3" in card


def test_guards_are_listed():
    assert '`{"name": "held-out", "limit": 0.6}`' in card_of(make_record(guards=({"name": "held-out", "limit": 0.6},)))


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (TopK(), "the best passages that are neither labelled as right nor taken out by a guard are the negatives."),
        (RandomNegatives(), "Every passage that is no positive, and that the guards let pass, can be a negative"),
    ],
)
def test_the_sentence_on_the_method_knows_of_guards(method, sentence):
    assert sentence in card_of(make_record(method, guards=({"name": "held-out"},)))


def test_what_each_guard_took_out_is_told():
    guards = ({"name": "same-group", "column": "day"}, {"name": "cross-encoder", "model": "/some/where/reranker"})
    record = make_record(guards=guards)
    card = card_of(replace(record, statistics=replace(record.statistics, guard_removals=(1234, 5))))
    assert '`{"name": "same-group", "column": "day"}`, took out 1,234 passages |' in card
    assert '`{"name": "cross-encoder", "model": "reranker"}`, took out 5 passages |' in card
    assert "/some/where" not in card


def test_there_is_no_estimate_of_false_negatives_and_the_card_says_so():
    assert "It is **not known** how many are" in card_of()


def test_short_rows_are_counted_with_their_reason():
    columns = {"positive_score": [0.9] * 3, "negative_scores": [[0.5, 0.4], [0.5], []]}
    record = replace(make_record(), statistics=compute_statistics(columns, num_negatives=2))
    card = card_of(record, configs=[config_of(rows=1)])
    assert "2 rows (66.7%) have fewer than 2 negatives, because too few passages score below the ceiling" in card
    assert "0 negatives in 1 row, 1 negative in 1 row." in card
    assert "The configuration `n-tuple` leaves short rows out: it has 1 row." in card
    assert "leaves short rows out" not in card_of(record, configs=[config_of(rows=3)])
    assert "each with up to 2 hard negatives" in card


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (TopK(), "because the corpus has too few other passages that the guards let pass:"),
        (TopKPercPos(0.95), "because too few passages score below the ceiling and pass the guards:"),
    ],
)
def test_guards_may_be_why_rows_are_short(method, why):
    columns = {"positive_score": [0.9] * 2, "negative_scores": [[0.5, 0.4], [0.5]]}
    record = make_record(method, guards=({"name": "same-group", "column": "day"},))
    assert why in card_of(replace(record, statistics=compute_statistics(columns, num_negatives=2)))


def test_without_any_score_the_card_is_whole():
    columns = {"positive_score": [float("nan")], "negative_scores": [[]]}
    card = card_of(replace(make_record(), statistics=compute_statistics(columns, num_negatives=2)), examples=[])
    assert "No row was mined" in card
    assert "Skipped because of an empty text: 1 row." in card
    assert "Example rows" not in card


@pytest.mark.parametrize(
    ("scores", "mean"),
    [((0.9, 0.8), "| Mean | 0.9000 |"), ((1.0, 0.8), "| Mean | 1.0000 |"), ((1.00001, 0.8), "| Mean | 1.0000 |"),
     ((3.124, 1), "| Mean | 3.124 |"), ((33.82, 12), "| Mean | 33.82 |"), ((338.2, 12), "| Mean | 338.2 |"),
     ((33820, 12), "| Mean | 33820 |"), ((-33.82, -40), "| Mean | -33.82 |")],
)  # fmt: skip
def test_scores_have_four_digits(scores, mean):
    card = card_of(make_record(scores=scores), examples=[{**row_of(), "positive_score": scores[0]}])
    assert mean in card
    assert f"| **positive** | {mean.split()[3]} |" in card


def test_shares_are_never_rounded_to_none_or_all():
    scores = [0.0, *[0.5] * 4999]
    columns = {"positive_score": scores, "negative_scores": [[0.25]] * 5000, "top_score": [0.4] * 5000}
    card = card_of(replace(make_record(), statistics=compute_statistics(columns)))
    assert "| 0 or below | 1 (under 0.1%) | 0 (0.0%) | 1 (under 0.1%) |" in card
    assert "| Most frequent | 0.5000: 4,999 (over 99.9%) | 0.2500: 5,000 (100.0%) |" in card
    assert "In under 0.1% of the rows the teacher scores some other passage above the positive" in card


def test_the_table_has_no_rows_of_zeros():
    rng = np.random.default_rng(0)
    columns = {"positive_score": rng.uniform(0.8, 0.9, 50), "negative_scores": rng.uniform(0.1, 0.2, (50, 1)).tolist()}
    card = card_of(replace(make_record(), statistics=compute_statistics(columns)))
    assert "| Maximum |" in card
    assert "| 0 or below |" not in card
    assert "| Most frequent |" not in card
    assert "There is no sign of trouble" in card


def test_a_ceiling_that_is_none_is_no_line_of_an_example():
    assert "| *ceiling* | *0.8550* |" in card_of()
    for ceiling in (float("inf"), float("nan"), None):
        assert "*ceiling*" not in card_of(examples=[{**row_of(), "ceiling": ceiling}])


@pytest.mark.parametrize(
    ("method", "guards", "sentence"),
    [
        (TopKPercPos(0.95), (), "The ceiling keeps those passages out"),
        (TopKAbs(0.7), (), "The ceiling does not depend on the positive"),
        (TopK(), (), "Nothing keeps those passages out"),
        (
            TopK(),
            ({"name": "similar-to-positive"},),
            "those of them that no guard takes out are likely to be negatives",
        ),
    ],
)
def test_what_scores_above_the_positive_is_spoken_of(method, guards, sentence):
    columns = {"positive_score": [0.5, 0.9], "negative_scores": [[0.3], [0.3]], "top_score": [0.6, 0.6]}
    statistics = compute_statistics(columns)
    card = card_of(replace(make_record(method, guards=guards), statistics=statistics))
    assert "In 50.0% of the rows the teacher scores some other passage above the positive" in card
    assert sentence in card
    assert ("Nothing keeps" in card) is (method == TopK() and not guards)
    assert "In no row does another passage" not in card
    best = card_of(replace(make_record(method), statistics=replace(statistics, positive_not_best=0.0)))
    assert "In no row does another passage score above the positive." in best
    assert "the teacher scores some other passage" not in best


def test_special_choices_are_told_only_where_they_were_made():
    guards = ({"name": "duplicates"}, {"name": "held-out"})
    teacher = {**DENSE, "roles_differ": True}
    told = card_of(make_record(teacher=teacher, on_empty="skip", guards=guards, index="IVF64,SQ8"))
    assert "| Roles | the model itself encodes anchors and passages in two ways |" in told
    assert "| Rows with an empty text | skipped |" in told
    assert "| Search | approximate, by inverted lists of FAISS, `IVF64,SQ8`;" in told
    assert told.count("| Guard |") == told.count('| Guard | `{"name": "held-out"}` |') == 1
    assert not any(f"\n| {name} |" in card_of() for name in ("Roles", "Rows with an empty text", "Guard", "Search"))


def test_tables_that_no_trainer_reads_are_told_as_such():
    number, text, scores = Value("int64"), Value("string"), List(Value("float32"))
    parts = [
        ("queries", {"query_id": number, "query": text}, "a query and its number"),
        ("documents", {"document_id": number, "document": text}, "a passage and its number"),
        (
            "scores",
            {"query_id": number, "document_ids": List(number), "scores": scores},
            "the number of a query, and those of its passages with scores and labels",
        ),
    ]
    configs = [config_of(), *(config_of(name, "normalized", False, Features(columns)) for name, columns, _ in parts)]
    card = card_of(configs=configs)
    for name, _, what in parts:
        assert f"| `{name}` | {what} | 4 in `train` | after `sentence_transformers.util.resolve_ids` |" in card
    assert "the trainer's label" not in card
    assert "`MarginMSELoss`" not in card
    configs = [config_of(features=Features({**TUPLE, "scores": scores})), config_of("scored", default=False)]
    scored = card_of(configs=configs)
    assert "; the trainer's label" in scored
    assert "| `SentenceTransformerTrainer` with `MarginMSELoss` |" in scored


def test_the_default_configuration_is_told_first():
    card = card_of(configs=[config_of("labeled-pair", default=False, features=PAIR), config_of()])
    assert card.index("| `n-tuple` (default) |") < card.index("| `labeled-pair` |")
    assert "This configuration trains as it is" in card


def test_several_positives_share_the_lowest_score():
    card = card_of(examples=[row_of(positive=["one", "two"])])
    assert "| **positive** | ≥ 0.9000 | one |\n| **positive** | ≥ 0.9000 | two |" in card


def test_commands_are_exact():
    record = make_record(release={"version": "2.0.0"})
    source = {"repo_id": "them/pairs", "config_name": "qa", "split": "train", "revision": "a b;rm"}
    shell = blocks_of(card_of(replace(record, source=source)), "shell")
    assert shell[0] == "hn-datasets reproduce me/mined@v2.0.0\n"
    assert shell[1] == (
        "hn-datasets mine them/pairs --config-name qa --split train --revision 'a b;rm' --config recipe.json "
        "--output mined\n"
    )


def test_the_recipe_can_be_read_back():
    record = make_record(sampling="softmax", temperature=0.5, seed=1)
    (block,) = blocks_of(card_of(record), "json")
    assert Recipe.from_json(block) == record.recipe


def test_versions_and_parent_are_listed():
    rows = [
        VersionRow("1.1.0", "2026-01-02", 1234, 0.25, 0.5, "more | rows"),
        VersionRow("1.0.0", "d", 9, None, None, ""),
    ]
    card = card_of(make_record(release={"version": "1.1.0", "parent": "1.0.0"}), versions=rows)
    tag = "[v1.1.0](https://huggingface.co/datasets/me/mined/tree/v1.1.0)"
    assert f"| {tag} | 2026-01-02 | 1,234 | 0.2500 | 50.0% | more &#124; rows |" in card
    assert "This release follows [me/mined@v1.0.0]" in card
    other = card_of(make_record(release={"version": "1.1.0", "parent": "me/student@v3.0.0"}))
    assert "[me/student@v3.0.0](https://huggingface.co/datasets/me/student/tree/v3.0.0)" in other


def test_unknown_licences_are_said_to_be_unknown():
    card = card_of()
    assert "| The teacher | unknown: it was not stated |" in card
    assert "| The texts it is made from | unknown: it was not stated (see [them/pairs]" in card
    assert "| The teacher | MIT |" in card_of(metadata=CardMetadata("mit", teacher_license="MIT"))


# Nothing in a text can break the card.


@pytest.mark.parametrize("text", NASTY)
def test_no_text_of_a_row_breaks_the_card(text):
    plain, nasty = card_of(), card_of(examples=[row_of(text, text, (text, text))])
    kinds = [[(token.type, token.tag, token.level) for token in tokens_of(card)] for card in (plain, nasty)]
    assert kinds[0] == kinds[1]
    assert head_of(plain) == head_of(nasty)
    inner = [[child.type for token in tokens_of(card) for child in token.children or ()] for card in (plain, nasty)]
    assert inner[0] == inner[1]
    assert "<script" not in html_of(nasty)


@pytest.mark.parametrize("text", NASTY)
def test_no_word_of_a_human_breaks_the_card(text):
    metadata = CardMetadata("mit", pretty_name=text, source_license=text, teacher_license=text, citation=text)
    version = VersionRow("1.0.0", text, 1, None, None, text)
    record = make_record(release={"version": "1.0.0"}, teacher={**DENSE, "query_prompt": text})
    card = card_of(record, metadata, versions=[version])
    plain = card_of(
        make_record(release={"version": "1.0.0"}),
        CardMetadata("mit", pretty_name="x", source_license="x", teacher_license="x", citation="x"),
        versions=[VersionRow("1.0.0", "x", 1, None, None, "x")],
    )
    kinds = [[(token.type, token.tag) for token in tokens_of(one)] for one in (card, plain)]
    assert kinds[0] == kinds[1]
    assert head_of(card)["license"] == "mit"
    assert (
        render_card(
            record, metadata, [config_of()], repo_id="me/mined", examples=[row_of()], versions=[version], existing=card
        )
        == card
    )


@pytest.mark.parametrize("name", [text for text in NASTY if text and "\ud800" not in text] + ["a: b", "- a", "no", "1"])
def test_no_name_breaks_the_card(name):
    """Of a column, a split or a configuration: in the head they are YAML, in the body Markdown."""
    record = make_record(anchor_column_name=name, release={"version": "1.0.0"})
    features = Features({name: Value("string"), "positive": Value("string")})
    config = replace(
        config_of(features=features), data_files={name: f"{name}/*"}, num_examples={name: 4}, num_bytes={name: 1}
    )
    card = card_of(record, configs=[config], examples=[{**row_of(), name: "question"}])
    plain = card_of(configs=[config_of(features=Features({"anchor": Value("string"), "positive": Value("string")}))])
    kinds = [[(token.type, token.tag) for token in tokens_of(one)] for one in (card, plain)]
    assert kinds[0] == kinds[1]
    head = head_of(card)
    assert set(head) == set(head_of(plain))
    assert [column["name"] for column in head["dataset_info"]["features"]] == [name, "positive"]
    assert head["configs"] == [
        {"config_name": "n-tuple", "data_files": [{"split": name, "path": f"{name}/*"}], "default": True}
    ]


def test_names_are_shown_as_they_are():
    name = "a|`b`<i>"
    features = Features({name: Value("string"), "positive": Value("string")})
    card = card_of(
        make_record(anchor_column_name=name), configs=[config_of(features=features)], examples=[{**row_of(), name: "q"}]
    )
    assert "<code>a|`b`&lt;i&gt;</code></td>" in html_of(card)


def test_texts_are_shown_as_they_are():
    text = "5 < 6 & *all* | `done` [x](y) $1"
    assert MarkdownIt().renderInline(escape(text)) == "5 &lt; 6 &amp; *all* | `done` [x](y) $1"
    assert MarkdownIt().renderInline(code("a|b `c`")) == "<code>a|b `c`</code>"
    assert fence("```\nx") == "````\n```\nx\n````"
    assert escape("5.2.0") == "5.2.0"


@pytest.mark.parametrize("text", NASTY)
def test_an_escaped_text_reads_as_it_was_in_a_line_and_in_a_cell(text):
    shown = collapse(text)
    assert html.unescape(MarkdownIt().renderInline(escape(text))) == shown
    table = (
        MarkdownIt("commonmark").enable("table").render(f"| a | b |\n|:--|:--|\n| {escape(text)} | {code(text)} |\n")
    )
    cells = re.findall(r"<td[^>]*>(.*?)</td>", table)
    assert [html.unescape(re.sub(r"</?code>", "", cell)) for cell in cells] == [shown, shown]


def test_a_text_becomes_one_line():
    assert collapse(" a\n\tb\u2028c\x0bd\r\ne\x00\x1b ") == "a b c d e"
    assert collapse("\u202eabc\u2066d\u2069") == "abcd"
    assert collapse("\ud800") == "\ufffd"


def test_long_texts_are_cut():
    card = card_of(examples=[row_of("word " * 1000)])
    assert max(map(len, card.splitlines())) < 1000
    assert " … |" in card


# An existing card.

HUMAN = (
    "---\nviewer: false\nlicense: mit\ntags:\n- finance\n- topk-abs\n"
    "configs:\n- config_name: raw\n  data_files: raw/*.parquet\n  features:\n  - name: x\n    dtype: string\n"
    "dataset_info:\n  config_name: raw\n  features:\n  - name: x\n    dtype: string\nmy-key: {a: [1, 2]}\n---\n"
    "\n# My data\n\nHand-made.  \n\n## Thanks\n\nTo all.\n"
)


def test_a_humans_card_keeps_its_words_and_keys():
    card = card_of(existing=HUMAN)
    head = head_of(card)
    assert head["viewer"] is False
    assert head["my-key"] == {"a": [1, 2]}
    assert head["license"] == "cc-by-4.0"
    assert head["tags"] == ["finance", "hard-negatives", "sentence-transformers", "hn_datasets", "topk-percpos"]
    assert [entry["config_name"] for entry in head["configs"]] == ["n-tuple", "raw"]
    assert head["configs"][1] == yaml.safe_load(HUMAN.split("---")[1])["configs"][0]
    assert [entry["config_name"] for entry in head["dataset_info"]] == ["n-tuple", "raw"]
    assert body_of(card).startswith("\n# My data\n\nHand-made.  \n\n## Thanks\n\nTo all.\n\n<!-- hn_datasets begin")


def test_rendering_again_changes_nothing():
    for existing in (None, HUMAN, "# Only a body\n", "---\nlicense: mit\n---"):
        card = card_of(existing=existing)
        assert card_of(existing=card) == card


def test_only_our_part_is_written_anew():
    card = card_of(existing=HUMAN)
    edited = card.replace("# My data", "# Our data") + "\n## Below\n\nMore words.\n"
    again = card_of(make_record(TopK(), release={"version": "1.1.0"}), existing=edited)
    assert body_of(again).startswith("\n# Our data\n")
    assert again.endswith("end -->\n\n## Below\n\nMore words.\n")
    assert "v1.1.0" in again
    assert "v1.0.0" not in again
    assert "topk-percpos" not in again


def test_line_ends_of_the_existing_card_survive():
    card = card_of(existing=HUMAN.replace("\n", "\r\n"))
    assert card.count("\r\n") == card.count("\n") > 100
    assert card.replace("\r\n", "\n") == card_of(existing=HUMAN)
    assert card_of(existing=card) == card
    cited = card_of(existing=card, metadata=CardMetadata("mit", citation="@misc{a,\r\n  b\r}\n"))
    assert "```bibtex\r\n@misc{a,\r\n  b\r\n}\r\n```\r\n" in cited
    assert "\r\r" not in cited


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("existing", ["", "\n", "# Title\n\nText.", "---\n---\n\n# Title\n\n---\n\nText.\n"])
def test_a_card_without_a_head_keeps_its_body(existing, newline):
    card = card_of(existing=existing.replace("\n", newline)).replace("\r\n", "\n")
    assert head_of(card) == head_of(card_of())
    before, part = body_of(card).split("<!-- hn_datasets begin")
    assert before.strip() == existing.removeprefix("---\n---\n").strip()
    assert part == body_of(card_of()).split("<!-- hn_datasets begin")[1]


def test_keys_of_any_kind_stay():
    head = "2024: a\ntrue: b\ndate: 2024-01-02\nignore_metadata_errors: true\ntrain-eval-index: [x]\nnothing: null"
    card = card_of(existing=f"---\n{head}\n---\n")
    data = yaml.safe_load(card.split("---\n")[1])
    assert {
        2024: "a",
        True: "b",
        "nothing": None,
        "ignore_metadata_errors": True,
        "train-eval-index": ["x"],
    }.items() <= data.items()
    assert str(data["date"]) == "2024-01-02"


def test_what_an_older_release_said_of_its_licence_goes():
    card = card_of(metadata=CardMetadata("other", license_name="Ask us", license_link="LICENSE"))
    head = head_of(card_of(existing=card, metadata=CardMetadata("mit")))
    assert [key for key in head if key.startswith("license")] == ["license"]


def test_text_around_our_part_stays_to_the_letter():
    before, after = "\n\n  <b>mine</b>  \n---\n{{ x }}\n\n\n\n", "  \n\n\n\n{% raw %}\n\ttail without an end"
    first = card_of()
    begin, end = first.index("<!-- hn_datasets begin"), first.index("end -->") + len("end -->")
    head = first[: first.index("\n---\n") + len("\n---\n")]
    again = card_of(
        make_record(TopK(), release={"version": "2.0.0"}), existing=head + before + first[begin:end] + after
    )
    body = again[again.index("\n---\n") + len("\n---\n") :]
    assert body.startswith(before + "<!-- hn_datasets begin")
    assert body.endswith("end -->" + after)


def test_a_byte_order_mark_hides_no_head():
    assert card_of(existing="\ufeff" + HUMAN) == card_of(existing=HUMAN)


def test_configurations_of_an_earlier_release_go():
    pair = config_of("labeled-pair", default=False, features=PAIR)
    card = card_of(configs=[config_of(), pair], existing=HUMAN)
    assert [entry["config_name"] for entry in head_of(card)["configs"]] == ["n-tuple", "labeled-pair", "raw"]
    again = head_of(card_of(existing=card))
    for key in ("configs", "dataset_info"):
        assert [entry["config_name"] for entry in again[key]] == ["n-tuple", "raw"]


@pytest.mark.parametrize(
    ("existing", "message"),
    [
        ("---\na: [\n---\n", "Expected YAML at the head"),
        ("---\n- a\n---\n", "Expected keys and values"),
        ("---\nconfigs: [x]\n---\n", "Expected configs of README.md to be mappings"),
        ("---\nconfigs:\n- config_name: default\n  data_files: x\n---\n", "no other default configuration.*'default'"),
        ("---\nconfigs:\n- config_name: raw\n  default: true\n---\n", "no other default configuration.*'raw'"),
        ("text\n<!-- hn_datasets end -->\n", "one pair of hn_datasets marks .*got 0 begin and 1 end"),
        ("<!-- hn_datasets begin []: x -->\n", "got 1 begin and 0 end"),
        ("<!-- hn_datasets end -->\n<!-- hn_datasets begin []: x -->\n", "got 1 begin and 1 end, the end first"),
        ("<!-- hn_datasets begin []: x -->\n<!-- hn_datasets end -->\n" * 2, "got 2 begin and 2 end"),
        ("<!-- hn_datasets begin [n-tuple]: x -->\n<!-- hn_datasets end -->\n", r"as JSON .*got '\[n-tuple\]: x'"),
        ("<!-- hn_datasets begin: x -->\n<!-- hn_datasets end -->\n", "as JSON .*got ': x'"),
        ("<!-- hn_datasets begin [] -->\n", "got 1 begin and 0 end"),
        ("---\ndate: 2024-13-45\n---\n", "Expected YAML at the head"),
    ],
)
def test_an_existing_card_that_cannot_be_kept_is_refused(existing, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        card_of(existing=existing)
    assert "\n" not in str(caught.value)


# Arguments.


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (CardMetadata(""), "Expected the licence of the dataset, got none; it is never guessed"),
        (CardMetadata(None), "got none"),
        (CardMetadata("Apache 2.0"), "small letters, got 'Apache 2.0'"),
        (CardMetadata("other"), "license='other' needs license_name"),
        (CardMetadata("other", license_name=" "), "license='other' needs license_name"),
        (CardMetadata("mit", license_name="Mine"), "has no effect with license='mit'"),
        (CardMetadata("mit", language=("english",)), "Expected language .* got 'english'"),
        (CardMetadata("mit", language="en"), "Expected language as a tuple"),
        (CardMetadata("mit", source_datasets=("a/b/c",)), "got 'a/b/c'"),
        (CardMetadata("mit", source_datasets="me/data"), "as a tuple of Hub ids"),
        (CardMetadata("mit", task_categories=("Text Retrieval",)), "got 'Text Retrieval'"),
        (CardMetadata("mit\nlicense: x"), "small letters"),
        (CardMetadata(["mit"]), "small letters"),
        (CardMetadata("mit", license_link="licence.txt"), "license_link as an https address.*got 'licence.txt'"),
        (CardMetadata("mit", license_link="javascript:alert(1)"), "license_link as an https address"),
        (CardMetadata("mit", source_datasets=(1,)), "got 1"),
        (CardMetadata("mit", language=(None,)), "got None"),
    ],
)
def test_what_a_human_says_is_checked(metadata, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        validate_metadata(metadata)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError):
        card_of(metadata=metadata)


@pytest.mark.parametrize("configs", [[config_of(default=False)], [config_of(), config_of("triplet")]])
def test_exactly_one_configuration_is_the_default(configs):
    with pytest.raises(ArgumentError, match="Expected exactly one default configuration"):
        card_of(configs=configs)


# Templates.


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ titel }}", "got titel; known are title"),
        ("{% if false %}{{ nothing }}{% endif %}", "got nothing; known"),
        ("{{ statistics.meen }}", "no attribute 'meen'"),
        ("{% for config in configs %}{{ config.nam }}{% endfor %}", "no attribute 'nam'"),
        ("a\n{% if %}", "line 2"),
        ("{% include 'other.j2' %}", "got 'other.j2'"),
    ],
)
def test_a_template_with_a_mistake_is_one_clear_error(tmp_path, template, message):
    path = tmp_path / "card.j2"
    path.write_text(template)
    with pytest.raises(ArgumentError, match=message) as caught:
        card_of(template=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ArgumentError, match=r"missing\.j2"):
        card_of(template=tmp_path / "missing.j2")


def test_a_template_replaces_ours_or_extends_it(tmp_path):
    path = tmp_path / "card.j2"
    path.write_text("Only {{ title }}.")
    assert body_of(card_of(template=path)).splitlines()[2] == "Only mined."
    path.write_text('{% extends "dataset_card.md.j2" %}{% block licenses %}Ask {{ title }}.{% endblock %}')
    card = card_of(template=str(path))
    assert "Ask mined." in card
    assert "| The teacher |" not in card
    assert "## How to reproduce" in card


def test_the_card_needs_no_torch():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, hn_datasets.release.card; sys.exit('torch' in sys.modules)"], check=False
    )
    assert not done.returncode
