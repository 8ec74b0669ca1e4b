# Two commands do all the set-up on a machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed  ## train, sample, verify, search and plot on a tiny model (about 6 minutes on 2 cores)
	$(BIN)/reasoning demo $(RUN)

test: $(VENV)/.installed  ## the test suite: offline, on a CPU
	$(BIN)/python -m pytest

check: $(VENV)/.installed  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: $(VENV)/.installed  ## side-by-side benchmarks (quiet machine, please)
	$(BIN)/python -m evals.bench_sampling

clean:  ## remove the environment, caches and demo runs
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis *.egg-info
