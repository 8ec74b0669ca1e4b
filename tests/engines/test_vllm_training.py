"""Roll-outs by vLLM in training: it follows the learner's weights, and its log-probabilities are theirs."""

import itertools
import json
import sys
from pathlib import Path

import pytest
from real_vllm import REAL_VLLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))

pytestmark = REAL_VLLM
ENGINE = "vllm:dtype=float32,max_model_len=128,max_rows=32,memory_gb=0.25,enforce_eager=true,parity=on"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    import small_runs

    folder = tmp_path_factory.mktemp("vllm")
    (folder / "reward.py").write_text(small_runs.EVEN)
    wide = "new:tiny:hidden=64,layers=1,heads=2,kv_heads=1,ffn=64,words=160"  # heads of 32: what vLLM's kernels take
    small_runs.train(small_runs.cold_start(folder, model=wide))
    return folder


@pytest.mark.parametrize("ahead", [False, True])
def test_vllm_draws_with_the_weights_of_every_step(home, ahead):
    import small_runs

    run = f"vllm{ahead}"
    options = small_runs.reinforce(
        home, run, engine=ENGINE, minibatch=0, asynchronous=ahead, eval_task="", eval_every=0, lr=2e-2
    )
    small_runs.train(options)
    rows = [json.loads(line) for line in (home / run / "metrics.jsonl").read_text().splitlines()]
    gaps = [row.get("sampling_logp_difference/max", 0.0) for row in rows]
    assert gaps[0] < 1e-4
    if ahead:
        assert [row["staleness"] for row in rows] == [0, *[1] * (len(rows) - 1)]
        for before, row in itertools.pairwise(rows):  # drawn with the weights from before the last step
            if before["grad_norm"] > 0 and row["active_tokens"] > 0:
                assert row["sampling_logp_difference/max"] > 1e-3
        assert max(gaps[1:]) > 1e-3
    else:
        assert max(gaps) < 1e-4
    assert any(row["grad_norm"] > 0 for row in rows)
