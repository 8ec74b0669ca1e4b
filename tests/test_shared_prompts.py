"""What a prompt costs that several chains share (docs/adr/0019): what was computed where chains are drawn, lengths
alone on a curve, every row in full where chains are learned from."""

import json

import numpy as np
import pytest
from train.small_runs import SMALL, made, reinforce

from reasoning.budget import Budget, Ledger
from reasoning.engines.transformers import TransformersEngine
from reasoning.pool import Pool
from reasoning.records import Cost, Draw, Sampling
from reasoning.sampling import sample, verify
from reasoning.select import groups
from reasoning.tasks import load_problems
from reasoning.train.fresh import new_model
from reasoning.train.loop import train
from verifiers import open_verifier

SAMPLING = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def problems():
    return load_problems("word:dev:n=5")


@pytest.fixture
def engine(problems, monkeypatch):
    """One that counts the prompt tokens that go through its model."""
    model, tokenizer = new_model(SMALL, [p.prompt for p in problems], 0)
    engine = TransformersEngine(model, tokenizer, name="m", version="1")
    read: list[int] = []
    prefill = engine._forward.prefill

    def counted(prompts):
        read.extend(map(len, prompts))
        return prefill(prompts)

    monkeypatch.setattr(engine._forward, "prefill", counted)
    return engine, read


@pytest.mark.parametrize("max_rows", [3, 512])
def test_a_draw_is_charged_the_prompt_tokens_that_it_computed(engine, problems, max_rows):
    engine, read = engine
    engine.max_rows = max_rows
    chains = list(engine.generate([Draw(p, SAMPLING, tuple(range(8))) for p in problems]))
    spent = sum((chain.cost for chain in chains), Cost())
    prompts = {c.problem_id: len(c.prompt_token_ids) for c in chains}
    assert spent.prompt_tokens == sum(read) == sum(prompts.values())
    assert spent.cached_tokens == 7 * spent.prompt_tokens
    once = sum(engine.shape.prefill_flops(n) for n in prompts.values())
    decoded = sum(engine.shape.decode_flops(prompts[c.problem_id], len(c.token_ids)) for c in chains)
    assert spent.flops == pytest.approx(once + decoded)


def test_draws_in_parts_read_prompts_again_and_the_curve_does_not_see_it(engine, problems, tmp_path):
    engine, read = engine
    figures, spent = [], []
    for name, parts in (("whole", (8,)), ("parts", (1, 3, 8))):
        del read[:]
        with Pool.open(tmp_path / name) as pool, Ledger(None, tmp_path / name) as ledger:
            for n in parts:
                sample(problems, engine, pool, ledger, n=n, sampling=SAMPLING)
            assert ledger.spent.cost.prompt_tokens == sum(read)
            spent.append(ledger.spent.cost)
            verify(pool, open_verifier("numeric"))
            found = groups(pool, engine.model, SAMPLING)
            figures.append([(g.problem_id, g.prefill_flops, g.decode_flops.tolist()) for g in found])
    whole, parts = spent
    assert parts.prompt_tokens == 3 * whole.prompt_tokens
    assert parts.flops > whole.flops
    assert parts.output_tokens == whole.output_tokens
    assert figures[0] == figures[1]


def test_a_budget_in_flops_pays_for_a_prompt_once(engine, problems, tmp_path):
    engine, _ = engine
    draw = Draw(problems[0], SAMPLING, tuple(range(8)))
    worst = engine.worst_case(draw)
    apart = sum((engine.worst_case(Draw(problems[0], SAMPLING, (i,))) for i in range(8)), Cost())
    prompt = engine.shape.prefill_flops(worst.prompt_tokens)
    assert apart.flops - worst.flops == pytest.approx(7 * prompt)
    with Pool.open(tmp_path) as pool, Ledger(Budget(flops=worst.flops * (1 + 1e-9)), tmp_path) as ledger:
        sample(problems[:1], engine, pool, ledger, n=8, sampling=SAMPLING)
        assert ledger.spent.samples == 8
        assert ledger.spent.cost.flops <= worst.flops


def test_an_update_is_charged_by_its_rows_however_they_are_computed(tmp_path_factory):
    folder = made(tmp_path_factory, "shared")
    shared = reinforce(folder, "shared", steps=1, eval_task="")
    apart = reinforce(folder, "apart", steps=1, eval_task="", packing="no", micro_tokens=1)
    figures = []
    for options in (shared, apart):
        train(options)
        row = json.loads((folder / options.run / "metrics.jsonl").read_text().splitlines()[-1])
        with Ledger(None, folder / options.run, read_only=True) as ledger:
            charged = [c.cost for c in ledger.charges if c.phase == "train" and c.strategy == "grpo"]
        figures.append(
            (row["flops/sample"], row["flops/update"], [(c.scored_tokens, c.flops) for c in charged])
        )
    assert figures[0] == figures[1]
    assert np.sum([flops for _, flops in figures[0][2]]) == pytest.approx(figures[0][1])
