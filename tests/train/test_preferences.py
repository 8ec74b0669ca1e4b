"""Pairs: read from files and pools, and DPO over them."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reasoning.budget import Ledger
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Chain, Problem, Sampling, chain_key
from reasoning.train.fresh import new_model, save_folder
from reasoning.train.journal import TIMES
from reasoning.train.learner import Learner
from reasoning.train.loop import train
from reasoning.train.objective import objective
from reasoning.train.options import TrainOptions
from reasoning.train.pairs import pair_forwards
from reasoning.train.preferences import (
    Pair,
    load_preferences,
    pair_rows,
    pairs_of_pool,
    read_preferences,
    say_pairs,
)
from reasoning.train.rows import Row
from verifiers import Verdict

SMALL = "new:tiny:hidden=32,layers=2,heads=2,kv_heads=1,ffn=48,words=110"


def written(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


ASKED = [{"role": "user", "content": "1+1="}]


def said(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1+1=", "chosen": " 2", "rejected": " 3"},
        {"prompt": ASKED, "chosen": " 2", "rejected": " 3"},
        {"prompt": ASKED, "chosen": said(" 2"), "rejected": said(" 3")},
        {"prompt": "1+1=", "chosen": ASKED + said(" 2"), "rejected": ASKED + said(" 3")},
        {"chosen": ASKED + said(" 2"), "rejected": ASKED + said(" 3"), "source": "a person"},
    ],
)
def test_the_forms_of_published_sets_are_one(tmp_path, row):
    [pair] = read_preferences(written(tmp_path / "p.jsonl", row, ""))
    assert (pair.problem.prompt, pair.chosen, pair.rejected) == ("1+1=", " 2", " 3")


def test_rows_that_are_given_again_count_again_and_are_said(tmp_path):
    rows = [{"prompt": f"{i}?", "chosen": " 2", "rejected": " 3"} for i in (1, 1, 1, 2)]
    pairs = read_preferences(written(tmp_path / "p.jsonl", *rows))
    assert say_pairs(pairs) == "4 pairs of 2 prompts, 2 of them others once more"
    assert say_pairs(pairs[2:]) == "2 pairs of 2 prompts"


def test_a_longer_conversation_is_the_prompt(tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        *ASKED,
        *said("2"),
        {"role": "user", "content": "Sure?"},
    ]
    row = {"prompt": turns, "chosen": "Yes.", "rejected": "No."}
    [pair] = read_preferences(written(tmp_path / "p.jsonl", row))
    assert pair.problem.metadata["messages"] == turns
    assert pair.problem.question == "Sure?"
    assert pair.problem.prompt.endswith("Sure?")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"prompt": "a", "cho', "line 2: not JSON"),
        ("[1]", "line 2: not an object"),
        ({"prompt": "a", "chosen": "b"}, "line 2: rejected missing"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "line 2: chosen missing or empty"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 2: chosen and rejected are equal"),
        ({"chosen": "a", "rejected": "b"}, "line 2: prompt missing"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "line 2: prompt missing"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "line 2: chosen is neither"),
        ({"prompt": "a", "chosen": ASKED, "rejected": said("b")}, "line 2: chosen must end with"),
        ({"chosen": ASKED + said("a"), "rejected": said("b")}, "line 2: prompt missing"),
        ({"prompt": ["x"], "chosen": "a", "rejected": "b"}, "line 2: message 1"),
        ({"prompt": ASKED + said("a"), "chosen": "a", "rejected": "b"}, "line 2: the turns before"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, words):
    good = {"prompt": "1+1=", "chosen": " 2", "rejected": " 3"}
    with pytest.raises(UserError, match=words):
        read_preferences(written(tmp_path / "p.jsonl", good, row))


def test_an_empty_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no preference"):
        read_preferences(written(tmp_path / "p.jsonl", ""))
    with pytest.raises(UserError, match="no such file of preferences"):
        read_preferences(tmp_path / "none.jsonl")


def pool_of(folder, scores):
    """A pool of problems with one chain for each of their scores by "judge"."""
    with Pool.open(folder) as pool:
        for number, given in enumerate(scores):
            problem = Problem.make(f"question {number}", "5")
            pool.add_problems([problem])
            keys = [chain_key("m@1", Sampling(), problem.id, problem.prompt, i) for i in range(len(given))]
            pool.append(
                [Chain(problem.id, i, f" answer {i}.", model="m@1", key=key) for i, key in enumerate(keys)]
            )
            verdicts = {key: Verdict(score) for key, score in zip(keys, given, strict=True)}
            pool.add_verdicts("judge", verdicts, oracle=False)
    return str(folder)


def test_a_learned_verifier_that_was_fitted_twice_is_named_by_its_version(tmp_path):
    """One rule for names: the very name, or its beginning where only one begins so."""
    run, other = pool_of(tmp_path / "run", [(1.0, 0.0)]), pool_of(tmp_path / "other", [(0.0, 0.0)])
    with Pool.open(run) as pool:
        pool.add_verdicts("learned:runs/v:version=1a", pool.verdicts("judge"), oracle=False)
    for name in ("learned:runs/v", "learned:runs/v:version=1a", "learned"):
        assert len(pairs_of_pool([run, other], name)) == 1
    with Pool.open(run) as pool:
        turned = {key: Verdict(1 - v.score) for key, v in pool.verdicts("judge").items()}
        pool.add_verdicts("learned:runs/v:version=2b", turned, oracle=False)
    with pytest.raises(UserError, match=r"one of: learned:runs/v:version=1a, learned:runs/v:version=2b\."):
        load_preferences(f"pool:{run}", "learned:runs/v")
    chosen = [pairs_of_pool([run], f"learned:runs/v:version={v}")[0].chosen for v in ("1a", "2b")]
    assert chosen == [" answer 0.", " answer 1."]


def test_pairs_of_a_pool_are_those_whose_scores_differ(tmp_path):
    run = pool_of(tmp_path / "run", [(1.0, 0.0, 0.0, 1.0), (0.5, 0.4, None), (0.0, 0.0)])
    pairs = load_preferences(f"pool:{run}", "judge", per_problem=2)
    assert {p.problem.prompt for p in pairs} == {"question 0"}
    assert len(pairs) == 2
    assert {p.chosen for p in pairs} == {
        " answer 0.",
        " answer 3.",
    }  # every chain once before any comes again
    assert {p.rejected for p in pairs} == {" answer 1.", " answer 2."}
    close = pairs_of_pool([run], "judge", margin=0.1)
    assert len(close) == 5
    assert pairs == load_preferences(f"pool:{run}", "judge", per_problem=2)
    with pytest.raises(UserError, match="lower --margin"):
        pairs_of_pool([pool_of(tmp_path / "even", [(0.5, 0.5)])], "judge")
    with pytest.raises(UserError, match="--verifier"):
        pairs_of_pool([run], "numeric")


@pytest.fixture(scope="module")
def model():
    made, tokenizer = new_model(SMALL, ["question 0", " yes", " no"], seed=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made.eval(), tokenizer


@pytest.fixture(scope="module")
def start(model):
    made = copy.deepcopy(model[0])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return made


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    made = []
    for prompt, chosen, rejected in ((5, 9, 3), (11, 2, 14), (2, 6, 6), (24, 1, 5)):
        ids = tuple(int(i) for i in rng.integers(4, 90, prompt))
        for length, sign in ((chosen, 1.0), (rejected, -1.0)):
            made.append(Row(ids, tuple(int(i) for i in rng.integers(4, 90, length)), sign))
    return made


def test_sampled_ids_are_kept_and_text_is_encoded_with_an_end(model):
    engine = TransformersEngine(*model, name="m", version="1")
    problem = Problem.make("question 0", None)
    prompt = engine.ask(problem)
    ids = engine.encode(" yes")
    sampled = Chain(problem.id, 0, " yes", ids, prompt_token_ids=prompt)
    foreign = Chain(problem.id, 1, " no", ids, prompt_token_ids=prompt)
    chosen, rejected = pair_rows(Pair(problem, " yes", " no", (sampled, foreign)), engine)
    assert (chosen.ids, chosen.reward) == (ids, 1.0)
    assert (rejected.ids, rejected.reward) == ((*engine.encode(" no"), engine.tokenizer.eos_token_id), 0.0)
    assert chosen.prompt_ids == rejected.prompt_ids == prompt


def gradient(learner, rows):
    learner.model.zero_grad()
    result = learner.gradients(rows)
    return {n: p.grad.clone() for n, p in learner.model.named_parameters()}, result.metrics


@pytest.mark.parametrize("reduce", ["sequence_sum", "sequence_mean"])
def test_gradient_equals_an_unpadded_reference(model, start, rows, reduce):
    """One unpadded forward a row, the loss as the paper writes it; whatever the micro-batches and the order."""
    goal = objective("dpo", beta=0.3, reduce=reduce)
    plain = copy.deepcopy(model[0])

    def log_ratio(row):
        ids = torch.tensor([row.prompt_ids + row.ids])
        each = []
        for net in (plain, start):
            with torch.set_grad_enabled(net is plain):
                every = torch.log_softmax(net(input_ids=ids).logits[0], -1)[len(row.prompt_ids) - 1 : -1]
                each.append(every[torch.arange(len(row.ids)), torch.tensor(row.ids)])
        difference = each[0] - each[1]
        return difference.sum() if reduce == "sequence_sum" else difference.mean()

    margins = [0.3 * (log_ratio(rows[i]) - log_ratio(rows[i + 1])) for i in range(0, len(rows), 2)]
    total = -torch.stack([torch.log(1 / (1 + torch.exp(-m))) for m in margins]).mean()
    total.backward()
    loss, margins = float(total.detach()), [float(m.detach()) for m in margins]
    expected = {n: p.grad for n, p in plain.named_parameters()}
    size = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
    for tokens, order in ((8192, (0, 1, 2, 3)), (1, (3, 1, 0, 2)), (60, (2, 3, 1, 0))):
        learner = Learner(copy.deepcopy(model[0]), goal, lr=1e-3, reference=start, micro_tokens=tokens)
        given = [row for p in order for row in rows[2 * p : 2 * p + 2]]
        got, metrics = gradient(learner, given)
        gap = math.sqrt(sum(float((got[n] - g).square().sum()) for n, g in expected.items()))
        assert gap / size < 1e-5
        assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
        assert metrics["rewards/margins"] == pytest.approx(sum(margins) / 4, rel=1e-4)
        assert metrics["rewards/accuracies"] == np.mean([m > 0 for m in margins])
        assert metrics["rewards/chosen"] - metrics["rewards/rejected"] == pytest.approx(
            metrics["rewards/margins"], rel=1e-4
        )


def test_at_the_start_the_loss_is_log_2_and_swapping_a_pair_turns_its_sign(model, rows):
    learner = Learner(copy.deepcopy(model[0]), objective("dpo"), lr=1e-3, reference=model[0])
    figures = learner.preference_figures(rows)
    assert figures["loss"] == pytest.approx(math.log(2))
    assert figures["rewards/accuracies"] == 0.5
    one, _ = gradient(learner, rows)
    swapped = [dataclasses.replace(row, advantage=-row.advantage) for row in rows]
    other, _ = gradient(learner, swapped)
    assert all(torch.allclose(one[n], -other[n], atol=1e-7) for n in one)


def test_pairs_stay_together_in_forwards_within_the_bound(rows):
    cut = pair_forwards(rows, 70)
    assert sorted(i for f in cut for i in f.rows) == list(range(len(rows)))
    for forward in cut:
        assert all(
            i % 2 == 0 and j == i + 1 for i, j in zip(forward.rows[::2], forward.rows[1::2], strict=True)
        )
        padded = len(forward.rows) * max(len(rows[i]) for i in forward.rows)
        assert len(forward.rows) == 2 or padded <= 70
    with pytest.raises(ValueError, match="pairs"):
        pair_forwards(rows[:3], 70)


@pytest.mark.parametrize(
    ("preset", "change", "words"),
    [
        ("dpo", {"beta": 0.0}, "--beta must be above 0"),
        ("grpo", {"beta": 0.1}, "--beta goes with"),
        ("dpo", {"reduce": "token_mean"}, "sequence_sum or sequence_mean"),
        ("dpo", {"kl": "k3", "kl_weight": 0.1}, "--kl has no effect"),
        ("dpo", {"entropy_weight": 0.1}, "--entropy-weight has no effect"),
        ("dpo", {"restart": True}, "--restart has no effect"),
        ("grpo", {"surrogate": "dpo"}, "go together"),
        ("sft", {"source": "preferences"}, "go together"),
        ("grpo", {"advantage": "preferred"}, "go together"),
    ],
)
def test_axes_that_contradict_are_refused(preset, change, words):
    with pytest.raises(UserError, match=words):
        objective(preset, **change)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo")
    words = [f" {w}" for w in ("red", "blue", "green", "cup", "hat", "pen", "old", "new")]
    made, tokenizer = new_model(SMALL.replace("110", "140"), ["Pick: yes no", *words], seed=3)
    save_folder(folder / "model", made, tokenizer)

    def pairs(those):
        return [{"prompt": f"Pick{a}{b}:", "chosen": f"{a} yes", "rejected": f"{a} no"} for a, b in those]

    every = [(a, b) for a in words for b in words if a != b]
    written(folder / "train.jsonl", *pairs(every[::2]))
    written(folder / "held.jsonl", *pairs(every[1::4]))
    return folder


def dpo(folder, run, **changes):
    given = {
        "objective": "dpo",
        "model": str(folder / "model"),
        "preferences": str(folder / "train.jsonl"),
        "eval_preferences": str(folder / "held.jsonl"),
        "steps": 6,
        "problems_per_step": 8,
        "minibatch": 6,
        "lr": 2e-3,
        "eval_every": 3,
        "checkpoint_every": 2,
    }
    return TrainOptions(run=str(folder / run), **(given | changes))


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def test_the_loss_falls_held_out_pairs_are_told_apart_and_a_killed_run_ends_with_the_same_bits(home):
    whole = train(dpo(home, "whole"))
    rows = metrics(home / "whole")
    assert rows[0]["eval/rewards/accuracies"] == 0.5
    assert rows[0]["eval/loss"] == pytest.approx(math.log(2))
    assert rows[-1]["eval/rewards/accuracies"] > 0.9
    assert rows[-1]["loss"] < rows[1]["loss"] < 0.7
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"} <= rows[1].keys()
    for step in (1, 3, 5):

        def log(text, step=step):
            if text.split()[1].startswith(f"{step}/"):
                raise Killed

        with pytest.raises(Killed):
            train(dpo(home, "killed", log_every=1), log=log)
    resumed = train(dpo(home, "killed"))
    assert resumed.resumed_at == 4
    a, b = (load_file(r.folder / "model.safetensors") for r in (whole, resumed))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert rows == metrics(home / "killed")


def test_dpo_learns_from_a_pool(home, tmp_path):
    run = pool_of(tmp_path / "pool", [(1.0, 0.0, 1.0)] * 4)
    given = {"preferences": f"pool:{named(run)}", "eval_preferences": "", "verifier": "exact"}
    result = train(dpo(home, "of_pool", steps=1, **given))
    assert (result.folder / "model.safetensors").is_file()


def named(run):
    """The verdicts of ``judge`` again under the name of a verifier that can be opened."""
    with Pool.open(run) as pool:
        pool.add_verdicts("exact", pool.verdicts("judge"), oracle=True)
    return run


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preferences": ""}, "--preferences FILE"),
        ({"minibatch": 3}, "make it even"),
        ({"objective": "grpo", "task": "word:train"}, "--preferences goes with"),
        ({"eval_preferences": "{home}/train.jsonl"}, "evaluation problems"),
    ],
)
def test_mistakes_are_named(home, tmp_path, change, words):
    change = {k: v.replace("{home}", str(home)) if isinstance(v, str) else v for k, v in change.items()}
    with pytest.raises(UserError, match=words):
        train(dataclasses.replace(dpo(home, "wrong"), run=str(tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()


def test_reading_the_held_out_pairs_is_charged_and_kept_within_the_budget(home):
    train(dpo(home, "read", steps=1))
    rows = [json.loads(line) for line in (home / "held.jsonl").read_text().splitlines()]
    with Ledger(path=home / "read", read_only=True) as ledger:
        read = [c for c in ledger.charges if c.phase == "evaluate"]
        learned = ledger.totals()["train",].cost
    assert len(read) == 2  # before the first step and after the last
    assert read[0].cost.scored_tokens > 2 * len(rows)
    assert read[0].cost.scored_tokens == read[1].cost.scored_tokens
    # Two forwards (model and reference) where learning takes four: per token half of it, were all rows as long.
    each, both = (c.flops / c.scored_tokens for c in (read[0].cost, learned))
    assert each / both == pytest.approx(0.5, rel=0.05)
    said = []
    tight = 2 * read[0].cost.scored_tokens + learned.scored_tokens - 1
    train(dpo(home, "unread", steps=1, budget=f"tokens={tight}"), log=said.append)
    assert "step 1: held-out pairs not read, the budget has no room for it." in said
    assert [row["step"] for row in metrics(home / "unread") if "eval/loss" in row] == [0]
    with Ledger(path=home / "unread", read_only=True) as ledger:
        assert ledger.spent.cost.tokens <= tight
