"""How sure a figure is: intervals over problems, whole-curve bands, paired comparisons. NumPy and SciPy.

The unit is the problem. Chains of one problem are nested in it, so an interval over problems x chains would
be far too narrow; every function here takes one number per problem (already averaged over its chains). NaN is
a problem without a value there and is left out. Everything random is seeded: same input, same result.

Knows nothing of pools, strategies or models. How to use these for evaluations: 2411.00640.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

LEVEL = 0.95
REPLICATES = 2000
FEW_PROBLEMS = 30
"""Below this many problems the bootstrap is too narrow (it holds 81 to 90% where it says 95), and Student's t stands
in for it."""
_EXACT_SIGNS = 14  # up to this many non-zero differences all sign flips are enumerated


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the ends of its interval. problems: how many it rests on. NaN ends: fewer than two."""

    estimate: float
    low: float
    high: float
    problems: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean over problems, (P,)."""
    values = _known(values)
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()) if n else float("nan"), float("nan"), float("nan"), n)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / sqrt(n)
    reach = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    return Interval(mean, mean - reach, mean + reach, n)


def wilson(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Wilson's interval of a single proportion of independent trials (one chain per problem).

    Raises ValueError unless 0 <= successes <= trials and trials >= 1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes of {trials} trials is not a proportion")
    z, p = float(special.ndtri((1 + level) / 2)), successes / trials
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * sqrt(p * (1 - p) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    # At 0 and at `trials` the formula meets the end itself, which rounding must not miss.
    low = 0.0 if successes == 0 else middle - reach
    high = 1.0 if successes == trials else middle + reach
    return Interval(p, low, high, trials)


def bca_interval(
    values: ArrayLike, level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0
) -> Interval:
    """BCa bootstrap interval of the mean over problems, (P,) (Efron 1987)."""
    values = np.asarray(values, dtype=np.float64)[:, None]
    band = curve_bands(values, level, replicates, seed)
    return Interval(float(band.estimate[0]), float(band.low[0]), float(band.high[0]), int(band.problems[0]))


def accuracy_interval(
    values: ArrayLike, level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0
) -> Interval:
    """The interval of a mean accuracy over problems, (P,) in [0, 1]: the rule of every table, picture and file.

    Wilson's where each problem has 0 or 1 (one outcome a problem), Student's t cut at 0 and 1 under `FEW_PROBLEMS`
    problems, BCa otherwise.
    """
    band = curve_bands(
        np.asarray(values, dtype=np.float64)[:, None], level, replicates, seed, bounds=(0.0, 1.0)
    )
    return Interval(float(band.estimate[0]), float(band.low[0]), float(band.high[0]), int(band.problems[0]))


@dataclass(frozen=True, slots=True)
class Bands:
    """A curve with its bands, each (K,).

    low, high: pointwise interval. band_low, band_high: simultaneous band: the whole curve lies inside with the
    stated confidence; it holds the pointwise one. problems: how many each point rests on.
    """

    estimate: Floats
    low: Floats
    high: Floats
    band_low: Floats
    band_high: Floats
    problems: NDArray[np.int64]


def curve_bands(
    values: ArrayLike,
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = 0,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Bands:
    """Bands of a mean curve from per-problem curves (P, K): problems are resampled once per replicate and the
    whole curve is recomputed.

    Pointwise: BCa, or for accuracies, where ``bounds`` is (0, 1), by the rule of `accuracy_interval`. Simultaneous:
    estimate +- c x standard error, c the ``level`` quantile of the largest studentised deviation along the curve
    (max-t), carried over from the normal to Student's t distribution and never inside the pointwise interval, cut at
    ``bounds``. Resampling sees no doubt where all problems agree: Wilson's interval has the word there.
    """
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    problems = known.sum(axis=0)
    columns = values.shape[1]
    estimate = _column_means(values)
    low, high = np.full(columns, np.nan), np.full(columns, np.nan)
    band_low, band_high = low.copy(), high.copy()
    enough = problems >= 2
    if not enough.any():
        return Bands(estimate, low, high, band_low, band_high, problems)
    draws = resampled_means(values, replicates, seed)  # (B, K)
    spread = np.nanstd(draws[:, enough], axis=0, ddof=1)
    width = np.full(columns, np.nan)
    width[enough] = spread
    moving = np.flatnonzero(enough & (width > 1e-12))
    for j in np.flatnonzero(enough):
        own = values[known[:, j], j]
        if bounds == (0.0, 1.0) and np.isin(own, bounds).all():
            interval = wilson(int(own.sum()), len(own), level)
            low[j], high[j] = interval.low, interval.high
        elif bounds == (0.0, 1.0) and len(own) < FEW_PROBLEMS:
            interval = t_interval(own, level)
            low[j], high[j] = max(interval.low, 0.0), min(interval.high, 1.0)
        else:
            low[j], high[j] = _bca(own, draws[:, j], level)
    band_low[enough], band_high[enough] = low[enough], high[enough]
    if len(moving):
        deviations = np.abs(draws[:, moving] - estimate[moving]) / width[moving]
        largest = np.fmax.reduce(deviations, axis=1)  # NaN where a replicate drew no known value at all
        n = problems[moving]
        # Few problems: resampling has the spread of n for n - 1, and its own error follows Student's t.
        reach = special.stdtrit(n - 1, special.ndtr(np.quantile(largest[~np.isnan(largest)], level)))
        reach = reach * width[moving] * np.sqrt(n / (n - 1))
        band_low[moving] = np.maximum(np.minimum(estimate[moving] - reach, low[moving]), bounds[0])
        band_high[moving] = np.minimum(np.maximum(estimate[moving] + reach, high[moving]), bounds[1])
    return Bands(estimate, low, high, band_low, band_high, problems)


def resampled_means(values: ArrayLike, replicates: int = REPLICATES, seed: int = 0) -> Floats:
    """(B, K) means of per-problem values (P, K) under ``replicates`` resamplings of the problems.

    The resamplings depend on (P, replicates, seed) alone, so curves over the same problems move together and
    their differences may be taken replicate by replicate. NaN where a replicate holds no known value.
    """
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    counts = _resamplings(len(values), replicates, seed)
    weight = counts @ known.astype(np.float64)
    total = counts @ np.where(known, values, 0.0)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


@dataclass(frozen=True, slots=True)
class Paired:
    """A minus B on the same problems.

    interval: of the mean difference. p: sign-flip permutation, two-sided (for outcomes of 0 and 1 that is
    McNemar's test, which is exact). detectable: the smallest true
    difference that a comparison of this size and spread finds with 80% power at the interval's level.
    """

    interval: Interval
    p: float
    detectable: float

    @property
    def difference(self) -> float:
        return self.interval.estimate

    @property
    def supported(self) -> bool:
        """Both the interval and the permutation test speak against "no difference"."""
        return self.interval.excludes_zero and self.p <= 0.05


def paired(
    a: ArrayLike,
    b: ArrayLike,
    level: float = LEVEL,
    *,
    method: Literal["t", "bca"] = "t",
    power: float = 0.8,
    seed: int = 0,
) -> Paired:
    """Compare two strategies problem by problem, each (P,); problems without both values are left out.

    method: the interval's. Student's t keeps its level down to a dozen problems, where the bootstrap is too
    narrow; BCa follows skewed differences of many problems better.

    Raises ValueError where the two do not have the same problems.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values must be of the same problems, not {a.shape} and {b.shape}")
    differences = _known(a - b)
    n = len(differences)
    interval = (
        t_interval(differences, level) if method == "t" else bca_interval(differences, level, seed=seed)
    )
    if n < 2:
        return Paired(interval, 1.0, float("nan"))
    error = float(differences.std(ddof=1)) / sqrt(n)
    reach = float(special.stdtrit(n - 1, (1 + level) / 2) + special.stdtrit(n - 1, power))
    binary = np.isin(np.r_[a, b][~np.isnan(np.r_[a, b])], (0.0, 1.0)).all()
    p = mcnemar(a, b) if binary else sign_flip(differences, seed=seed)
    return Paired(interval, p, reach * error)


def paired_seeds(a: ArrayLike, b: ArrayLike, level: float = LEVEL, *, power: float = 0.8) -> Paired:
    """Compare two methods that were trained under several seeds each, problem by problem: (S, P) against (S', P);
    problems without a value under some seed are left out.

    The interval is of the difference of the means and says where it would lie for other problems and other seeds:
    the variance over problems (of the differences of the means over seeds) and those over the seeds of each side (of
    their means over problems) are added, with Satterthwaite's degrees of freedom. What chance does within a chain is
    in each of them, so it is rather too wide than too narrow. Of a side with one seed nothing is known of its spread,
    and nothing added. With one seed on both sides it is `paired`.

    Raises ValueError where the two do not have the same problems.
    """
    a, b = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (a, b))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"paired values must be of the same problems, not {a.shape} and {b.shape}")
    if len(a) == len(b) == 1:
        return paired(a[0], b[0], level, power=power)
    known = ~(np.isnan(a).any(axis=0) | np.isnan(b).any(axis=0))
    a, b = a[:, known], b[:, known]
    differences = a.mean(axis=0) - b.mean(axis=0)
    n = len(differences)
    if n < 2:
        return Paired(t_interval(differences, level), 1.0, float("nan"))
    estimate = float(differences.mean())
    parts = [side.mean(axis=1) for side in (a, b) if len(side) > 1]
    variances = [float(part.var(ddof=1)) / len(part) for part in (differences, *parts)]
    freedom = [len(part) - 1 for part in (differences, *parts)]
    total = sum(variances)
    if total <= 1e-24:
        return Paired(Interval(estimate, estimate, estimate, n), float(abs(estimate) < 1e-12), 0.0)
    df = total**2 / sum(v**2 / f for v, f in zip(variances, freedom, strict=True))
    error = sqrt(total)
    reach = float(special.stdtrit(df, (1 + level) / 2))
    p = 2 * float(special.stdtr(df, -abs(estimate) / error))
    interval = Interval(estimate, estimate - reach * error, estimate + reach * error, n)
    return Paired(interval, p, (reach + float(special.stdtrit(df, power))) * error)


def sign_flip(differences: ArrayLike, replicates: int = 9999, seed: int = 0) -> float:
    """Two-sided p of "each difference could as well have the other sign", for the mean; (P,).

    All sign patterns are enumerated for up to 14 non-zero differences (a zero has no sign); beyond that
    ``replicates`` are drawn and the observed one is counted among them, so p is never 0.
    """
    differences = _known(differences)
    differences = differences[differences != 0]
    n = len(differences)
    if n == 0:
        return 1.0
    seen = abs(differences.sum()) * (1 - 1e-12)  # equal sums must not be told apart by rounding
    if n <= _EXACT_SIGNS:
        signs = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) * 2.0 - 1.0
        return float((np.abs(signs @ differences) >= seen).mean())
    signs = np.random.default_rng(seed).integers(0, 2, (replicates, n), dtype=np.int8) * 2.0 - 1.0
    return float((1 + (np.abs(signs @ differences) >= seen).sum()) / (1 + replicates))


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Exact two-sided p of McNemar's test for one binary outcome per problem and side, (P,).

    Raises ValueError where an outcome is anything but 0, 1 or NaN (left out with its pair).
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if not np.isin(np.r_[a, b], (0.0, 1.0)).all():
        raise ValueError("McNemar's test is for outcomes of 0 and 1; compare rates with paired()")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    n, few = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(comb(n, i) for i in range(few + 1)) / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the chance of any false claim among them stays below
    p."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


# --- pieces -------------------------------------------------------------------------------------------------


def _known(values: ArrayLike) -> Floats:
    values = np.asarray(values, dtype=np.float64)
    return values[~np.isnan(values)]


def _column_means(values: Floats) -> Floats:
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)


@lru_cache(maxsize=16)
def _resamplings(problems: int, replicates: int, seed: int) -> Floats:
    """(B, P): how often each problem is in each replicate."""
    rng = np.random.default_rng([seed, problems])
    return rng.multinomial(problems, np.full(problems, 1 / problems), size=replicates).astype(np.float64)


def _bca(values: Floats, draws: Floats, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated ends for a mean, from its known values (P,) and its replicates (B,)."""
    draws = draws[~np.isnan(draws)]
    mean = values.mean()
    centred = values - mean
    spread = (centred**2).sum()
    if spread <= 1e-24 or np.ptp(draws) <= 1e-12:
        return float(mean), float(mean)
    # Half of the ties with the estimate count as below it: means of a few outcomes repeat.
    tolerance = 1e-12 * max(1.0, abs(mean))
    below = (draws < mean - tolerance).sum() + 0.5 * (np.abs(draws - mean) <= tolerance).sum()
    share = min(max(below / len(draws), 0.5 / len(draws)), 1 - 0.5 / len(draws))
    bias = special.ndtri(share)
    acceleration = (centred**3).sum() / (6 * spread**1.5)  # the jackknife's, in closed form for a mean
    z = bias + special.ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(draws, special.ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)
