"""The demo from end to end at a small size: it resumes after SIGKILL in any step, and ends with the same bytes."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasoning.cli import main, parse
from reasoning.cli.demo import DemoOptions, read_steps

HERE = Path(__file__).resolve().parent
KILLS = ("base", "expert_iteration", "grpo", "sample", "verify")
"""Where the runs die, one after the other."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    shutil.copy(HERE / "small_demo.toml", folder)
    (folder / "reward.py").write_text("def even(response, **_):\n    return float(len(response) % 2 == 0)\n")
    return folder


def start(home):
    command = [sys.executable, "-m", "reasoning", "demo", "runs/demo", "--recipe", "small_demo.toml"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(
        command, cwd=home, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def finish(home):
    process = start(home)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def killed(home, where, delay):
    """Run until the step whose command holds ``where`` has been going on for ``delay`` seconds, then SIGKILL."""
    process = start(home)
    assert process.stderr is not None
    for text in process.stderr:
        if re.match(rf"\$ reasoning (train \S+/{where}|{where}) ", text):
            break
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode


@pytest.mark.slow
def test_a_demo_killed_five_times_ends_with_the_same_bytes(home):
    out, _ = finish(home)
    assert all(f"runs/demo/{name}/model" in out for name in ("base", "expert_iteration", "grpo"))
    one = home / "runs" / "demo"
    first = {name: (one / name).read_bytes() for name in ("curves.json", "curves.csv")}
    assert json.loads(first["curves.json"])["curves"]

    finish(home)  # again, on the finished pools
    assert {name: (one / name).read_bytes() for name in first} == first

    shutil.move(one, home / "undisturbed")
    rng = random.Random(7)
    statuses = [killed(home, where, rng.uniform(0.05, 0.6)) for where in KILLS]
    assert statuses == [-signal.SIGKILL] * len(KILLS)
    _, err = finish(home)
    assert {name: (one / name).read_bytes() for name in first} == first
    assert "Run it again" in err


def test_every_command_of_the_demo_is_a_command_of_its_own():
    steps = read_steps(DemoOptions())
    assert len([s for s in steps if s.title]) >= 6
    for step in steps:
        options, _ = parse(step.command[0], step.command[1:])
        assert "{" not in " ".join(step.command)
        assert options


def test_show_prints_commands_that_a_shell_takes(capsys):
    assert main(["demo", "runs/x", "--show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "reasoning curve runs/x" in lines
    assert all(line.startswith(("#", "reasoning ")) for line in lines)
