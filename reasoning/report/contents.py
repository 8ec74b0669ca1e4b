"""What stands on the page beside the table: captions with their figures, rows of the tables, chains to read.

Words and rows only; `reasoning.report.page` sets them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reasoning.comparisons import Comparison
from reasoning.curves import Curve, Measured
from reasoning.iso_compute import BreakEven, IsoCompute
from reasoning.pool import Pool
from reasoning.report import words
from reasoning.report.page import Excerpt
from reasoning.report.reading import worth_reading
from reasoning.statistics import FEW_PROBLEMS

Rows = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Headings, and rows of as many cells."""


def subtitle(measured: Measured) -> str:
    problems = len({g.problem_id for some in measured.groups.values() for g in some})
    names = ", ".join(measured.labels[model] for model in measured.models)
    return f"{problems:,} problems, up to {max(measured.ks)} chains each, from: {names}."


def picture_words(
    name: str, measured: Measured, curves: Sequence[Curve], iso: IsoCompute | None
) -> tuple[str, str, str]:
    """(heading, alternative text, caption) of a picture, with its figures."""
    if name == "curves":
        ends = [_ends(measured, curves, model) for model in measured.models]
        return (
            "What more chains buy",
            "Accuracy against compute. " + "; ".join(ends) + ".",
            f"{'; '.join(ends)}. Shaded: bands that hold the whole curve with 95% "
            "confidence, over problems. Dotted: the oracle ceiling, which reads the reference and cannot be "
            "deployed." + (" Stars: greedy decoding." if any(c.strategy == "greedy" for c in curves) else ""),
        )
    if name == "by_difficulty":
        levels = list(dict.fromkeys(c.difficulty for c in curves if c.difficulty is not None))
        sizes = [
            f"{level}: {max(p.problems for c in curves if c.difficulty == level for p in c.points)}"
            for level in levels
        ]
        return (
            "By difficulty",
            f"Accuracy of each model at difficulty {', '.join(map(str, levels))}, for one chain and for "
            f"{max(measured.ks)}.",
            f"How far search and training reach as problems get harder. Bars: 95% intervals. Problems per level: "
            f"{', '.join(sizes)}.",
        )
    assert iso is not None
    lines = []
    for b in iso.headline:
        label = measured.labels[b.model]
        if b.verdict == "break_even":
            lines.append(f"training {label} pays from {words.break_even(b.queries, b.low, b.high)}")
        else:
            lines.append(f"training {label} never becomes cheaper")
    target = words.percent(iso.headline[0].accuracy)
    return (
        "Train more or search more?",
        f"To answer with {target}% accuracy: {'; '.join(lines)}.",
        f"First panel: total FLOPs per query for {target}% accuracy (one point below the best that searching "
        f"{measured.labels[iso.base]} reaches), training and the fit of a verifier spread over the queries they "
        f"serve: {'; '.join(lines)}. Second panel: find your number of queries and what you can spend on each in "
        "all, the same shares included; the colour says where the spend reaches most (of trained models within a "
        "point, the one that cost least), the lines how far. Strategies that read the reference are left out.",
    )


def _ends(measured: Measured, curves: Sequence[Curve], model: str) -> str:
    """'base: one chain 42.5%, majority of 64 63.3%, oracle ceiling 100.0%', as far as they were measured."""
    k = max(measured.ks)
    wanted = [("pass", 1, "one chain"), ("majority", k, f"majority of {k}"), ("pass", k, "oracle ceiling")]
    said = [
        f"{what} {words.percent(point.accuracy)}%"
        for strategy, at, what in (wanted if k > 1 else wanted[:1])
        for c in curves
        if (c.model, c.strategy, c.difficulty) == (model, strategy, None)
        and (point := c.at(at)) is not None
        and not np.isnan(point.accuracy)
    ]
    return f"{measured.labels[model]}: {', '.join(said)}"


def comparison_rows(measured: Measured, comparisons: Sequence[Comparison]) -> Rows:
    columns = ("A", "B", "at equal", "A - B (points)", "95% interval", "p (Holm)", "detectable", "problems")
    rows = [
        (
            words.side(measured.labels, c.a),
            words.side(measured.labels, c.b),
            f"{words.si(c.a.flops)} FLOPs" if c.basis == "flops" else "k" if c.a.k == c.b.k else "problems",
            f"{100 * c.difference:+.1f}",
            f"{100 * c.low:+.1f} to {100 * c.high:+.1f}",
            f"{c.p_holm:.3f}" if c.p_holm >= 0.001 else "< 0.001",
            words.percent(c.detectable),
            str(c.problems),
        )
        for c in comparisons
    ]
    return columns, rows


def break_even_rows(measured: Measured, iso: IsoCompute | None) -> Rows:
    columns = ("model", "accuracy", "base search", "its own search", "training", "training pays")
    if iso is None:
        return columns, []
    rows = []
    tens = [b for b in iso.by_accuracy if round(100 * b.accuracy) % 10 == 0]
    for b in (*iso.headline, *_last_never(tens)):
        verdict = {
            "break_even": f"from {words.break_even(b.queries, b.low, b.high)}",
            "never": "never",
            "base_never": "the base never gets there",
        }[b.verdict]
        rows.append(
            (
                measured.labels[b.model],
                f"{words.percent(b.accuracy)}%",
                "not reached" if np.isinf(b.base_flops) else words.si(b.base_flops),
                "not reached" if np.isinf(b.trained_flops) else words.si(b.trained_flops),
                words.si(b.training_flops),
                verdict,
            )
        )
    return columns, rows


def _last_never(tens: Sequence[BreakEven]) -> list[BreakEven]:
    """Of several accuracies in a row at which training never pays, the highest says it."""
    return [
        b
        for b, after in zip(tens, [*tens[1:], None], strict=True)
        if not (b.verdict == "never" and after and after.verdict == "never" and after.model == b.model)
    ]


def excerpts(measured: Measured, pool: Pool) -> list[Excerpt]:
    readings = worth_reading(measured)
    wanted = {reading.group.problem_id for reading in readings}
    chains = {chain.key: chain for chain in pool.chains(problem_ids=wanted)}
    problems = pool.problems()
    found = []
    for reading in readings:
        group, i = reading.group, reading.position
        votes = int((group.answers == group.answers[i]).sum())
        facts = [f"chain {i + 1} of {group.n}"]
        facts.append("abstains" if group.answers[i] < 0 else f"{votes} of {group.n} chains give its answer")
        for name, scores in group.scores.items():
            if not measured.scorers[name] and not np.isnan(scores[i]):
                facts.append(f"{words.short_scorer(name)} score {scores[i]:.2f}")
        problem = problems[group.problem_id]
        correct = group.correct[i]
        found.append(
            Excerpt(
                rule=reading.rule,
                model=measured.labels[reading.model],
                question=problem.question,
                reference=str(problem.reference),
                text=chains[group.keys[i]].text,
                correct=None if np.isnan(correct) else bool(correct),
                facts=facts,
            )
        )
    return found


def provenance_rows(measured: Measured) -> Rows:
    columns = (
        "model",
        "id",
        "problems",
        "chains",
        "cut off",
        "no verdict",
        "sampling",
        "all training (FLOPs)",
    )
    rows = []
    for model, some in measured.groups.items():
        chains = sum(group.n for group in some)
        sampling = some[0].sampling
        settings = f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"
        settings += f", top-k {sampling.top_k}" if sampling.top_k else ""
        settings += f", up to {sampling.max_new_tokens} new tokens, seed {sampling.seed}"
        if measured.recorded.get(model):
            settings = "recorded elsewhere"
        training = measured.training[model]
        rows.append(
            (
                measured.labels[model],
                model,
                f"{len(some):,}",
                f"{chains:,}",
                f"{words.percent(sum(int(g.truncated.sum()) for g in some) / chains)}%",
                f"{sum(int(np.isnan(g.correct).sum()) for g in some):,}",
                settings,
                "not recorded" if training is None else words.si(training),
            )
        )
    return columns, rows


def verifier_rows(measured: Measured, pool: Pool) -> Rows:
    kinds = {True: "reads the reference (oracle)", False: "sees no reference: could be deployed"}
    known = pool.verifiers()
    rows = [
        (measured.oracle, kinds[known[measured.oracle]], "says what is right, and which answer a chain gives")
    ]
    rows += [
        (name, kinds[oracle], "scores that choose among chains") for name, oracle in measured.scorers.items()
    ]
    return ("verifier", "kind", "used for"), rows


def methods(measured: Measured) -> list[str]:
    return [
        "Every k comes from the same chains: pass@k, majority and best-of-n are exact averages over all subsets of "
        "k chains; weighted majority and majority of bests average over seeded shuffles.",
        "The unit of every interval is the problem. One rule for the table, the pictures and the files: Wilson's "
        f"where each problem is right or wrong as a whole, Student's t under {FEW_PROBLEMS} problems, else BCa "
        "bootstrap; bands: whole curves resampled (max-t). Comparisons are paired: Student's t over the differences "
        "of the problems; their p is a sign-flip permutation's, adjusted by Holm over all comparisons of this page; "
        "detectable: the difference found with 80% power.",
        "A chain that was cut off counts as wrong; one without a verdict is left out, so a problem may be missing "
        "at the largest k.",
        "FLOPs per problem: the prompt's prefill once, every chain's tokens, and the scoring of every chain where "
        "a verifier chooses. Training: what a model's training cost beyond the cheapest model's.",
    ]
