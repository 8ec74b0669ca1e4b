"""What every training objective teaches the demo-size model at equal compute, on five tasks and several seeds.

  python -m evals.learning --workers 2                     the whole; run it again to go on where it stopped
  python -m evals.learning --table                         the table of what is there, as Markdown
  python -m evals.learning --tasks word --presets grpo dpo --seeds 0 --split dev
  python -m evals.learning --workers 16 --seconds 420 --archive learning.tar.gz

A cold start is made once for a task and seed and shared by all presets. Each finished run leaves one small file in
OUT/results (which is all that ``--archive`` packs, and unpacked into OUT all that ``--table`` reads); a run that was
killed goes on from its last leg. Tasks of reasoning-gym need the extra "gym".
"""

from __future__ import annotations

import argparse
import tarfile
import time
from pathlib import Path

from evals.learning.settings import PRESETS, TASKS
from evals.learning.table import markdown, read
from evals.learning.workers import Job, Workers, cold, preset


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evals.learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "dev"), default="test", help="dev: to choose settings")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--workers", type=int, default=1, help="runs side by side, a thread each")
    parser.add_argument("--seconds", type=float, help="begin no further run after so many seconds")
    parser.add_argument("--archive", type=Path, help="pack the results into this .tar.gz at the end")
    parser.add_argument(
        "--table", action="store_true", help="only print the table of the results that are there"
    )
    arguments = parser.parse_args()
    out = arguments.out / arguments.split
    failed = 0
    if not arguments.table:
        failed = _run_all(arguments, out)
    print(markdown(read(out / "results", arguments.tasks, arguments.presets, arguments.seeds)))
    if arguments.archive:
        with tarfile.open(arguments.archive, "w:gz") as archive:
            for path in sorted((out / "results").glob("*.json")):
                archive.add(path, f"{arguments.split}/results/{path.name}")
    return 1 if failed else 0


def _run_all(arguments: argparse.Namespace, out: Path) -> int:
    """How many runs failed; a failure is printed and leaves the others alone."""
    ends = time.monotonic() + arguments.seconds if arguments.seconds else float("inf")
    jobs: list[Job] = []
    for seed in arguments.seeds:  # whole seeds one after the other, so that a table of some is a table
        cold_starts = {t: f"{t} {seed}: cold start" for t in arguments.tasks}
        jobs += [Job(name, cold, (out, t, seed, arguments.split)) for t, name in cold_starts.items()]
        jobs += [
            Job(f"{t} {seed}: {p}", preset, (out, t, p, seed, arguments.split), after=name)
            for t, name in cold_starts.items()
            for p in arguments.presets
        ]
    with Workers(arguments.workers) as workers:
        return workers.do(jobs, ends)


if __name__ == "__main__":
    raise SystemExit(main())
