"""Keys and values that chains of one prompt share, for attention in two parts.

A prompt's keys and values are kept once for every `CELL` chains that start from it (a cell); each row adds those
of its own tokens. Attention reads the prompt's part once per cell for all of its rows, which is what makes many
chains of one prompt cheap: memory, not arithmetic, is what decoding waits for.

Cells have a fixed number of places, and positions come in whole blocks, so that the products over a row have the
same form, and give the same bits, whatever other rows there are. A block is a tensor of its own over all rows and
is read from its first row to the last that has come so far, if the caller keeps rows in order of age: batched
products over dense memory are three times as fast as over parts of a longer tensor. Knows nothing of models or
sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoning.engines.forward import Prompt, padded
from reasoning.engines.forward import block as block_size

CELL = 8
LIFTED = 24
"""Blocks of so many rows cost less to read for nothing than another part of the batch costs to handle."""


def _edges() -> NDArray[np.int64]:
    """Where blocks of own positions end: 32, 64, 96, 128, 192, 256, 384, 512, 768, ..."""
    doubled = [32 << i for i in range(26)]
    return np.array(sorted(doubled + [96 << i for i in range(25)]), np.int64)


EDGES = _edges()


def generations(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The block that holds each row's last token, by the number of its own tokens."""
    return np.searchsorted(EDGES, counts)


class SharedKeyValues:
    """Room for ``rows`` rows of any prompts and up to ``new_tokens`` generated tokens each.

    Shapes: C cells in use, M rows in use, H key/value heads, d head_dim, P prompt positions, T own positions.
    """

    keeps_order = True

    def __init__(self, rows: int, new_tokens: int, heads: int, like: list[Tensor]):
        """like: an empty tensor of the keys' and values' dtype and device for each layer, (0, d)."""
        self.rows, self.heads = rows, heads
        self.longest_own = new_tokens
        self.device = like[0].device
        self.block = block_size(like[0].shape[-1])
        self.like = like
        # Per layer: keys and values of prompts (cells, H, P, d), and of rows by blocks.
        self.prompts = [_pair(e, 0, heads, 0) for e in like]
        self.own: list[list[_Own]] = [[] for _ in like]
        self.cell_rows = np.full((0, CELL), -1)  # the row at each place, or -1
        self.cell_length = np.zeros(0, np.int64)
        self.row_cell, self.row_place = np.full(rows, -1), np.zeros(rows, np.int64)
        self.cells = 0  # cells [0, cells) are read
        self.used = np.zeros(rows, np.int64)  # own positions of each row
        self._masks: dict[int, Tensor] = {}
        self._indexed_rows = -1

    def admit(self, slots: NDArray[np.int64], prompt: Prompt) -> None:
        """Seat rows ``slots`` (n,) behind ``prompt``."""
        length = prompt.state[0][0].shape[1]
        wanted = -(-len(slots) // CELL)
        free = np.flatnonzero(self.cell_rows[: self.cells].max(1) < 0)[:wanted]
        cells = np.concatenate([free, np.arange(self.cells, self.cells + wanted - len(free))])
        self.cells = max(self.cells, int(cells.max()) + 1)
        self._reserve_cells(self.cells, padded(length, self.block))
        places = np.arange(len(slots))
        self.cell_rows[cells] = -1
        self.cell_rows[cells[places // CELL], places % CELL] = slots
        self.cell_length[cells] = length
        self.row_cell[slots], self.row_place[slots] = cells[places // CELL], places % CELL
        where = torch.from_numpy(cells).to(self.device)
        for (keys, values), (k, v) in zip(self.prompts, prompt.state, strict=True):
            keys[where, :, :length] = k
            values[where, :, :length] = v
        self._indexed_rows = -1

    def release(self, slots: NDArray[np.int64]) -> None:
        """Rows ``slots`` are done. Their cells go once all rows of them have."""
        self.cell_rows[self.row_cell[slots], self.row_place[slots]] = -1
        self.row_cell[slots] = -1
        used = self.cell_rows[: self.cells].max(1) >= 0
        if used.sum() * 4 < self.cells * 3:
            self._compact_cells(used)

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        cells, places = self.row_cell[source], self.row_place[source]
        seated = cells >= 0
        self.cell_rows[cells[seated], places[seated]] = target[seated]
        self.row_cell[source] = -1
        self.row_cell[target], self.row_place[target] = cells, places
        ages = generations(self.used[source])
        for age in range(int(ages[seated].max(initial=-1)) + 1):
            some = seated & (ages >= age)
            to, at = (torch.from_numpy(a[some]).to(self.device) for a in (target, source))
            for blocks in self.own:
                for part in blocks[age : age + 1]:
                    for tensor in (part.keys, part.values):
                        by_row = tensor.view(self.rows, -1)
                        by_row.index_copy_(0, to, by_row.index_select(0, at))
        self.used[target] = self.used[source]
        self._indexed_rows = -1

    def _compact_cells(self, used: NDArray[np.bool_]) -> None:
        kept = int(used.sum())
        target = np.flatnonzero(~used[:kept])
        source = kept + np.flatnonzero(used[kept:])
        if len(source):
            to, at = torch.from_numpy(target).to(self.device), torch.from_numpy(source).to(self.device)
            for keys, values in self.prompts:
                keys[to] = keys[at]
                values[to] = values[at]
            self.cell_rows[target], self.cell_length[target] = (
                self.cell_rows[source],
                self.cell_length[source],
            )
            for cell in target:
                rows = self.cell_rows[cell]
                self.row_cell[rows[rows >= 0]] = cell
        self.cell_rows[kept:] = -1
        self.cell_length[kept:] = 0
        self.cells = kept
        longest = padded(int(self.cell_length.max(initial=0)), self.block)
        if 2 * longest <= self.prompts[0][0].shape[2]:
            self.prompts = [
                (_resized(k, len(k), longest), _resized(v, len(v), longest)) for k, v in self.prompts
            ]
        self._indexed_rows = -1

    def _reserve_cells(self, cells: int, positions: int) -> None:
        have, span = len(self.cell_length), self.prompts[0][0].shape[2]
        if cells > have:
            have = max(cells, have * 3 // 2, 16)
            more = have - len(self.cell_length)
            self.cell_rows = np.concatenate([self.cell_rows, np.full((more, CELL), -1)])
            self.cell_length = np.concatenate([self.cell_length, np.zeros(more, np.int64)])
        elif positions <= span:
            return
        span = max(span, positions)
        self.prompts = [(_resized(k, have, span), _resized(v, have, span)) for k, v in self.prompts]

    def _reserve_own(self, age: int) -> None:
        longest = padded(self.longest_own, self.block)
        while len(self.own[0]) <= age:
            known = len(self.own[0])
            start = EDGES[known - 1] if known else 0
            positions = int(min(EDGES[known], longest) - start)
            for blocks, like in zip(self.own, self.like, strict=True):
                shape = (self.rows * self.heads, positions, like.shape[-1])
                blocks.append(_Own.of(like.new_zeros(shape), like.new_zeros(shape)))

    def begin(self, lengths: NDArray[np.int64]) -> None:
        """Prepare a step of rows [0, len(lengths)), each with ``lengths`` known positions, prompt included."""
        rows = len(lengths)
        if self._indexed_rows != rows:
            self._index(rows)
        own = np.maximum(lengths - self.starts, 0)
        self.used[:rows] = own + 1
        ages = generations(own + 1)
        self._reserve_own(int(ages.max()))
        if (np.diff(ages) > 0).any():
            raise ValueError("Rows must be in order of age, the oldest first.")
        read = _lifted(ages)
        self.blocks: list[_Block] = []
        for age in range(int(ages[0]) + 1):
            start = int(EDGES[age - 1]) if age else 0
            span = self.own[0][age].keys.shape[1]
            reach, inner = int((read >= age).sum()), int((read > age).sum())
            known = np.clip(own[:reach] + 1 - start, 0, span)
            mask = self._masked(np.repeat(known, self.heads), span)
            first, last = int((ages > age).sum()), int((ages >= age).sum())
            at = (np.arange(first, last) * (self.heads * span) + own[first:last] - start)[:, None]
            at = torch.from_numpy((at + np.arange(self.heads) * span).reshape(-1)).to(self.device)
            inner, reach, first, last = (b * self.heads for b in (inner, reach, first, last))
            self.blocks.append(_Block(inner, reach, first, last, mask, at))

    def _masked(self, counts: NDArray[np.int64], span: int) -> Tensor:
        """0 at the first ``counts`` (n,) positions, -inf behind them; (n, 1, span)."""
        if span not in self._masks:
            steps = self.like[0].new_zeros(2 * span)
            steps[span:] = float("-inf")
            self._masks[span] = steps.unfold(
                0, span, 1
            )  # row i: span - i zeros, then -inf; no memory of its own
        return self._masks[span].index_select(0, torch.from_numpy(span - counts).to(self.device))[:, None]

    def _index(self, rows: int) -> None:
        """Where each place of a cell finds its row, and each row its place, head by head."""
        alive = self.row_cell[:rows] >= 0
        cell = np.where(alive, self.row_cell[:rows], 0)
        self.starts = np.where(alive, self.cell_length[cell], 0)
        heads = np.arange(self.heads)
        seated = np.maximum(self.cell_rows[: self.cells], 0)  # a free place computes row 0 again, for nobody
        to_cells = seated[:, None, :] * self.heads + heads[:, None]  # (C, H, CELL)
        to_rows = (cell[:, None] * self.heads + heads) * CELL + np.where(alive, self.row_place[:rows], 0)[
            :, None
        ]
        self.to_cells = torch.from_numpy(to_cells.reshape(-1)).to(self.device)
        self.to_rows = torch.from_numpy(to_rows.reshape(-1)).to(self.device)
        lengths = self.cell_length[: self.cells]
        self.prompt_span = self.prompts[0][0].shape[2]
        self.prompt_mask = self._masked(np.repeat(lengths, self.heads), self.prompt_span)
        self.prompt_parts = [
            (keys[: self.cells].flatten(0, 1).transpose(1, 2), values[: self.cells].flatten(0, 1))
            for keys, values in self.prompts
        ]
        self._indexed_rows = rows

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Write the new keys and values (M, H, d) of ``layer``, and attend from queries ``q`` (M, heads, d) to
        all positions of each row: (M, heads * d)."""
        rows, size, heads = k.shape[0], k.shape[2], self.heads
        k, v = k.reshape(rows * heads, size), v.reshape(rows * heads, size)
        own = list(zip(self.own[layer], self.blocks, strict=False))
        for store, block in own:
            if block.first < block.last:
                store.flat_keys.index_copy_(0, block.at, k[block.first : block.last])
                store.flat_values.index_copy_(0, block.at, v[block.first : block.last])
        prompt_keys, prompt_values = self.prompt_parts[layer]
        span, products = self.prompt_span, prompt_values.shape[0]
        q = q.reshape(rows * heads, -1)  # (M*H, G*d): the G query heads of a key/value head lie together
        groups = q.shape[1] // size
        shared = q.index_select(0, self.to_cells).view(products, CELL * groups, size)
        shared = torch.baddbmm(self.prompt_mask, shared, prompt_keys, alpha=scale)  # (C*H, CELL*G, P)
        shared = shared.view(-1, groups * span).index_select(0, self.to_rows).view(-1, groups, span)
        q = q.view(-1, groups, size)
        scores = [
            torch.baddbmm(block.mask, q[: block.reach], store.turned[: block.reach], alpha=scale)
            for store, block in own
        ]  # (m*H, G, T)
        weights = []  # of rows whose last block is the same, the oldest first
        for age in range(len(own) - 1, -1, -1):
            low, high = self.blocks[age].inner, self.blocks[age].reach
            if low < high:
                parts = [shared[low:high], *(part[low:high] for part in scores[: age + 1])]
                weights.append(torch.cat(parts, -1).softmax(-1, dtype=torch.float32).to(q.dtype))
        shared = _columns(weights, 0, span).reshape(-1, groups * span).index_select(0, self.to_cells)
        shared = torch.bmm(shared.view(products, CELL * groups, span), prompt_values)
        out = shared.view(-1, groups * size).index_select(0, self.to_rows).view(-1, groups, size)
        for store, block in own:
            end = span + store.values.shape[1]
            out[: block.reach].baddbmm_(_columns(weights, span, end), store.values[: block.reach])
            span = end
        return out.view(rows, -1)


class _Own(NamedTuple):
    """A block of own positions of a layer: keys and values (rows * H, T, d), and how they are written and read."""

    keys: Tensor
    values: Tensor
    flat_keys: Tensor  # (rows * H * T, d)
    flat_values: Tensor
    turned: Tensor  # keys (rows * H, d, T)

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> _Own:
        return cls(keys, values, keys.flatten(0, 1), values.flatten(0, 1), keys.transpose(1, 2))


def _lifted(ages: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last block that is read of each row: its own, or, where a few rows would stand alone, that of the rows
    before them. What they read too much is masked: it changes no bit."""
    read = ages.copy()
    bounds = [*(np.flatnonzero(np.diff(ages)) + 1).tolist(), len(ages)]
    for start, end in pairwise(bounds):
        if (end - start) * (read[start - 1] - ages[start]) <= LIFTED:
            read[start:end] = read[start - 1]
    return read


def _columns(weights: list[Tensor], start: int, end: int) -> Tensor:
    """Positions [start, end) of those ``weights`` that have them, rows behind rows."""
    parts = [part[..., start:end] for part in weights if part.shape[-1] >= end]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(slots=True)
class _Block:
    """A block of own positions in one step; bounds count rows * H. Rows [0, reach) read it under ``mask``
    (reach, 1, T), those from ``inner`` on read no later one; rows [first, last) write at ``at``."""

    inner: int
    reach: int
    first: int
    last: int
    mask: Tensor
    at: Tensor


def _pair(like: Tensor, count: int, heads: int, positions: int) -> tuple[Tensor, Tensor]:
    shape = (count, heads, positions, like.shape[-1])
    return like.new_zeros(shape), like.new_zeros(shape)


def _resized(old: Tensor, count: int, positions: int) -> Tensor:
    new = old.new_zeros(count, old.shape[1], positions, old.shape[3])
    positions, count = min(positions, old.shape[2]), min(count, len(old))
    new[:count, :, :positions] = old[:count, :, :positions]
    return new
