"""How the scripts in evals/ are run."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_script_run_by_its_path_says_how_to_run_it():
    command = [sys.executable, "evals/bench_pool.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("from the repository's root:  python -m evals.bench_pool")
    assert "Traceback" not in done.stderr


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "evals.bench_pool", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: bench_pool.py")
