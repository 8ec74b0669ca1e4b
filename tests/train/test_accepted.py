"""What a verifier accepted in other runs flows back into training: only what is new, without evaluated problems."""

import json
from dataclasses import replace

import pytest
import small_runs
import torch
from safetensors.torch import load_file
from small_runs import killed_in, metrics, reinforce

from reasoning.engines import open_engine
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Chain, Sampling
from reasoning.sampling import sample, verify
from reasoning.tasks import load_problems
from reasoning.train import learner
from reasoning.train.accepted import Accepted, as_row, read_accepted
from reasoning.train.loop import train
from reasoning.train.trained import LEARNED
from verifiers import Verdict, open_verifier


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return small_runs.made(tmp_path_factory, "accepted")


def search(home, run, first, last):
    """A run that sampled some problems, and its verdicts."""
    engine = open_engine(f"transformers:{home}/base/model")
    with Pool.open(home / run) as pool:
        chosen = load_problems("word:train:n=16")[first:last]
        sample(chosen, engine, pool, n=8, sampling=Sampling(max_new_tokens=96))
        verify(pool, open_verifier(f"{home}/reward.py:even"))


def learn(home, run, **changes):
    return reinforce(
        home,
        run,
        "expert_iteration",
        task="",
        verifier="",
        chains_per_problem=8,
        source=[f"pool:{home}/searches"],
        **changes,
    )


def learned(folder):
    return set((folder / LEARNED).read_text().split())


def test_each_round_learns_from_what_is_new(home, monkeypatch):
    search(home, "searches", 0, 8)
    said = []
    first = train(learn(home, "round1"), log=said.append)
    with Pool.open(home / "searches", read_only=True) as pool:
        [name] = pool.verifiers()
        verdicts = pool.verdicts(name)
        wanted = {
            c.text for c in pool.chains() if verdicts[c.key].correct and not c.truncated and c.text.strip()
        }
        texts = {c.key: c.text for c in pool.chains()}
    assert {texts[key] for key in learned(first.folder)} == wanted
    assert f"Learning from {len(learned(first.folder))} accepted chains" in said[0]
    base, now = (load_file(f / "model.safetensors") for f in (home / "base" / "model", first.folder))
    assert not all(torch.equal(base[n], now[n]) for n in base)

    second = learn(home, "round2", model=str(first.folder))
    with pytest.raises(UserError, match="has not learned from before"):
        train(second)
    search(home, "searches", 8, 16)
    killed_in(monkeypatch, learner.Learner, "step", 2, second)
    before = (home / "round2" / "accepted.txt").read_text()
    search(home, "searches", 0, 16)  # what comes later is for a later round
    result = train(second)
    assert (home / "round2" / "accepted.txt").read_text() == before
    assert learned(result.folder) == learned(first.folder) | set(before.split())
    assert not learned(first.folder) & set(before.split())


def test_evaluated_problems_are_left_out(home):
    search(home, "searches", 0, 8)
    said = []
    asked = [one.problem for one in read_accepted([f"pool:{home}/searches"])]
    rows = [{"q": p.question.upper(), "a": p.reference} for p in asked]
    (home / "some.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (home / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = f"jsonl:{home}/some.jsonl:question=q,answer=a"
    options = learn(home, "guarded", eval_task=spec, steps=1)
    train(options, log=said.append)
    assert "their problems are evaluated" in said[1]
    evaluated = {asked[0].id}
    keys = set((home / "guarded" / "accepted.txt").read_text().split())
    with Pool.open(home / "searches", read_only=True) as pool:
        assert not evaluated & {c.problem_id for c in pool.chains() if c.key in keys}
    with pytest.raises(UserError, match="are of problems that are evaluated"):
        train(replace(options, run=str(home / "all"), eval_task=spec.replace("some", "all")))


def test_ids_are_kept_where_the_model_reads_them_so(home):
    search(home, "searches", 0, 8)
    engine = open_engine(f"transformers:{home}/base/model")
    one = read_accepted([f"pool:{home}/searches"])[0]
    assert as_row(one, engine).ids == one.chain.token_ids
    recorded = Accepted(one.problem, Chain(one.problem.id, 0, " The answer is 3."), 1.0)
    row = as_row(recorded, engine)
    assert engine.decode(row.ids) == " The answer is 3."
    assert row.ids[-1] == engine.tokenizer.eos_token_id
    assert row.prompt_ids == engine.ask(one.problem)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("word:train", "write pool:RUN"),
        ("pool:nowhere", "No pool at"),
        ("pool:{}/searches:verifier=mth", "Unknown verifier"),
        ("pool:{}/searches:at_leest=1", "at_least"),
    ],
)
def test_sources_that_are_none(home, spec, words):
    search(home, "searches", 0, 8)
    with pytest.raises(UserError, match=words):
        read_accepted([spec.format(home)])


def test_a_learned_verifier_is_named_with_or_without_its_version(home):
    """Where that tells it apart; with the version where it was fitted several times."""
    search(home, "learned", 0, 8)
    with Pool.open(home / "learned") as pool:
        key = next(c.key for c in pool.chains() if not c.truncated and c.text.strip())
        pool.add_verdicts("learned:runs/v:version=1a", {key: Verdict(0.75)}, oracle=False)
    [one] = read_accepted([f"pool:{home}/learned:verifier=learned:runs/v,at_least=0.7"])
    assert (one.chain.key, one.score) == (key, 0.75)
    with pytest.raises(UserError, match=r"say whose word counts: .*:verifier=\S+$") as refused:
        read_accepted([f"pool:{home}/learned"])
    assert read_accepted([str(refused.value).split()[-1]])  # what it says to write is understood
    with Pool.open(home / "learned") as pool:
        pool.add_verdicts("learned:runs/v:version=2b", {key: Verdict(0.25)}, oracle=False)
    with pytest.raises(UserError, match=r"one of: learned:runs/v:version=1a, learned:runs/v:version=2b\."):
        read_accepted([f"pool:{home}/learned:verifier=learned:runs/v"])
    for options in ("verifier={},at_least={}", "at_least={1},verifier={0}"):
        for version, score in (("1a", 0.75), ("2b", 0.25)):
            name = f"learned:runs/v:version={version}"
            [one] = read_accepted([f"pool:{home}/learned:{options.format(name, score)}"])
            assert one.score == score


def test_its_metrics_are_those_of_learning_alone(home):
    search(home, "searches", 0, 8)
    train(learn(home, "plain", steps=1))
    [_, row] = metrics(home, "plain")
    assert "reward" not in row
    assert row["flops/sample"] == 0 < row["flops/update"]
