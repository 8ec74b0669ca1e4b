"""The Llama family on a GPU: one CUDA graph per number of rows, over keys and values in pages.

A decoding step of a small model is hundreds of kernels of a few microseconds each; launched one by one, the GPU waits
for Python. Here a step is captured once for each of a few numbers of rows and replayed. Prompts are read by
`LlamaForward`. Weights are read where the module keeps them, so an update in place needs no copy.

Shapes: M rows, H key/value heads, D head_dim, W columns of the table of pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from reasoning.engines.forward import Prompt, padded
from reasoning.engines.llama import LlamaForward
from reasoning.engines.paged import PagedKeyValues, page_like

ROWS = np.array([16, 32, 48, 64, 96, 128, 192, 256, 384, 512])
"""Numbers of rows that steps are captured for; above, multiples of 256."""


def rows_of_graph(rows: int) -> int:
    at = int(np.searchsorted(ROWS, rows))
    return int(ROWS[at]) if at < len(ROWS) else padded(rows, 256)


@dataclass(slots=True)
class _Buffers:
    """What a captured step reads and writes: always at the same addresses."""

    numbers: Tensor  # (3, M): tokens, prompt positions, own positions
    table: Tensor  # (M, W)
    logits: Tensor  # (M, vocab)


class CudaForward(LlamaForward):
    """`Forward` for the modules that `fits` accepts, on a GPU.

    graphs: False runs each step kernel by kernel.
    """

    fused_bytes = 0

    def __init__(self, module: Any, graphs: bool = True):
        self.graphs = graphs
        self._captured: dict[int, Any] = {}
        self._addresses: tuple[int, ...] = ()
        self._buffers: _Buffers | None = None
        self._last: PagedKeyValues | None = None  # whose table was uploaded
        super().__init__(module)

    @staticmethod
    def fits(module: Any) -> bool:
        """Also wants Triton, a GPU that computes in the weights' type, and a head_dim that is a power of two."""
        if not LlamaForward.fits(module) or find_spec("triton") is None:
            return False
        size = module.model.layers[0].self_attn.head_dim
        return module.device.type == "cuda" and size in (16, 32, 64, 128, 256)

    @torch.no_grad()
    def refresh(self) -> None:
        super().refresh()
        attentions = [layer.self_attn for layer in self.module.model.layers]
        self.qk_norms = [
            (a.q_norm.weight.detach(), a.k_norm.weight.detach()) if hasattr(a, "q_norm") else None
            for a in attentions
        ]
        addresses = tuple(p.data_ptr() for p in self.module.parameters())
        if addresses != self._addresses:  # what was captured reads weights that are no longer there
            self._captured.clear()
            self._addresses = addresses
        self._tables(4096)

    def store(self, rows: int, prompt_tokens: int, new_tokens: int) -> PagedKeyValues:
        page = page_like(len(self.layers), self.kv_heads, self.head_dim, self.dtype, self.device)
        store = PagedKeyValues(rows, prompt_tokens, new_tokens, page)
        self._tables(prompt_tokens + new_tokens)
        self._reserve(rows_of_graph(rows), store.table.shape[1])
        return store

    def _tables(self, positions: int) -> None:
        before = len(self.cos)
        super()._tables(positions)
        if len(self.cos) != before:
            self._captured.clear()

    def _reserve(self, rows: int, width: int) -> None:
        """Buffers for ``rows`` rows and ``width`` pages each. Larger ones leave nothing of what was captured."""
        old = self._buffers
        if old is not None and len(old.table) >= rows and old.table.shape[1] >= width:
            return
        if old is not None:
            rows, width = max(rows, len(old.table)), max(width, old.table.shape[1])
        self._captured.clear()
        self._last = None
        self._buffers = _Buffers(
            torch.zeros(3, rows, dtype=torch.long, device=self.device),
            torch.zeros(rows, max(64, width), dtype=torch.long, device=self.device),
            torch.empty(rows, self.vocab, dtype=self.dtype, device=self.device),
        )

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]:
        out = []
        for prompt in super().prefill(prompts):
            keys, values = (torch.stack(part) for part in zip(*prompt.state, strict=True))
            out.append(Prompt(prompt.logits, [(keys, values)]))
        return out

    def step(self, store: PagedKeyValues, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        buffers = self._buffers
        assert buffers is not None, "a store was made before"
        rows, count = len(tokens), rows_of_graph(len(tokens))
        own = store.begin(lengths)
        numbers = np.zeros((3, count), np.int64)
        numbers[0, :rows], numbers[1, :rows], numbers[2, :rows] = tokens, store.prompt_tokens[:rows], own
        buffers.numbers[:, :count].copy_(torch.from_numpy(numbers))
        if store.changed or store is not self._last:
            width = store.table.shape[1]
            buffers.table[:count, :width].copy_(torch.from_numpy(store.lines(rows, count)))
            store.changed, self._last = False, store
        if not self.graphs:
            self._decode(count)
        else:
            if count not in self._captured:
                self._captured[count] = self._capture(count)
            self._captured[count].replay()
        return buffers.logits[:rows].clone()  # another batch may step before these are read

    def _capture(self, count: int) -> Any:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._decode(count)  # compiles the kernels and lets the libraries set themselves up
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Another thread may be learning meanwhile: only this one must keep from what cannot be captured.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._decode(count)
        return graph

    def _decode(self, count: int) -> None:
        """One step of the first ``count`` rows of the buffers; leaves their logits there."""
        from reasoning.engines.cuda_kernels import attend, place

        assert self._buffers is not None
        buffers = self._buffers
        tokens, prompt, own = buffers.numbers[:, :count]
        rows = buffers.table[:count], prompt, own
        page = page_like(len(self.layers), self.kv_heads, self.head_dim, self.dtype, self.device)
        x = self.embedding.index_select(0, tokens)
        for index, layer in enumerate(self.layers):
            normed = self._norm(x, layer.norm_in)
            q, k, v = (F.linear(normed, *part) for part in layer.qkv)
            turned, attended = torch.empty_like(q), torch.empty_like(q)
            place(q, k, v, turned, self.qk_norms[index], (self.cos, self.sin), rows, index, page, self.eps)
            attend(turned, attended, rows, index, page, self.scale)
            x = self._after(x, attended, layer)
        weight, bias = self.head
        out = buffers.logits[:count]
        torch.mm(self._norm(x, self.final_norm), weight.t(), out=out)
        if bias is not None:
            out.add_(bias)
