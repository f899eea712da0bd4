import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.teachers.tokenizers import make_tokenizer, tokenizer_from_spec

KOREAN = ["은행은 금리를 올렸다.", "은행이 금리만 올렸고", "2024년 ETF 보고서가 아름답다!", "", "…"]


def split_commas(text):
    return text.split(",")


def return_string(text):
    return text


def return_numbers(text):
    return [len(text)]


class Splitter:
    def __call__(self, text):
        return text.split()


@pytest.fixture(scope="module")
def kiwi():
    return make_tokenizer("kiwi")


def test_words_are_compatibility_normalised_and_case_folded():
    texts = ["Ｆull-width ﬁne_words, STRASSE/straße 42", "금리가 올랐다.", " \n…!", "\ud800 lone"]
    assert make_tokenizer("words").tokenize(texts) == [
        ["full", "width", "fine_words", "strasse", "strasse", "42"],
        ["금리가", "올랐다"],
        [],
        ["lone"],
    ]


def test_char_bigrams_do_not_cross_white_space_and_keep_single_characters():
    assert make_tokenizer("char-bigrams").tokenize(["東京都　ＡBc 京", "", " \t"]) == [
        ["東京", "京都", "ab", "bc", "京"],
        [],
        [],
    ]


def test_kiwi_keeps_content_morphemes_only(kiwi):
    first, second, third, *nothing = kiwi.tokenize(KOREAN)
    assert first == second == ["은행", "금리", "올리"]  # particles and endings differ, the terms do not
    assert third == ["2024", "년", "etf", "보고서", "아름답"]
    assert nothing == [[], []]


def test_kiwi_gives_the_same_tokens_alone_and_in_a_batch(kiwi):
    batch = KOREAN * 5
    assert kiwi.tokenize(batch) == [kiwi.tokenize([text])[0] for text in batch]
    assert kiwi.tokenize([]) == []


def test_kiwi_normalises_and_survives_a_lone_surrogate(kiwi):
    assert kiwi.tokenize(["ＥＴＦ", "은행\ud800"]) == [["etf"], ["은행"]]


def test_kiwi_works_in_a_child_forked_after_a_batch():
    script = (
        "import os\n"
        "from hn_datasets.teachers.tokenizers import make_tokenizer\n"
        "kiwi = make_tokenizer('kiwi')\n"
        "texts = ['은행은 금리를', '올렸다'] * 3\n"
        "expected = kiwi.tokenize(texts)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(0 if kiwi.tokenize(texts) == expected else 3)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:  # it waits for a child that hangs
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_kiwi_that_is_missing_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "kiwipiepy", None)
    with pytest.raises(TeacherError, match=r'pip install "hn-datasets\[korean\]"'):
        make_tokenizer("kiwi")


def test_kiwi_of_another_version_is_refused(kiwi):
    with pytest.raises(TeacherError, match=r"0\.1\.0"):
        tokenizer_from_spec({**kiwi.spec, "kiwipiepy_model": "0.1.0"})


def test_pretrained_has_no_special_tokens_and_is_not_truncated(minilm_path):
    tokenizer = make_tokenizer(minilm_path)
    assert tokenizer.tokenize(["Unaffable cats", "", "a \ud800"]) == [
        ["una", "##ffa", "##ble", "cats"],
        [],
        ["a", "?"],
    ]
    assert len(tokenizer.tokenize(["cat " * 1000])[0]) == 1000


def test_pretrained_digest_does_not_depend_on_use(minilm_path):
    tokenizer = make_tokenizer(minilm_path)
    spec = tokenizer.spec
    tokenizer._loaded[0](["a", "b b b"], truncation=True, padding=True, max_length=4)
    assert make_tokenizer(str(minilm_path)).spec == spec


@pytest.mark.filterwarnings("default")
def test_slow_pretrained_tokeniser_works_and_comes_back(tmp_path):
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    tokenizer = make_tokenizer(tmp_path)
    assert tokenizer.tokenize(["abc", ""]) == [["a", "b", "c"], []]
    assert tokenizer_from_spec(tokenizer.spec).tokenize(["cab"]) == [["c", "a", "b"]]


def test_pretrained_that_has_changed_is_refused(minilm_path, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(minilm_path / name, tmp_path / name)
    spec = make_tokenizer(tmp_path).spec
    assert tokenizer_from_spec(spec).tokenize(["cats"]) == [["cats"]]
    backend = tmp_path / "tokenizer.json"
    backend.write_text(backend.read_text(encoding="utf-8").replace('"cats":', '"cats2":'), encoding="utf-8")
    changed = tokenizer_from_spec(spec)
    assert changed.spec == spec
    with pytest.raises(TeacherError, match="has changed"):
        changed.tokenize(["cats"])


def test_unknown_name_says_what_was_tried_and_how_to_work_offline():
    with pytest.raises(
        TeacherError, match=r"words, kiwi, char-bigrams.*'wrods'.*pass a function.*HF_HUB_OFFLINE"
    ) as caught:
        make_tokenizer("wrods").tokenize(["a"])
    assert "\n" not in str(caught.value)


def test_function_comes_back_by_its_name():
    tokenizer = make_tokenizer(split_commas)
    assert tokenizer.spec["qualname"] == "split_commas"
    assert tokenizer_from_spec(tokenizer.spec).function is split_commas


def test_builtin_method_comes_back():
    tokenizer = tokenizer_from_spec(make_tokenizer(str.split).spec)
    assert tokenizer.tokenize(["a b", ""]) == [["a", "b"], []]


def test_lambda_and_object_work_but_cannot_come_back():
    for function in (lambda text: text.split(), Splitter()):
        tokenizer = make_tokenizer(function)
        assert tokenizer.tokenize(["a b"]) == [["a", "b"]]
        with pytest.raises(TeacherError, match=r"top level of a module|make a new teacher"):
            tokenizer_from_spec(tokenizer.spec)


def test_function_that_was_edited_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "edited_tokenizer.py"
    module.write_text("def cut(text):\n    return text.split()\n")
    import edited_tokenizer

    spec = make_tokenizer(edited_tokenizer.cut).spec
    module.write_text("def cut(text):\n    return text.split(' ')  # edited\n")
    del sys.modules["edited_tokenizer"]
    with pytest.raises(TeacherError, match="restore the one that the spec was made with"):
        tokenizer_from_spec(spec)
    del sys.modules["edited_tokenizer"]


@pytest.mark.parametrize("function", [return_string, return_numbers])
def test_function_that_gives_no_list_of_strings_is_named(function):
    with pytest.raises(TeacherError, match=f"{function.__name__}.*list\\[str\\]"):
        make_tokenizer(function).tokenize(["abc"])


@pytest.mark.parametrize("choice", [None, 3, "", ["words"]])
def test_choice_that_is_no_tokeniser_is_refused(choice):
    with pytest.raises(ArgumentError, match="words, kiwi, char-bigrams"):
        make_tokenizer(choice)


def test_unknown_spec_is_refused():
    with pytest.raises(ArgumentError, match="'morphemes'"):
        tokenizer_from_spec({"name": "morphemes"})


@pytest.mark.parametrize("choice", ["words", "char-bigrams", "kiwi", "minilm", split_commas])
def test_spec_survives_json_and_gives_the_same_tokens(choice, minilm_path):
    tokenizer = make_tokenizer(minilm_path if choice == "minilm" else choice)
    again = tokenizer_from_spec(json.loads(json.dumps(tokenizer.spec)))
    assert again.spec == tokenizer.spec
    assert again.tokenize(["금리, rates"]) == tokenizer.tokenize(["금리, rates"])
