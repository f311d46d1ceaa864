# make quickstart: from nothing to a model that has read this machine's Python documentation.
# make test: the test suite, self-contained. make test-all adds the slow proofs and the downloads.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEV_STAMP := .venv/.installed-dev
BENCH_STAMP := .bench-venv/.installed
PIP := -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-all lint format bench docs clean

quickstart: $(STAMP)
	$(BIN)/didact run recipes/quickstart.yaml

test: $(DEV_STAMP)
	$(BIN)/python -m pytest -m "not slow and not download"

test-all: $(DEV_STAMP)
	$(BIN)/python -m pytest

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH_STAMP)
	.bench-venv/bin/python -m benchmarks

clean:
	rm -rf .venv .bench-venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -e '.[gguf]'
	touch $@

$(DEV_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -e '.[dev]'
	touch $(STAMP) $@
