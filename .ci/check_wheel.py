"""Check that the wheel alone imports and finds its card templates: ``python .ci/check_wheel.py ENVIRONMENT``.

ENVIRONMENT has the wheel and nothing else. It borrows the other packages from the Python that runs this file, by a line
in a ``.pth`` file. A folder named so is searched, but its own ``.pth`` files, which are all that an editable install
is made of, are not read: this checkout cannot stand in for the wheel.
"""

import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBE = """
import importlib, json, sys
from importlib.metadata import distribution
from importlib.resources import files

environment, modules, templates = map(json.loads, sys.argv[1:])
for name in modules:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.startswith("hn_datasets"):
            raise
        print(f"not imported: {name}, which needs {error.name}")
    else:
        assert module.__file__.startswith(environment), f"{name} came from {module.__file__}"
for name in templates:
    assert files("hn_datasets.cards").joinpath(name).read_bytes(), f"cards/{name} is empty in the wheel"
assert files("hn_datasets").joinpath("py.typed").is_file(), "py.typed is missing"
wheel = distribution("hn-datasets")
assert wheel.read_text("licenses/LICENSE"), "LICENSE is missing"
assert [script.load() for script in wheel.entry_points], "the command is missing"
"""


def module_name(path: Path) -> str:
    """Return the dotted name of a source file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def main(environment: Path) -> None:
    """Lend the environment this Python's packages and run the probe in it, in an empty folder."""
    modules = sorted(module_name(path) for path in (ROOT / "hn_datasets").rglob("*.py"))
    templates = sorted(path.name for path in (ROOT / "cards").iterdir() if path.suffix in (".j2", ".json"))
    if not templates:
        sys.exit("Expected card templates in cards/, got none.")
    packages = sysconfig.get_path("purelib", vars={"base": str(environment)})
    (Path(packages) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    arguments = [json.dumps(value) for value in (str(environment), modules, templates)]
    with tempfile.TemporaryDirectory() as empty:
        command = [str(environment / "bin" / "python"), "-I", "-c", PROBE, *arguments]
        subprocess.run(command, cwd=empty, check=True)  # noqa: S603  (our own words only)
    print(f"The wheel imports {len(modules)} modules and has {', '.join(templates)}.")  # noqa: T201


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).resolve())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
