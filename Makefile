# Every target makes the environment (.venv) when it is missing. `make help` explains them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
FUZZ_SECONDS ?= 600
.PHONY: help demo test test-all test-lowest test-highest lint audit docs fuzz format reproduction tensorboard clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml siamese/models/norm_pool.cpp
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11.4; name another with: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY)  ## draw synthetic faces, train on them for about a minute, report (no data set, no network)
	$(BIN)/python train.py experiment=demo

test: $(READY)  ## the quick tests (minutes)
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: $(READY)  ## all tests, with training on the real LFW where LFW_ROOT or ../shared/lfw has it
	$(BIN)/python -m pytest -n auto

test-lowest:  ## the quick tests with the lowest versions that pyproject.toml admits (makes .venv-lowest)
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/python -m pytest -n auto -m "not slow"

test-highest:  ## the same with the highest versions that can be had today (makes .venv-highest)
	$(PYTHON) -m venv .venv-highest
	.venv-highest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable '.[dev]'
	.venv-highest/bin/python -m pytest -n auto -m "not slow"

lint: $(READY)  ## style (ruff), types (mypy), and whether the installed packages fit together
	$(BIN)/python -m pip check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(READY)  ## look the installed packages up among known vulnerabilities (needs the network)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[audit]'
	$(BIN)/pip-audit --local --skip-editable

fuzz: $(READY)  ## random lists and images, FUZZ_SECONDS=600 each
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python tests/fuzz.py lists $(FUZZ_SECONDS)
	$(BIN)/python tests/fuzz.py images $(FUZZ_SECONDS)

docs: $(READY)  ## the site of docs/ into build/site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SEEDS ?= 0,1,2
DATA ?= lfw_a
REPRODUCTION ?= multirun/reproduction-$(DATA)
ROWS := report/adam,report/sgd,report/batchnorm,report/dropout_0.1,report/dropout_0.2
SWEEP = $(BIN)/python train.py -m data=$(DATA) seed=$(SEEDS) resume=true $(ARGS)
reproduction: $(READY)  ## every experiment of the report and its table (hours; goes on where it was stopped; SEEDS=0,1,2 DATA=lfw_a ARGS=)
	$(SWEEP) experiment=$(ROWS) hydra.sweep.dir=$(REPRODUCTION)/rows
	$(SWEEP) experiment=report/grid hydra.sweep.dir=$(REPRODUCTION)/grid
	$(BIN)/python -m siamese report $(REPRODUCTION)
	$(BIN)/python -m siamese reproduction $(REPRODUCTION)

LOGDIR ?= outputs
tensorboard: $(READY)  ## curves, figures and pictures of the runs in LOGDIR=outputs (or LOGDIR=multirun) at localhost:6006
	$(BIN)/tensorboard --logdir $(LOGDIR)

clean:  ## remove caches, rendered faces and decoded images; runs and downloaded data stay
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info data/cache data/synthetic
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
