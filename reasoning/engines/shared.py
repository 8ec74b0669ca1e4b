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
        self.key_vectors = [keys.view(-1, PAGE) for keys in self.keys]
        self.value_vectors = [values.view(-1, self.size) for values in self.values]
        self.readers = np.zeros(pages, np.int64)  # rows that read each page
        self.free: list[int] = []
        self.touched = 0  # pages [0, touched) have been in use
        self._take(1)  # the spare one
        self.listed = 0, 0  # rows, and with padding, that the present list is for
        self.known = np.zeros(0, np.int64)  # positions that rows had in the last step
        self.head_numbers = torch.arange(heads, device=self.device)
        self.dims = torch.arange(0, self.size * PAGE, PAGE, device=self.device)
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
        column, offset = np.divmod(lengths, PAGE)
        seated = self.count[:rows] > 0
        if (
            self.listed != (rows, total)
            or (seated & ((column >= self.count[:rows]) | (lengths != self.known + 1))).any()
        ):
            wanted = np.minimum((lengths + AHEAD) // PAGE + 1, self.table.shape[1])
            short = np.flatnonzero(seated & (wanted > self.count[:rows]))
            self.table[short, self.count[short]] = self._take(len(short))
            self.count[short] += 1
            self._list(lengths, total)
        else:  # one more position of each row is read; of rows that have left, one that was read before
            entries = self.first + np.where(seated, column, 0)[:, None]
            opened = entries * PAGE + np.where(seated, offset, 0)[:, None]
            self.mask.view(-1).index_fill_(0, self._put(opened.reshape(-1)), 0.0)
        self.known = lengths.copy()
        # Where each row writes; rows without a chain, to the spare page.
        place = np.full((2, total, 1), SPARE)
        place[0, :rows, 0] = np.where(seated, self.table[np.arange(rows), column], SPARE) * self.heads
        place[1, :rows, 0] = np.where(seated, offset, 0)
        page, offsets = self._put(place)
        heads = page + self.head_numbers  # (M, H)
        self.to_values = (heads * PAGE + offsets).view(-1)
        self.to_keys = ((heads * (self.size * PAGE) + offsets)[..., None] + self.dims).view(-1)

    def _list(self, lengths: NDArray[np.int64], total: int) -> None:
        """What is read of which page, query head by query head; rows with few pages first.

        Rows are put in groups, and those of a group have entries for as many pages as its largest: E of them are
        read, the others have no key, a score of -inf and no value.
        """
        rows, queries = len(lengths), self.queries
        seated = np.flatnonzero(self.count[:rows])
        order = seated[np.argsort(self.count[seated], kind="stable")]
        count = self.count[order]
        of_head = np.arange(queries) // (queries // self.heads)
        pages, read, unread, self.groups = (
            [],
            [],
            [],
            [],
        )  # groups: first entry, end, scores of a row's query head
        self.first = np.zeros((rows, queries), np.int64)  # entry of each row's first page
        start = 0
        for low, high in groups(count, queries):
            members, wide = order[low:high], int(count[high - 1])
            shape = (high - low, queries, wide)
            number = np.arange(wide)
            there = np.broadcast_to((number < count[low:high, None])[:, None], shape)
            pages.append((self.table[members, None, :wide] * self.heads + of_head[:, None])[there])
            behind = (number + 1) * PAGE - 1 - lengths[members, None]  # positions behind the row's last one
            behind = np.broadcast_to(np.clip(behind, 0, PAGE)[:, None], shape)
            unread.append(np.where(there, behind, PAGE).reshape(-1))
            read.append(there.reshape(-1))
            end = start + len(unread[-1])
            self.first[members] = start + np.arange(0, end - start, wide).reshape(high - low, queries)
            self.groups.append((start, end, wide * PAGE))
            start = end
        reading = np.concatenate(read)
        each = np.repeat(count, queries)  # pages of each query head of each row
        asked = (order * (queries + self.heads))[:, None] + np.arange(queries)
        back = np.zeros(total, np.int64)
        back[order] = np.arange(len(order))
        self.mask = self.masks.index_select(0, self._put(np.concatenate(unread)))
        self.asked, self.back = self._put(np.repeat(asked.reshape(-1), each)), self._put(back)
        self.reading = None if reading.all() else self._put(np.flatnonzero(reading))
        page = self._put(np.concatenate(pages).astype(np.int32))[:, None]
        self.key_index = (page * self.size + self._steps(self.size)).view(-1)
        self.key_starts = self._put(((np.cumsum(reading) - reading) * self.size).astype(np.int32))
        self.value_index = (page * PAGE + self._steps(PAGE)).view(-1)
        self.value_starts = self._put(((np.cumsum(each) - each) * PAGE).astype(np.int32))
        self.listed = rows, total

    def _steps(self, count: int) -> Tensor:
        return torch.arange(count, dtype=torch.int32, device=self.device)

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def attend(self, layer: int, both: Tensor, v: Tensor, scale: float) -> Tensor:
        """Write the new keys and values of ``layer`` and attend to all positions of each row: (M, Q * d).

        both: (M, Q + H, d), queries and then keys. v: (M, H, d).
        """
        keys, values = self.key_vectors[layer], self.value_vectors[layer]
        keys.view(-1).scatter_(0, self.to_keys, both[:, self.queries :].reshape(-1))
        values.index_copy_(0, self.to_values, v.reshape(-1, self.size))
        asked = both.reshape(-1, self.size).index_select(0, self.asked).view(-1)
        scores = _sums(keys, self.key_index, self.key_starts, asked)  # a row for each entry, of T
        scores = torch.add(self.mask, scores, alpha=scale)
        if len(self.groups) == 1:
            weights = torch.softmax(scores.view(-1, self.groups[0][2]), -1).view(-1, PAGE)
        else:
            weights = torch.empty_like(scores)
            for low, high, width in self.groups:
                torch.softmax(scores[low:high].view(-1, width), -1, out=weights[low:high].view(-1, width))
        if self.reading is not None:
            weights = weights.index_select(0, self.reading)  # (E, T)
        out = _sums(values, self.value_index, self.value_starts, weights.view(-1))
        return out.view(-1, self.queries * self.size).index_select(0, self.back)


GROUPED = 256
"""A group of its own must save so many entries: what calling softmax once more costs."""


def groups(count: NDArray[np.int64], queries: int) -> list[tuple[int, int]]:
    """Bounds of groups of rows with ``count`` (rows,) pages each, ascending: few groups, few entries to no use."""
    ends = [*(np.flatnonzero(np.diff(count)) + 1).tolist(), len(count)]
    out: list[tuple[int, int]] = []
    start, previous, wasted = 0, 0, 0
    for end in ends:
        more = (previous - start) * int(count[end - 1] - count[previous - 1]) * queries if previous else 0
        if previous and wasted + more >= GROUPED:
            out.append((start, previous))
            start, wasted, more = previous, 0, 0
        wasted += more
        previous = end
    return [*out, (start, previous)]


def _sums(vectors: Tensor, index: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sums of ``weights`` (n,) times ``vectors`` [``index`` (n,)] between ``starts`` (m,): (m, width)."""
    return torch.embedding_bag(vectors, index, starts, False, 0, False, weights)[0]
