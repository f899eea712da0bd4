# make demo   mine, check and stage a first release, on a machine that has Python 3.11, make and git
# make test   run the tests; ARGS="tests/test_methods.py -x" goes to pytest
# make bench  every speed benchmark and a table of what they are held to; ARGS="FOLDER_OF_SETS --store FOLDER"
# make lint types wheel-check clean
#
# Every target sets up .venv for itself, and again only when pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
STAMP := $(VENV)/.installed-
# Stands in the environment while it is being changed: if it is still there, that was cut short.
UNFINISHED := $(VENV)/.unfinished

# An environment that was cut short, lost its Python or came from another folder is no environment: make a new one.
ifneq ($(shell test ! -e $(UNFINISHED) && cat $(VENV)/.made-for 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1 && echo works),$(CURDIR) works)
$(shell rm -f $(VENV)/.made-for $(STAMP)*)
endif

.PHONY: demo test lint types wheel-check bench dev clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(STAMP)demo
	@$(BIN)/hn-datasets demo $(ARGS)

test: $(STAMP)test
	@$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)dev
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check

types: $(STAMP)dev
	@$(BIN)/python -m mypy

# The wheel alone, in an environment that has its dependencies but not this folder. The .egg-info goes first: setuptools
# takes the file list in it for true, and would pack what pyproject.toml forgets.
wheel-check: $(STAMP)dev
	@rm -rf build dist *.egg-info
	@$(BIN)/python -m build --quiet --outdir dist .
	@$(BIN)/python -m venv --without-pip build/wheel
	@$(PIP) --python build/wheel/bin/python install --no-deps dist/*.whl
	@$(BIN)/python .ci/check_wheel.py build/wheel

bench: $(STAMP)test
	@$(BIN)/python tests/benchmarks/run_all.py $(ARGS)

dev: $(STAMP)dev

clean:
	@rm -rf $(VENV) build dist demo-output *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find hn_datasets cards tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone: what is installed after it then takes it as it is.
$(STAMP)demo $(STAMP)test $(STAMP)dev: $(STAMP)%: $(VENV)/.made-for pyproject.toml constraints.txt
	@touch $(UNFINISHED)
	@echo "Installing torch into $(VENV) ..." >&2
	@$(PIP) install --constraint constraints.txt torch
	@echo "Installing hn-datasets[$*] into $(VENV) ..." >&2
	@$(PIP) install --constraint constraints.txt --editable ".[$*]"
	@touch $@
	@rm $(UNFINISHED)

$(VENV)/.made-for:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Expected Python 3.11 or newer as $(PYTHON), got $$($(PYTHON) --version 2>&1 | tail -n 1); name another one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Expected Python's venv module, which Debian keeps in a package of its own; run: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "$(CURDIR)" > $@
