"""A vLLM in each process of torchrun: real ones, on gloo, each with its share of the groups and the weights of every
step, of a learner that is whole on each rank or cut among them."""

import json
import sys
from pathlib import Path

import pytest
from real_vllm import REAL_VLLM

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "train"))

pytestmark = REAL_VLLM
REWARD = "def spread(response, **_):\n    return len(response) % 7 / 6\n"  # seldom equal in a group
ENGINE = "vllm:dtype=float32,max_model_len=128,max_rows=32,memory_gb=0.25,enforce_eager=true"
CASES = {
    "ddp": [],
    "fsdp": ["--shard", "fsdp"],
    "adapter-fsdp": ["--lora-rank", "4", "--shard", "fsdp"],
}


def reason(home, run, ranks, *flags, engine=ENGINE + ",parity=on"):
    """`reasoning train` of three steps, by torchrun where there are several ranks; what it said."""
    from launch import torchrun

    given = {
        "model": home / "base" / "model",
        "task": "word:train:n=16",
        "eval-task": "word:dev:n=3",
        "verifier": f"{home}/reward.py:spread",
        "engine": engine,
        "steps": 3,
        "problems-per-step": 3,
        "chains-per-problem": 4,
        "lr": 1e-2,
        "max-new-tokens": 16,
    }
    told = [str(x) for name, value in given.items() for x in (f"--{name}", value)]
    return torchrun(ranks, ["train", str(home / run), *told, *flags], home)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    import small_runs

    folder = tmp_path_factory.mktemp("ranks")
    (folder / "reward.py").write_text(REWARD)
    wide = "new:tiny:hidden=64,layers=1,heads=2,kv_heads=1,ffn=64,words=160"  # heads of 32: what vLLM's kernels take
    small_runs.train(small_runs.cold_start(folder, model=wide, optimizer="adamw", steps=8))
    return folder


@pytest.fixture(scope="module")
def alone(home):
    """What one process ends with, whole and with an adapter."""
    for run, flags in (("one", []), ("one-adapter", ["--lora-rank", "4"])):
        code, said = reason(home, run, 1, *flags)
        assert code == 0, said[-3000:]
    return home


def weights(home, run):
    from safetensors.torch import load_file

    return load_file(home / run / "model" / "model.safetensors")


def rows(home, run):
    return [json.loads(line) for line in (home / run / "metrics.jsonl").read_text().splitlines()]


def chains(home, run):
    from reasoning.pool import Pool

    with Pool.open(home / run) as pool:
        return {c.key: (c.token_ids, c.finish_reason) for c in pool.chains()}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_with_a_vllm_each_train_as_one_process(alone, case):
    home = alone
    code, said = reason(home, case, 2, *CASES[case])
    assert code == 0, said[-3000:]
    assert said.count("Next:") == 1  # one of the two says so
    one = "one-adapter" if "adapter" in case else "one"
    mine, theirs, base = weights(home, one), weights(home, case), weights(home, "base")
    assert mine.keys() == theirs.keys()

    def far(a, b):
        return sum(float((a[n] - b[n]).square().sum()) for n in a) ** 0.5

    moved = far(mine, base)
    assert moved > 0
    # Seen: 1e-6 to 2e-4. AdamW divides by its own size what is nothing but rounding in a gradient.
    assert far(mine, theirs) < 1e-3 * moved
    assert chains(home, case) == chains(home, one)  # whoever drew them
    for before, now in zip(rows(home, one), rows(home, case), strict=True):
        for name in ("reward", "completions/mean_length", "eval/pass@1", "active_tokens"):
            assert now.get(name) == before.get(name)
        assert (
            now.get("sampling_logp_difference/max", 0) < 1e-4
        )  # vLLM has the learner's weights at every step
    assert any(row.get("grad_norm", 0) > 0 for row in rows(home, case)[2:])
    names = {path.name for path in (home / one / "model").iterdir()}
    assert {path.name for path in (home / case / "model").iterdir()} == names
    for name in ("config.json", "generation_config.json"):
        assert (home / case / "model" / name).read_text() == (home / "base" / "model" / name).read_text()


def test_weights_that_are_not_the_learners_stop_every_rank(home):
    """With a limit that nothing can hold: the check after the first load fails, and no rank hangs."""
    code, said = reason(home, "wrong", 2, engine=ENGINE + ",parity=1e-12")
    assert code != 0
    assert "does not draw from its model" in said
