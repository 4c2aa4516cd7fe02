# Every target creates the environment (.venv) if it is missing. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := auto
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
FUZZ_SECONDS ?= 600
LOCKED_EXTRAS := dev export mlflow wandb search page heic faces index docs browser audit
.PHONY: help env env-locked lock demo best test-unit test test-all test-cluster test-ray test-lowest test-highest test-next lint audit docs fuzz format reproduction tensorboard clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml siamese/models/kernels.cpp
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11.4; name another with: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python .ci/install.py --torch $(TORCH) --editable '.[dev]' $(if $(LOCKED),--constraint requirements.lock)
	@touch $@

env: $(READY)  ## create the environment, if it is missing or pyproject.toml has changed (TORCH=auto, cpu or cuda)

env-locked:  ## create the environment again, with exactly the versions in requirements.lock
	rm -rf $(VENV)
	$(MAKE) env LOCKED=1

lock: $(READY)  ## update requirements.lock to the newest versions that pyproject.toml allows (needs the network)
	$(PIP) uv
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11.4 --no-annotate \
		--custom-compile-command "make lock" $(addprefix --extra ,$(LOCKED_EXTRAS)) --output-file requirements.lock

demo: $(READY)  ## render synthetic faces, train on them for about a minute, write the run page (needs no data set)
	$(BIN)/python train.py experiment=demo

best: $(READY)  ## download LFW, train our quick recipe on it, write the run page (needs git and a network)
	$(BIN)/python train.py experiment=best/quick

test-unit: $(READY)  ## unit tests: no training, no other processes (about a minute)
	$(BIN)/python -m pytest -n auto -m "not integration and not slow"

test: $(READY)  ## unit and integration tests (minutes)
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: $(READY)  ## all tests; those on the real LFW run if LFW_ROOT or ../shared/lfw holds it
	$(BIN)/python -m pytest -n auto

test-cluster: $(READY)  ## tests of SLURM (needs root, and Debian's slurm-wlm and munge) and of launchers of parallel jobs
	$(BIN)/python -m pytest -m cluster --durations=0 --durations-min=1

test-ray: $(READY)  ## tests of Ray's launcher (in .venv-ray, which adds it to the packages of .venv)
	$(PYTHON) -m venv .venv-ray
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> $$(.venv-ray/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[ray]'
	.venv-ray/bin/python -m pytest tests/command/test_launchers.py -k ray --durations=0 --durations-min=1

test-lowest:  ## `make test` with the lowest versions that pyproject.toml allows (in .venv-lowest)
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/python -m pytest -n auto -m "not slow"

test-highest:  ## `make test` with the highest versions that pyproject.toml allows (in .venv-highest)
	$(PYTHON) -m venv .venv-highest
	.venv-highest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable '.[dev]'
	.venv-highest/bin/python -m pytest -n auto -m "not slow"

NEXT := $(CURDIR)/build/next
test-next: $(READY)  ## tests of configuration, command line and sweeps with Hydra 1.4 and OmegaConf 2.4, also before their release
	$(PIP) --upgrade --no-deps --target $(NEXT) 'hydra-core~=1.4.0rc1' 'omegaconf~=2.4.1rc1' \
		'hydra-joblib-launcher~=1.4.0rc1' 'hydra-submitit-launcher~=1.4.0rc1'
	@ls $(NEXT) | grep dist-info
	PYTHONPATH=$(NEXT) $(BIN)/python -m pytest -n auto -m "not slow" tests/config \
		$(addprefix tests/command/test_,checks.py help.py hydra_app.py jobs.py main.py overrides.py) \
		tests/docs/test_docs.py::test_the_generated_pages_are_up_to_date
	PYTHONPATH=$(NEXT) $(BIN)/python -m pytest -n auto --dist=load tests/command/test_launchers.py -k same_under_every_launcher

lint: $(READY)  ## check style (ruff), types (mypy), the direction of imports, and that the packages fit together
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pip check

audit: $(READY)  ## look for known vulnerabilities in the installed packages (needs the network)
	$(PIP) --editable '.[audit]'
	$(BIN)/pip-audit --local --skip-editable

fuzz: $(READY)  ## feed random lists and images to the readers, FUZZ_SECONDS=600 each
	$(PIP) --editable '.[fuzz]'
	$(BIN)/python tests/fuzz.py lists $(FUZZ_SECONDS)
	$(BIN)/python tests/fuzz.py images $(FUZZ_SECONDS)

docs: $(READY)  ## build the site from docs/ into build/site
	$(PIP) --editable '.[docs]'
	$(BIN)/zensical build --strict
	@echo "the site: build/site/index.html (its search needs a server: $(BIN)/python -m http.server --directory build/site)"

format: $(READY)  ## format the code, and let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SEEDS ?= 0,1,2
DATA ?= lfw_a
REPRODUCTION ?= multirun/reproduction-$(DATA)
ROWS := report/adam,report/sgd,report/sgd_guess,report/batchnorm,report/dropout_0.1,report/dropout_0.2
SWEEP = $(BIN)/python train.py -m data=$(DATA) seed=$(SEEDS) resume=true $(ARGS)
reproduction: $(READY)  ## run every experiment of the course report and compare (hours; resumes; SEEDS=0,1,2 DATA=lfw_a ARGS=)
	$(SWEEP) experiment=$(ROWS) hydra.sweep.dir=$(REPRODUCTION)/rows
	$(SWEEP) experiment=report/grid hydra.sweep.dir=$(REPRODUCTION)/grid
	$(BIN)/python -m siamese report $(REPRODUCTION)
	$(BIN)/python -m siamese reproduction $(REPRODUCTION)

LOGDIR ?= outputs
tensorboard: $(READY)  ## show the runs in LOGDIR=outputs (or LOGDIR=multirun) in TensorBoard, at localhost:6006
	$(BIN)/tensorboard --logdir $(LOGDIR)

clean:  ## delete caches, rendered faces and decoded images; keep runs and downloaded data
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info data/cache data/synthetic
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
