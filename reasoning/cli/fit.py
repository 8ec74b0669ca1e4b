"""Fit a learned verifier on chains of the training split that another verifier has judged, or on comparisons.

  reasoning fit runs/verifier --model runs/base/model --pool runs/grpo --pool runs/expert_iteration \\
      --task word:train:n=4096
  reasoning fit runs/preferred --kind preference --model FOLDER_OR_HUB_ID --preferences pairs.jsonl
  reasoning fit runs/steps --kind process --steps sentence --model runs/base/model --pool runs/grpo \\
      --task word:train:n=4096 --rollouts 8

It never sees a reference when it judges, so best-of-n and weighted majority by it can be deployed; training takes it
as a reward by --verifier learned:FOLDER.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasoning.cli.purse import look_at_ledger
from reasoning.cli.show import note
from reasoning.progress import Line
from reasoning.train.parting import ENOUGH
from reasoning.train.reward import FitOptions, fit

__all__ = ["FitOptions", "run"]


def run(options: FitOptions) -> int:
    line = Line("fit")
    look_at_ledger(Path(options.run))
    with line:
        measured = fit(options, line, log=line.say)
    kept = measured["compared"][measured["kept"]]
    others = [f"{k} {v['auc']:.3f}" for k, v in measured["compared"].items() if k != measured["kept"]]
    against = f" (against {', '.join(others)})" if others else ""
    pairs = f"pairs told apart {kept['pair_accuracy']:.1%}, " if "pair_accuracy" in kept else ""
    what = "pairs" if pairs else "chains"
    share = "" if pairs else f", {kept['base_rate']:.1%} of them right"
    print(
        f"{options.run}  kept {measured['kept']}: {pairs}AUC {kept['auc']:.3f}{against}, "
        f"calibration error {kept['ece']:.3f} on {measured['held_out']} {what} of held-out problems{share}"
    )
    if (problems := measured.get("held_out_problems", ENOUGH)) < ENOUGH:
        note(
            f"Only {problems} problems were held out: these figures are rough, and so is the scaling to "
            "probabilities. More problems make them firm."
        )
    for text in tables(measured):
        print(text)
    note(f"Next:  reasoning verify RUN --verifier learned:{options.run}")
    return 0


def tables(measured: dict[str, Any]) -> list[str]:
    """Figures by length and by step, a line for each."""
    named = [("{}-{} tokens".format(*row["tokens"]), row) for row in measured.get("by_length", [])]
    if "steps" in measured:
        named.append(("all steps", measured["steps"]))
    named += [(f"step {row['step']}", row) for row in measured.get("by_step", [])]
    return [f"  {name:<18}{_figures(row)}" for name, row in named]


def _figures(row: dict[str, Any]) -> str:
    ranked = "AUC    - " if row["auc"] is None else f"AUC {row['auc']:.3f}"
    count = f"  of {row['count']}" if "count" in row else ""
    rate = f" (right are {row['base_rate']:.1%})" if "base_rate" in row else ""
    return f"{ranked}  accuracy {row['accuracy']:.1%}{rate}  calibration error {row['ece']:.3f}{count}"
