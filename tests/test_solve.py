from dataclasses import replace

import pytest
from fake_engine import ScriptedEngine

from reasoning.budget import Budget, Ledger
from reasoning.engines.replay import ReplayEngine
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Cost, Draw, Problem, Sampling
from reasoning.sampling import sample, verify
from reasoning.search import Answer, Judge, open_search
from reasoning.solve import solve
from verifiers import Verdict
from verifiers.numeric import Numeric

PROBLEMS = [Problem.make(f"What is {i} plus {i} ?", str(2 * i)) for i in range(12)]
S = Sampling(max_new_tokens=32, seed=5)
ALL = ["majority:n=6", "best_of_n:n=6", "weighted_majority:n=6", "adaptive:n=12,step=3"]


class Length:
    """Likes long responses; deployable, and it costs 3 tokens a chain."""

    name = "length"
    oracle = False

    def __init__(self):
        self.judged = 0

    def verify(self, attempts):
        assert all(a.reference is None for a in attempts)
        self.judged += len(attempts)
        return [Verdict(len(a.response) / 1000, None, scored_tokens=3, flops=30.0) for a in attempts]

    def worst_case(self, attempts):
        return 3 * len(attempts), 30.0 * len(attempts)


def spent(ledger):
    return replace(ledger.spent.cost, seconds=0.0)


def total(solutions):
    return replace(sum((s.cost for s in solutions), Cost()), seconds=0.0)


@pytest.mark.parametrize("spec", ALL)
def test_every_search_is_billed_exactly_and_stored(tmp_path, spec):
    ledger, scorer, engine = Ledger(), Length(), ScriptedEngine()
    with Pool.open(tmp_path) as pool:
        solutions = solve(
            PROBLEMS, open_search(spec), engine, ledger, pool, scorer, extractor=Numeric(), sampling=S
        )
        assert [s.problem_id for s in solutions] == [p.id for p in PROBLEMS]
        assert total(solutions) == spent(ledger)
        assert {k for s in solutions for k in s.chains} == pool.keys()
        assert list(ledger.totals(by=("phase", "strategy"))) == [("search", open_search(spec).name)]
        assert ledger.spent.samples == sum(s.samples for s in solutions) == engine.drawn
        assert ledger.spent.discarded_tokens == sum(s.discarded_tokens for s in solutions)
        assert (ledger.spent.discarded_tokens > 0) == spec.startswith("adaptive")
        right = sum(s.answer.answer == p.reference for s, p in zip(solutions, PROBLEMS, strict=True))
        assert right >= (4 if spec.startswith("best_of_n") else 7), "length is a poor judge, votes are better"
        assert not any(s.short for s in solutions)
        again = solve(
            PROBLEMS, open_search(spec), engine, ledger, pool, scorer, extractor=Numeric(), sampling=S
        )
        assert again == solutions, "everything is in the pool: the same answers at the same logical cost"
        assert total(solutions) == spent(ledger), "and nothing is charged twice"


def test_requests_of_all_problems_share_engine_calls():
    engine = ScriptedEngine()
    solve(PROBLEMS, open_search("adaptive:n=12,step=3"), engine, extractor=Numeric(), sampling=S)
    assert len(engine.calls) <= 4
    assert len(engine.calls[0]) == len(PROBLEMS)


def test_a_search_uses_what_sampling_drew(tmp_path):
    engine, scorer = ScriptedEngine(), Length()
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, engine, pool, n=6, sampling=S)
        verify(pool, scorer)
        ledger = Ledger()
        solutions = solve(PROBLEMS, open_search("best_of_n:n=6"), engine, ledger, pool, scorer, sampling=S)
        assert ledger.spent.samples == 0
        assert (engine.drawn, scorer.judged) == (72, 72)
        assert total(solutions).scored_tokens == 3 * 72
        for solution, problem in zip(solutions, PROBLEMS, strict=True):
            chains = pool.chains(problem_ids=[problem.id])
            assert solution.answer.chain == max(chains, key=lambda c: len(c.text))


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("tokens", [40, 250, 600])
def test_a_budget_is_never_overshot_and_what_it_pays_for_is_used(spec, tokens):
    ledger = Ledger(Budget(tokens=tokens))
    solutions = solve(
        PROBLEMS, open_search(spec), ScriptedEngine(), ledger, None, Length(), Numeric(), sampling=S
    )
    assert spent(ledger).tokens <= tokens
    assert total(solutions) == spent(ledger)
    assert any(s.short for s in solutions)
    assert ledger.left().tokens == tokens - spent(ledger).tokens, "nothing stays reserved"
    if spec.startswith("majority"):
        counts = [s.samples for s in solutions]
        assert max(counts) - min(counts) <= 1, "a short purse is spread evenly"


def test_chains_in_flight_are_billed_and_have_no_vote():
    same = ScriptedEngine(answer=lambda problem, index, rng: "5")
    ledger = Ledger()
    (solution,) = solve(PROBLEMS[:1], open_search("adaptive:n=30,step=10"), same, ledger, sampling=S)
    assert solution.samples == 10
    assert solution.answer.votes == {"5": 4}
    assert len(solution.answer.unused) == 6
    assert ledger.spent.samples == 10
    assert ledger.spent.discarded_tokens == solution.discarded_tokens > 0


def test_replay_gives_the_same_solutions(tmp_path):
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, n=12, sampling=S)
    for spec in ALL:
        live = solve(PROBLEMS, open_search(spec), ScriptedEngine(), None, None, Length(), Numeric(), S)
        replay = ReplayEngine.open(tmp_path)
        recorded = solve(PROBLEMS, open_search(spec), replay, scorer=Length(), extractor=Numeric())
        assert [(s.answer.answer, s.answer.votes, s.chains) for s in recorded] == [
            (s.answer.answer, s.answer.votes, s.chains) for s in live
        ]
        assert not replay.misses


def test_truncated_chains_abstain():
    short = replace(S, max_new_tokens=5)
    (solution,) = solve(PROBLEMS[:1], open_search("majority:n=30"), ScriptedEngine(), sampling=short)
    assert solution.samples == 30
    assert 0 < sum(solution.answer.votes.values()) < 30


class Leaky:
    """An extractor that would cheat if it could."""

    name = "leaky"
    oracle = True

    def verify(self, attempts):
        return [Verdict(None, str(a.reference)) for a in attempts]


def test_votes_never_see_the_reference():
    (solution,) = solve(
        PROBLEMS[3:4], open_search("majority:n=3"), ScriptedEngine(), extractor=Leaky(), sampling=S
    )
    assert solution.answer.votes == {"None": 3}


class Away(Length):
    """A scorer whose server is down; or, with ``but``, one that refuses the chains that hold this text."""

    def __init__(self, but=None):
        super().__init__()
        self.but = but

    def verify(self, attempts):
        lost = Verdict(None, status="infrastructure", reason="nobody listens")
        fair = super().verify(attempts)
        return [
            lost if self.but is None or self.but in a.response else v
            for a, v in zip(attempts, fair, strict=True)
        ]


def test_a_scorer_that_is_away_ends_the_search_and_the_next_one_asks_it_again(tmp_path):
    engine, best = ScriptedEngine(), open_search("best_of_n:n=6")
    with Pool.open(tmp_path) as pool:
        with pytest.raises(
            UserError, match=r"length could judge none of 72 chains \(infrastructure: nobody list"
        ):
            solve(PROBLEMS, best, engine, Ledger(), pool, Away(), sampling=S)
        scorer = Length()
        found = solve(PROBLEMS, best, engine, Ledger(), pool, scorer, sampling=S)
        assert (engine.drawn, scorer.judged) == (72, 72)
        assert all(s.answer.chain for s in found)


def test_a_chain_that_a_scorer_cannot_read_does_not_make_the_purse_look_short():
    with_it = solve(PROBLEMS, open_search("best_of_n:n=6"), ScriptedEngine(), scorer=Length(), sampling=S)
    assert with_it[0].answer.chain is not None
    text = with_it[0].answer.chain.text
    found = solve(PROBLEMS, open_search("best_of_n:n=6"), ScriptedEngine(), scorer=Away(text), sampling=S)
    assert found[0].answer.chain is not None
    assert found[0].answer.chain.text != text
    assert not any(s.short for s in found)


def test_a_missing_scorer_is_a_user_error():
    with pytest.raises(UserError, match="needs a scorer"):
        solve(PROBLEMS, open_search("best_of_n"), ScriptedEngine())


class Forked:
    """Asks for two draws and a judgement at once, then for nothing, then answers."""

    name = "forked"
    needs_scorer = True

    def __call__(self, problem, sampling):
        first, second = yield [Draw(problem, sampling, (0, 1)), Draw(problem, sampling, (1, 2))]
        assert [c.chain.index for c in first] == [0, 1]
        assert [c.chain.index for c in second] == [1, 2]
        (scores,) = yield [Judge(first)]
        assert len(scores) == 2
        assert (yield []) == []
        return Answer("done", first[0].chain)


def test_several_requests_at_once():
    engine, scorer = ScriptedEngine(), Length()
    solutions = solve(PROBLEMS[:2], Forked(), engine, scorer=scorer, sampling=S)
    assert [s.answer.answer for s in solutions] == ["done", "done"]
    assert [s.samples for s in solutions] == [3, 3]
    assert (engine.drawn, scorer.judged) == (6, 4)


def test_an_interrupted_search_goes_on(tmp_path):
    search = open_search("adaptive:n=12,step=3")
    with Pool.open(tmp_path) as pool, Ledger(None, tmp_path) as ledger:
        with pytest.raises(Exception, match="scripted to fail"):
            solve(PROBLEMS, search, ScriptedEngine(fail_after=50), ledger, pool, sampling=S)
        assert len(pool.keys()) == 50
        resumed = solve(PROBLEMS, search, ScriptedEngine(), ledger, pool, sampling=S)
        whole = solve(PROBLEMS, search, ScriptedEngine(), sampling=S)
        assert [(s.answer.answer, s.chains) for s in resumed] == [(s.answer.answer, s.chains) for s in whole]
        assert ledger.spent.samples == sum(s.samples for s in whole)


TWENTY = [Problem.make(f"What is {i} plus {i} ?", str(2 * i)) for i in range(20)]


@pytest.mark.parametrize("spec", ["best_of_n:n=8", "weighted_majority:n=8"])
@pytest.mark.parametrize("spare", [0, 1, 17, 100, 700])
def test_a_tight_budget_keeps_the_scores_of_what_it_draws(spec, spare):
    """Enough for one chain of each problem and its score: every problem is answered by a scored chain."""
    engine = ScriptedEngine(shuffled=False)
    one = sum(engine.worst_case(Draw(p, S)).tokens + 3 for p in TWENTY)
    ledger = Ledger(Budget(tokens=one + spare))
    solutions = solve(
        TWENTY, open_search(spec), engine, ledger, None, Length(), extractor=Numeric(), sampling=S
    )
    assert spent(ledger).tokens <= one + spare
    assert all(s.answer.answer is not None for s in solutions)
    assert spent(ledger).scored_tokens >= 3 * 20
    if spec.startswith("best"):
        assert spent(ledger).scored_tokens == 3 * sum(s.samples for s in solutions), (
            "no chain without a score"
        )
    assert ledger.left().tokens == one + spare - spent(ledger).tokens, "nothing stays reserved"


@pytest.mark.parametrize("spec", ["best_of_n:n=3", "weighted_majority:n=3"])
def test_scores_go_round_the_problems_and_without_any_the_votes_decide(tmp_path, spec):
    with Pool.open(tmp_path) as pool:
        sample(TWENTY, ScriptedEngine(), pool, n=3, sampling=S)
        votes = solve(TWENTY, open_search("majority:n=3"), ScriptedEngine(), None, pool, None, Numeric(), S)
        for tokens, least, most in ((2, 0, 0), (3 * 20, 1, 1), (3 * 30, 1, 2)):
            scorer = Length()
            scorer.name = f"length-{tokens}"
            ledger = Ledger(Budget(tokens=tokens))
            found = solve(TWENTY, open_search(spec), ScriptedEngine(), ledger, pool, scorer, Numeric(), S)
            known = pool.verdicts(scorer.name)
            counts = [sum(k in known for k in s.chains) for s in found]
            assert (min(counts), max(counts)) == (least, most)
            assert all(s.answer.answer is not None for s in found)
            if not most:
                assert [s.answer.answer for s in found] == [v.answer.answer for v in votes]
