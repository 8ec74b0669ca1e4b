"""Marks of tests that need vLLM itself: run by `make test-vllm`, left out where it is not installed."""

import importlib.util

import pytest

REAL_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed (make test-vllm makes an environment)",
    ),
    pytest.mark.filterwarnings("default"),  # vLLM's own warnings are not ours to mend
]
