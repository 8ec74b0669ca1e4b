"""What a run says of itself: RUN/metrics.jsonl, a row a step, RUN/samples.jsonl, chains to read of each evaluation,
and one readable line. What follows from its rows (the best evaluation, whether to stop) is a function of them, so a
resumed run comes to the same. Knows nothing of models.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoning.progress import human, with_interval
from reasoning.train.trackers import Tracker
from reasoning.train.writing import writing

BY = ("eval/pass@1", "eval/rewards/accuracies")
"""What the best evaluation is chosen by: the first of these that there is."""

TIMES = frozenset(
    {"step_time", "sample_seconds", "verifier_seconds", "update_seconds", "tokens_per_second", "mfu"}
)
"""Figures of time: all others are the same whenever a step is computed again."""

SOLVED_STEPS = 10
"""After so many steps in a row (or one pass over the problems) in which every chain was right, nothing is left."""

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


class Journal:
    """Rows so far, on the disk and in memory. upto: the step that the run goes on from; rows after it are computed
    again and dropped. writes: False for a process beside the one that writes."""

    def __init__(
        self,
        run: Path,
        upto: int,
        steps: int,
        every: int,
        say: Callable[[str], None],
        trackers: Sequence[Tracker] = (),
        writes: bool = True,
    ):
        self.metrics, self.samples = run / "metrics.jsonl", run / "samples.jsonl"
        self.writes = writes
        if writes:
            self.rows = keep_rows(self.metrics, upto)
            keep_rows(self.samples, upto)
        else:
            self.rows = [row for row in read_rows(self.metrics) if row["step"] <= upto]
        self.steps, self.every, self.say, self.trackers = steps, every, say, trackers
        if lost := gaps(self.rows, upto):
            say(
                f"{self.metrics} lacks the rows of {len(lost)} of the {upto} steps done, from step {lost[0]} on "
                "(lost or damaged): evaluations among them count for neither --patience nor the best."
            )

    def write(self, row: dict[str, Any], read: Iterable[dict[str, Any]] = ()) -> None:
        """A step's row, figures that are no numbers left out; and the chains to read that came with it."""
        row = {k: v for k, v in row.items() if not (isinstance(v, float) and not math.isfinite(v))}
        step = row["step"]
        self.rows.append(row)
        if not self.writes:
            return
        _append(self.samples, [{"step": step, **chain} for chain in read])
        _append(self.metrics, [row])
        for tracker in self.trackers:
            tracker.log(step, {name: value for name, value in row.items() if name != "step"})
        every = self.every or max(1, self.steps // 25)
        if step % every == 0 or step == self.steps or "eval/pass@1" in row:
            self.say(line(row, self.steps))

    @property
    def evaluated(self) -> list[tuple[int, float]]:
        """(step, figure) of each evaluation."""
        name = next((n for n in BY if any(n in row for row in self.rows)), None)
        return [(row["step"], row[name]) for row in self.rows if name in row]

    @property
    def best(self) -> tuple[int, float] | None:
        """The first of the best evaluations: of equal ones the later has learned nothing that shows."""
        return max(self.evaluated, key=lambda found: (found[1], -found[0]), default=None)

    @property
    def without_gain(self) -> int:
        """Evaluations since the best one."""
        best = self.best
        return 0 if best is None else sum(step > best[0] for step, _ in self.evaluated)

    def solved(self, steps_per_pass: int) -> bool:
        """Whether every chain of the last steps was right."""
        wanted = min(SOLVED_STEPS, max(steps_per_pass, 3))
        last = [row.get("frac_reward_zero_std/all_right", 0.0) for row in self.rows[-wanted:]]
        return len(last) == wanted and min(last) == 1.0


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


def keep_rows(path: Path, upto: int) -> list[dict[str, Any]]:
    """Drop rows after step ``upto`` (they are computed again) and a torn last line; the kept rows."""
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= upto]
    if path.is_file():
        partial = path.with_name(f".{path.name}.partial")
        with writing(path):
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            os.replace(partial, path)
    return kept


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows with a step; [] where there is no file."""
    rows = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(text)
                row["step"] = int(row["step"])
            except (ValueError, KeyError, TypeError, OverflowError):
                continue  # a torn tail (the line was being written when the run was killed), or a damaged line
            rows.append(row)
    return rows


def gaps(rows: Sequence[Mapping[str, Any]], upto: int) -> list[int]:
    """The steps from 1 to ``upto`` that have no row."""
    return sorted(set(range(1, upto + 1)) - {row["step"] for row in rows})


def headline(row: dict[str, Any]) -> str:
    for name in (*BY, "reward", "loss"):
        if name in row:
            return f"{name} {row[name]:.3f}"
    return ""


def line(row: dict[str, Any], steps: int) -> str:
    """One readable line of a step."""
    parts = [f"step {row['step']:>{len(str(steps))}}/{steps}"]
    parts += [f"{NAMES.get(name, name)} {row[name]:.3g}" for name in SHOWN if name in row]
    if "flops/update" in row:
        parts.append(f"{human(row['flops/update'] + row['flops/sample'])} FLOPs")
    if "mfu" in row:
        parts.append(f"MFU {row['mfu']:.1%}")
    if "eval/rewards/accuracies" in row:
        parts.append(f"| held-out pairs right {row['eval/rewards/accuracies']:.1%}")
    if "eval/pass@1" in row:
        ends = (row.get(f"eval/pass@1{end}", math.nan) for end in ("_low", "_high"))
        parts.append(f"| held-out pass@1 {with_interval(row['eval/pass@1'], *ends)}")
        majority = [k for k in row if k.startswith("eval/maj@") and k.removeprefix("eval/maj@").isdigit()]
        parts += [f"{k[5:]} {row[k]:.1%}" for k in majority]
    return "  ".join(parts)
