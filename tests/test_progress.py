"""Progress bars show where somebody looks: in a terminal and in a notebook."""

import os
import subprocess
import sys

import pytest

CODE = """
import sys
from types import SimpleNamespace
sys.modules["IPython"] = SimpleNamespace(get_ipython=lambda: {shell})
from hn_datasets.progress import progress_bar
with progress_bar(total=2, desc="Encoding", unit="text") as bar:
    bar.update(2)
"""


@pytest.mark.parametrize("shell", ["None", "SimpleNamespace()", "SimpleNamespace(kernel=object())"])
def test_a_notebook_shows_the_bar_though_it_is_no_terminal(shell):
    environment = {name: value for name, value in os.environ.items() if name != "HF_DATASETS_DISABLE_PROGRESS_BARS"}
    command = [sys.executable, "-c", CODE.format(shell=shell)]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    assert ("Encoding" in shown) == ("kernel" in shell)
