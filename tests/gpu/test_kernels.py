"""Every Triton kernel compiles for a GPU; Triton does that without one."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed (it comes with CUDA builds of torch)")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from reasoning.engines import cuda_kernels
from reasoning.train import head_kernels

NUMBERS = {"width": "i32", "layer_bytes": "i32", "half_bytes": "i32"}
PLACES = {"table": "*i64", "prompt_tokens": "*i64", "own_tokens": "*i64"}
KERNELS = [
    (
        head_kernels._statistics,
        {"logits": "*T", "stride": "i64", "targets": "*i64", "picked": "*fp32", "total": "*fp32"}
        | {"spread": "*fp32", "columns": "i32", "scale": "fp32"},
        {"BLOCK": 4096},
    ),
    (
        head_kernels._probabilities,
        {"logits": "*T", "stride": "i64", "total": "*fp32", "columns": "i32", "scale": "fp32"},
        {"BLOCK": 4096},
    ),
    (
        cuda_kernels._attend_kernel,
        {"q": "*T", "out": "*T", "scale": "fp32"} | PLACES | NUMBERS,
        {"H": 8, "G": 2, "D": 128, "PAGE": 64, "BLOCK": 16},
    ),
    (
        cuda_kernels._place_kernel,
        dict.fromkeys(("q_in", "k_in", "v_in", "q_out", "q_weight", "k_weight", "cos", "sin"), "*T")
        | {"eps": "fp32"}
        | PLACES
        | NUMBERS,
        {"H": 8, "HEADS": 16, "D": 128, "PAGE": 64, "NORM": True},
    ),
]


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(("kernel", "types", "constants"), KERNELS, ids=lambda k: getattr(k, "__name__", ""))
def test_it_compiles(kernel, types, constants, dtype):
    if not hasattr(kernel, "arg_names") or type(kernel).__name__ == "InterpretedFunction":
        pytest.skip("TRITON_INTERPRET is set")
    signature = {n: types[n].replace("T", dtype) if n in types else "constexpr" for n in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
