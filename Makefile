# Everything a developer or a first visitor runs. Needs git, make and Python 3.11-3.13 alone.

VENV        ?= .venv
DEMO_OUT    ?= hpcqc-demo
BIN         := $(VENV)/bin
VENDORS     := $(VENV)/vendors
STAMP       := $(VENV)/.hpcqc-installed
UV          ?= uv
PYTEST_ARGS ?=

.PHONY: help venv demo test test-slow test-slow-1 test-slow-2 test-slurm test-vendors test-all faults lint format bench constraints clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## the environment in .venv, installed from constraints.txt

demo: $(STAMP)  ## a dissociation curve on Dask and Aer, with its report in hpcqc-demo/
	@HPCQC_STATE_DIR="$(DEMO_OUT)/state" $(BIN)/hpcqc run flows.dissociation --site built-in \
	  --run-id demo --out "$(DEMO_OUT)"

test: lint  ## lint, then every test that is marked neither slow, slurm nor vendor
	@$(BIN)/pytest $(PYTEST_ARGS)

test-slow: $(STAMP)  ## the tests marked slow, without campaigns, Slurm and vendors' software
	@$(BIN)/pytest -m "slow and not slurm and not vendor and not campaign" $(PYTEST_ARGS)

# The same in two halves that take about as long: most of them wait most of the time.
HALF := $(addprefix tests/,additions agent application architecture backends broker child cli docs examples)

test-slow-1: $(STAMP)
	@$(BIN)/pytest -m "slow and not slurm and not vendor and not campaign" $(PYTEST_ARGS) $(HALF)

test-slow-2: $(STAMP)
	@$(BIN)/pytest -m "slow and not slurm and not vendor and not campaign" $(PYTEST_ARGS) \
	  $(addprefix --ignore=,$(HALF))

test-slurm: $(STAMP)  ## the tests marked slurm, without campaigns
	@$(BIN)/pytest -m "slurm and not campaign" $(PYTEST_ARGS)

# In an environment of their own, because Qiskit imports IBM's client, if it is there, in every
# process that transpiles: a second each.
test-vendors: $(STAMP)  ## the tests marked vendor, after installing vendors' software (1.7 GB) into .venv
	@PYTHONPATH=. $(BIN)/python .ci/vendor_environments.py $(VENDORS)
	@python=$(VENDORS)/extras/bin/python; [ -e $(VENDORS)/extras/complete ] || python=$(BIN)/python; \
	  VENDOR_ENVIRONMENTS=$(VENDORS) $$python -m pytest -m "vendor and not campaign" tests/vendors $(PYTEST_ARGS)

test-all: lint  ## lint, then every test there is, with 2 000 random circuits a method
	@HPCQC_TEST_EXAMPLES=$${HPCQC_TEST_EXAMPLES:-2000} $(BIN)/pytest -m "" $(PYTEST_ARGS)

faults: $(STAMP)  ## every fault of a real Slurm, with the starts on the QPU and what squeue still has
	@$(BIN)/pytest -m fault $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff, mypy strict, import-linter
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || \
	  { echo "Unformatted files (make format):"; $(BIN)/ruff format --check .; exit 1; } >&2
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP)  ## format the code and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix --exit-zero .
	@$(BIN)/ruff format .

bench: $(STAMP)  ## the benchmarks, written to benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

constraints:  ## refresh uv.lock from pyproject.toml, and constraints.txt from uv.lock (needs uv)
	@$(UV) lock
	@{ echo "# Exported from uv.lock by 'make constraints'; do not edit."; \
	   $(UV) export --frozen --quiet --all-extras --all-groups \
	     --no-emit-project --no-hashes --no-annotate --no-header; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean:  ## remove caches, builds and the demo's folder; .venv stays
	rm -rf "$(DEMO_OUT)" dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# An environment that is there already is used as it is, whoever made it: pip is added to it if
# it has none (uv makes such), and only this project's requirements are installed.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ ! -x $(BIN)/python ]; then \
	  python=$$(sh .ci/find-python $(PYTHON)); \
	  echo "Creating $(VENV) with $$python ($$($$python --version))"; \
	  $$python -m venv $(VENV); \
	else \
	  sh .ci/find-python $(BIN)/python > /dev/null || \
	    { echo "Remove $(VENV), or leave it and make VENV=another-folder." >&2; exit 1; }; \
	fi
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	@echo "Installing into $(VENV) (a minute or two the first time)"
	@$(BIN)/python -m pip install --quiet "pip>=25.1,<27"  # the first that knows --group
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[annealing,chemistry,clustering,decoder,dwave,learning,links,molecules,postgresql,sensing]" --group dev
	@touch $@
