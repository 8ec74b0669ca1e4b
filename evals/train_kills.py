"""Kill `reasoning train` at random moments, again and again; does it end where the undisturbed run ends?

    python -m evals.train_kills [--kills 20] [--seed 0] [--only grpo]

For each setting a run is killed (SIGKILL) at a random moment, or some milliseconds into a phase, started again by the
same command, killed again, ... until it comes to its end; then a new one begins, until there were so many kills.
Every finished run is compared with one that was never killed: the weights of RUN/model and RUN/best byte for byte,
every chain and verdict in the pool, and every figure of every step but those of time. One process, one thread, on a
CPU. Also prints what the kills hit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from reasoning.cli import main as reasoning
from reasoning.pool import Pool
from reasoning.train import loop
from reasoning.train.journal import TIMES
from reasoning.train.rollouts import ModelSource

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["evals.train_kills"])

MODEL = "new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48,words=160"
REWARD = "def spread(response, **_):\n    return len(response) % 7 / 6\n"  # seldom equal within a group
BASE = "--objective sft --task word:train --steps 12 --problems-per-step 8 --lr 5e-3"
COMMON = (
    "--task word:train:n=24 --eval-task word:dev:n=4 --steps 6 --problems-per-step 4 --chains-per-problem 4 "
)
COMMON += "--max-new-tokens 24 --eval-every 2 --eval-chains 2 --checkpoint-every 1 --minibatch 8 --lr 3e-3"
SETTINGS = {
    "grpo": "--objective grpo",
    "expert_iteration": "--objective expert_iteration",
    "asynchronous": "--objective grpo --asynchronous --max-staleness 1",
    "ppo": "--objective ppo",
    "adapter": "--objective grpo --lora-rank 4",
}
PHASES: list[tuple[str, Any, str]] = [
    ("drawing", ModelSource, "draw"),
    ("learning", loop, "update"),
    ("evaluating", loop, "evaluate"),
    ("writing a checkpoint", loop, "save_checkpoint"),
    ("writing a model", loop, "save_trained"),
    ("writing figures", loop.Journal, "write"),
]
TARGETS = ["", "", *(what for what, _, _ in PHASES)]
"""When to kill: at any moment, or in a phase, so that short ones are hit too."""


def quietly(arguments: list[str]) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    torch.set_num_threads(1)
    if code := reasoning(arguments):
        raise SystemExit(code)


def cold_start(folder: Path) -> None:
    quietly(["train", str(folder / "base"), "--model", MODEL, *BASE.split()])


def work(folder: Path, run: str, setting: str, said: Connection | None = None) -> None:
    """One `reasoning train`. said: hears which phase begins, and "" when it ends."""
    if said is not None:
        for what, owner, name in PHASES:
            setattr(owner, name, _telling(getattr(owner, name), what, said))
    arguments = ["train", str(folder / run), "--model", str(folder / "base" / "model")]
    quietly(
        [*arguments, "--verifier", f"{folder}/reward.py:spread", *f"{COMMON} {SETTINGS[setting]}".split()]
    )


def _telling(call: Callable[..., Any], what: str, said: Connection) -> Callable[..., Any]:
    def told(*args: Any, **kwargs: Any) -> Any:
        said.send(what)
        try:
            return call(*args, **kwargs)
        finally:
            said.send("")

    return told


def heard(hear: Connection) -> Iterator[str]:
    with contextlib.suppress(EOFError):
        while True:
            yield hear.recv()


def contents(run: Path) -> dict[str, Any]:
    """All that must be the same."""
    found: dict[str, Any] = {}
    for path in sorted(run.glob("*/**/*.safetensors")):
        found[str(path.relative_to(run))] = path.read_bytes()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
    with Pool.open(run, read_only=True) as pool:
        found["chains"] = {
            c.key: (c.token_ids, c.text, c.logprobs, c.finish_reason, c.model) for c in pool.chains()
        }
        found["verdicts"] = {name: pool.verdicts(name) for name in sorted(pool.verifiers())}
    found["read"] = (run / "samples.jsonl").read_text()
    return found


def kill_again_and_again(folder: Path, setting: str, kills: int, seed: int) -> tuple[Counter[str], int]:
    """(what the kills hit, runs that were compared). Raises AssertionError for a run that ends elsewhere."""
    since = time.monotonic()
    alone = PROCESSES.Process(target=work, args=(folder, f"{setting}-alone", setting))
    alone.start()
    alone.join()
    assert alone.exitcode == 0, f"the undisturbed run failed ({alone.exitcode})"
    seconds = time.monotonic() - since
    expected = contents(folder / f"{setting}-alone")
    rng = random.Random(seed)
    met: Counter[str] = Counter()
    runs, done = 0, False
    while met.total() < kills or not done:
        hear, say = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=work, args=(folder, f"{setting}-{runs}", setting, say))
        process.start()
        since = time.monotonic()
        say.close()
        done = met.total() >= kills  # the last run is left alone
        phase, target = "before the first step", "" if done else rng.choice(TARGETS)
        if target:  # into that phase, and some milliseconds on
            for word in heard(hear):
                phase = word or "between two phases"
                if word == target:
                    time.sleep(rng.uniform(0.0, 0.03))
                    break
        else:
            process.join(None if done else rng.uniform(0.0, seconds))
        process.kill()
        process.join()
        for word in heard(hear):
            phase = word or "between two phases"
        hear.close()
        if process.exitcode == 0:
            found = contents(folder / f"{setting}-{runs}")
            differ = [
                name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
            ]
            assert not differ, f"{setting}, run {runs}: {', '.join(differ)} differ from the undisturbed run"
            runs, seconds = runs + 1, time.monotonic() - since
        else:
            assert process.exitcode == -signal.SIGKILL, f"the run failed ({process.exitcode})"
            met[phase] += 1
    return met, runs


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill training at random moments.")
    parser.add_argument("--kills", type=int, default=20, help="for each setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", choices=["", *SETTINGS])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "reward.py").write_text(REWARD)
        cold = PROCESSES.Process(target=cold_start, args=(folder,))
        cold.start()
        cold.join()
        for setting in [options.only] if options.only else SETTINGS:
            start = time.monotonic()
            met, runs = kill_again_and_again(folder, setting, options.kills, options.seed)
            print(
                f"{setting}: {met.total()} kills in {time.monotonic() - start:.0f} s; {runs} runs equal the "
                f"undisturbed one ({', '.join(f'{what} {count}' for what, count in met.most_common())})",
                flush=True,
            )


if __name__ == "__main__":
    main()
