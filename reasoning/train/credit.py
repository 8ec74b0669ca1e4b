"""Credit: from the rewards of chains to the advantages of chains or tokens. Pure NumPy.

A step's rewards come as groups, the chains of one problem each. Functions of the table take all groups of the step,
so that those with a batch statistic and those with a group statistic look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Groups = Sequence[Floats]
_EPSILON = 1e-6


def _centred(rewards: Floats) -> Floats:
    """r - mean; exactly 0 where all are equal, though the mean of three times 0.1 is not 0.1 in binary: rows that
    teach nothing are told by their 0."""
    return rewards - rewards.mean() if len(rewards) and np.ptp(rewards) > 0 else np.zeros(len(rewards))


def group_mean(groups: Groups) -> list[Floats]:
    """r - mean; Dr. GRPO, arXiv 2503.20783."""
    return [_centred(r) for r in groups]


def group_mean_std(groups: Groups) -> list[Floats]:
    """(r - mean) / (std + 1e-6), the sample standard deviation of the group; GRPO, arXiv 2402.03300."""
    return [
        centred / (r.std(ddof=1) + _EPSILON) if len(r) > 1 else np.zeros(len(r))
        for r, centred in zip(groups, group_mean(groups), strict=True)
    ]


def group_mean_batch_std(groups: Groups) -> list[Floats]:
    """(r - mean of its group), divided by the standard deviation of those differences over the step; arXiv
    2508.08221, and REINFORCE++ with a baseline, arXiv 2501.03262."""
    centred = group_mean(groups)
    every = np.concatenate([*centred, np.zeros(0)])
    scale = every.std(ddof=1) + _EPSILON if len(every) > 1 else 1.0
    return [c / scale for c in centred]


def batch_mean_std(groups: Groups) -> list[Floats]:
    """(r - mean) / (std + 1e-6) over all chains of the step; REINFORCE++, arXiv 2501.03262."""
    every = np.concatenate([*groups, np.zeros(0)])
    if len(every) < 2:
        return [np.zeros(len(r)) for r in groups]
    scaled = _centred(every) / (every.std(ddof=1) + _EPSILON)
    return np.split(scaled, np.cumsum([len(r) for r in groups])[:-1])


def leave_one_out(groups: Groups) -> list[Floats]:
    """r minus the mean of the others, G/(G-1) (r - mean); RLOO, arXiv 2402.14740."""
    return [c * len(c) / (len(c) - 1) if len(c) > 1 else np.zeros(len(c)) for c in group_mean(groups)]


def correct(groups: Groups) -> list[Floats]:
    """1 for a correct chain, else 0: likelihood of the correct ones; expert iteration, arXiv 2312.06585."""
    return [(r >= 0.99).astype(np.float64) for r in groups]


def one(groups: Groups) -> list[Floats]:
    """1 for every chain: maximum likelihood of what is shown (supervised)."""
    return [np.ones(len(r)) for r in groups]


def preferred(groups: Groups) -> list[Floats]:
    """1 for the chain of a pair that was preferred (reward 1), -1 for the other (reward 0): the sign with which it
    enters the pair's margin; arXiv 2305.18290."""
    return [2 * r - 1 for r in groups]


ADVANTAGES: dict[str, Callable[[Groups], list[Floats]]] = {
    f.__name__: f
    for f in (
        group_mean_std,
        group_mean,
        group_mean_batch_std,
        batch_mean_std,
        leave_one_out,
        correct,
        one,
        preferred,
    )
}


def gae(rewards: Floats, values: Floats, gamma: float, lam: float) -> tuple[Floats, Floats]:
    """(advantages, returns) of one chain that ends after its last token, both (T,); arXiv 1506.02438.

    rewards: (T,) of each token. values: (T,) of the state in which the token was chosen. With gamma = lam = 1 the
    advantage is what was still to come minus the value.
    """
    out = np.zeros(len(rewards))
    ahead = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = values[t + 1] if t + 1 < len(values) else 0.0
        delta = rewards[t] + gamma * following - values[t]
        ahead = out[t] = delta + gamma * lam * ahead
    return out, out + values


def whitened(chains: Sequence[Floats]) -> list[Floats]:
    """Token advantages with mean 0 and standard deviation 1 over all tokens of the step."""
    every = np.concatenate([*chains, np.zeros(0)])
    if len(every) < 2:
        return list(chains)
    return [(c - every.mean()) / (every.std(ddof=1) + _EPSILON) for c in chains]


def overlong_penalty(length: int, truncated: bool, max_new_tokens: int, buffer: int) -> float:
    """Soft overlong punishment of DAPO, arXiv 2503.14476, equation 13: 0 up to max_new_tokens - buffer, then
    linearly down to -1 at max_new_tokens, and -1 for a chain that was cut there."""
    if truncated:
        return -1.0
    start = max_new_tokens - buffer
    return 0.0 if length <= start else (start - length) / buffer
