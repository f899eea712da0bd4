"""What holds for the package as a whole: its names, the order of its imports, its words, and what stands in it."""

import ast
import importlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from huggingface_hub import constants

import hn_datasets

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hn_datasets"
# Each module imports only modules that stand before it. An __init__.py gathers names, and may import any.
ORDER = [
    "errors", "progress", "methods", "modes", "threads", "files", "texts", "columns", "recipe",
    "teachers.base", "teachers.tokenizers", "teachers.precomputed", "teachers.token_batches",
    "teachers.graphs", "teachers.attention", "teachers.encoder_layers", "teachers.models",
    "teachers.identity", "teachers.prompts", "teachers.remembered", "teachers.dense",
    "teachers.cross_encoder",
    "teachers.bm25_index", "teachers.bm25_pieces", "teachers.bm25", "teachers.named", "teachers.ensemble",
    "teachers.loading", "teachers",
    "vector_space",
    "store", "finished", "products", "quantized", "sums", "scoring", "scanning", "search", "inverted_lists",
    "list_building", "list_scanning",
    "approximate", "sampling", "collecting",
    "guards.base", "guards.similar", "guards.groups", "guards.held_out", "guards.near_duplicate",
    "guards.cross_encoder", "guards.loading", "guards", "sifting", "picking", "views", "ensembling", "rows",
    "mined_columns", "index_recall", "row_mining", "preparing", "miner", "planning",
    "batches", "distributions", "diagnosis", "score_columns", "statistics",
    "filling", "layouts", "normalizing", "formats", "estimation.rates", "measurement",
    "estimation.settings", "estimation.results", "estimation.hiding", "estimation.judging", "estimation.calibration",
    "estimation.mined",
    "markdown", "readme", "record", "shards", "sources", "display",
    "inspection.roles", "inspection.blocks", "inspection.inventory", "inspection.checks", "inspection.changes",
    "inspection.opening", "inspection.report", "inspection.agreement", "inspection.audit", "inspection.comparison",
    "inspection.rebuilding", "inspection.reproduction", "inspection",
    "release.card_data", "release.card_usage", "release.card_choices", "release.card_scores", "release.card_sections",
    "release.card", "release.plots",
    "release.versions", "release.staging", "release.checking", "release.drafting", "release.retrying",
    "release.repository", "release.ownership", "release.history", "release.folders",
    "release.mined_shards", "release.shard_staging",
    "release.arguments", "release.uploading", "release.publishing", "release",
    "estimation.report", "estimation.survey", "estimation",
    "ray_engine.cluster", "ray_engine.job", "ray_engine.files", "ray_engine.ranges", "ray_engine.reading",
    "ray_engine.encoding",
    "ray_engine.locating", "ray_engine.sliced", "ray_engine.sliced_scores", "ray_engine.indexing",
    "ray_engine.searching", "ray_engine.output",
    "ray_engine.mining", "ray_engine.workers", "ray_engine.stages", "ray_engine.engine",
    "cluster_model", "ray_engine.planning", "ray_engine", "demo",
    "commands.errors", "commands.sections", "commands.cluster", "commands.guards", "commands.demo",
    "commands.teachers", "commands.mine",
    "commands.survey", "commands.cache",
    "commands.publish", "commands.audit", "commands.compare", "commands.reproduce", "commands", "cli",
]  # fmt: skip
WITHOUT_TORCH = ["methods", "statistics", "formats", "readme", "estimation.results"]
TOP_LEVEL = {
    "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt",
    "hn_datasets", "cards", "tests", "notebooks",
}  # fmt: skip


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [name for name in SOURCES if not name.endswith("__init__")]
PACKAGES = [name.removesuffix(".__init__") for name in SOURCES if name.endswith(".__init__")]


def own_imports(name):
    """The modules and packages of hn_datasets that a module imports, anywhere in it; "" stands for hn_datasets.

    ``__version__`` and its like are there before anything is imported, so they do not count.
    """
    for node in ast.walk(ast.parse(SOURCES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} line {node.lineno}: imports are written in full, from hn_datasets on"
            inner = [f"{node.module}.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
            targets = [path if path.removeprefix("hn_datasets.") in SOURCES else node.module for path in inner]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == "hn_datasets":
                yield target.removeprefix("hn_datasets").removeprefix(".")


def git(*arguments):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout


def run_python(code):
    """Run code in a new Python that has imported nothing of ours."""
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)


def public_definitions(tree, prefix):
    """All public classes and functions of a module, and the public methods of such classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{prefix}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node, f"{prefix}.{node.name}")


def test_every_exported_name_exists_and_is_documented():
    names = hn_datasets.__all__
    assert len(set(names)) == len(names)
    for name in names:
        value = getattr(hn_datasets, name)
        assert not callable(value) or value.__doc__, f"{name} has no docstring"


def test_no_other_name_is_public():
    hidden = {"annotations", "TYPE_CHECKING", *ORDER}
    assert {name for name in dir(hn_datasets) if not name.startswith("_")} - hidden == set(hn_datasets.__all__) - hidden


def test_exported_names_are_not_hidden_by_modules_of_the_same_name():
    for name in MODULES:
        try:
            importlib.import_module(f"hn_datasets.{name}")
        except ModuleNotFoundError as error:  # a module may need an extra that the tests do without
            assert not error.name.startswith("hn_datasets")
    for name in hn_datasets.__all__:
        assert not isinstance(getattr(hn_datasets, name), ModuleType), f"hn_datasets.{name} became the module"


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    assert name in ORDER, f"{name} is new: give it a place in ORDER"
    for imported in own_imports(name):
        assert imported, f"{name} imports hn_datasets itself"
        assert imported in ORDER, f"{imported} is new: give it a place in ORDER"
        assert ORDER.index(imported) < ORDER.index(name), f"{name} imports {imported}, which comes later"


@pytest.mark.parametrize("name", [name for name in WITHOUT_TORCH if name in MODULES])
def test_modules_that_need_no_torch_import_none(name):
    done = run_python(f"import sys, hn_datasets.{name}; sys.exit('torch' in sys.modules and 'it imports torch')")
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("name", SOURCES)
def test_all_that_is_public_has_a_docstring(name):
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name} has no docstring"
    missing = [path for path, node in public_definitions(tree, name) if not ast.get_docstring(node)]
    assert not missing


def test_every_package_is_in_the_wheel():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in PACKAGES:
        assert f'"hn_datasets.{name}"' in pyproject, f"pyproject.toml does not list hn_datasets.{name}"


def test_the_top_level_holds_nothing_else():
    entries = {path.split("/")[0] for path in git("ls-files").splitlines()}
    assert {entry for entry in entries if not entry.startswith(".")} <= TOP_LEVEL


def test_no_file_names_a_folder_of_one_machine():
    folder = re.compile(r"(?<![\w.:}/-])/(?:home|root|work|Users)/\w+")
    for name in git("ls-files").splitlines():
        path = ROOT / name
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        assert not folder.search(text), f"{name} names {folder.search(text)[0]}"


def test_the_session_has_folders_of_its_own_and_no_network(outside_hosts):
    assert os.environ["HF_HOME"] == constants.HF_HOME
    assert constants.HF_HUB_OFFLINE
    for host in ("192.0.2.1", "example.org"):  # set aside for documentation: neither is a machine
        with pytest.raises(RuntimeError, match="this machine only"):
            socket.create_connection((host, 80), timeout=1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, pytest.raises(RuntimeError, match="only"):
        client.connect(("192.0.2.1", 53))
    assert outside_hosts == ["192.0.2.1", "example.org", "192.0.2.1"]
    outside_hosts.clear()


def test_this_machine_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize("name", ["miner", "teachers.bm25", "ray_engine.workers", "release.publishing"])
def test_sentence_transformers_is_imported_only_for_its_models(name):
    heavy = "{'sentence_transformers', 'transformers', 'matplotlib'}"
    done = run_python(f"import sys, hn_datasets.{name}; sys.exit(' '.join({heavy}.intersection(sys.modules)) or 0)")
    assert not done.returncode, done.stderr
