"""The demo on several seeds: what each row of its table comes to, as Markdown. A demo that is there is not run again.

python -m evals.demo_seeds --seeds 1 2 3 --out runs/seeds
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COLUMNS = (
    ("greedy", 1),
    ("pass@1", 1),
    ("majority", 16),
    ("best_of_n", 16),
    ("oracle", 16),
    ("majority", 64),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    arguments = parser.parse_args()
    titles = [f"{name.replace('_', '-')}{f' of {k}' if k > 1 else ''}" for name, k in COLUMNS]
    rows = []
    for seed in arguments.seeds:
        run = arguments.out / f"seed-{seed}"
        seconds = run_demo(run, seed)
        rows += table_rows(seed, json.loads((run / "curves.json").read_text()), learned(run), seconds)
    print("| seed | model | " + " | ".join(titles) + " | break-even queries | verifier AUC | minutes |")
    print("|---|---|" + "---:|" * (len(titles) + 3))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return 0


def run_demo(run: Path, seed: int) -> float | None:
    """Seconds that the demo took, None when it was finished already."""
    if (run / "curves.json").is_file():
        return None
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "reasoning", "demo", str(run), "--seed", str(seed)], check=True)
    return time.monotonic() - started


def learned(run: Path) -> str:
    """ "0.93 (features; finetuned 0.69)"."""
    measured = json.loads((run / "verifier" / "verifier.json").read_text())["measured"]
    others = [f"{k} {v['auc']:.2f}" for k, v in measured["compared"].items() if k != measured["kept"]]
    return f"{measured['compared'][measured['kept']]['auc']:.2f} ({measured['kept']}; {', '.join(others)})"


def table_rows(seed: int, content: dict[str, Any], auc: str, seconds: float | None) -> list[list[str]]:
    points = {
        (c["model"], c["strategy"], p["k"]): p
        for c in content["curves"]
        if c["difficulty"] is None
        for p in c["points"]
    }
    even = break_evens(content["findings"])
    rows = []
    for model in content["models"]:
        label = content["labels"][model]
        cells = []
        for name, k in COLUMNS:
            point = points[model, {"pass@1": "pass", "oracle": "pass"}.get(name, name), k]
            cells.append(f"{100 * point['accuracy']:.1f} ±{50 * (point['high'] - point['low']):.1f}")
        first = model == content["models"][0]
        minutes = f"{seconds / 60:.1f}" if seconds and first else ""
        rows.append(
            [str(seed) if first else "", label, *cells, even.get(label, ""), auc if first else "", minutes]
        )
    return rows


def break_evens(findings: list[str]) -> dict[str, str]:
    """Model -> break-even with its interval, from the report's sentences."""
    pattern = (
        r"Training (.+?) pays for itself from (?:about |the )?(.+?)(?: quer\w+)? on \(95% interval ([^)]+)\)"
    )
    found = (re.search(pattern, sentence) for sentence in findings)
    return {m[1]: f"{m[2]} ({m[3]})" for m in found if m}


if __name__ == "__main__":
    raise SystemExit(main())
