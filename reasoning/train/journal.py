"""What a run says of itself: RUN/metrics.jsonl, a row a step, and one readable line. Knows nothing of models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from reasoning.progress import human

SHOWN = (
    "reward",
    "loss",
    "rewards/accuracies",
    "rewards/margins",
    "entropy",
    "completions/mean_length",
    "grad_norm",
    "step_time",
)

NAMES = {
    "completions/mean_length": "length",
    "step_time": "seconds",
    "rewards/accuracies": "pairs right",
    "rewards/margins": "margin",
}


def keep_metrics(path: Path, upto: int) -> list[dict[str, Any]]:
    """Drop rows after step ``upto`` (they are computed again) and a torn last line; the kept rows."""
    rows = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(text)
                if row["step"] <= upto:
                    rows.append(row)
            except (ValueError, KeyError, TypeError):
                break  # a torn tail: the line was being written when the run was killed
        partial = path.with_name(".metrics.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(partial, path)
    return rows


def headline(row: dict[str, Any]) -> str:
    for name in ("eval/pass@1", "eval/rewards/accuracies", "reward", "loss"):
        if name in row:
            return f"{name} {row[name]:.3f}"
    return ""


def line(row: dict[str, Any], steps: int) -> str:
    """One readable line of a step."""
    parts = [f"step {row['step']:>{len(str(steps))}}/{steps}"]
    for name in SHOWN:
        if name in row:
            short = NAMES.get(name, name)
            parts.append(f"{short} {row[name]:.3g}")
    if "flops/update" in row:
        parts.append(f"{human(row['flops/update'] + row['flops/sample'])} FLOPs")
    if "eval/rewards/accuracies" in row:
        parts.append(f"| held-out pairs right {row['eval/rewards/accuracies']:.1%}")
    if "eval/pass@1" in row:
        parts.append(f"| held-out pass@1 {row['eval/pass@1']:.1%} ± {row['eval/pass@1_halfwidth']:.1%}")
        parts.append(next(f"{k[5:]} {v:.1%}" for k, v in row.items() if k.startswith("eval/maj@")))
    return "  ".join(parts)
