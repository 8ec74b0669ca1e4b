"""How rows lie in one flat forward: prompts that several rows have once, and every chain behind its own. Index
arithmetic alone; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from reasoning.train.rows import Row, by_prompt

NARROWER = 0.75
"""A part's shortest piece has at least this share of its longest one's length, or it gets a part of its own."""
LEAST = {True: 4096, False: 256}
"""... unless the part has fewer tokens than this, on a GPU and on a CPU: a call costs more than what it saves."""


@dataclass(frozen=True, slots=True)
class Part:
    """Pieces that attention takes together: tokens [start, end) of the flat order, ``rows`` pieces of at most
    ``width``.

    places: (rows * width,) the token of the part at each place of the rectangle; kept: (end - start,) the place of
        each token; None where nothing is padded.
    prompts: whether other parts stand behind it. behind: (rows,) which of its pieces each piece stands behind, and
        mask what a query sees of [prompt | own], broadcast to (rows, 1, width, P + width).
    """

    start: int
    end: int
    rows: int
    width: int
    places: Tensor | None = None
    kept: Tensor | None = None
    prompts: bool = False
    behind: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """ids, positions: (N,) of the flat order. take: (M,) the token whose state predicts each completion token, row
    after row; targets (M,) those."""

    ids: Tensor
    positions: Tensor
    take: Tensor
    targets: Tensor
    parts: list[Part]


def lay_out(rows: Sequence[Row], share: bool, device: torch.device) -> Layout:
    """Of rows in any order. A prompt that only one row has is a piece with its completion; without ``share``, all."""
    prompts: list[_Piece] = []  # that are shared; whole rows; and completions behind a shared prompt
    alone: list[_Piece] = []
    behind: list[_Piece] = []
    for prompt, members in by_prompt(rows).items():
        if not share or len(members) == 1:
            alone += [_Piece((prompt + rows[i].ids)[:-1], 0, row=i) for i in members]
            continue
        # The last token predicts nothing; the first is predicted by the prompt.
        behind += [_Piece(rows[i].ids[:-1], len(prompt), row=i, prompt=len(prompts)) for i in members]
        prompts.append(_Piece(prompt, 0))
    groups = [prompts] if prompts else []
    least = LEAST[device.type == "cuda"]
    groups += _alike(alone, least) + _alike([piece for piece in behind if piece.ids], least)
    order = [piece for group in groups for piece in group]
    starts = [0, *accumulate(len(piece.ids) for piece in order)]
    first = {id(piece): start for piece, start in zip(order, starts, strict=False)}
    parts, at = [], 0
    for group in groups:
        end = at + sum(len(piece.ids) for piece in group)
        parts.append(_part(group, at, end, prompts, device))
        at = end
    piece_of = {piece.row: piece for piece in (*alone, *behind)}
    take: list[int] = []
    for i, row in enumerate(rows):
        piece = piece_of[i]
        if piece.prompt is None:
            start = first[id(piece)] + len(row.prompt_ids) - 1
            take.extend(range(start, start + len(row.ids)))
            continue
        shared = prompts[piece.prompt]
        take.append(first[id(shared)] + len(shared.ids) - 1)
        if piece.ids:
            take.extend(range(first[id(piece)], first[id(piece)] + len(piece.ids)))
    ids = np.fromiter((token for piece in order for token in piece.ids), np.int64, at)
    positions = np.concatenate([np.arange(p.offset, p.offset + len(p.ids)) for p in order])
    targets = np.fromiter((token for row in rows for token in row.ids), np.int64, len(take))
    # One copy to the device for all four.
    both = _on(np.concatenate([ids, positions, np.array(take, np.int64), targets]), device)
    flat, where, chosen, wanted = both.split([at, at, len(take), len(take)])
    return Layout(flat, where, chosen, wanted, parts)


@dataclass(slots=True, eq=False)
class _Piece:
    ids: tuple[int, ...]
    offset: int  # position of its first token
    row: int = -1
    prompt: int | None = None


def _alike(pieces: list[_Piece], least: int) -> list[list[_Piece]]:
    """``pieces`` in groups of similar length, the longest first."""
    groups: list[list[_Piece]] = []
    tokens = 0
    for piece in sorted(pieces, key=lambda p: -len(p.ids)):
        if not groups or (tokens >= least and len(piece.ids) < NARROWER * len(groups[-1][0].ids)):
            groups.append([])
            tokens = 0
        groups[-1].append(piece)
        tokens += len(piece.ids)
    return groups


def _part(group: list[_Piece], start: int, end: int, prompts: Sequence[_Piece], device: torch.device) -> Part:
    lengths = np.array([len(piece.ids) for piece in group])
    rows, width = len(group), int(lengths.max())
    places = kept = None
    if lengths.min() < width:
        inside = np.arange(width) < lengths[:, None]  # (rows, width)
        kept = np.flatnonzero(inside)
        places = np.zeros(rows * width, np.int64)
        places[kept] = np.arange(len(kept))
        places, kept = _on(places, device), _on(kept, device)
    owner = group[0].prompt
    if owner is None:
        return Part(start, end, rows, width, places, kept, prompts=bool(prompts) and group[0] is prompts[0])
    behind = np.array([piece.prompt for piece in group], np.int64)
    spans = np.array([len(piece.ids) for piece in prompts])
    seen = (np.arange(spans.max()) < spans[behind][:, None])[:, None]  # (rows, 1, P)
    if seen.all():
        seen = seen[:1]
    of_prompt = _on(seen, device).expand(-1, width, -1)
    own = torch.ones(width, width, dtype=torch.bool, device=device).tril().expand(len(seen), -1, -1)
    mask = torch.cat([of_prompt, own], 2)[:, None]
    return Part(start, end, rows, width, places, kept, behind=_on(behind, device), mask=mask)


def _on(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
