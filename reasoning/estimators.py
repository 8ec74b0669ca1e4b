"""What a strategy is expected to score at every k, from one set of n chains of one problem. Pure NumPy.

Each function averages over the subsets of k chains drawn without replacement, exactly where a closed form
exists (pass@k, pass^k, best-of-k, maj@k) and over seeded shuffles where none does (weighted majority,
majority-of-bests; their Monte-Carlo error comes back beside the value). So 64 chains drawn once give every
k up to 64. Resampling chains with replacement is not an estimate of these and is not offered.

Common to all: ``correct`` is (n,) with NaN where the verdict is missing; such a chain is left out, not
counted as wrong. ``answers`` is (n,) of class numbers, -1 where the chain abstains: it uses up a draw and
does not vote. A k above n is an error; a k above the number of chains that are left is NaN: the problem is
missing.

Knows nothing of pools, models or intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

SHUFFLES = 1024
_DIGITS = 9  # weights are told apart by this many decimal digits of the largest
_MOST_CHAINS = 2000  # 2000 * (10^9 * 4096 + 1) < 2^53


def pass_at_k(correct: ArrayLike, ks: Sequence[int]) -> Floats:
    """P(at least one of k is right) = 1 - C(n-c, k)/C(n, k), (K,). Source: 2107.03374, eq. 1.

    Raises ValueError where ``correct`` holds anything but 0, 1 and NaN, or a k lies outside 1..n.
    """
    return _by_count(correct, ks, lambda n, c, k: comb(n, k) - comb(n - c, k))


def pass_hat_k(correct: ArrayLike, ks: Sequence[int]) -> Floats:
    """P(all k are right) = C(c, k)/C(n, k), (K,); written pass^k. Source: 2406.12045."""
    return _by_count(correct, ks, lambda n, c, k: comb(c, k))


def best_of_k(correct: ArrayLike, scores: ArrayLike, ks: Sequence[int]) -> Floats:
    """Expected correctness of the highest-scored of k chains, ties broken evenly, (K,).

    With chains sorted by score, the one of rank r (1..n) is the best of k with probability
    C(r-1, k-1)/C(n, k); correctness is averaged inside each block of equal scores first, which is an even
    tie-break at every k. A chain whose score is NaN is left out, as one without a verdict is.
    """
    correct, scores = _floats(correct), _floats(scores)
    _check(len(correct), ks, scores=scores)
    known = ~(np.isnan(correct) | np.isnan(scores))
    correct, scores = correct[known], scores[known]
    order = np.argsort(scores, kind="stable")
    values, scores = correct[order], scores[order]
    _, block, size = np.unique(scores, return_inverse=True, return_counts=True)
    values = (np.bincount(block, weights=values) / size)[block] if len(values) else values
    return _rank_weights(len(values), tuple(ks)) @ values + _missing(len(values), ks)


def maj_at_k(correct: ArrayLike, answers: ArrayLike, ks: Sequence[int]) -> Floats:
    """Expected correctness of the most frequent answer among k chains, ties split evenly, (K,), exact.

    A class of c chains wins with t votes: C(c, t) ways to take them, times the ways to take the other k - t
    so that no rival has more than t and r of them have exactly t, which gives it a share of 1/(1 + r):

        sum_t C(c, t) / C(n, k) * integral_0^1 [x^(k-t)] (1+x)^a prod_j R_j(x, y) dy
        R_j = sum_{s<t} C(n_j, s) x^s + y C(n_j, t) x^t

    with a abstaining chains and rivals of size n_j. Every term is positive, so float64 loses nothing to
    cancellation, and the integrand is a polynomial in y, so Gauss-Legendre is exact. Source of the vote:
    2203.11171. Where chains of one class differ in correctness the class counts its mean; where all abstain
    the result is wrong.
    """
    correct, answers = _floats(correct), np.asarray(answers)
    _check(len(correct), ks, answers=answers)
    known = ~np.isnan(correct)
    correct, answers = correct[known], answers[known]
    n = len(correct)
    voting = answers >= 0
    _, votes, sizes = np.unique(answers[voting], return_inverse=True, return_counts=True)
    value = np.bincount(votes, weights=correct[voting], minlength=len(sizes)) / np.maximum(sizes, 1)
    inside = tuple(k for k in ks if k <= n)
    total = np.zeros(len(ks))
    for j in np.flatnonzero(value):
        rivals = tuple(sorted(int(s) for i, s in enumerate(sizes) if i != j))
        wins = _win_probability(int(sizes[j]), rivals, n - int(voting.sum()), inside)
        total[[k <= n for k in ks]] += value[j] * wins
    return np.minimum(total, 1.0) + _missing(n, ks)


def weighted_majority_at_k(
    correct: ArrayLike,
    answers: ArrayLike,
    weights: ArrayLike,
    ks: Sequence[int],
    *,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Expected correctness of the answer of the largest summed weight among k chains: (value, error), each
    (K,).

    ``weights`` are 0 or above; equal sums go to the answer with more votes, then evenly. There is no closed
    form: one shuffle gives every k by running sums, averaged over ``shuffles`` seeded ones, which are the
    same for every problem of n chains (common random numbers). error: the Monte-Carlo standard error, 0 at k
    = 1 and k = n, which are exact. Weights become whole numbers of a small unit, so sums tie exactly or not
    at all.
    """
    correct, answers, weights = _floats(correct), np.asarray(answers), _floats(weights)
    _check(len(correct), ks, answers=answers, weights=weights)
    known = ~(np.isnan(correct) | np.isnan(weights))
    correct, answers, weights = correct[known], answers[known], weights[known]
    if (weights < 0).any():
        raise ValueError("weights must be 0 or above")
    value, error, n = np.zeros(len(ks)), np.zeros(len(ks)), len(correct)
    voting, votes, means = _classes(correct, answers)
    units = np.where(voting, _fixed_point(weights), 0.0)
    orders = _orders(n, shuffles, seed)
    sums, taken = np.zeros((shuffles, len(means))), 0
    column = np.where(voting, votes, 0)
    row = np.arange(shuffles)[:, None] * len(means)
    for i in sorted(range(len(ks)), key=lambda i: ks[i]):
        k = ks[i]
        if k > n or not len(means):
            continue
        if k == 1:
            value[i] = correct[voting].sum() / n
            continue
        step = orders[:, taken:k]
        sums += np.bincount(
            (row + column[step]).ravel(), weights=units[step].ravel(), minlength=sums.size
        ).reshape(sums.shape)
        taken = k
        value[i], error[i] = _mean_of_winners(sums[:1] if k == n else sums, means)
    return value + _missing(n, ks), error + _missing(n, ks)


def majority_of_bests_at_k(
    correct: ArrayLike,
    answers: ArrayLike,
    scores: ArrayLike,
    ms: Sequence[int],
    ks: Sequence[int],
    *,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Expected correctness of the answer that best-of-m picks most often among k chains: (value, error), (M,
    K).

    Within k chains, best-of-m over all subsets of m picks the chain of rank r with probability
    C(r-1, m-1)/C(k, m); these are summed per answer and the largest sum is the answer (2511.18630, with every
    subset in place of a bootstrap). m = 1 is the majority, m = k is best-of-k. An m above k counts as k.
    Averaged over the shuffles of `weighted_majority_at_k`; error as there.
    """
    if min(ms, default=1) < 1:
        raise ValueError(f"m must be 1 or above, not {min(ms)}")
    correct, answers, scores = _floats(correct), np.asarray(answers), _floats(scores)
    _check(len(correct), ks, answers=answers, scores=scores)
    known = ~(np.isnan(correct) | np.isnan(scores))
    correct, answers, scores = correct[known], answers[known], scores[known]
    n = len(correct)
    value, error = np.zeros((len(ms), len(ks))), np.zeros((len(ms), len(ks)))
    voting, votes, means = _classes(correct, answers)
    if n and len(means):
        order = np.argsort(scores, kind="stable")
        _, block, size = np.unique(scores[order], return_inverse=True, return_counts=True)
        ends = np.cumsum(size) - 1  # last chain of each block of equal scores
        member = np.zeros((n, len(means)))
        member[np.flatnonzero(voting), votes[voting]] = 1.0
        member = member[order]  # (n, classes), chains by score
        position = _positions(n, shuffles, seed)[:, order]
        for j, k in enumerate(ks):
            if k > n:
                continue
            if k == 1:
                value[:, j] = correct[voting].sum() / n
                continue
            taken = position[: 1 if k == n else None] < k  # (S, n)
            rank = np.cumsum(taken, axis=1, dtype=np.int32)
            inside, which = np.unique(np.minimum(ms, k), return_inverse=True)
            below = np.stack([_below(k, m) for m in inside.tolist()])  # (M', k + 1)
            if len(ends) == n:
                share = np.diff(below, axis=1, prepend=0.0)[:, rank] * taken  # (M', S, n)
            else:  # equal scores share the picks of their block of ranks
                rank = rank[:, ends]
                count = np.diff(rank, axis=1, prepend=0)
                share = (below[:, rank] - below[:, rank - count]) / np.maximum(count, 1)
                share = share[:, :, block] * taken
            means_at_k, errors_at_k = _mean_of_winners(share @ member, means, tie=1e-12)
            value[:, j], error[:, j] = means_at_k[which], errors_at_k[which]
    return value + _missing(n, ks), error + _missing(n, ks)


def expected_cost(per_chain: ArrayLike, ks: Sequence[int], shared: float = 0.0) -> Floats:
    """Expected cost of drawing k of n chains, (K,): ``shared`` once (a prompt's prefill) + k x the mean cost.

    Every chain is paid for, also one without a verdict.
    """
    per_chain = _floats(per_chain)
    _check(len(per_chain), ks)
    return shared + np.asarray(ks, dtype=np.float64) * per_chain.mean()


# --- pieces -------------------------------------------------------------------------------------------------


def _floats(values: ArrayLike) -> Floats:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"one problem's chains are a flat array, not of shape {values.shape}")
    return values


def _check(n: int, ks: Sequence[int], **others: NDArray) -> None:
    for name, values in others.items():
        if values.shape != (n,):
            raise ValueError(f"{name} has shape {values.shape}, but there are {n} chains")
    for k in ks:
        if not 1 <= k <= n:
            raise ValueError(f"k = {k} is outside 1..{n}, the number of chains")


def _missing(n: int, ks: Sequence[int]) -> Floats:
    return np.array([0.0 if k <= n else np.nan for k in ks])


def _by_count(correct: ArrayLike, ks: Sequence[int], ways: Callable[[int, int, int], int]) -> Floats:
    correct = _floats(correct)
    _check(len(correct), ks)
    known = correct[~np.isnan(correct)]
    if not np.isin(known, (0.0, 1.0)).all():
        raise ValueError("correct must be 0, 1 or NaN (missing)")
    n, c = len(known), int(known.sum())
    # Python's integers and their true division: the nearest float, whatever n is.
    return np.array([ways(n, c, k) / comb(n, k) if k <= n else np.nan for k in ks])


@lru_cache(maxsize=1024)
def _rank_weights(n: int, ks: tuple[int, ...]) -> Floats:
    """(K, n): P(rank r is the best of k). Rows with k > n are 0."""
    return np.array([[comb(r, k - 1) / comb(n, k) if k <= n else 0.0 for r in range(n)] for k in ks])


@lru_cache(maxsize=4096)
def _below(k: int, m: int) -> Floats:
    """(k + 1,): P(the best of m among k chains has rank r or lower) = C(r, m)/C(k, m)."""
    return np.array([comb(r, m) / comb(k, m) for r in range(k + 1)])


def _classes(correct: Floats, answers: NDArray) -> tuple[NDArray, NDArray, Floats]:
    """(which chains vote (n,), class of each (n,; 0 where it abstains), mean correctness of each class)."""
    voting = answers >= 0
    _, inside, sizes = np.unique(answers[voting], return_inverse=True, return_counts=True)
    votes = np.zeros(len(answers), dtype=np.int64)
    votes[voting] = inside
    means = np.bincount(inside, weights=correct[voting], minlength=len(sizes)) / np.maximum(sizes, 1)
    return voting, votes, means


def _fixed_point(weights: Floats) -> Floats:
    """Weights as whole numbers, decimal digits kept (0.1 + 0.3 ties with 0.2 + 0.2), above a unit for the
    vote itself. Sums are exact in float64, so the order of adding can neither make nor break a tie."""
    if len(weights) > _MOST_CHAINS:
        raise ValueError(f"at most {_MOST_CHAINS} chains a problem can be weighed, not {len(weights)}")
    top = weights.max(initial=0.0)
    if top == 0:
        return np.ones_like(weights)
    return np.round(weights * 10.0 ** (_DIGITS - np.ceil(np.log10(top)))) * 4096 + 1


@lru_cache(maxsize=16)
def _orders(n: int, shuffles: int, seed: int) -> NDArray[np.int64]:
    """(S, n) permutations, a function of (n, shuffles, seed) alone."""
    return np.random.default_rng([seed, n]).permuted(np.tile(np.arange(n), (shuffles, 1)), axis=1)


@lru_cache(maxsize=16)
def _positions(n: int, shuffles: int, seed: int) -> NDArray[np.int64]:
    """(S, n): when each chain is drawn in each of `_orders`."""
    return np.argsort(_orders(n, shuffles, seed), axis=1)


def _mean_of_winners(sums: Floats, means: Floats, tie: float = 0.0) -> tuple[Floats, Floats]:
    """Mean over shuffles of the winners' mean correctness and its standard error, from sums (..., S,
    classes)."""
    top = sums.max(axis=-1, keepdims=True)
    won = (sums >= top - tie) & (top > tie)
    got = (won @ means) / np.maximum(won.sum(axis=-1), 1)
    mean, shuffles = got.mean(axis=-1), got.shape[-1]
    spread = ((got - mean[..., None]) ** 2).sum(axis=-1) / max(shuffles - 1, 1)
    return mean, np.sqrt(spread / shuffles)


@lru_cache(maxsize=64)
def _nodes(count: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(count)
    return (x + 1) / 2, w / 2


@lru_cache(maxsize=1024)
def _binomials(n: int) -> Floats:
    return np.array([float(comb(n, s)) for s in range(n + 1)])


@lru_cache(maxsize=128)
def _times(n: int, t: int, width: int) -> Floats:
    """(width, width) matrix: a polynomial, cut at degree width - 1, times sum_{s<t} C(n, s) x^s."""
    row = np.zeros(2 * width)
    kept = min(t, n + 1, width)
    row[:kept] = _binomials(n)[:kept]
    shift = np.arange(width)[None, :] - np.arange(width)[:, None]
    return np.where(shift >= 0, row[shift], 0.0)


@lru_cache(maxsize=1 << 16)
def _win_probability(c: int, rivals: tuple[int, ...], abstaining: int, ks: tuple[int, ...]) -> Floats:
    """P(a class of c chains is chosen by a vote of k), (K,): the formula in `maj_at_k`."""
    n = c + sum(rivals) + abstaining
    width = max(ks, default=0)  # degrees 0..k-1 of the others' polynomial are needed
    won = np.zeros(len(ks))
    for t in range(1, min(c, width) + 1):
        # A rival smaller than t can neither win nor tie: its chains are free, as abstaining ones are.
        large = [s for s in rivals if s >= t]
        free = n - c - sum(large)
        y, weight = _nodes((len(large) + 2) // 2)  # degree len(large) in y
        need = width - t + 1
        ways = np.zeros((len(y), need))
        ways[:, : free + 1] = _binomials(free)[:need]
        for size in large:
            more = ways @ _times(size, t, width)[:need, :need]
            if need > t:
                more[:, t:] += y[:, None] * _binomials(size)[t] * ways[:, :-t]
            ways = more
        ways = weight @ ways
        pick = _binomials(c)[t]
        for i, k in enumerate(ks):
            if k >= t:
                won[i] += pick * ways[k - t]
    return won / np.array([float(comb(n, k)) for k in ks])
