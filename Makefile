# make hpo    install, then search the default experiment, relapses from wearables on made-up patients, and show the results
# make test   install, then run the tests
# make env    install only (into .venv, with pip; make env UV=1 uses uv)
# make check  everything that has to hold before a commit: format, lint, types, layers, tests
# make test-properties  the numbered properties of streams of many rates, a hundred examples each (two minutes; not part of check)
# make test-effects  what the parts of models do to scores on synthetic data (a quarter of an hour; not part of check)
# make bench  this product against a PyTorch loop, Lightning and skorch, on two models, against pandas on a raw file, on streams brought to one clock and on daily features, and against RDKit alone on fingerprints (about twenty minutes; leave the machine alone meanwhile)
# make ui     MLflow's pages for what was run here

PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3))
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
BENCH  := $(VENV)/.ready-bench
PORT   ?= 5000
ARGS   ?=

export OMP_NUM_THREADS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help env hpo train ui test test-slow test-properties test-effects bench lint format check clean

help:
	@sed -n 's/^# //p' Makefile

env: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "make: expected Python 3.11 or newer, found $(PYTHON); name one with PYTHON=..." >&2; exit 2; }
ifdef UV
	uv venv --python $(PYTHON) --allow-existing $(VENV)
	uv pip install --python $(BIN)/python --editable '.[test,dev]'
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
endif
	@touch $@

$(BENCH): $(READY)
ifdef UV
	uv pip install --python $(BIN)/python --editable '.[bench]'
else
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
endif
	@touch $@

hpo: $(READY)
	$(BIN)/fusion-lab hpo $(ARGS)

train: $(READY)
	$(BIN)/fusion-lab train $(ARGS)

ui: $(READY)
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT) --workers 1

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not properties and not effects" $(ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "slow and not effects and not properties" $(ARGS)

test-properties: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m properties $(ARGS)

test-effects: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m effects $(ARGS)

bench: $(BENCH)
	$(BIN)/python tests/bench $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/ty check fusion_lab
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

check: lint test

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
