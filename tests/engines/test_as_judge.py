"""A judge behind an engine: asked by its draws, charged by its chains, within its worst case."""

import pytest
from openai_fake import FakeServer, completion

from reasoning.budget import Budget, Ledger
from reasoning.engines import open_engine
from reasoning.engines.as_judge import EngineChats
from reasoning.pool import Pool
from reasoning.records import Chain, Problem, Sampling, chain_key
from reasoning.sampling import verify
from verifiers import Attempt
from verifiers.judge import Judge


def says_long_is_good(asked):
    if asked.text.startswith("You compare"):
        first, second = (asked.text.split(f"ANSWER {x}\n")[1].split("\nANSWER")[0] for x in "AB")
        return completion(asked, f"Better: {'A' if len(first) > len(second) else 'B'}")
    return completion(asked, f"Hm.\nScore: {10 if 'long' in asked.text.split('<<<ANSWER')[1] else 2}")


@pytest.fixture
def engine():
    with FakeServer(says_long_is_good) as fake:
        engine = open_engine(f"openai:m:base_url={fake.url},backoff=0.01,tries=2,template_tokens=100")
        engine.fake = fake
        yield engine
        engine.close()


def test_pointwise_and_pairwise_through_an_engine(engine):
    attempts = [Attempt(prompt="p", response=r) for r in ("a long one", "short", "short")]
    judge = Judge(EngineChats(engine), flops_per_token=2)
    verdicts = judge.verify(attempts)
    assert [v.score for v in verdicts] == [1.0, 0.2, 0.2]
    assert len(engine.fake.asked) == 2  # the same question is asked, and paid for, once
    assert verdicts[1].scored_tokens > 0 == verdicts[2].scored_tokens
    assert sum(v.scored_tokens for v in verdicts) <= judge.worst_case(attempts)[0]
    ranked = Judge(EngineChats(engine), mode="pairwise").verify(attempts)
    assert [v.score for v in ranked] == [1.0, 0.0, 0.0]
    assert [a.body["temperature"] for a in engine.fake.asked] == [0] * len(engine.fake.asked)


def test_an_engine_that_fails_is_a_missing_judgement_at_what_it_took(engine):
    attempts = [Attempt(prompt="p", response="x")]
    judge = Judge(EngineChats(engine))
    engine.fake.answer = lambda asked: asked.error(503, "no")
    (verdict,) = judge.verify(attempts)
    assert (verdict.score, verdict.status, verdict.scored_tokens) == (None, "infrastructure", 0)
    engine.fake.answer = lambda asked: asked.send("<html>")
    (verdict,) = judge.verify(attempts)
    assert (verdict.status, verdict.scored_tokens) == ("infrastructure", judge.worst_case(attempts)[0])


def test_the_purse_of_a_judge_holds(engine, tmp_path):
    problem = Problem.make("p", None)
    chains = [
        Chain(problem.id, i, f"long {i}", model="x@1", key=chain_key("x@1", Sampling(), problem.id, "p", i))
        for i in range(12)
    ]
    judge = Judge(EngineChats(engine, Sampling(temperature=0, max_new_tokens=16)), name="judge:engine")
    with Pool.open(tmp_path) as pool, Ledger(Budget(tokens=900), tmp_path) as ledger:
        pool.add_problems([problem])
        pool.add_model("x@1", {})
        pool.append(chains)
        report = verify(pool, judge, ledger=ledger)
        assert 0 < report.judged < 12
        assert report.unaffordable == 12 - report.judged
        assert 0 < ledger.spent.cost.scored_tokens <= 900
        assert ledger.spent.cost.scored_tokens == sum(
            v.scored_tokens for v in pool.verdicts(judge.name).values()
        )
