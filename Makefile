# All set-up happens here: from a bare clone, Python 3.11 or newer and make are all that is needed.
#   make demo                     train a small model on the embedded corpus
#   make demo TEXT='my/*.txt'     the same on your own text
#   make test                     run the whole test suite
#   make docs                     build the documentation site into build/site
#   make bench-gpu PARTS='step'   benchmarks on a GPU, all of them or these

PYTHON ?= python3
VENV ?= .venv
# Versions to install; CONSTRAINTS= installs the newest.
CONSTRAINTS ?= constraints.txt
TEXT ?=
# Where a demo on your own text goes; the embedded one goes to the default, runs/pretrain.
WORKDIR ?= runs/my-text
# Two processes for two cores: a third makes them all slower. A file's tests stay together, so that they share
# what its fixtures build.
PYTEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder --timeout 600
# Of bench-gpu: an interpreter that has jax[cuda13] and torch for CUDA (this Makefile installs neither).
GPU_PYTHON ?= $(PYTHON)
PARTS ?=
# Of bench-compiled: Python 3.12 or newer, whose environment gets the newest JAX with its compilers.
COMPILED_PYTHON ?= $(PYTHON)
COMPILED_VENV ?= .venv-compiled
# Of soak: its own flags, as --parts=kills,power --kills=20.
SOAK ?=
FUZZ_INPUTS ?= 1000000

BIN := $(VENV)/bin
# --use-pep517: what has a setup.py alone (seqeval) is built apart from what is installed here. --no-compile:
# Python compiles the small part that is imported, when it is imported, and keeps it; but not where
# PYTHONDONTWRITEBYTECODE is set: there every process would compile it again.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --use-pep517 \
  $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile) $(addprefix -c ,$(CONSTRAINTS))
DEMO_FLAGS := $(if $(TEXT), --config.data.text='$(TEXT)' --workdir='$(WORKDIR)')
DEMO_STAMP := $(VENV)/.installed-demo
TEST_STAMP := $(VENV)/.installed-test
DOCS_STAMP := $(VENV)/.installed-docs
ENVIRONMENT_STAMP := $(VENV)/.installed-environment

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test soak fuzz docs lint bench-check bench-gpu bench-compiled clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO_STAMP)  ## train on the embedded corpus, or on TEXT='my/*.txt' into WORKDIR
	$(BIN)/python run.py --config=configs/pretrain.py$(DEMO_FLAGS)

.PHONY: environment
environment: $(ENVIRONMENT_STAMP)  ## install at once what docs, lint and test need

.PHONY: test-fast
test-fast: $(TEST_STAMP)  ## run the tests that take little time
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m 'not gpu and not slow and not devices'

test: $(TEST_STAMP)  ## run the tests; those on real text read the folder that CLOWER_DATA names
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m 'not gpu and not devices'
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m 'not gpu and devices' $$(grep -rl --include='*.py' mark.devices tests)

soak: $(TEST_STAMP)  ## kill runs, cut power, damage files, train for hours; figures go to runs/soak
	PYTHONPATH=.:tests $(BIN)/python tests/faults/soak.py $(SOAK)

fuzz: $(TEST_STAMP)  ## give all readers FUZZ_INPUTS inputs that nobody meant; figures go to runs/fuzz
	PYTHONPATH=tests $(BIN)/python -m fuzz --inputs $(FUZZ_INPUTS)

docs: $(DOCS_STAMP)  ## build the documentation site into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(TEST_STAMP)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-check: $(TEST_STAMP)  ## measure again what bench/reference.json has; fail where it became slower
	$(BIN)/python bench/check.py

bench-gpu:  ## measure on a GPU with GPU_PYTHON, all parts or PARTS; figures go to runs/bench-gpu
	PYTHON='$(GPU_PYTHON)' bench/gpu.sh $(PARTS)

bench-compiled: $(COMPILED_VENV)/.installed  ## compile for GPUs and TPUs that are not there; what a step costs
	$(COMPILED_VENV)/bin/python bench/compiled.py --json runs/bench-compiled.json

$(COMPILED_VENV)/.installed: pyproject.toml
	$(COMPILED_PYTHON) -m venv $(COMPILED_VENV)
	$(COMPILED_VENV)/bin/python -m pip install --disable-pip-version-check -e . 'jax[cuda13,tpu]'
	@touch $@

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) $(COMPILED_VENV) *.egg-info build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "CLOWER-JAX needs Python 3.11 or newer, and '$(PYTHON)' is not." >&2; \
		echo "Name another, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --upgrade-deps $(VENV)

$(DEMO_STAMP): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo 'Installing into $(VENV): about 3 GB, some minutes, once.'
	$(INSTALL) -e '.[beam,rjieba]'
	@touch $@

$(TEST_STAMP): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo 'Installing into $(VENV): about 4 GB, some minutes, once.'
	$(INSTALL) -e '.[beam,rjieba,test,lint]'
	@touch $@

$(DOCS_STAMP): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo 'Installing into $(VENV) what the site is built with.'
	$(INSTALL) -e '.[docs]'
	@touch $@

$(ENVIRONMENT_STAMP): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo 'Installing into $(VENV): about 4 GB, some minutes, once.'
	$(INSTALL) -e '.[beam,rjieba,test,lint,docs]'
	@touch $(TEST_STAMP) $(DOCS_STAMP) $@
