"""From a pool to files: curves.json, curves.csv, the pictures and report.html, all of one measurement.

Every file is a pure function of the pool's records, and appears under its name only when it is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasoning.comparisons import Comparison, compare
from reasoning.curves import Measured, all_curves, curve_files, measure_pool
from reasoning.iso_compute import IsoCompute, iso_compute
from reasoning.pool import Pool
from reasoning.report import contents
from reasoning.report.files import write_whole
from reasoning.report.findings import findings
from reasoning.report.page import Page, Picture, render
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
        heading, alt, caption = contents.picture_words(name, measured, curves, iso)
        shown.append(Picture(heading, svg, image(narrow, "svg"), alt, caption))
    table = summary_table(measured, curves)
    files["report.html"] = render(
        Page(
            title=title,
            subtitle=contents.subtitle(measured),
            findings=sentences,
            table=table,
            pictures=shown,
            comparisons=contents.comparison_rows(measured, comparisons),
            break_even=contents.break_even_rows(measured, iso),
            excerpts=contents.excerpts(measured, pool),
            provenance=contents.provenance_rows(measured),
            verifiers=contents.verifier_rows(measured, pool),
            methods=contents.methods(measured),
        )
    )
    for name, content in files.items():
        write_whole(folder / name, content)
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
