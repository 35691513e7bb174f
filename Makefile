# One command for each thing a newcomer or a CI wants. Needed: Python 3.11 or later, make and a
# C compiler. All set-up goes into .venv beside this file; `make clean` removes it.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_WORKERS ?= 2
DEMO_OUT ?= demo

export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check docs setup clean

help:
	@echo "make demo    simulate one person, segment the scans, show where the report lies (no torch)"
	@echo "make test    install everything and run the tests"
	@echo "make check   style, types and layers: ruff, mypy --strict, import-linter"
	@echo "make docs    build the documentation into build/docs"
	@echo "make setup   install everything a developer needs into .venv, and the git hooks"
	@echo "make clean   remove .venv, build and caches"

demo: $(VENV)/.core
	@echo "==> deepmir demo: one simulated person from scans to report, in $(DEMO_OUT)/"
	@$(BIN)/deepmir demo --out $(DEMO_OUT) --overwrite

test: $(VENV)/.dev
	@echo "==> pytest on $(PYTEST_WORKERS) processes"
	@OMP_NUM_THREADS=1 MPLBACKEND=agg $(BIN)/python -m pytest -n $(PYTEST_WORKERS)

check: $(VENV)/.dev
	@echo "==> ruff: style and format"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> mypy --strict: types"
	@$(BIN)/mypy
	@echo "==> import-linter: imports go down the layers only"
	@$(BIN)/lint-imports

docs: $(VENV)/.docs
	@echo "==> mkdocs: documentation into build/docs"
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/docs
	@echo "open build/docs/index.html"

setup: $(VENV)/.dev $(VENV)/.docs
	@test ! -d .git || $(BIN)/pre-commit install

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Set-ups, one stamp file each: made once, and again when what they install has changed.

$(VENV)/.made:
	@test -n "$(PYTHON)" || { \
		echo "deepmir needs Python 3.11 or later and found none as python3, python3.14 ... python3.11."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: its modules venv and ensurepip are missing."; \
		echo "On Debian and Ubuntu: apt install python3-venv. Or name another: make PYTHON=..."; exit 1; }
	@echo "==> virtual environment in $(VENV), with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.core: pyproject.toml | $(VENV)/.made
	@echo "==> installing deepmir and what it needs to run (no torch), about 400 MB; takes a minute or two"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "==> installing deepmir, its training part (torch) and the development tools; takes some minutes"
	@$(PIP) install --constraint constraints.txt torch
	@$(PIP) install --constraint constraints.txt --editable '.[train]' --group dev
	@touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml | $(VENV)/.made
	@echo "==> installing deepmir and the documentation tools"
	@$(PIP) install --editable . --group docs
	@touch $@ $(VENV)/.core
