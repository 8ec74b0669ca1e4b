"""Step labels by roll-outs, the process model that learns from them, and what it is good for."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from reasoning.budget import Budget, Ledger
from reasoning.drawing import draw_keys
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import BudgetError, UserError
from reasoning.flops import ModelShape
from reasoning.pool import Pool
from reasoning.progress import Silent
from reasoning.records import Chain, Cost, Problem, Sampling, chain_key
from reasoning.search import open_search
from reasoning.solve import solve
from reasoning.tasks import load_problems
from reasoning.train.fresh import new_model, save_folder
from reasoning.train.loop import train
from reasoning.train.options import TrainOptions
from reasoning.train.process import Judged, Rollouts, cut_points, label, prefix_key
from reasoning.train.reward import FitOptions, fit
from reasoning.train.scorer import FineTuning, Item, Scorer, item_batches, item_losses, tune
from verifiers import Attempt, Verdict, open_verifier

TEXTS = ["Q: a b c\nA:", " one. two. three. 5 7 The answer is"]
SAMPLING = Sampling(max_new_tokens=12)


class Scripted:
    """An engine of one token per character whose continuations are known: after a prefix with "x" every completion is
    wrong, otherwise index 0 is right and index 1 wrong, and so on. Counts what it draws."""

    model = "scripted@1"
    shape = None

    def __init__(self):
        self.asked = []

    def decode(self, ids):
        return "".join(map(chr, ids))

    def worst_case(self, draw):
        return Cost(prompt_tokens=10, output_tokens=20 * len(draw.indices))

    def generate(self, draws):
        for draw in draws:
            for index, key in zip(draw.indices, draw_keys(draw, self.model), strict=True):
                self.asked.append((self.decode(draw.prefix), index))
                right = "x" not in self.decode(draw.prefix) and index % 2 == 0
                text = f" so {5 if right else 6}"
                ids = tuple(map(ord, text))
                yield Chain(
                    draw.problem.id, index, text, ids, (0.0,) * len(ids), model=self.model, key=key,
                    sampling=draw.sampling, parent=draw.parent, cost=Cost(output_tokens=len(ids)),
                )  # fmt: skip

    def close(self):
        pass


PROBLEM = Problem.make("How many?", "5")


def judged(text, right, index=0, model="other@1", sampling=SAMPLING):
    key = chain_key(model, sampling, PROBLEM.id, PROBLEM.prompt, index)
    ids = tuple(map(ord, text))
    chain = Chain(PROBLEM.id, index, text, ids, (0.0,) * len(ids), model=model, key=key, sampling=sampling)
    return Judged(PROBLEM, chain, right)


def labelled(run, given, engine=None, budget=None, **changes):
    rollouts = Rollouts(**({"steps": "line", "count": 4, "estimation": "soft"} | changes))
    engine = engine or Scripted()
    with Pool.open(run) as pool, Ledger(budget, path=run) as ledger:
        found = label(given, engine, open_verifier("numeric"), pool, ledger, rollouts, Silent())
        return found, engine, ledger.spent.cost


def test_a_step_is_as_good_as_its_completions(tmp_path):
    text = "good\nbad x\nend 6"
    [soft], engine, cost = labelled(tmp_path / "a", [judged(text, False)])
    assert soft.steps == ("good\n", "bad x\n", "end 6")
    assert soft.labels == (0.5, 0.0, 0.0)
    assert soft.completions == (4, 4, 1)
    assert sorted(engine.asked) == [(p, i) for p in ("good\n", "good\nbad x\n") for i in range(4)]
    assert cost.output_tokens == 8 * len(" so 5")
    [hard], again, _ = labelled(tmp_path / "a", [judged(text, False)], estimation="hard")
    assert hard.labels == (1.0, 0.0, 0.0)
    assert again.asked == []  # all of it was in the pool


def test_chains_that_begin_alike_share_their_roll_outs_and_known_completions_are_not_drawn(tmp_path):
    given = [judged("good\nend 5", True), judged("good\nend 6", False, 1)]
    found, engine, _ = labelled(tmp_path / "a", given)
    assert len(engine.asked) == 4
    assert [one.labels for one in found] == [(0.5, 1.0), (0.5, 0.0)]
    own = [replace(one, chain=replace(one.chain, model="scripted@1")) for one in given]
    found, engine, _ = labelled(tmp_path / "b", own)
    assert sorted(engine.asked) == [("good\n", 0), ("good\n", 1)]  # the two chains are two of the four
    assert found[0].completions == (4, 1)
    assert found[0].labels[0] == (1 + 0 + 1 + 0) / 4
    cooler = [judged("good\nend 5", True, model="scripted@1", sampling=replace(SAMPLING, temperature=0.5))]
    assert (
        len(labelled(tmp_path / "c", cooler)[1].asked) == 4
    )  # sampled otherwise: no completion of this kind


def test_a_killed_labelling_goes_on(tmp_path):
    class Dies(Scripted):
        def generate(self, draws):
            for chain in super().generate(draws):
                if len(self.asked) > 5:
                    raise KeyboardInterrupt
                yield chain

    text = "good\nbad x\nend 6"
    dying = Dies()
    with pytest.raises(KeyboardInterrupt):
        labelled(tmp_path / "a", [judged(text, False)], dying)
    found, engine, _ = labelled(tmp_path / "a", [judged(text, False)])
    assert len(engine.asked) == 3
    assert found == labelled(tmp_path / "b", [judged(text, False)])[0]


def test_a_short_purse_and_chains_without_ids_are_named(tmp_path):
    with pytest.raises(BudgetError, match="raise --budget"):
        labelled(tmp_path / "a", [judged("good\nend 5", True)], budget=Budget(tokens=20))
    bare = judged("good\nend 5", True)
    bare = replace(bare, chain=replace(bare.chain, token_ids=()))
    with pytest.raises(UserError, match="no token ids"):
        labelled(tmp_path / "b", [bare])


def test_a_step_ends_with_the_token_that_reaches_its_end():
    class Pairs:
        def decode(self, ids):
            return "".join(ids)

    chain = Chain("p", 0, "ab\ncd\nef", ("a", "b\nc", "d", "\n", "ef"))  # type: ignore[arg-type]
    assert cut_points(chain, "line", Pairs()) == [("ab\n", 2), ("cd\n", 4)]
    assert prefix_key((1, 2)) != prefix_key((1, 2, 3))


@pytest.fixture(scope="module")
def model():
    made, tokenizer = new_model("new:tiny:hidden=32,layers=2,heads=2,kv_heads=1,ffn=48,words=130", TEXTS, 5)
    return made.eval(), tokenizer


def shaken(model):
    made = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return made


def test_the_scorer_is_one_unpadded_forward_a_row_whatever_the_batch(model):
    scorer = Scorer(shaken(model[0]))
    with torch.no_grad():
        scorer.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    rows, places = [(5, 6, 7), (9, 8, 7, 6, 5, 4), (11, 12)], [(2,), (1, 3, 5), (0, 1)]
    with torch.no_grad():
        got = scorer(rows, places)
        hidden = [scorer.model.get_decoder()(input_ids=torch.tensor([r])).last_hidden_state[0] for r in rows]
        expected = torch.cat([scorer.head(h[list(at)])[:, 0] for h, at in zip(hidden, places, strict=True)])
    assert torch.allclose(got, expected, atol=1e-5)


def test_losses_are_cross_entropy_of_labels_and_bradley_terry_of_pairs():
    z = torch.tensor([0.3, -1.0, 2.0, 0.5])
    chains = [Item(((1, 2),), ((0, 1),), (1.0, 0.25)), Item(((1, 2),), ((0, 1),), (0.0, 1.0))]
    p, y = torch.sigmoid(z), torch.tensor([1.0, 0.25, 0.0, 1.0])
    assert torch.allclose(item_losses(z, chains), -(y * p.log() + (1 - y) * (1 - p).log()))
    pairs = [Item(((1, 2), (3, 4)), ((1,), (1,)))] * 2
    centred = 0.01 * (z[[0, 2]] + z[[1, 3]]) ** 2
    assert torch.allclose(item_losses(z, pairs), centred - torch.log(torch.sigmoid(z[[0, 2]] - z[[1, 3]])))
    assert [item.terms for item in (*chains, *pairs)] == [2, 2, 1, 1]


def test_the_fit_does_not_depend_on_how_a_batch_is_cut(model, monkeypatch):
    rng = np.random.default_rng(0)

    def row(n):
        return tuple(int(i) for i in rng.integers(4, 90, n))

    items = [Item((row(n), row(m)), ((n - 1,), (m - 1,))) for n, m in ((5, 9), (12, 3), (4, 4), (7, 20))]
    shape, heads = ModelShape.from_config(model[0].config), []
    for tokens in (4096, 1):
        monkeypatch.setattr("reasoning.train.scorer.MICRO_TOKENS", tokens)
        assert len(item_batches(items)) == (1 if tokens > 1 else 4)
        scorer = Scorer(shaken(model[0]))
        tune(scorer, items, FineTuning(3, 1e-3, "adamw", 4, 0), shape, Silent())
        heads.append(scorer.exported()["weight"])
    assert heads[0] == pytest.approx(heads[1], abs=1e-4)
    assert np.abs(heads[0]).max() > 1e-3


def test_pairs_are_learned(model):
    shape = ModelShape.from_config(model[0].config)
    items = [Item(((5, 6, a, 40), (5, 6, a, 41)), ((3,), (3,))) for a in range(10, 40)]
    scorer = Scorer(copy.deepcopy(model[0]))
    tune(scorer, items, FineTuning(8, 3e-3, "adamw", 10, 0), shape, Silent())
    with torch.no_grad():
        scores = scorer([(5, 6, 50, 40), (5, 6, 50, 41)], [(3,), (3,)])
    assert scores[0] > scores[1] + 1


WORD = load_problems("word:train:n=40")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model, a pool of its tokens in which steps with "bad" lead to wrong answers, and preferences."""
    folder = tmp_path_factory.mktemp("fit")
    texts = [p.prompt for p in WORD] + [" It is good. It is bad. The answer is 5."]
    made, tokenizer = new_model("new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48", texts)
    save_folder(folder / "model", made, tokenizer)
    with Pool.open(folder / "pool") as pool:
        pool.add_problems(WORD)
        for number, problem in enumerate(WORD):
            chains, verdicts = [], {}
            for i, words in enumerate((("good", "good"), ("good", "bad"), ("bad", "good"), ("good",))):
                right = "bad" not in words
                answer = problem.reference if right else number + 100
                text = "".join(f" It is {w}." for w in words) + f" The answer is {answer}."
                ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
                key = chain_key("m@1", SAMPLING, problem.id, problem.prompt, i)
                chains.append(
                    Chain(
                        problem.id, i, text, ids, (0.0,) * len(ids), model="m@1", key=key, sampling=SAMPLING
                    )
                )
                verdicts[key] = Verdict(float(right))
            pool.append(chains)
            pool.add_verdicts("numeric", verdicts, oracle=True)
    return folder


def options(home, run, **changes):
    given = {"run": str(home / run), "model": str(home / "model"), "pool": [str(home / "pool")], "batch": 16}
    given |= {"task": "word:train:n=40", "epochs": 4, "lr": 3e-3}
    return FitOptions(**(given | changes))


STEPWISE = {"kind": "process", "steps": "sentence", "rollouts": 2, "estimation": "soft", "max_new_tokens": 6}


@pytest.fixture(scope="module")
def process(home):
    measured = fit(options(home, "steps", **STEPWISE))
    return measured, open_verifier(f"learned:{home}/steps")


def test_a_process_model_is_fitted_measured_and_paid_for(home, process):
    measured, verifier = process
    assert measured["kept"] == "process"
    assert {"auc", "ece", "ece_before", "accuracy", "base_rate"} <= measured["compared"]["process"].keys()
    assert [row["step"] for row in measured["by_step"]] == [1, 2, 3]
    assert measured["completions_per_step"] == 2
    assert verifier.card.steps == "sentence"
    with Pool.open(home / "steps") as pool, Ledger(path=home / "steps") as ledger:
        drawn = pool.chains(continuations=True)
        assert all(c.parent for c in drawn)
        spent = ledger.spent.cost
        assert spent.output_tokens == sum(len(c.token_ids) for c in drawn)
        assert spent.scored_tokens > 0
    again = fit(options(home, "steps", **STEPWISE))
    assert again == json.loads((home / "steps" / "verifier.json").read_text())["measured"]


def test_a_step_is_scored_the_same_whatever_follows_and_the_score_is_made_of_the_steps(home, process):
    _, verifier = process
    prompt = WORD[0].prompt
    short, longer, other = verifier.verify(
        [
            Attempt(prompt, " It is good."),
            Attempt(prompt, " It is good. It is bad. The answer is 5."),
            Attempt(prompt, " It is good. The answer is 5."),
        ]
    )
    assert len(longer.steps) == 3
    assert short.steps[0] == longer.steps[0] == other.steps[0]
    assert all(0 < p < 1 for p in longer.steps)
    slope, shift = verifier.head["chain"]
    low = min(longer.steps)
    assert longer.score == pytest.approx(
        1 / (1 + np.exp(-(slope * np.log(low / (1 - low)) + shift))), abs=1e-3
    )
    assert slope > 0
    assert verifier.worst_case([Attempt(prompt, " It is good.")]) == (short.scored_tokens, short.flops)


@pytest.mark.parametrize("search", ["best_of_n:n=4", "weighted_majority:n=4"])
def test_it_scores_searches(home, process, search):
    engine = TransformersEngine.open(home / "model")
    found = solve(
        WORD[:2], open_search(search), engine, scorer=process[1], sampling=Sampling(max_new_tokens=8)
    )
    assert len(found) == 2
    assert all(solution.cost.scored_tokens > 0 or not solution.answer.votes for solution in found)
    with Pool.open(home / "pool", read_only=True) as pool:
        chains = pool.chains(problem_ids=[WORD[0].id])
    verdicts = process[1].verify([Attempt(WORD[0].prompt, c.text) for c in chains])
    assert all(v.steps and 0 <= v.score <= 1 for v in verdicts)


def test_a_preference_model_from_a_file_and_from_a_pool(home):
    path = home / "pairs.jsonl"
    rows = [
        {
            "prompt": p.prompt,
            "chosen": " It is good. The answer is 5.",
            "rejected": " It is bad. The answer is 5.",
        }
        for p in WORD
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    longer = {"batch": 8, "epochs": 10}
    measured = fit(
        options(home, "asked", kind="preference", preferences=str(path), pool=[], task="", **longer)
    )
    figures = measured["compared"]["preference"]
    assert figures["pair_accuracy"] == 1.0
    assert figures["auc"] > 0.9
    verifier = open_verifier(f"learned:{home}/asked")
    assert verifier.oracle is False
    prompt = load_problems("word:test:n=1")[0].prompt
    good, bad = verifier.verify(
        [Attempt(prompt, r["chosen"]) for r in rows[:1]] + [Attempt(prompt, rows[0]["rejected"])]
    )
    assert (good.score or 0) > 0.5 > (bad.score or 0)
    of_pool = fit(options(home, "of_pool", kind="preference", pairs_per_problem=2))
    assert of_pool["fitted_on"] + of_pool["held_out"] == 80
    assert of_pool["compared"]["preference"]["pair_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preferences": "x.jsonl"}, "--kind preference"),
        ({"kind": "preference", "preferences": "x.jsonl"}, "not both"),
        ({"kind": "preference", "pool": []}, "or --preferences FILE"),
        ({"kind": "preference", "pool": [], "preferences": "x.jsonl"}, "no such file"),
        ({"task": ""}, "Name the problems"),
    ],
)
def test_mistakes_are_named(home, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        fit(replace(options(home, "none"), run=str(tmp_path / "v"), **change))
    assert not (tmp_path / "v").exists()


def test_it_is_a_reward_in_training_and_held_out_problems_are_judged_by_the_task(home, process):
    run = home / "trained"
    train(
        TrainOptions(
            run=str(run),
            objective="grpo",
            model=str(home / "model"),
            task="word:train:n=40",
            eval_task="word:dev:n=3",
            verifier=f"learned:{home}/steps",
            steps=2,
            problems_per_step=4,
            chains_per_problem=8,
            max_new_tokens=40,
            lr=1e-3,
            eval_chains=2,
        )
    )
    with Pool.open(run, read_only=True) as pool:
        rewards = pool.verdicts(process[1].name)
        evaluated = pool.verdicts("numeric")
        problems = {c.key: c.problem_id for c in pool.chains()}
    assert pool.verifiers()[process[1].name] is False
    finished = [v.score for v in rewards.values() if v.score is not None]
    assert finished
    assert all(0 <= score <= 1 for score in finished)
    assert {problems[key] for key in rewards} <= {p.id for p in WORD}
    assert {problems[key] for key in evaluated} == {p.id for p in load_problems("word:dev:n=3")}
