"""Keys and values that chains of one prompt share, for attention in two parts.

A prompt's keys and values are kept once for every `CELL` chains that start from it (a cell); each row adds those
of its own tokens. Attention reads the prompt's part once per cell for all of its rows, which is what makes many
chains of one prompt cheap: memory, not arithmetic, is what decoding waits for.

Cells have a fixed number of places, and positions are padded in whole blocks, so that the products over a row
have the same form, and give the same bits, whatever other rows there are. Rows are read as far as the longest of
their generation, if the caller keeps generations together. Knows nothing of models or sampling.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoning.engines.forward import Prompt, block, padded

CELL = 8
GENERATION = 32


def generations(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which rows are of like length, by their own tokens: 0 up to 32, 1 up to 64, 2 up to 128, ..."""
    return np.ceil(np.log2(np.maximum(counts, GENERATION) / GENERATION)).astype(np.int64)


class SharedKeyValues:
    """Room for ``rows`` rows, prompts of up to ``prompt_tokens`` and ``new_tokens`` generated ones each.

    Shapes: C cells in use, M rows in use, H key/value heads, d head_dim, P prompt positions, T own positions.
    """

    keeps_order = True

    def __init__(self, rows: int, prompt_tokens: int, new_tokens: int, heads: int, like: list[Tensor]):
        """like: an empty tensor of the keys' and values' dtype and device for each layer, (0, d)."""
        self.rows, self.heads = rows, heads
        self.device = like[0].device
        self.block = block(like[0].shape[-1])
        self.longest_prompt, self.longest_own = (
            padded(prompt_tokens, self.block),
            padded(new_tokens, self.block),
        )
        self.like = like
        # Per layer: keys and values of prompts (cells, H, P, d) and of rows (rows, H, T, d).
        self.prompts = [_pair(e, 0, heads, self.longest_prompt) for e in like]
        self.own = [_pair(e, rows, heads, 0) for e in like]
        self.cell_rows = np.full((0, CELL), -1)  # the row at each place, or -1
        self.cell_length = np.zeros(0, np.int64)
        self.row_cell, self.row_place = np.full(rows, -1), np.zeros(rows, np.int64)
        self.cells = 0  # cells [0, cells) are read
        self.longest_used = 0  # own positions written so far by any row in use
        self._indexed_rows = -1

    def admit(self, slots: NDArray[np.int64], prompt: Prompt) -> None:
        """Seat rows ``slots`` (n,) behind ``prompt``."""
        length = prompt.state[0][0].shape[1]
        wanted = -(-len(slots) // CELL)
        free = np.flatnonzero(self.cell_rows[: self.cells].max(1) < 0)[:wanted]
        cells = np.concatenate([free, np.arange(self.cells, self.cells + wanted - len(free))])
        self.cells = max(self.cells, int(cells.max()) + 1)
        self._reserve_cells(self.cells)
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
        to, at = torch.from_numpy(target).to(self.device), torch.from_numpy(source).to(self.device)
        used = self.longest_used
        for keys, values in self.own:
            keys[to, :, :used] = keys[at, :, :used]
            values[to, :, :used] = values[at, :, :used]
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
        self.cells = kept
        self._indexed_rows = -1

    def _reserve_cells(self, cells: int) -> None:
        have = len(self.cell_length)
        if cells <= have:
            return
        more = max(cells, have * 3 // 2, 16) - have
        self.cell_rows = np.concatenate([self.cell_rows, np.full((more, CELL), -1)])
        self.cell_length = np.concatenate([self.cell_length, np.zeros(more, np.int64)])
        for index, (keys, values) in enumerate(self.prompts):
            extra = _pair(self.like[index], more, self.heads, self.longest_prompt)
            self.prompts[index] = torch.cat([keys, extra[0]]), torch.cat([values, extra[1]])

    def _reserve_own(self, positions: int) -> None:
        have = self.own[0][0].shape[2]
        if positions <= have:
            return
        positions = min(padded(max(positions, 2 * have), self.block), self.longest_own)
        for index, (keys, values) in enumerate(self.own):
            longer = _pair(self.like[index], self.rows, self.heads, positions)
            longer[0][:, :, :have], longer[1][:, :, :have] = keys, values
            self.own[index] = longer

    def begin(self, lengths: NDArray[np.int64]) -> None:
        """Prepare a step of rows [0, len(lengths)), each with ``lengths`` known positions, prompt included."""
        rows = len(lengths)
        if self._indexed_rows != rows:
            self._index(rows)
        own = np.maximum(lengths - self.starts, 0)
        self.longest_used = int(own.max()) + 1
        self._reserve_own(self.longest_used)
        counts = torch.from_numpy(own).to(self.device).repeat_interleave(self.heads)
        self.write_at = torch.arange(rows * self.heads, device=self.device) * self.own[0][0].shape[2] + counts
        # Rows of like length that lie together are read only as far as the longest of them.
        ages = generations(own + 1)
        changes = np.flatnonzero(np.diff(ages)) + 1 if (np.diff(ages) <= 0).all() else []
        edges = [0, *map(int, changes), rows]
        self.segments: list[tuple[slice, int, Tensor]] = []  # of rows * H, their span, their mask
        for start, end in pairwise(edges):
            span = padded(int(own[start:end].max()) + 1, self.block)
            part = slice(start * self.heads, end * self.heads)
            self.segments.append((part, span, _mask(counts[part] + 1, span, self.like[0].dtype)))

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
        self.prompt_span = padded(int(lengths.max()), self.block)
        self.prompt_mask = _mask(
            torch.from_numpy(lengths).to(self.device).repeat_interleave(self.heads),
            self.prompt_span,
            self.like[0].dtype,
        )
        self._indexed_rows = rows

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Write the new keys and values (M, H, d) of ``layer``, and attend from queries ``q`` (M, heads, d) to
        all positions of each row: (M, heads * d)."""
        rows, size = len(k), k.shape[-1]
        keys, values = self.own[layer]
        keys.view(-1, size).index_copy_(0, self.write_at, k.reshape(-1, size))
        values.view(-1, size).index_copy_(0, self.write_at, v.reshape(-1, size))
        keys, values = keys.view(-1, keys.shape[2], size), values.view(-1, keys.shape[2], size)
        prompt_keys, prompt_values = (
            part[: self.cells].view(self.cells * self.heads, -1, size)[:, : self.prompt_span]
            for part in self.prompts[layer]
        )
        q = q.reshape(rows * self.heads, -1)  # (M*H, G*d): the G query heads of a key/value head lie together
        groups = q.shape[1] // size
        shared = q.index_select(0, self.to_cells).view(self.cells * self.heads, CELL * groups, size)
        shared = torch.baddbmm(
            self.prompt_mask, shared, prompt_keys.transpose(1, 2), alpha=scale
        )  # (C*H, CELL*G, P)
        shared = shared.view(-1, groups * self.prompt_span).index_select(0, self.to_rows)
        shared, q = shared.view(-1, groups, self.prompt_span), q.view(-1, groups, size)
        out, prompt_weights = [], []
        for part, span, mask in self.segments:
            own = torch.baddbmm(mask, q[part], keys[part, :span].transpose(1, 2), alpha=scale)  # (m*H, G, T)
            weights = torch.cat([shared[part], own], -1).softmax(-1, dtype=torch.float32).to(q.dtype)
            out.append(torch.bmm(weights[..., self.prompt_span :], values[part, :span]))
            prompt_weights.append(weights[..., : self.prompt_span])
        shared = torch.cat(prompt_weights).view(-1, groups * self.prompt_span)
        shared = shared.index_select(0, self.to_cells).view(self.cells * self.heads, CELL * groups, -1)
        shared = torch.bmm(shared, prompt_values).view(-1, groups * size).index_select(0, self.to_rows)
        return torch.cat(out).view(-1, groups * size).add_(shared).view(rows, -1)


def _pair(like: Tensor, count: int, heads: int, positions: int) -> tuple[Tensor, Tensor]:
    shape = (count, heads, positions, like.shape[-1])
    return like.new_zeros(shape), like.new_zeros(shape)


def _mask(counts: Tensor, span: int, dtype: torch.dtype) -> Tensor:
    """0 at the first ``counts`` (n,) positions, -inf behind them; (n, 1, span)."""
    hidden = torch.arange(span, device=counts.device)[None] >= counts[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=counts.device).masked_fill_(hidden, float("-inf"))[
        :, None
    ]
