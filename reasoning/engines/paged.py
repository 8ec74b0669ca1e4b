"""Keys and values in pages, for a GPU: a row is a list of pages, and the chains of one prompt share the prompt's.

A page holds `PAGE` positions of every layer, keys and values side by side, so one address says where a row's
positions are, whatever the layer. Rows of any length sit beside each other without padding, memory is taken as it
is needed, and moving a row moves a line of its table. Knows nothing of models, kernels or sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoning.engines.forward import Prompt

PAGE = 64
SEGMENT_BYTES = 1 << 28
"""Memory is taken from the device in pieces of at most about this size."""


def pages_for(positions: int) -> int:
    return -(-positions // PAGE)


@dataclass(slots=True, eq=False)
class _Held:
    """A prompt's pages and how many rows read them."""

    prompt: Prompt
    pages: list[int]
    rows: int = 0


class PagedKeyValues:
    """Room for ``rows`` rows with prompts and new tokens of at most these lengths.

    table: (rows, width) addresses of the pages of each row in bytes: its prompt's, then its own from the next page
    on; elsewhere that of a page nobody reads. prompt_tokens, own_tokens: (rows,) positions written of each.
    """

    def __init__(self, rows: int, prompt_tokens: int, new_tokens: int, page: Tensor):
        """page: an empty tensor whose last five dimensions, dtype and device are those of a page:
        (0, layers, 2, kv_heads, PAGE, head_dim)."""
        self.page = page
        self.page_bytes = page.element_size() * int(np.prod(page.shape[1:]))
        self.per_segment = max(1, min(SEGMENT_BYTES // self.page_bytes, 2 * rows))
        self.segments: list[Tensor] = []
        self.free: list[int] = []
        width = pages_for(prompt_tokens) + pages_for(new_tokens)
        (self.spare,) = self._take(1)
        self.table = np.full((rows, width), self._address(self.spare), np.int64)
        self.prompt_tokens = np.zeros(rows, np.int64)
        self.own_pages = np.full((rows, pages_for(new_tokens)), -1)
        self.held = np.full(rows, None, np.object_)
        self._prompts: dict[int, _Held] = {}
        self.changed = True  # since the table was last uploaded

    def admit(self, slots: NDArray[np.int64], prompt: Prompt) -> None:
        """Seat rows ``slots`` (n,) behind ``prompt``, whose state is one pair (keys, values) of all layers, each
        (layers, kv_heads, P, head_dim)."""
        held = self._prompts.get(id(prompt))
        if held is None:
            held = self._prompts[id(prompt)] = _Held(prompt, self._written(prompt))
        held.rows += len(slots)
        self.held[slots] = held
        self.prompt_tokens[slots] = prompt.state[0][0].shape[2]
        for column, page in enumerate(held.pages):
            self.table[slots, column] = self._address(page)
        self.changed = True

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        for array, empty in self._arrays():
            moved = array[source]
            array[source] = empty
            array[target] = moved
        self.changed = True

    def release(self, slots: NDArray[np.int64]) -> None:
        for slot in slots:
            held: Any = self.held[slot]
            held.rows -= 1
            if not held.rows:
                self.free += held.pages
                del self._prompts[id(held.prompt)]
        own = self.own_pages[slots]
        self.free += own[own >= 0].tolist()
        for array, empty in self._arrays():
            array[slots] = empty
        self.changed = True

    def begin(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give every row room for one more position behind ``lengths`` (M,) known ones; (M,) own positions known."""
        own = lengths - self.prompt_tokens[: len(lengths)]
        seated = self.held[: len(lengths)] != None  # noqa: E711 (elementwise)
        full = np.flatnonzero((own % PAGE == 0) & seated)
        if len(full):
            pages = self._take(len(full))
            column = own[full] // PAGE
            first = -(-self.prompt_tokens[full] // PAGE)
            self.own_pages[full, column] = pages
            self.table[full, first + column] = [self._address(page) for page in pages]
            self.changed = True
        return own

    def lines(self, rows: int, count: int) -> NDArray[np.int64]:
        """The table of the first ``rows`` rows, and free rows up to ``count``: (count, width)."""
        out = np.full((count, self.table.shape[1]), self._address(self.spare), np.int64)
        out[:rows] = self.table[:rows]
        return out

    def _arrays(self) -> tuple[tuple[NDArray[Any], Any], ...]:
        """Everything known of rows, and how each looks for a row that is free."""
        spare = self._address(self.spare)
        return (self.table, spare), (self.prompt_tokens, 0), (self.own_pages, -1), (self.held, None)

    def _written(self, prompt: Prompt) -> list[int]:
        keys, values = prompt.state[0]
        length = keys.shape[2]
        pages = self._take(pages_for(length))
        for number, page in enumerate(pages):
            start, end = number * PAGE, min((number + 1) * PAGE, length)
            place = self.segments[page // self.per_segment][page % self.per_segment]
            place[:, 0, :, : end - start] = keys[:, :, start:end]
            place[:, 1, :, : end - start] = values[:, :, start:end]
        return pages

    def _take(self, count: int) -> list[int]:
        while len(self.free) < count:
            first = len(self.segments) * self.per_segment
            self.segments.append(self.page.new_empty(self.per_segment, *self.page.shape[1:]))
            self.free += range(first + self.per_segment - 1, first - 1, -1)
        return [self.free.pop() for _ in range(count)]

    def _address(self, page: int) -> int:
        return self.segments[page // self.per_segment].data_ptr() + page % self.per_segment * self.page_bytes


def page_like(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The ``page`` that `PagedKeyValues` wants."""
    return torch.empty(0, layers, 2, kv_heads, PAGE, head_dim, dtype=dtype, device=device)
