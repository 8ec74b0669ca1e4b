"""Keys and values in pages, for a processor: the chains of a prompt read the same pages of it.

A row is a list of pages of `PAGE` positions; full pages of its prompt are shared, the page that its own tokens go on
in is not. One query against the keys, and one row of weights against the values, is a sum of few numbers times
vectors that lie here and there in memory. That is what `embedding_bag` computes: it reads as fast as memory gives,
2.5 times as fast as batched products of so few rows, and reads no page that a row does not have. Keys are stored
(d, PAGE), so that a query's d numbers are the weights of d vectors of PAGE scores.

A row's numbers depend on its own pages alone: they are the same bits whatever other rows there are. Knows nothing of
models or sampling.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoning.engines.forward import Prompt

PAGE = 32
AHEAD = 4
"""Rows get their next page so many steps early: what is read where is listed anew every few steps only."""
SPARE = 0
"""The page that rows without a chain write to; nobody reads it."""


class SharedKeyValues:
    """Room for ``rows`` rows with prompts and new tokens of at most ``longest`` positions together.

    Shapes: M rows, A of them with a chain, N pages, H key/value heads, Q query heads, d head_dim, T = PAGE
    positions, E pages as each query head of each row reads them (a page of a row counts Q times).
    """

    def __init__(self, rows: int, longest: int, heads: int, queries: int, like: list[Tensor]):
        """heads, queries: H and Q. like: for each layer an empty tensor (0, d), of the dtype and device wanted."""
        self.heads, self.queries = heads, queries
        self.size, self.device = like[0].shape[-1], like[0].device
        self.table = np.full((rows, -(-longest // PAGE)), SPARE)
        self.count = np.zeros(rows, np.int64)  # pages of each row
        # Room for the worst case; memory that is not written to is not taken.
        pages = 1 + self.table.size
        self.keys = [e.new_empty(pages, heads, self.size, PAGE) for e in like]
        self.values = [e.new_empty(pages, heads, PAGE, self.size) for e in like]
        self.readers = np.zeros(pages, np.int64)  # rows that read each page
        self.free: list[int] = []
        self.touched = 0  # pages [0, touched) have been in use
        self._take(1)  # the spare one
        self.listed = 0, 0  # rows, and with padding, that the present list is for
        # Row i: PAGE - i zeros, then -inf.
        steps = like[0].new_zeros(2 * PAGE)
        steps[PAGE:] = float("-inf")
        self.masks = steps.unfold(0, PAGE, 1).contiguous()

    def admit(self, slots: NDArray[np.int64], prompt: Prompt) -> None:
        """Seat rows ``slots`` (n,) behind ``prompt``."""
        length = prompt.state[0][0].shape[1]
        full, rest = length // PAGE, length % PAGE
        shared, single = self._take(full), self._take(len(slots) if rest else 0)
        self.table[slots, :full] = shared
        self.readers[shared] = len(slots)
        if rest:
            self.table[slots, full] = single
        self.count[slots] = full + (rest > 0)
        shared, single = self._put(shared), self._put(single)
        for keys, values, (k, v) in zip(self.keys, self.values, prompt.state, strict=True):
            if full:
                shape = (self.heads, full, PAGE, self.size)
                keys[shared] = k[:, : full * PAGE].reshape(shape).permute(1, 0, 3, 2)
                values[shared] = v[:, : full * PAGE].reshape(shape).transpose(0, 1)
            if rest:
                keys[single, :, :, :rest] = k[:, full * PAGE :].transpose(1, 2)
                values[single, :, :rest] = v[:, full * PAGE :]
        self.listed = 0, 0

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        table, count = self.table[source], self.count[source]
        self.count[source] = 0
        self.table[target], self.count[target] = table, count
        self.listed = 0, 0

    def release(self, slots: NDArray[np.int64]) -> None:
        """Rows ``slots`` are done. A page is free once nobody reads it; the list may name it for a few steps more."""
        read = np.arange(self.table.shape[1]) < self.count[slots][:, None]
        pages = self.table[slots][read]
        np.subtract.at(self.readers, pages, 1)
        self.free += np.unique(pages[self.readers[pages] == 0]).tolist()
        self.count[slots] = 0

    def _take(self, count: int) -> NDArray[np.int64]:
        """``count`` pages, each with one reader. What was in them stays: it is finite, and masked."""
        if len(self.free) < count:
            first, self.touched = self.touched, min(self.touched + max(count, 64), len(self.readers))
            self.free += range(self.touched - 1, first - 1, -1)
            for tensor in (*self.keys, *self.values):
                tensor[first : self.touched].zero_()
        taken = np.array([self.free.pop() for _ in range(count)], np.int64)
        self.readers[taken] = 1
        return taken

    def begin(self, lengths: NDArray[np.int64], total: int) -> None:
        """Prepare a step of rows [0, len(lengths)), each with ``lengths`` known positions, prompt included, and of
        padding up to ``total`` rows."""
        rows = len(lengths)
        column = lengths // PAGE
        seated = self.count[:rows] > 0
        if self.listed != (rows, total) or (seated & (column >= self.count[:rows])).any():
            wanted = np.minimum((lengths + AHEAD) // PAGE + 1, self.table.shape[1])
            short = np.flatnonzero(seated & (wanted > self.count[:rows]))
            self.table[short, self.count[short]] = self._take(len(short))
            self.count[short] += 1
            self._list(rows, total)
        # Where each row writes; rows without a chain, to the spare page.
        place = np.full((2, total), SPARE)
        place[0, :rows] = np.where(seated, self.table[np.arange(rows), column], SPARE) * self.heads
        place[1, :rows] = np.where(seated, lengths % PAGE, 0)
        page, offset = self._put(place)[..., None]
        heads = page + torch.arange(self.heads, device=self.device)  # (M, H)
        dims = torch.arange(0, self.size * PAGE, PAGE, device=self.device)
        self.to_values = (heads * PAGE + offset).view(-1)
        self.to_keys = ((heads * (self.size * PAGE) + offset)[..., None] + dims).view(-1)
        # Positions of each page behind its row's last one.
        unread = np.clip(self.ends - 1 - lengths[self.readers_of], 0, PAGE)
        self.mask = self.masks.index_select(0, self._put(unread))

    def _list(self, rows: int, total: int) -> None:
        """What is read of which page, query head by query head; rows with few pages first."""
        seated = np.flatnonzero(self.count[:rows])
        order = seated[np.argsort(self.count[seated], kind="stable")]
        count = self.count[order]
        bounds = [0, *(np.flatnonzero(np.diff(count)) + 1).tolist(), len(order)]
        of_head = np.arange(self.queries) // (self.queries // self.heads)
        pages, groups = [], []  # groups: first entry, end, scores of a row's query head
        start = 0
        for low, high in pairwise(bounds):
            wide = int(count[low])
            table = self.table[order[low:high], :wide] * self.heads
            pages.append((table[:, None, :] + of_head[:, None]).reshape(-1))  # (rows * Q * wide,)
            groups.append((start, start + len(pages[-1]), wide * PAGE))
            start += len(pages[-1])
        each = np.repeat(count, self.queries)  # pages of each query head of each row
        ends = np.cumsum(each)
        asked = (order * (self.queries + self.heads))[:, None] + np.arange(self.queries)
        back = np.zeros(total, np.int64)
        back[order] = np.arange(len(order))
        number = np.arange(start) - np.repeat(ends - each, each)  # of each page in its row
        self.ends, self.readers_of = (number + 1) * PAGE, np.repeat(np.repeat(order, self.queries), each)
        self.groups = groups
        self.asked, self.back = self._put(np.repeat(asked.reshape(-1), each)), self._put(back)
        page = self._put(np.concatenate(pages).astype(np.int32))[:, None]
        self.key_index = (page * self.size + self._steps(self.size)).view(-1)
        self.key_starts = self._steps(start) * self.size
        self.value_index = (page * PAGE + self._steps(PAGE)).view(-1)
        self.value_starts = self._put(((ends - each) * PAGE).astype(np.int32))
        self.listed = rows, total

    def _steps(self, count: int) -> Tensor:
        return torch.arange(count, dtype=torch.int32, device=self.device)

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def attend(self, layer: int, both: Tensor, v: Tensor, scale: float) -> Tensor:
        """Write the new keys and values of ``layer`` and attend to all positions of each row: (M, Q * d).

        both: (M, Q + H, d), queries and then keys. v: (M, H, d).
        """
        keys, values = self.keys[layer], self.values[layer]
        keys.view(-1).scatter_(0, self.to_keys, both[:, self.queries :].reshape(-1))
        values.view(-1, self.size).index_copy_(0, self.to_values, v.reshape(-1, self.size))
        asked = both.reshape(-1, self.size).index_select(0, self.asked).view(-1)
        scores = _sums(keys.view(-1, PAGE), self.key_index, self.key_starts, asked)  # (E, T)
        scores = torch.add(self.mask, scores, alpha=scale)
        weights = torch.empty_like(scores)
        for low, high, width in self.groups:
            torch.softmax(scores[low:high].view(-1, width), -1, out=weights[low:high].view(-1, width))
        out = _sums(values.view(-1, self.size), self.value_index, self.value_starts, weights.view(-1))
        return out.view(-1, self.queries * self.size).index_select(0, self.back)


def _sums(vectors: Tensor, index: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sums of ``weights`` (n,) times ``vectors`` [``index`` (n,)] between ``starts`` (m,): (m, width)."""
    return torch.embedding_bag(vectors, index, starts, False, 0, False, weights)[0]
