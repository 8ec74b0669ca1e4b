"""Fit a learned outcome verifier on chains of the training split that another verifier has judged.

  reasoning fit runs/verifier --model runs/base/model --pool runs/grpo --pool runs/expert_iteration \\
      --task word:train:n=4096

It never sees a reference when it judges, so best-of-n and weighted majority by it can be deployed.
"""

from __future__ import annotations

from pathlib import Path

from reasoning.cli.purse import look_at_ledger
from reasoning.cli.show import note
from reasoning.progress import Line
from reasoning.train.reward import FitOptions, fit

__all__ = ["FitOptions", "run"]


def run(options: FitOptions) -> int:
    line = Line("fit")
    look_at_ledger(Path(options.run))
    measured = fit(options, line, log=line.say)
    line.close()
    kept = measured["compared"][measured["kept"]]
    others = [f"{k} {v['auc']:.3f}" for k, v in measured["compared"].items() if k != measured["kept"]]
    against = f" (against {', '.join(others)})" if others else ""
    print(
        f"{options.run}  kept {measured['kept']}: AUC {kept['auc']:.3f}{against}, "
        f"calibration error {kept['ece']:.3f} on {measured['held_out']} chains of held-out problems"
    )
    note(f"Next:  reasoning verify RUN --verifier learned:{options.run}")
    return 0
