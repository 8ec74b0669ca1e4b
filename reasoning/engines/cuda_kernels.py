"""Triton kernels of one decoding step over `paged.PagedKeyValues`; imported only where Triton and a GPU are.

Both take a row's place from device memory (its line of the table, its lengths), never from their arguments, so a
captured CUDA graph stays valid while rows come, grow and go.

Shapes: M rows, H key/value heads, G query heads to each, D head_dim, W columns of the table.
"""

# Triton's language is not Python to a type checker.
# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _place_kernel(
    q_in, k_in, v_in, q_out, q_weight, k_weight, cos, sin, table, prompt_tokens, own_tokens, width, layer_bytes,
    half_bytes, eps,
    H: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    kind = q_out.dtype.element_ty
    known = tl.load(prompt_tokens + row)
    own = tl.load(own_tokens + row)
    column = (known + PAGE - 1) // PAGE + own // PAGE
    address = tl.load(table + row * width + column) + layer_bytes
    low = tl.arange(0, D // 2)
    high = low + D // 2
    if head < HEADS:
        source = q_in + (row * HEADS + head) * D
        weight = q_weight
        target = q_out + (row * HEADS + head) * D
    elif head < HEADS + H:
        source = k_in + (row * H + head - HEADS) * D
        weight = k_weight
        target = address.to(tl.pointer_type(kind)) + ((head - HEADS) * PAGE + own % PAGE) * D
    else:
        source = v_in + (row * H + head - HEADS - H) * D
        weight = k_weight
        target = (address + half_bytes).to(tl.pointer_type(kind))
        target += ((head - HEADS - H) * PAGE + own % PAGE) * D
    a = tl.load(source + low).to(tl.float32)
    b = tl.load(source + high).to(tl.float32)
    if head < HEADS + H:
        if NORM:
            scale = tl.rsqrt((tl.sum(a * a) + tl.sum(b * b)) / D + eps)
            a = (a * scale).to(kind).to(tl.float32) * tl.load(weight + low).to(tl.float32)
            b = (b * scale).to(kind).to(tl.float32) * tl.load(weight + high).to(tl.float32)
        at = (known + own) * D
        c = tl.load(cos + at + low).to(tl.float32)
        s = tl.load(sin + at + high).to(tl.float32)
        turned = a * c - b * s
        b = b * c + a * s
        a = turned
    tl.store(target + low, a.to(kind))
    tl.store(target + high, b.to(kind))


@triton.jit
def _attend_kernel(
    q, out, table, prompt_tokens, own_tokens, width, layer_bytes, half_bytes, scale,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    kind = q.dtype.element_ty
    known = tl.load(prompt_tokens + row)
    own = tl.load(own_tokens + row) + 1
    shared = (known + PAGE - 1) // PAGE
    pages = shared + (own + PAGE - 1) // PAGE
    g = tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    t = tl.arange(0, PAGE)
    queries = ((row * H + head) * G + g[:, None]) * D + d[None, :]
    within = g[:, None] < G
    x = tl.load(q + queries, mask=within, other=0.0)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    sums = tl.zeros([BLOCK, D], tl.float32)
    inside = (head * PAGE + t[:, None]) * D + d[None, :]
    for page in range(pages):
        address = tl.load(table + row * width + page) + layer_bytes
        left = tl.where(page < shared, known - page * PAGE, own - (page - shared) * PAGE)
        there = t[:, None] < left
        keys = tl.multiple_of(address.to(tl.pointer_type(kind)) + inside, (16, 16))
        values = tl.multiple_of((address + half_bytes).to(tl.pointer_type(kind)) + inside, (16, 16))
        k = tl.load(keys, mask=there, other=0.0)
        v = tl.load(values, mask=there, other=0.0)
        scores = tl.dot(x, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(t[None, :] < left, scores, float("-inf"))
        highest = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp(scores - highest[:, None])
        shrink = tl.exp(best - highest)
        total = total * shrink + tl.sum(weights, 1)
        sums = sums * shrink[:, None] + tl.dot(weights.to(kind), v, input_precision="ieee")
        best = highest
    tl.store(out + queries, (sums / total[:, None]).to(kind), mask=within)


def place(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    tables: tuple[Tensor, Tensor],
    rows: tuple[Tensor, Tensor, Tensor],
    layer: int,
    page: Tensor,
    eps: float,
) -> None:
    """Normalise (if ``norms``) and rotate queries (M, H * G * D) into ``out`` of the same shape, keys (M, H * D) into
    the pages, and copy the values there.

    norms: weights (D,) of the query and key norms. tables: rotary (positions, 1, D). rows: the table (M, W), prompt
    and own positions (M,). page: as `paged.page_like` gives it.
    """
    _, _, _, kv_heads, positions, size = page.shape
    heads = q.shape[1] // size
    half = page.element_size() * kv_heads * positions * size
    weights = norms or (tables[0], tables[0])
    _place_kernel[(len(q), heads + 2 * kv_heads)](
        q, k, v, out, *weights, *tables, *rows, rows[0].stride(0), layer * 2 * half, half, eps,
        H=kv_heads, HEADS=heads, D=size, PAGE=positions, NORM=norms is not None, num_warps=1,
    )  # fmt: skip


def attend(
    q: Tensor, out: Tensor, rows: tuple[Tensor, Tensor, Tensor], layer: int, page: Tensor, scale: float
) -> None:
    """Attention of queries (M, H * G * D) over all positions of each row, its newest included, into ``out`` of the
    same shape. rows, page: as in `place`."""
    _, _, _, kv_heads, positions, size = page.shape
    groups = q.shape[1] // size // kv_heads
    half = page.element_size() * kv_heads * positions * size
    _attend_kernel[(len(q), kv_heads)](
        q, out, *rows, rows[0].stride(0), layer * 2 * half, half, scale,
        H=kv_heads, G=groups, D=size, PAGE=positions, BLOCK=max(16, triton.next_power_of_2(groups)),
        num_warps=4, num_stages=2,
    )  # fmt: skip
