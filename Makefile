# make quickstart: from nothing to a model that has read this machine's Python documentation.
# make test: the test suite, self-contained. make test-all adds the slow proofs and the downloads.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEV_STAMP := .venv/.installed-dev
ORACLE_STAMP := .venv/.installed-oracle
BENCH_STAMP := .bench-venv/.installed
PIP := -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-all lint format bench docs clean

quickstart: $(STAMP)
	$(BIN)/didact run recipes/quickstart.yaml

test: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not download"

test-all: $(ORACLE_STAMP)
	$(BIN)/python -m pytest

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# ARGS chooses, as in: make bench ARGS='sft --quick'. Building llama.cpp takes a C++ compiler and some minutes.
bench: $(BENCH_STAMP)
	.bench-venv/bin/python -m benchmarks $(ARGS)

# The reference, from the docstrings, as pages below build/docs.
docs: $(DEV_STAMP)
	$(BIN)/pdoc --output-directory build/docs didact

clean:
	rm -rf .venv .bench-venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -e '.[gguf,serve]'
	touch $@

$(DEV_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -e '.[dev]'
	touch $(STAMP) $@

# Packages that tests hold ours against and skip without.
$(ORACLE_STAMP): $(DEV_STAMP)
	$(BIN)/python $(PIP) -e '.[dev,oracle]'
	touch $@

APART := $(subst -c constraints.txt,--no-deps --upgrade,$(PIP))
LLAMA := TESTS=OFF EXAMPLES=OFF APP=OFF

# The last line is a guard: peers may ask for torchvision, which breaks transformers beside a CPU torch.
$(BENCH_STAMP): pyproject.toml constraints.txt $(wildcard benchmarks/requirements*.txt)
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/python $(PIP) -e '.[gguf,serve]' -r benchmarks/requirements.txt
	CMAKE_ARGS='$(LLAMA:%=-DLLAMA_BUILD_%) -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF' \
	.bench-venv/bin/python $(PIP) -r benchmarks/requirements-server.txt
	.bench-venv/bin/python $(PIP) --no-deps -r benchmarks/requirements-nodeps.txt
	.bench-venv/bin/python $(APART) --target .bench-venv/trl-ppo -r benchmarks/requirements-ppo.txt
	! .bench-venv/bin/python -c 'import torchvision' 2>/dev/null
	touch $@
