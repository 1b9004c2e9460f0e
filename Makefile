# Everything sets itself up: `make demo`, `make compare` and `make test` work on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
# torch by itself first: an install that is already there keeps other packages from asking for another build of it.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo compare test test-long check format clean

demo: .venv/demo
	@$(BIN)/understudy demo

# Ten minutes at most; the table, the page and the file to deploy are in runs/compare.
compare: .venv/compare
	@$(BIN)/understudy compare compare --out runs/compare --resume

test: .venv/dev
	$(BIN)/python -m pytest -m "not long" -n 2

test-long: .venv/long
	$(BIN)/python -m pytest -n 2

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/torch: constraints.txt | .venv/bin/python
	@echo "Setting up .venv: torch (a few minutes the first time)"
	@$(INSTALL) torch
	@touch $@

.venv/demo .venv/compare .venv/dev .venv/long: .venv/%: .venv/torch pyproject.toml
	@echo "Setting up .venv: $*"
	@$(INSTALL) -e ".[$*]"
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist
