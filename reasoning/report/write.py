"""From a pool to files: curves.json, curves.csv, the pictures and report.html, all of one measurement.

Every file is a pure function of the pool's records, and appears under its name only when it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reasoning.comparisons import Comparison, Side, compare
from reasoning.curves import Curve, Measured, all_curves, curve_files, measure_pool
from reasoning.durable import cannot_write
from reasoning.iso_compute import IsoCompute, iso_compute
from reasoning.pool import Pool
from reasoning.report import words
from reasoning.report.findings import findings
from reasoning.report.page import Excerpt, Page, Picture, render
from reasoning.report.reading import worth_reading
from reasoning.report.table import Table, summary_table


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where everything was written, and what the terminal shows of it.

    pictures: file name without suffix -> its PNG. table, findings: for `to_rich` and for printing.
    """

    html: Path
    curves_json: Path
    curves_csv: Path
    pictures: Mapping[str, Path]
    table: Table
    findings: Sequence[str]


def write_report(
    run_folder: str | Path,
    pool: Pool,
    *,
    oracle: str,
    scorers: Sequence[str] = (),
    models: Sequence[str] | None = None,
    ks: Sequence[int] | None = None,
    title: str = "Accuracy against compute",
    seconds: Mapping[str, float] | None = None,
) -> ReportPaths:
    """Measure ``pool`` and write curves.json, curves.csv, curves.png/.svg, by_difficulty.png/.svg and
    iso_compute.png/.svg (where the pool can say) and report.html into ``run_folder``.

    oracle: verifier whose verdicts say what is right. scorers: verifiers whose scores choose. models, ks:
    None takes all. seconds: model -> wall-clock, shown in the returned table alone and in no file. Raises
    UserError for names and ks that the pool does not have, PoolError where a file cannot be written.
    """
    from reasoning.report.pictures import accuracy_against_compute, accuracy_by_difficulty
    from reasoning.report.pictures_iso import training_or_search
    from reasoning.report.style import image

    folder = Path(run_folder)
    measured = measure_pool(pool, oracle=oracle, scorers=scorers, models=models, ks=ks)
    curves = all_curves(measured)
    comparisons = compare(measured)
    iso = iso_compute(measured)
    sentences = findings(measured, comparisons, iso)
    drawn = {
        "curves": [accuracy_against_compute(curves, measured.labels, narrow) for narrow in (False, True)],
        "by_difficulty": [
            accuracy_by_difficulty(curves, measured.labels, narrow) for narrow in (False, True)
        ],
        "iso_compute": [
            training_or_search(iso, measured.labels, measured.models, narrow) if iso else None
            for narrow in (False, True)
        ],
    }
    files: dict[str, str | bytes] = dict(
        curve_files(curves, _analysis(measured, comparisons, iso, sentences))
    )
    pictures, shown = {}, []
    for name, (wide, narrow) in drawn.items():
        if wide is None or narrow is None:
            continue
        svg = image(wide, "svg")
        files[f"{name}.png"], files[f"{name}.svg"] = image(wide, "png"), svg
        pictures[name] = folder / f"{name}.png"
        heading, alt, caption = _words_for(name, measured, curves, iso)
        shown.append(Picture(heading, svg, image(narrow, "svg"), alt, caption))
    table = summary_table(measured, curves)
    files["report.html"] = render(
        Page(
            title=title,
            subtitle=_subtitle(measured),
            findings=sentences,
            table=table,
            pictures=shown,
            comparisons=_comparison_rows(measured, comparisons),
            break_even=_break_even_rows(measured, iso),
            excerpts=_excerpts(measured, pool),
            provenance=_provenance_rows(measured),
            verifiers=_verifier_rows(measured, pool),
            methods=_methods(measured),
        )
    )
    for name, content in files.items():
        _write(folder / name, content)
    # A picture of an earlier run over fewer records must not stay beside this report.
    for name in drawn.keys() - pictures.keys():
        for suffix in (".png", ".svg"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    return ReportPaths(
        html=folder / "report.html",
        curves_json=folder / "curves.json",
        curves_csv=folder / "curves.csv",
        pictures=pictures,
        table=summary_table(measured, curves, seconds=seconds) if seconds else table,
        findings=sentences,
    )


def _write(path: Path, content: str | bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    except OSError as e:
        with suppress(OSError):  # what stands in the way of writing may stand in the way of tidying up
            partial.unlink(missing_ok=True)
        raise cannot_write(path, e) from None


def _analysis(
    measured: Measured, comparisons: Sequence[Comparison], iso: IsoCompute | None, sentences: Sequence[str]
) -> dict[str, object]:
    """What curves.json holds beside the curves."""
    chosen = None
    if iso is not None:
        chosen = {
            "base": iso.base,
            "headline": iso.headline,
            "by_accuracy": iso.by_accuracy,
            "frontiers": {f"{queries:.0f}": points for queries, points in iso.frontiers.items()},
        }
    return {
        "models": list(measured.models),
        "labels": measured.labels,
        "training_flops": measured.training,
        "oracle": measured.oracle,
        "scorers": measured.scorers,
        "ks": measured.ks,
        "comparisons": comparisons,
        "iso_compute": chosen,
        "findings": sentences,
    }


# --- words and rows for the page ----------------------------------------------------------------------------


def _subtitle(measured: Measured) -> str:
    problems = len({g.problem_id for some in measured.groups.values() for g in some})
    names = ", ".join(measured.labels[model] for model in measured.models)
    return f"{problems:,} problems, up to {max(measured.ks)} chains each, from: {names}."


def _words_for(
    name: str, measured: Measured, curves: Sequence[Curve], iso: IsoCompute | None
) -> tuple[str, str, str]:
    """(heading, alternative text, caption) of a picture, with its figures."""
    if name == "curves":
        k = max(measured.ks)
        ends = [
            f"{measured.labels[model]}: one chain {words.percent(_accuracy(curves, model, 'pass', 1))}%, majority "
            f"of {k} {words.percent(_accuracy(curves, model, 'majority', k))}%, oracle ceiling "
            f"{words.percent(_accuracy(curves, model, 'pass', k))}%"
            for model in measured.models
        ]
        return (
            "What more chains buy",
            "Accuracy rises with compute. " + "; ".join(ends) + ".",
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
            lines.append(f"{label} pays for itself from {words.queries(b.queries)} queries on")
        else:
            lines.append(f"{label} never becomes cheaper")
    target = words.percent(iso.headline[0].accuracy)
    return (
        "Train more or search more?",
        f"To answer with {target}% accuracy: {'; '.join(lines)}.",
        f"First panel: total FLOPs per query for {target}% accuracy (one point below the best that searching "
        f"{measured.labels[iso.base]} reaches), training spread over the queries it serves: {'; '.join(lines)}. "
        "Second panel: find your number of queries and what you can spend on each; the colour says where the spend "
        "reaches most, the lines how far. Strategies that read the reference are left out.",
    )


def _accuracy(curves: Sequence[Curve], model: str, strategy: str, k: int) -> float:
    for c in curves:
        if c.model == model and c.strategy == strategy and c.difficulty is None and (point := c.at(k)):
            return point.accuracy
    return float("nan")


def _side(measured: Measured, side: Side) -> str:
    name = words.strategy(side.strategy, side.scorer)
    if side.strategy == "pass" and side.k == 1:
        name = "one chain"
    at = "" if side.k is None or side.k == 1 else f" of {side.k}"
    return f"{measured.labels[side.model]}, {name}{at}"


def _comparison_rows(
    measured: Measured, comparisons: Sequence[Comparison]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    columns = ("A", "B", "at equal", "A - B (points)", "95% interval", "p (Holm)", "detectable", "problems")
    rows = [
        (
            _side(measured, c.a),
            _side(measured, c.b),
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


def _break_even_rows(
    measured: Measured, iso: IsoCompute | None
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    columns = ("model", "accuracy", "base search", "its own search", "training", "break-even queries")
    if iso is None:
        return columns, []
    rows = []
    tens = [b for b in iso.by_accuracy if round(100 * b.accuracy) % 10 == 0]
    for b in (*iso.headline, *tens):
        interval = "" if np.isnan(b.low) else f" ({words.queries(b.low)} to {words.queries(b.high)})"
        verdict = {
            "break_even": words.queries(b.queries) + interval,
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


def _excerpts(measured: Measured, pool: Pool) -> list[Excerpt]:
    readings = worth_reading(measured)
    wanted = {reading.group.problem_id for reading in readings}
    chains = {chain.key: chain for chain in pool.chains(problem_ids=wanted)}
    problems = pool.problems()
    excerpts = []
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
        excerpts.append(
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
    return excerpts


def _provenance_rows(measured: Measured) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
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


def _verifier_rows(measured: Measured, pool: Pool) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    kinds = {True: "reads the reference (oracle)", False: "sees no reference: could be deployed"}
    known = pool.verifiers()
    rows = [
        (measured.oracle, kinds[known[measured.oracle]], "says what is right, and which answer a chain gives")
    ]
    rows += [
        (name, kinds[oracle], "scores that choose among chains") for name, oracle in measured.scorers.items()
    ]
    return ("verifier", "kind", "used for"), rows


def _methods(measured: Measured) -> list[str]:
    return [
        "Every k comes from the same chains: pass@k, majority and best-of-n are exact averages over all subsets of "
        "k chains; weighted majority and majority of bests average over seeded shuffles.",
        "The unit of every interval is the problem. Greedy: Wilson; k = 1: Student's t; other k: BCa bootstrap; "
        "bands: whole curves resampled (max-t). Comparisons are paired; their p is a sign-flip permutation's, "
        "adjusted by Holm over all comparisons of this page; detectable: the difference found with 80% power.",
        "A chain that was cut off counts as wrong; one without a verdict is left out, so a problem may be missing "
        "at the largest k.",
        "FLOPs per problem: the prompt's prefill once, every chain's tokens, and the scoring of every chain where "
        "a verifier chooses. Training: what a model's training cost beyond the cheapest model's.",
    ]
