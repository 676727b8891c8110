# Every target builds the environment it needs the first time, and again only when a pin changes.
#   PYTHON=python3.12   which interpreter (3.11 to 3.13)
#   TORCH=cpu           the CPU wheel of torch, from wherever pip is configured to find it (see docs/install.md)
#   ARGS="..."          handed on verbatim: Hydra overrides, or pytest arguments
#   NPROC=2             that many processes on this machine

PYTHON ?= python3
NPROC ?= 1
KILLS ?= 50
ARGS ?=

# Two threads per process are slower than one wherever the cores are shared; whoever has many says so.
export OMP_NUM_THREADS ?= 1

VENV := .venv
# The choice is remembered: what was set up with TORCH=cpu stays so until another choice is named.
TORCH ?= $(or $(shell cat $(VENV)/.torch 2>/dev/null),default)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(TORCH)
PINS := -c packages/constraints.txt -c packages/constraints-torch-$(TORCH).txt
# Every package may name extras `dev` (installed) and `dev-optional` (installed where they can be) in its own pyproject.
PACKAGES := $(patsubst %/pyproject.toml,%,$(wildcard packages/*/pyproject.toml))
EDITABLE := $(foreach package,$(PACKAGES),-e $(package)[dev])
OPTIONAL := $(foreach package,$(PACKAGES),-e $(package)[dev-optional])

LAUNCH = $(if $(filter 1,$(NPROC)),$(BIN)/python -m,$(BIN)/python -m triptych.commands.launch --standalone --nproc-per-node=$(NPROC) -m)

.DEFAULT_GOAL := help
.PHONY: help install check test smoke faults test-slurm bench docs format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{ printf "  %-16s %s\n", $$1, $$2 }'

install: $(STAMP) ## build .venv with all packages and tools (every target does this by itself)

# The targets of each package stand beside its code.
include $(wildcard packages/*/targets.mk)

check: $(STAMP) ## formatting, lint, types and the laws of the architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/architecture

smoke:: $(STAMP) ## the default commands of every package, made short

test: $(STAMP) ## the whole test suite; ARGS="tests/<package> -k <name>"
	@$(BIN)/python -m pytest $(ARGS)

faults: $(STAMP) ## kills, hangs and starves real runs; KILLS=50 at random moments
	@$(BIN)/python -m pytest -m faults tests/faults
	@$(BIN)/python -m pytest -m faults tests
	@$(BIN)/python tests/faults/campaign.py $(KILLS)

test-slurm: $(STAMP) ## sweeps, preemption and two tasks on a Slurm cluster inside this machine (root on Debian; installs it)
	@tests/slurm/cluster.sh install || echo "note: without Slurm its tests are skipped" >&2
	@$(BIN)/python -m pytest -m slurm -n 0 tests/slurm

bench: $(STAMP) ## speed and memory as ratios against a peer
	@for bench in tests/benchmarks/bench_*.py; do $(BIN)/python $$bench $(ARGS) || exit 1; done

docs: $(STAMP) ## the documentation as HTML in docs/_build
	@$(BIN)/python -m pip install -q $(PINS) --group docs
	@$(BIN)/sphinx-build -q -W docs docs/_build
	@echo "docs/_build/index.html"

format: $(STAMP) ## format the code and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove the environment and caches; outputs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build

# The stamp is the last thing written, so an interrupted installation is taken up again by the next target.
$(STAMP): pyproject.toml packages/constraints.txt packages/constraints-torch-$(TORCH).txt $(wildcard packages/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1): Python 3.11, 3.12 or 3.13 is needed; choose one with PYTHON=" >&2; exit 2; }
	@echo "setting up $(VENV) (once; a few minutes, most of it downloading torch)"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "error: $(PYTHON) cannot make a virtual environment: install its venv module (Debian: python3-venv)" >&2; exit 2; }
	@rm -f $(VENV)/.installed-*; echo $(TORCH) > $(VENV)/.torch
	@$(BIN)/python -m pip install -q --upgrade -c packages/constraints.txt pip
	@$(BIN)/python -m pip install $(PINS) torch
	@$(BIN)/python -m pip install $(PINS) --group dev $(EDITABLE)
	@$(BIN)/python -m pip install $(PINS) $(OPTIONAL) || \
	  echo "note: an optional library could not be installed (above; it may need a C compiler), so what it brings is missing;" \
	    "'rm $@' lets the next target try again" >&2
	@touch $@
