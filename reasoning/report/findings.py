"""What a pool shows, in sentences. A sentence is printed only where its paired interval supports it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reasoning.comparisons import Comparison, find
from reasoning.curves import Measured
from reasoning.iso_compute import BreakEven, IsoCompute
from reasoning.report.words import break_even, percent, queries, short_scorer, si, side

MOST_OTHERS = 4


def findings(
    measured: Measured, comparisons: Sequence[Comparison], iso: IsoCompute | None = None
) -> list[str]:
    """Sentences, the most telling first; one that says so where no comparison holds.

    Differences are in points of accuracy with their 95% paired interval; each also passed a permutation test
    adjusted for the number of comparisons (Holm).
    """
    base, *trained = measured.models
    training = _training(measured, comparisons, base, trained)
    found = [
        *training[:1],
        *_break_even(measured, iso),
        *training[1:],
        *_equal_flops(measured, comparisons, base, trained),
        *(line for model in measured.models for line in _search(measured, comparisons, model)),
        *_sharpening(measured, comparisons, base, trained),
    ]
    found = found or _others(measured, comparisons) or [_nothing(comparisons)]
    return found + _open_or_never(measured, iso)


def _others(measured: Measured, comparisons: Sequence[Comparison]) -> list[str]:
    """Differences that hold, where none of those that are usually told does; the largest first."""
    held = sorted((c for c in comparisons if c.supported), key=lambda c: -abs(c.difference))
    return [
        f"{side(measured.labels, c.a)} gets {_points(c)} than {side(measured.labels, c.b)}"
        f"{f', at the same {si(c.a.flops)} FLOPs a problem' if c.basis == 'flops' else ''}."
        for c in held[:MOST_OTHERS]
    ]


def _nothing(comparisons: Sequence[Comparison]) -> str:
    """Where no comparison holds: how many were made, what speaks for some by themselves, what could be found."""
    if not comparisons:
        return "There is nothing to compare here: one strategy on one model, or one problem."
    n = max(c.problems for c in comparisons)
    alone = sum(c.low > 0 or c.high < 0 for c in comparisons)
    made = f"the {len(comparisons)} comparisons made" if len(comparisons) > 1 else "the one comparison made"
    text = f"No difference stands out: none of {made} passes its test"
    text += " once it is adjusted for their number (Holm)" if len(comparisons) > 1 else ""
    text += f", though {alone} {'has' if alone == 1 else 'have'} an interval without 0." if alone else "."
    # Two of 2^n patterns of signs are as far out as n differences of one sign, and Holm multiplies by the number.
    least = math.ceil(1 + math.log2(len(comparisons) / 0.05))
    if n < least:
        few = f"{n} problems" if n > 1 else "one problem"
        return f"{text} With {few} none could: that takes {least} which all differ in the same direction."
    reach = sorted(c.detectable for c in comparisons if not math.isnan(c.detectable))
    if reach and reach[len(reach) // 2] >= 0.001:
        text += (
            f" With {n} problems the smallest difference that one comparison alone would find is about "
            f"{percent(reach[len(reach) // 2])} points."
        )
    return text


def _points(c: Comparison, more: str = "more", less: str = "fewer") -> str:
    low, high = sorted((min(abs(c.low), 1.0), min(abs(c.high), 1.0)))  # no difference is larger
    direction = more if c.difference > 0 else less
    return f"{percent(abs(c.difference))} points {direction} (95% interval {percent(low)} to {percent(high)})"


def _training(
    measured: Measured, comparisons: Sequence[Comparison], base: str, trained: Sequence[str]
) -> list[str]:
    told = [
        c
        for model in trained
        for c in find(comparisons, (model, "pass"), (base, "pass"))
        if c.a.k == 1 and c.supported
    ]
    return [
        f"One chain of {measured.labels[c.a.model]} is right {percent(c.a_accuracy)}% of the time, one of "
        f"{measured.labels[base]} {percent(c.b_accuracy)}%: {_points(c)}."
        for c in sorted(told, key=lambda c: -abs(c.difference))
    ]


def _break_even(measured: Measured, iso: IsoCompute | None) -> list[str]:
    if iso is None:
        return []
    lines = [_break_even_line(measured, iso.base, b) for b in iso.headline if _bounded(b)]
    # Only where no training may pay from the first query on is search the better for few.
    if lines and all(b.low >= 1 for b in iso.headline):
        lines[-1] += " For fewer queries, search more."
    return lines


def _bounded(b: BreakEven) -> bool:
    """Whether it is known from where on training pays, if not from how early on it may."""
    return b.verdict == "break_even" and math.isfinite(b.high)


def _break_even_line(measured: Measured, base: str, b: BreakEven) -> str:
    fit = min((fit for fit, _ in b.base_ways), default=0.0)
    fitted = f", whose verifier took {si(fit)} to fit" if fit else ""
    return (
        f"Training {measured.labels[b.model]} pays for itself from {'about ' if b.queries >= 1 else ''}"
        f"{break_even(b.queries, b.low, b.high)}: {percent(b.accuracy)}% accuracy then takes "
        f"{si(b.trained_flops)} FLOPs a query instead of {si(b.base_flops)} of search with "
        f"{measured.labels[base]}{fitted} (this training {si(b.training_flops)})."
    )


def _open_or_never(measured: Measured, iso: IsoCompute | None) -> list[str]:
    """Of each training that is not known to pay: whether it does not, or the problems are too few to tell."""
    return [_not_known_to_pay(measured, iso.base, b) for b in iso.headline if not _bounded(b)] if iso else []


def _not_known_to_pay(measured: Measured, base: str, b: BreakEven) -> str:
    name, target = measured.labels[b.model], f"{percent(b.accuracy)}% accuracy"
    if math.isfinite(b.low):
        seen = "as measured never"
        if b.verdict == "break_even":
            seen = f"as measured from {break_even(b.queries, math.nan, math.nan)}"
        least = "the first query" if b.low < 1 else f"{queries(b.low)} queries"
        return (
            f"Whether training {name} pays is open: for {target} {seen}, but its 95% interval runs from {least} to "
            "never. Draw more problems to tell."
        )
    searched = f"search with {measured.labels[base]} takes {si(b.base_flops)} FLOPs a query"
    its = f"{name} {si(b.trained_flops)}" if math.isfinite(b.trained_flops) else f"{name} does not get there"
    return f"Training {name} does not pay here: for {target} {searched}, and {its}. Search more."


def _equal_flops(
    measured: Measured, comparisons: Sequence[Comparison], base: str, trained: Sequence[str]
) -> list[str]:
    return [
        f"At the same {si(c.a.flops)} FLOPs a problem, the majority over {measured.labels[model]} gets "
        f"{_points(c)} than over {measured.labels[base]}."
        for model in reversed(trained)
        for c in find(comparisons, (model, "majority"), (base, "majority"), basis="flops")
        if c.supported
    ]


def _search(measured: Measured, comparisons: Sequence[Comparison], model: str) -> list[str]:
    name = measured.labels[model]
    lines = [
        f"On {name} the majority of {c.a.k} turns {percent(c.b_accuracy)}% of one chain into "
        f"{percent(c.a_accuracy)}%: {_points(c)}.{_greedy(measured, model)}"
        for c in find(comparisons, (model, "majority"), (model, "pass"))
        if c.supported
    ]
    lines += [
        f"On {name} the best of {c.a.k} by {short_scorer(c.a.scorer)!r} gets {_points(c)} than the majority of "
        "as many."
        for c in find(comparisons, (model, "best_of_n"), (model, "majority"))
        if c.supported
    ]
    lines += [
        f"On {name} the oracle ceiling of {c.a.k} lies {_points(c, 'above', 'below')} the majority: right chains "
        "are there that the vote does not pick."
        for c in find(comparisons, (model, "pass"), (model, "majority"))
        if c.supported and c.difference > 0
    ]
    return lines


def _greedy(measured: Measured, model: str) -> str:
    """What one greedy chain gets, beside what a search gains over one sampled chain."""
    drawn = [m for m in measured.measurements if m.model == model and m.selector.name == "greedy"]
    values = np.concatenate([m.values.ravel() for m in drawn]) if drawn else np.empty(0)
    known = values[~np.isnan(values)]
    return f" One greedy chain gets {percent(known.mean())}%." if len(known) else ""


def _sharpening(
    measured: Measured, comparisons: Sequence[Comparison], base: str, trained: Sequence[str]
) -> list[str]:
    return [
        f"The oracle ceiling of {c.a.k} fell with training: {measured.labels[model]} reaches {_points(c)} than "
        f"{measured.labels[base]}. Training sharpened what the base could already do, and lost some of it."
        for model in trained
        for c in find(comparisons, (model, "pass"), (base, "pass"))
        if c.a.k != 1 and c.supported and c.difference < 0
    ]
