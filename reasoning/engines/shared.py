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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoning.engines.forward import Prompt, padded
from reasoning.engines.forward import block as block_size

CELL = 8


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
        # Per layer: keys and values of prompts (cells, H, P, d), and of rows a list of blocks (rows * H, T, d).
        self.prompts = [_pair(e, 0, heads, 0) for e in like]
        self.own: list[list[tuple[Tensor, Tensor]]] = [[] for _ in like]
        self.cell_rows = np.full((0, CELL), -1)  # the row at each place, or -1
        self.cell_length = np.zeros(0, np.int64)
        self.row_cell, self.row_place = np.full(rows, -1), np.zeros(rows, np.int64)
        self.cells = 0  # cells [0, cells) are read
        self.used = np.zeros(rows, np.int64)  # own positions of each row
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
        to, at = torch.from_numpy(target).to(self.device), torch.from_numpy(source).to(self.device)
        ages = generations(self.used[source])
        for age in range(int(ages.max(initial=0)) + 1):
            if age:
                some = torch.from_numpy(ages >= age).to(self.device)
                to_age, at_age = to[some], at[some]
            else:
                to_age, at_age = to, at
            for blocks in self.own:
                for part in blocks[age : age + 1]:
                    for tensor in part:
                        by_row = tensor.view(self.rows, self.heads, *tensor.shape[1:])
                        by_row[to_age] = by_row[at_age]
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
                blocks.append((like.new_zeros(shape), like.new_zeros(shape)))

    def begin(self, lengths: NDArray[np.int64]) -> None:
        """Prepare a step of rows [0, len(lengths)), each with ``lengths`` known positions, prompt included."""
        rows = len(lengths)
        if self._indexed_rows != rows:
            self._index(rows)
        own = np.maximum(lengths - self.starts, 0)
        self.used[:rows] = own + 1
        ages = generations(own + 1)
        self._reserve_own(int(ages.max()))
        # In order of age, block b belongs to the rows before the first that is younger; else it belongs to all.
        ordered = bool((np.diff(ages) <= 0).all())
        counts = torch.from_numpy(own).to(self.device).repeat_interleave(self.heads)
        heads = torch.arange(self.heads, device=self.device)
        self.blocks: list[_Block] = []
        for age in range(int(ages.max()) + 1):
            start = int(EDGES[age - 1]) if age else 0
            reach = int((ages >= age).sum()) if ordered else rows
            inner = int((ages > age).sum()) if ordered else 0
            span = self.own[0][age][0].shape[1]
            mask = _mask(
                counts[inner * self.heads : reach * self.heads] + (1 - start), span, self.like[0].dtype
            )
            here = np.flatnonzero(ages == age)
            at = torch.from_numpy((here * self.heads) * span + own[here] - start).to(self.device)
            at = (at[:, None] + heads * span).view(-1)
            self.blocks.append(_Block(inner, reach, mask, torch.from_numpy(here).to(self.device), at))

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
        self.prompt_mask = _mask(
            torch.from_numpy(lengths).to(self.device).repeat_interleave(self.heads),
            self.prompt_span,
            self.like[0].dtype,
        )
        self._indexed_rows = rows

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Write the new keys and values (M, H, d) of ``layer``, and attend from queries ``q`` (M, heads, d) to
        all positions of each row: (M, heads * d)."""
        rows, size, heads = len(k), k.shape[-1], self.heads
        for (keys, values), block in zip(self.own[layer], self.blocks, strict=False):
            some = len(block.here) < rows
            keys.view(-1, size).index_copy_(0, block.at, (k[block.here] if some else k).reshape(-1, size))
            values.view(-1, size).index_copy_(0, block.at, (v[block.here] if some else v).reshape(-1, size))
        prompt_keys, prompt_values = (
            part[: self.cells].view(self.cells * heads, -1, size) for part in self.prompts[layer]
        )
        q = q.reshape(rows * heads, -1)  # (M*H, G*d): the G query heads of a key/value head lie together
        groups = q.shape[1] // size
        shared = q.index_select(0, self.to_cells).view(self.cells * heads, CELL * groups, size)
        shared = torch.baddbmm(
            self.prompt_mask, shared, prompt_keys.transpose(1, 2), alpha=scale
        )  # (C*H, CELL*G, P)
        shared = shared.view(-1, groups * self.prompt_span).index_select(0, self.to_rows)
        shared, q = shared.view(-1, groups, self.prompt_span), q.view(-1, groups, size)
        scores = []
        for (keys, _), block in zip(self.own[layer], self.blocks, strict=False):
            reach, inner = block.reach * heads, block.inner * heads
            own = torch.bmm(q[:reach], keys[:reach].transpose(1, 2)).mul_(scale)  # (m*H, G, T)
            own[inner:] += block.mask
            scores.append(own)
        weights = []  # of rows whose last block is the same, the oldest first
        for age in range(len(self.blocks) - 1, -1, -1):
            part = slice(self.blocks[age].inner * heads, self.blocks[age].reach * heads)
            if part.start == part.stop:
                continue
            whole = torch.cat([shared[part], *(own[part] for own in scores[: age + 1])], -1)
            weights.append(whole.softmax(-1, dtype=torch.float32).to(q.dtype))
        start = self.prompt_span
        out: Tensor | None = None
        for (_, values), block in zip(self.own[layer], self.blocks, strict=False):
            end, reach = start + values.shape[1], block.reach * heads
            part = torch.cat([whole[..., start:end] for whole in weights if whole.shape[-1] >= end])
            if out is None:
                out = torch.bmm(part, values[:reach])
            else:
                out[:reach] += torch.bmm(part, values[:reach])
            start = end
        assert out is not None
        shared = torch.cat([whole[..., : self.prompt_span] for whole in weights])
        shared = shared.view(-1, groups * self.prompt_span).index_select(0, self.to_cells)
        shared = torch.bmm(shared.view(self.cells * heads, CELL * groups, -1), prompt_values)
        shared = shared.view(-1, groups * size).index_select(0, self.to_rows)
        return out.view(-1, groups * size).add_(shared).view(rows, -1)


@dataclass(slots=True)
class _Block:
    """A block of own positions in one step. Rows [0, reach) are read in it, those before ``inner`` to its end and
    the others under ``mask`` ((reach - inner) * H, 1, T); rows ``here`` (n,) write at ``at`` (n * H,)."""

    inner: int
    reach: int
    mask: Tensor
    here: Tensor
    at: Tensor


def _pair(like: Tensor, count: int, heads: int, positions: int) -> tuple[Tensor, Tensor]:
    shape = (count, heads, positions, like.shape[-1])
    return like.new_zeros(shape), like.new_zeros(shape)


def _resized(old: Tensor, count: int, positions: int) -> Tensor:
    new = old.new_zeros(count, old.shape[1], positions, old.shape[3])
    positions, count = min(positions, old.shape[2]), min(count, len(old))
    new[:count, :, :positions] = old[:count, :, :positions]
    return new


def _mask(counts: Tensor, span: int, dtype: torch.dtype) -> Tensor:
    """0 at the first ``counts`` (n,) positions, -inf behind them; (n, 1, span)."""
    hidden = torch.arange(span, device=counts.device)[None] >= counts[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=counts.device).masked_fill_(hidden, float("-inf"))[
        :, None
    ]
