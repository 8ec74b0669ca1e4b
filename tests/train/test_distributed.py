"""Two processes train as one does: data parallel and cut among them, and resume to the bit.

Not the same bits as one process: sums of float32 numbers depend on their order, and two ranks add up their rows
apart. What is near 0 in a gradient is nothing but such rounding, and AdamW divides it by its own size.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import rank
import small_runs
import torch
from safetensors.torch import load_file

from reasoning.errors import UserError
from reasoning.train.distributed import ALONE, Ranks, read_environment

ROOT = Path(__file__).resolve().parent.parent.parent
DDP = ("whole", "kl", "corrected", "critic", "adapter", "muon", "bfloat16")
FSDP = ("whole", "kl", "corrected", "critic", "adapter", "recomputed", "mixed")
EVERY = [f"{name}:ddp" for name in DDP] + [f"{name}:fsdp" for name in FSDP]


def start(arguments, ranks, folder, **changes):
    """``ranks`` processes as torchrun starts them; their last words and exit statuses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = []
    for r in range(ranks):
        told = {
            "RANK": r,
            "LOCAL_RANK": r,
            "WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = os.environ | {k: str(v) for k, v in told.items()} | changes
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
        with (folder / f"out{r}").open("w") as out:
            running.append(
                subprocess.Popen(
                    [sys.executable, *arguments], env=environment, stdout=out, stderr=out, cwd=ROOT
                )
            )
    try:
        codes = [process.wait(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    return codes, [(folder / f"out{r}").read_text() for r in range(ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes made of every case; torch counts no threads here."""
    made = tmp_path_factory.mktemp("ranks")
    codes, said = start([str(Path(rank.__file__)), str(made), ",".join(EVERY)], 2, made)
    assert codes == [0, 0], said[0][-3000:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield made
    torch.set_num_threads(threads)


def ended(folder, label):
    return load_file(folder / f"{label}.safetensors"), json.loads((folder / f"{label}.json").read_text())


@pytest.mark.parametrize("case", EVERY)
def test_two_ranks_train_as_one_process(folder, case):
    name, _, kind = case.partition(":")
    if not (folder / f"{name}-ddp-1-0.json").is_file():
        rank.run(folder, name, ALONE, False)
    one, alone = ended(folder, f"{name}-ddp-1-0")
    first, told = ended(folder, f"{name}-{kind}-2-0")
    second, also = ended(folder, f"{name}-{kind}-2-1")
    assert first.keys() == one.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert alone["resumed"]
    assert told["resumed"]
    assert also["resumed"]
    rough = name in ("mixed", "bfloat16", "muon")  # products in bfloat16: Muon orthogonalises in it
    gap = sum(float((one[n].float() - first[n].float()).square().sum()) for n in one) ** 0.5
    size = sum(float(one[n].float().square().sum()) for n in one) ** 0.5
    assert gap / size < (2e-2 if rough else 1e-5)
    for mine, theirs in zip(alone["metrics"], told["metrics"], strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine.keys() - {"padding_fraction"}:  # rows are padded to others' lengths
            assert theirs[key] == pytest.approx(
                mine[key], rel=0.2 if rough else 1e-4, abs=1e-2 if rough else 1e-5
            )


@pytest.mark.parametrize(
    ("ranks", "said"),
    [({}, "after\natexit\ndown\n"), ({"RANK": "1", "WORLD_SIZE": "2"}, "atexit\n")],
)
def test_a_rank_ends_without_taking_python_down(ranks, said):
    """What is registered with atexit runs all the same, and what was printed arrives."""
    code = (
        "import atexit, sys\n"
        "class Last:\n"
        "    def __del__(self, write=sys.stdout.write): write('down\\n')\n"
        "last = Last()\n"
        "atexit.register(lambda: print('atexit'))\n"
        "sys.argv = ['reasoning', '--version']\n"
        "from reasoning.cli import main\n"
        "status = main()\n"
        "print('after')\n"
        "sys.exit(status)\n"
    )
    alone = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=alone | ranks, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    version, *rest = ran.stdout.splitlines(keepends=True)
    assert version.startswith("reasoning ")
    assert "".join(rest) == said


def test_ranks_as_torchrun_tells_them():
    told = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    assert read_environment(told) == (Ranks(1, 4), 1)
    assert read_environment({"MASTER_ADDR": "h"}) == (ALONE, 0)
    for name in told:
        with pytest.raises(UserError, match=f"half set .*not {name}"):
            read_environment({k: v for k, v in told.items() if k != name})
    for wrong in ({"RANK": "4"}, {"WORLD_SIZE": "two"}, {"LOCAL_RANK": "-1"}):
        with pytest.raises(UserError, match="not a rank"):
            read_environment(told | wrong)


SMALL = "new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48,words=160"
KILL = "import os, sys; sys.argv[0] = 'reasoning'\nfrom reasoning.train import loop\nplain = loop._Run._checkpoint\n"
KILL += "def die(self, done):\n    plain(self, done)\n    self.ranks.wait()\n    os._exit(9)\n"
KILL += "loop._Run._checkpoint = die\nfrom reasoning.cli import main\nsys.exit(main())"


def test_a_run_of_two_processes_is_killed_and_goes_on_to_the_same_bits(tmp_path):
    """By the command line; every chain is drawn once, by one of the two."""
    (tmp_path / "even.py").write_text("def even(response, **_):\n    return float(len(response) % 2 == 0)\n")
    base = ["train", str(tmp_path / "base"), "--objective", "sft", "--model", SMALL, "--task", "word:train"]
    base += ["--steps", "4", "--problems-per-step", "8", "--lr", "5e-3"]
    assert subprocess.run([sys.executable, "-m", "reasoning", *base], cwd=ROOT, check=False).returncode == 0
    flags = ["--objective", "grpo", "--model", str(tmp_path / "base" / "model"), "--task", "word:train:n=16"]
    flags += ["--verifier", f"{tmp_path}/even.py:even", "--steps", "3", "--problems-per-step", "4"]
    flags += ["--chains-per-problem", "3", "--lr", "1e-2", "--max-new-tokens", "8", "--checkpoint-every", "2"]
    flags += ["--eval-task", "word:dev:n=3", "--shard", "fsdp"]
    for run, commands in (("whole", ["-m"]), ("killed", ["-c", "-m"])):
        for how in commands:
            given = ["-m", "reasoning"] if how == "-m" else ["-c", KILL]
            codes, said = start([*given, "train", str(tmp_path / run), *flags], 2, tmp_path)
            assert codes == ([0, 0] if how == "-m" else [9, 9]), said[0][-3000:]
    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(one[n], two[n]) for n in one)
    rows = [json.loads(t) for t in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert max(r.get("sampling_logp_difference/max", 0) for r in rows) < 1e-4
    assert "Resumed after step 2" in said[0]


FAILING = """import os

def failing(response, **_):
    if os.environ["RANK"] == "1":
        {how}
    return float(len(response) % 2 == 0)
"""


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [("os._exit(9)", 9, ""), ("raise ValueError('no verdict today')", 2, "no verdict today")],
)
def test_a_rank_that_ends_alone_ends_the_others_too_in_one_line(tmp_path, how, code, words):
    """Without torchrun, which would end them: each notices by itself, at once."""
    small_runs.train(small_runs.cold_start(tmp_path))
    (tmp_path / "reward.py").write_text(FAILING.format(how=how))
    flags = [
        "train",
        str(tmp_path / "run"),
        "--model",
        str(tmp_path / "base" / "model"),
        "--task",
        "word:train:n=16",
    ]
    flags += [
        "--verifier",
        f"{tmp_path}/reward.py:failing",
        "--max-new-tokens",
        "8",
        "--problems-per-step",
        "4",
    ]
    codes, said = start(["-m", "reasoning", *flags], 2, tmp_path)
    assert codes == [1, code], said[0][-3000:]
    assert words in said[1]
    assert "Rank 0 of 2 stops, because another process of this run has ended" in said[0].splitlines()[-1]
    assert "Traceback" not in said[0] + said[1]


@pytest.mark.parametrize("lone", [0, 1])
def test_a_rank_whose_company_never_comes_says_so(lone, tmp_path):
    """It would wait for hours, as between two steps."""
    told = {"RANK": lone, "LOCAL_RANK": lone, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        told["MASTER_PORT"] = found.getsockname()[1]
    code = "import datetime, sys\nfrom reasoning.train import distributed\nfrom reasoning.cli import main\n"
    code += "distributed.MEETING = datetime.timedelta(seconds=2)\nsys.argv[0] = 'reasoning'\nsys.exit(main())"
    flags = ["train", str(tmp_path / "run"), "--model", SMALL, "--objective", "sft", "--task", "word:train"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *flags],
        env=os.environ | {k: str(v) for k, v in told.items()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr[-2000:]
    assert (
        f"Rank {lone} of 2 stops: after 0 minutes the others were not there." in ran.stderr.splitlines()[-1]
    )


def test_a_budget_with_several_ranks_is_refused_before_anything_is_written(tmp_path):
    flags = ["train", str(tmp_path / "run"), "--model", SMALL, "--objective", "sft", "--task", "word:train"]
    codes, said = start(["-m", "reasoning", *flags, "--budget", "tokens=1e6"], 2, tmp_path)
    assert codes == [2, 2]
    assert all(
        text.endswith("--budget holds for one process: leave it out, or start without torchrun.\n")
        for text in said
    )
    assert not (tmp_path / "run").exists()
