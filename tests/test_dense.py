"""Dense teachers: what their vectors are, and that no other model ever gets them."""

import copy
import gc
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset, load_dataset
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer, RobertaConfig, RobertaModel

from hn_datasets.cli import main
from hn_datasets.errors import ArgumentError, MissingPromptWarning, TeacherError
from hn_datasets.teachers.dense import LARGEST_CALL, SMALLEST_CALL, DenseTeacher
from hn_datasets.teachers.identity import digest_model
from hn_datasets.teachers.loading import as_teacher, teacher_from_spec
from hn_datasets.teachers.token_batches import CPU_TOKENS, tokenise
from tests.static_model import make_static_model, save_static_model
from tests.tiny_transformer import make_tiny_model
from tests.use_module import UseModule, save_use_model

TEXTS = ["What is a hard negative?", "A passage that looks right and is not.", "금리가 올랐다", "x " * 400]


@pytest.fixture(scope="module")
def model(minilm_path):
    return SentenceTransformer(str(minilm_path), device="cpu")


@pytest.fixture(scope="module")
def reference(model):
    return model.encode(TEXTS, normalize_embeddings=True)


def test_vectors_are_those_of_sentence_transformers(minilm_path, reference):
    teacher = DenseTeacher(minilm_path, precision="float32")
    np.testing.assert_allclose(teacher.encode(TEXTS, "anchor"), reference, atol=1e-6)
    assert teacher.dimension == 384
    assert teacher.similarity == "cosine"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_lower_precision_stays_close(minilm_path, reference, precision):
    vectors = DenseTeacher(minilm_path, precision=precision).encode(TEXTS, "passage")
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * reference).sum(axis=1).min() > 0.999


def test_a_loaded_model_is_not_changed(model):
    before = digest_model(model), model.max_seq_length, next(model.parameters()).dtype
    teacher = DenseTeacher(model, precision="bfloat16", max_seq_length=8, query_prompt="query: ")
    teacher.encode(TEXTS, "anchor")
    assert (digest_model(model), model.max_seq_length, next(model.parameters()).dtype) == before


def test_all_that_decides_a_vector_is_in_its_address(model):
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        next(tuned.parameters())[0, 0] += 1e-3
    variants = [
        DenseTeacher(model),
        DenseTeacher(tuned),
        DenseTeacher(model, query_prompt="query: "),
        DenseTeacher(model, max_seq_length=100),
        DenseTeacher(model, truncate_dim=128),
        DenseTeacher(SentenceTransformer(modules=[model[0], Pooling(384, "cls")], device="cpu")),
        DenseTeacher(model, precision="bfloat16"),
    ]
    assert len({teacher.space("anchor") for teacher in variants}) == len(variants)


def test_roles_share_vectors_only_when_their_prompts_are_equal(model):
    plain = DenseTeacher(model)
    assert plain.space("anchor") == plain.space("passage")
    prompted = DenseTeacher(model, query_prompt="query: ")
    assert prompted.space("anchor") != prompted.space("passage") == plain.space("passage")


def test_prompts_are_put_before_the_texts(model, minilm_path):
    teacher = DenseTeacher(model, query_prompt="query: ", corpus_prompt="passage: ")
    plain = DenseTeacher(model)
    for role, prompt in (("anchor", "query: "), ("passage", "passage: ")):
        expected = plain.encode([prompt + text for text in TEXTS[:3]], "anchor")
        np.testing.assert_allclose(teacher.encode(TEXTS[:3], role), expected, atol=1e-6)


def test_prompts_by_name_and_the_models_own(minilm_path):
    model = SentenceTransformer(
        str(minilm_path), device="cpu", prompts={"query": "Q: ", "passage": "P: ", "other": "O: "}
    )
    own = DenseTeacher(model).spec()
    assert (own["query_prompt"], own["corpus_prompt"]) == ("Q: ", "P: ")
    assert DenseTeacher(model, query_prompt="other").spec()["query_prompt"] == "O: "
    assert DenseTeacher(model, query_prompt="").spec()["query_prompt"] == ""
    with pytest.raises(ArgumentError, match="'qeury' is no prompt of the model"):
        DenseTeacher(model, query_prompt="qeury")


def test_a_family_that_needs_prompts_says_so(minilm_path, tmp_path):
    folder = tmp_path / "multilingual-e5-small"
    shutil.copytree(minilm_path, folder)
    with pytest.warns(MissingPromptWarning, match="query_prompt='query: '"):
        DenseTeacher(folder)
    DenseTeacher(folder, query_prompt="query: ", corpus_prompt="passage: ")
    DenseTeacher(folder, query_prompt="", corpus_prompt="")


def test_a_model_that_cannot_be_loaded(tmp_path):
    with pytest.raises(TeacherError, match=r"no/such-model.*folder.*Hub.*HF_HUB_OFFLINE=1"):
        DenseTeacher("no/such-model")
    with pytest.raises(TeacherError, match="Could not load"):
        DenseTeacher(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int8"}, "precision to be one of"),
        ({"batch_size": 0}, "batch_size of at least 1"),
        ({"max_seq_length": 0}, "max_seq_length of at least 1"),
        ({"max_seq_length": 513}, "max_seq_length of at most 512, the model's positions, got 513"),
        ({"truncate_dim": 1000}, "truncate_dim of at most 384"),
        ({"revision": "main"}, "no effect on a loaded model"),
        ({"trust_remote_code": True}, "no effect on a loaded model"),
        ({"device": "cpu"}, "no effect on a loaded model"),
    ],
)
def test_arguments_out_of_range_or_without_effect(model, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        DenseTeacher(model, **arguments)


def make_roberta(tokenizer_path, folder):
    """A tiny random RoBERTa, whose first position is the one after that of padding."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    places = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 66}
    RobertaModel(RobertaConfig(**places, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32)], device="cpu")


def test_as_many_tokens_as_a_model_has_positions(minilm_path, tmp_path):
    text = "one word and another " * 100
    roberta = make_roberta(minilm_path, tmp_path / "roberta")
    with pytest.raises(ArgumentError, match="at most 65"):
        DenseTeacher(roberta, max_seq_length=66)
    decoder = make_tiny_model(minilm_path, tmp_path / "decoder", decoder=True)  # has rotary positions
    for model, length in ((roberta, 65), (decoder, 1_000_000)):
        assert np.isfinite(DenseTeacher(model, max_seq_length=length).encode([text], "passage")).all()


def test_a_truncated_dimension_is_of_unit_length_again(model, reference):
    vectors = DenseTeacher(model, truncate_dim=64).encode(TEXTS, "anchor")
    cut = reference[:, :64] / np.linalg.norm(reference[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, cut, atol=1e-6)


def test_a_teacher_travels_as_its_spec(minilm_path):
    teacher = DenseTeacher(minilm_path, precision="float32", max_seq_length=32)
    data = pickle.dumps(teacher)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert again.spec() == teacher.spec()
    np.testing.assert_allclose(again.encode(TEXTS, "anchor"), teacher.encode(TEXTS, "anchor"), atol=1e-6)
    assert teacher_from_spec(as_teacher(teacher).spec()) is teacher


def test_weights_that_changed_since_are_refused(minilm_path, model, tmp_path):
    folder = tmp_path / "model"
    model.save(str(folder))
    teacher = pickle.loads(pickle.dumps(DenseTeacher(folder)))
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        next(tuned.parameters())[0, 0] += 1e-3
    tuned.save(str(folder))
    with pytest.raises(TeacherError, match="the model has changed"):
        teacher.encode(TEXTS, "anchor")


def _encode_in_worker(teacher, expected):
    torch.set_num_threads(1)
    teacher._pool = "the parent's, which must not be asked"
    np.testing.assert_allclose(teacher.encode(TEXTS, "passage"), expected, atol=1e-6)
    teacher.close()


def test_several_devices_give_the_same_vectors_and_end_with_the_teacher(model):
    """Texts are cut in the other processes too; a forked worker leaves them alone and encodes by itself."""
    expected = DenseTeacher(model, max_seq_length=16).encode(TEXTS, "passage")
    teacher = DenseTeacher(model, max_seq_length=16, device=["cpu", "cpu"])
    np.testing.assert_allclose(teacher.encode(TEXTS, "passage"), expected, atol=1e-6)
    assert len(multiprocessing.active_children()) == 2
    worker = multiprocessing.get_context("fork").Process(target=_encode_in_worker, args=(teacher, expected))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert len(multiprocessing.active_children()) == 2
    np.testing.assert_allclose(teacher.encode(TEXTS[::-1], "passage"), expected[::-1], atol=1e-6)
    del teacher
    gc.collect()
    assert not multiprocessing.active_children()
    assert not next(model.parameters()).is_shared()


def test_other_similarities():
    texts = ["hard negative", "a right passage"]
    model = make_static_model("dot")
    dot = DenseTeacher(model)
    assert dot.similarity == "dot"
    np.testing.assert_allclose(dot.encode(texts, "anchor"), model.encode(texts), atol=1e-6)
    cosine = DenseTeacher(make_static_model())
    np.testing.assert_allclose(np.linalg.norm(cosine.encode(texts, "anchor"), axis=1), 1, atol=1e-6)
    assert cosine.space("anchor") != dot.space("anchor")
    with pytest.raises(ArgumentError, match="cosine or dot similarity, got 'euclidean'"):
        DenseTeacher(make_static_model("euclidean"))


def test_a_model_without_weights_is_known_by_its_vectors():
    class Other(UseModule):
        def forward(self, features, **_):
            return {**features, "sentence_embedding": features["vectors"].flip(1)}

    Other.__qualname__ = "UseModule"
    use, other = (SentenceTransformer(modules=[kind()], device="cpu") for kind in (UseModule, Other))
    teacher = DenseTeacher(use)
    assert teacher.space("anchor") != DenseTeacher(other).space("anchor")
    korean = teacher.encode(["기준금리가 올랐다", "중앙은행이 이자율을 인상했다", "오늘은 비가 온다"], "passage")
    assert korean[0] @ korean[1] > korean[0] @ korean[2]


class Constant(InputModule):
    """Gives every text one vector, which no setting tells; does not say its dimension."""

    tokenizer = None

    def __init__(self, first):
        super().__init__()
        self.first = first

    def preprocess(self, inputs, prompt=None, **_):
        return {"sentence_embedding": torch.tensor([[self.first, 1.0, 0.0]]).repeat(len(inputs), 1)}

    def forward(self, features, **_):
        return features

    def save(self, *_, **__):
        pass


def test_a_model_that_says_nothing_of_itself_is_known_by_its_vectors():
    one, same, other = (
        DenseTeacher(SentenceTransformer(modules=[Constant(first)], device="cpu")) for first in (0.5, 0.5, 0.7)
    )
    assert one.dimension == 3
    assert one.space("anchor") == same.space("anchor") != other.space("anchor")
    with pytest.raises(ArgumentError, match="precision='bfloat16' has no effect"):
        DenseTeacher(SentenceTransformer(modules=[Constant(0.5)], device="cpu"), precision="bfloat16")


def test_a_model_with_its_own_code_is_saved_loaded_and_used_from_the_command_line(tmp_path):
    folder = tmp_path / "use"
    save_use_model(folder)
    with pytest.raises(TeacherError, match="trust_remote_code=True to run it"):
        DenseTeacher(folder)
    teacher = DenseTeacher(folder, trust_remote_code=True)
    assert type(teacher._model[0]).__module__.startswith("transformers_modules.")
    in_memory = DenseTeacher(SentenceTransformer(modules=[UseModule()], device="cpu"))
    assert teacher.space("anchor") == in_memory.space("anchor")
    rows = {"anchor": [f"질문 {number}" for number in range(9)], "positive": [f"대답 {number}" for number in range(9)]}
    Dataset.from_dict(rows).to_json(tmp_path / "pairs.jsonl")
    arguments = ["--teacher", folder, "--trust-remote-code", "--method", "topk", "--output", tmp_path / "mined"]
    result = CliRunner().invoke(main, ["mine", str(tmp_path / "pairs.jsonl"), *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert {len(row) for row in load_dataset(str(tmp_path / "mined"), split="train")["negatives"]} == {4}


def test_the_address_depends_neither_on_the_folder_nor_on_what_was_encoded_before(minilm_path, tmp_path):
    (tmp_path / "moved").symlink_to(minilm_path)
    used = SentenceTransformer(str(tmp_path / "moved"), device="cpu")
    used.encode(TEXTS)
    used.max_seq_length = 30
    used.encode(TEXTS)
    teacher = DenseTeacher(used, max_seq_length=256, precision="float32")
    assert teacher.space("anchor") == DenseTeacher(minilm_path, precision="float32").space("anchor")


def test_a_model_that_was_trained_since_is_refused():
    model = make_static_model()
    teacher = DenseTeacher(model)
    teacher.encode(["hard negative"], "anchor")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    model(model.preprocess(["a wrong text"]))["sentence_embedding"].sum().backward()
    optimizer.step()
    with pytest.raises(TeacherError, match="trained since; make a new teacher"):
        teacher.encode(["hard negative"], "anchor")
    assert DenseTeacher(model).space("anchor") != teacher.space("anchor")


def test_half_precision_weights_give_vectors_of_unit_length(minilm_path, reference, tmp_path):
    """A transformer stored in bfloat16 is pooled in float32, and one whose owner runs all of it so is normalised."""
    half = SentenceTransformer(str(minilm_path), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    half.save(str(tmp_path / "half"), create_model_card=False)
    for teacher in (DenseTeacher(tmp_path / "half", precision="bfloat16"), DenseTeacher(half)):
        assert teacher.spec()["precision"] == "bfloat16"
        vectors = teacher.encode(TEXTS, "anchor")
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert (vectors * reference).sum(axis=1).min() > 0.999
    rounded = DenseTeacher(minilm_path, precision="bfloat16").encode(TEXTS, "anchor")
    same = DenseTeacher(tmp_path / "half", precision="bfloat16").encode(TEXTS, "anchor")
    np.testing.assert_allclose(same, rounded, atol=1e-6)
    assert DenseTeacher(tmp_path / "half", precision="float32").spec()["precision"] == "float32"


def test_static_embeddings_have_no_longest_text():
    teacher = DenseTeacher(make_static_model())
    assert teacher.spec()["max_seq_length"] is None
    json.dumps(teacher.spec(), allow_nan=False)
    assert np.isfinite(teacher.encode(["text " * 5000], "anchor")).all()
    with pytest.raises(ArgumentError, match="max_seq_length has no effect on a StaticEmbedding"):
        DenseTeacher(make_static_model(), max_seq_length=8)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("e5-mistral-7b-instruct", "Instruct: "),
        ("multilingual-e5-large-instruct", "Instruct: "),
        ("e5-small", "query: "),
        ("bge-base-en-v1.5", "Represent this sentence"),
        ("snowflake-arctic-embed-m", "Represent this sentence"),
        ("nomic-embed-text-v1.5", "search_query: "),
        ("Qwen3-Embedding-0.6B", "Instruct: "),
        ("bge-m3", None),
        ("all-MiniLM-L6-v2", None),
    ],
)
def test_families_with_prompts_are_known_by_their_names(tmp_path, name, prompt):
    folder = save_static_model(tmp_path / name)
    if prompt is not None:
        with pytest.warns(MissingPromptWarning, match=f"query_prompt='{prompt}"):
            DenseTeacher(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DenseTeacher(folder, query_prompt="")
        if prompt is None:
            DenseTeacher(folder)


def test_damaged_weights_are_a_clear_error(tmp_path):
    folder = save_static_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TeacherError, match=r"Could not load .*check what is in that folder") as raised:
        DenseTeacher(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["someone/tiny", "tiny-of-sentence-transformers"])
def test_the_commit_of_a_hub_model_is_kept(name):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo_id = name if "/" in name else f"sentence-transformers/{name}"
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    save_static_model(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    for branch in ("main", "experiment"):
        (cache / "refs" / branch).write_text(commit)
    assert DenseTeacher(repo_id).spec()["revision"] == commit
    assert DenseTeacher(name, revision="experiment").spec()["revision"] == commit


SHORT = [f"text {number}" for number in range(10_000)]
BUDGETS = {
    "one": ["a right passage"],
    "empty": ["", " ", "a", ""],
    "a very long one among short ones": ["short", "long " * 3000, *SHORT[:300], "한국어 " * 90],
    "many short ones": SHORT,
}


def passes_of(model):
    """Return a list that gets the shape of the input of every forward pass."""
    shapes = []
    model[0].register_forward_pre_hook(lambda _module, inputs: shapes.append(tuple(inputs[0]["input_ids"].shape)))
    return shapes


@pytest.fixture(scope="module")
def tiny(minilm_path, tmp_path_factory):
    return make_tiny_model(minilm_path, tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("texts", BUDGETS.values(), ids=BUDGETS.keys())
def test_passes_fill_a_budget_of_tokens_and_change_no_vector(tiny, texts):
    model = copy.deepcopy(tiny)
    shapes = passes_of(model)
    vectors = DenseTeacher(model).encode(texts, "passage")
    np.testing.assert_allclose(vectors, tiny.encode(texts, batch_size=64), atol=1e-6)
    assert sum(rows for rows, _ in shapes) == len(texts)
    assert all(rows * width <= CPU_TOKENS for rows, width in shapes)
    tokens = sum(map(len, tiny.tokenizer(texts, truncation=True, max_length=512)["input_ids"]))
    assert sum(rows * width for rows, width in shapes) <= 1.01 * tokens + CPU_TOKENS
    assert len(shapes) <= 2 * tokens / CPU_TOKENS + 2


def test_vectors_are_the_same_bits_on_any_number_of_cores(minilm_path, monkeypatch):
    teacher = DenseTeacher(minilm_path, device="cpu")
    texts = [f"{text} {number}" for number, text in enumerate(["a right passage " * 12] * 60)]
    vectors = []
    for cores in ({0}, {0, 1}):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores, raising=False)
        vectors.append(teacher.encode(texts, "passage"))
    assert (vectors[0] == vectors[1]).all()


@pytest.mark.parametrize("decoder", [False, True])
def test_passes_run_side_by_side_only_through_a_model_that_keeps_nothing(minilm_path, tmp_path, monkeypatch, decoder):
    """Rotary embeddings, which this decoder has, may keep tables that grow with the longest text."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    model = make_tiny_model(minilm_path, tmp_path, decoder=decoder)
    threads = set()
    model[0].register_forward_hook(lambda *_: threads.add(threading.current_thread()))
    DenseTeacher(model).encode([text * 30 for text in SHORT[:90]], "passage")
    assert (threads == {threading.main_thread()}) == decoder


def test_a_text_longer_than_the_budget_has_a_pass_of_its_own(tiny, monkeypatch):
    monkeypatch.setattr("hn_datasets.teachers.token_batches.CPU_TOKENS", 130)
    texts = ["word " * 400, "word " * 40, "word " * 40, "word " * 300]
    model = copy.deepcopy(tiny)
    shapes = passes_of(model)
    np.testing.assert_allclose(DenseTeacher(model).encode(texts, "anchor"), tiny.encode(texts), atol=1e-6)
    assert sorted(shapes) == [(1, 302), (1, 402), (2, 42)]


def test_a_number_of_texts_goes_before_the_budget(tiny):
    model = copy.deepcopy(tiny)
    teacher = DenseTeacher(model, batch_size=7)
    shapes = passes_of(model)
    np.testing.assert_allclose(teacher.encode(SHORT[:30], "anchor"), tiny.encode(SHORT[:30]), atol=1e-6)
    assert [rows for rows, _ in shapes] == [7, 7, 7, 7, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "cls"},
        {"pooling": "lasttoken", "decoder": True},
        {"include_prompt": False},
        {"include_prompt": False, "decoder": True},
        {"length": 12},
    ],
    ids=str,
)
def test_passes_cut_by_tokens_give_what_any_model_gives(minilm_path, tmp_path, options):
    """Pooled over one token or all, prompt left out or in, padded left or right, cut in tokens or components."""
    model = make_tiny_model(minilm_path, tmp_path, **options)
    texts = [*SHORT[:40], "longer " * 30, "", "금리가 올랐다"]
    teacher = DenseTeacher(model, query_prompt="query: ", corpus_prompt="", truncate_dim=8)
    expected = model.encode(texts, prompt="query: ", truncate_dim=8, normalize_embeddings=True, batch_size=1)
    np.testing.assert_allclose(teacher.encode(texts, "anchor"), expected, atol=1e-6)
    expected = model.encode(texts, prompt="", truncate_dim=8, normalize_embeddings=True, batch_size=1)
    np.testing.assert_allclose(teacher.encode(texts, "passage"), expected, atol=1e-6)


def test_a_large_model_gets_less_text_at_once(model, tiny):
    teacher = DenseTeacher(model)
    assert teacher.call_characters < DenseTeacher(tiny).call_characters == LARGEST_CALL["cpu"]
    assert teacher.call_characters > SMALLEST_CALL


def test_only_a_transformer_is_rounded_unasked(minilm_path, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("hn_datasets.teachers.models._is_of_amd", lambda: True)
    for supported, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda supported=supported: supported)
        assert DenseTeacher(minilm_path).spec()["precision"] == precision
        folder = save_static_model(tmp_path / precision)
        assert DenseTeacher(folder).spec()["precision"] == "float32"


def test_no_texts(tiny):
    assert DenseTeacher(tiny).encode([], "passage").shape == (0, 16)


@pytest.mark.parametrize("decoder", [False, True])
def test_tokens_are_those_of_the_model(minilm_path, tmp_path, decoder):
    model = make_tiny_model(minilm_path, tmp_path, decoder=decoder, length=12)
    texts = ["one", "a longer text " * 9, "", "금리"]
    expected = model.preprocess(texts, prompt="query: ", task="query")
    found = tokenise(model, texts, "query: ", "query")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if torch.is_tensor(value):
            assert found[name].dtype == value.dtype
            assert (found[name] == value).all()
        else:
            assert found[name] == value


def test_threads_of_ours_take_none_from_torch():
    """A process may begin with an encoder: what it computes later has all cores, as before."""
    code = (
        "import torch\n"
        "from hn_datasets.threads import over_items\n"
        "list(over_items(abs, range(9)))\n"
        "print(torch.get_num_threads() == len(__import__('os').sched_getaffinity(0)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"True\n"
