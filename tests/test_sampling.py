import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_engine import ScriptedEngine

from reasoning.budget import Budget, Ledger
from reasoning.drawing import in_turn
from reasoning.errors import BudgetError, EngineError, UserError
from reasoning.pool import Pool
from reasoning.records import Chain, Cost, Problem, Sampling
from reasoning.sampling import sample, verify
from verifiers import Attempt, Verdict

PROBLEMS = [Problem.make(f"What is {i} plus {i} ?", str(2 * i), "sums", {"steps": i}) for i in range(5)]
S = Sampling(max_new_tokens=32, seed=3)


def without_seconds(chains: list[Chain]) -> list[Chain]:
    return [replace(c, cost=replace(c.cost, seconds=0.0)) for c in chains]


def content(chains: list[Chain]) -> list[Chain]:
    """What a chain is, apart from which sibling paid for the prompt."""
    return [replace(c, cost=Cost(output_tokens=c.cost.output_tokens)) for c in chains]


class Recorder:
    def __init__(self) -> None:
        self.seen: list[dict] = []

    def update(self, **fields) -> None:
        self.seen.append(fields)

    def close(self) -> None:
        pass


def test_draws_only_what_is_missing(tmp_path):
    engine, progress = ScriptedEngine(), Recorder()
    with Pool.open(tmp_path) as pool:
        first = sample(PROBLEMS, engine, pool, n=3, sampling=S, progress=progress)
        assert (first.wanted, first.present, first.drawn) == (15, 0, 15)
        assert first.complete
        assert len(engine.calls) == 1, "the engine batches: it is given everything at once"
        assert [d.indices for d in engine.calls[0]] == [(0, 1, 2)] * 5
        assert progress.seen[-1]["done"] == progress.seen[-1]["total"] == 15
        more = sample(PROBLEMS, engine, pool, n=5, sampling=S)
        assert (more.present, more.drawn) == (15, 10)
        assert [d.indices for d in engine.calls[1]] == [(3, 4)] * 5
        again = sample(PROBLEMS, engine, pool, n=5, sampling=S)
        assert (again.present, again.drawn, len(engine.calls)) == (25, 0, 2)
        assert [(c.problem_id, c.index) for c in pool.chains()] == [
            (p.id, i) for p in PROBLEMS for i in range(5)
        ]
        other = sample(PROBLEMS, engine, pool, n=1, sampling=replace(S, temperature=0))
        assert other.drawn == 5, "other parameters, other chains"


def test_charges_equal_the_chains(tmp_path):
    with Pool.open(tmp_path) as pool, Ledger(Budget(tokens=10**6), tmp_path) as ledger:
        report = sample(PROBLEMS, ScriptedEngine(), pool, ledger, n=4, sampling=S, batch_chains=3)
        total = ledger.totals()[("sample",)]
        assert total.samples == 20
        assert replace(total.cost, seconds=0.0) == sum((c.cost for c in pool.chains()), Cost())
        assert report.cost.output_tokens == total.cost.output_tokens
        assert len(ledger.charges) == 7
        assert ledger.left().tokens == 10**6 - total.cost.tokens, "nothing stays reserved"


@pytest.mark.parametrize("tokens", [30, 100, 333, 700])
def test_a_short_purse_leaves_every_problem_equally_many(tmp_path, tokens):
    engine = ScriptedEngine()
    ledger = Ledger(Budget(tokens=tokens))
    with Pool.open(tmp_path) as pool:
        report = sample(PROBLEMS, engine, pool, ledger, n=20, sampling=S)
        assert ledger.spent.cost.tokens <= tokens
        assert report.unaffordable == 100 - report.drawn > 0
        counts = [len(pool.chains(problem_ids=[p.id])) for p in PROBLEMS]
        assert max(counts) - min(counts) <= 1
        assert any("budget was spent" in w for w in report.warnings)
        one = max(engine.worst_case(d).tokens for d in engine.calls[0])
        assert ledger.left().tokens < one
        assert sample(PROBLEMS, engine, pool, ledger, n=20, sampling=S).drawn == 0


def test_a_draw_that_lacks_a_level_gets_the_next_one_in_the_same_step():
    wants = [(i, at) for i in (1, 2) for at in range(4)][2:]
    assert in_turn(wants) == [(1, 2), (1, 3), (2, 2), (2, 3), (2, 0), (2, 1)]
    assert in_turn([(0, 1), (0, 0)]) == [(0, 0), (0, 1)]
    assert in_turn([]) == []


@pytest.mark.parametrize(
    "budget", [Budget(samples=7), Budget(flops=200_000.0), Budget(samples=9, tokens=250)]
)
def test_other_limits(tmp_path, budget):
    ledger = Ledger(budget)
    with Pool.open(tmp_path) as pool:
        report = sample(PROBLEMS, ScriptedEngine(), pool, ledger, n=9, sampling=S)
        spent = ledger.spent
        assert report.drawn == spent.samples == len(pool.chains())
        assert 0 < spent.samples < 45
        assert budget.samples is None or spent.samples <= budget.samples
        assert budget.flops is None or spent.cost.flops <= budget.flops
        assert budget.tokens is None or spent.cost.tokens <= budget.tokens
        if budget == Budget(samples=7):
            assert spent.samples == 7


def test_a_limit_in_seconds_stops_near_it(tmp_path):
    engine = ScriptedEngine(seconds_per_chain=0.005)
    ledger = Ledger(Budget(seconds=0.4))
    with Pool.open(tmp_path) as pool:
        report = sample(PROBLEMS, engine, pool, ledger, n=1000, sampling=S)
    assert 16 <= report.drawn < 200
    assert ledger.spent.cost.seconds >= 0.4
    assert report.unaffordable == 5000 - report.drawn


def test_a_budget_below_one_chain_is_an_error(tmp_path):
    with Pool.open(tmp_path) as pool, pytest.raises(BudgetError, match="cannot pay for one chain") as e:
        sample(PROBLEMS, ScriptedEngine(), pool, Ledger(Budget(tokens=5)), sampling=S)
    assert "\n" not in str(e.value)


def test_truncation_is_reported(tmp_path):
    with Pool.open(tmp_path) as pool:
        report = sample(PROBLEMS, ScriptedEngine(), pool, n=8, sampling=replace(S, max_new_tokens=6))
        cut = sum(c.truncated for c in pool.chains())
        assert report.truncated == cut > 10
        assert f"{report.truncation_rate:.0%} of chains hit max_new_tokens=6" in report.warnings[0]


class Narrow(ScriptedEngine):
    """Its context is full after 7 tokens."""

    def generate(self, draws):
        for chain in super().generate(draws):
            full = replace(chain.cost, output_tokens=7)
            yield replace(chain, finish_reason="length", cost=full)


def test_what_the_context_cut_is_not_blamed_on_the_limit(tmp_path):
    with Pool.open(tmp_path / "early") as pool:
        report = sample(PROBLEMS, Narrow(), pool, n=2, sampling=S)
        (said,) = report.warnings
    assert "100% of chains were cut off before max_new_tokens=32, where the model's context" in said
    assert "--max-new-tokens" not in said
    with Pool.open(tmp_path / "late") as pool:
        (said,) = sample(PROBLEMS, Narrow(), pool, n=2, sampling=replace(S, max_new_tokens=7)).warnings
    assert said.endswith("Try --max-new-tokens 28.")


def test_an_engine_failure_keeps_what_has_arrived(tmp_path):
    with Pool.open(tmp_path) as pool:
        ledger = Ledger()
        with pytest.raises(EngineError, match="scripted to fail"):
            sample(PROBLEMS, ScriptedEngine(fail_after=7), pool, ledger, n=4, sampling=S)
        assert len(pool.chains()) == ledger.spent.samples == 7
        assert sample(PROBLEMS, ScriptedEngine(), pool, ledger, n=4, sampling=S).drawn == 13


class Impostor(ScriptedEngine):
    def generate(self, draws):
        yield from super().generate([replace(draws[0], problem=PROBLEMS[-1])])


def test_a_chain_that_nobody_asked_for_is_refused(tmp_path):
    with Pool.open(tmp_path) as pool:
        with pytest.raises(EngineError, match="nobody asked for"):
            sample(PROBLEMS[:1], Impostor(), pool, sampling=S)
        assert not pool.chains()


class Interrupted(ScriptedEngine):
    def generate(self, draws):
        for i, chain in enumerate(super().generate(draws)):
            if i == 4:
                raise KeyboardInterrupt
            yield chain


def test_an_interrupt_keeps_what_has_arrived_and_says_so(tmp_path):
    with Pool.open(tmp_path) as pool:
        with pytest.raises(KeyboardInterrupt, match="4 of 10 chains are kept"):
            sample(PROBLEMS, Interrupted(), pool, n=2, sampling=S)
        assert len(pool.chains()) == 4
    with Pool.open(tmp_path) as pool, Pool.open(tmp_path / "whole") as whole:
        sample(PROBLEMS, ScriptedEngine(), pool, n=2, sampling=S)
        sample(PROBLEMS, ScriptedEngine(), whole, n=2, sampling=S)
        assert content(pool.chains()) == content(whole.chains())


JOB = """
import sys
sys.path[:0] = sys.argv[3:]
from fake_engine import ScriptedEngine
from test_sampling import PROBLEMS, S
from reasoning.budget import Budget, Ledger
from reasoning.pool import Pool
from reasoning.sampling import sample
pool = Pool.open(sys.argv[1], segment_bytes=20_000)
print("ready", flush=True)
with pool, Ledger(Budget.parse(sys.argv[2]), sys.argv[1]) as ledger:
    sample(PROBLEMS, ScriptedEngine(seconds_per_chain=0.001), pool, ledger, n=60, sampling=S, batch_chains=7)
print("done", flush=True)
"""


@pytest.mark.parametrize("budget", ["tokens=1e9", "samples=203"])
def test_killed_at_random_moments_the_run_ends_with_the_same_pool_and_ledger(tmp_path, budget):
    """Every chain is there once, is the same, and was charged once."""
    here = str(Path(__file__).parent)
    rng = random.Random(budget)
    done, kills = False, 0
    while not done:
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, tmp_path, budget, here], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        process.stdout.readline()
        if kills < 5:
            time.sleep(rng.uniform(0.0, 0.12))
            process.send_signal(signal.SIGKILL)
            kills += 1
        done = "done" in process.stdout.read()
        process.stdout.close()
        process.wait()
    with Pool.open(tmp_path / "whole") as whole, Ledger(Budget.parse(budget)) as ledger:
        sample(PROBLEMS, ScriptedEngine(), whole, ledger, n=60, sampling=S)
        expected = content(whole.chains())
    with Pool.open(tmp_path, read_only=True) as pool, Ledger(None, tmp_path) as resumed:
        assert not pool.notes
        assert content(pool.chains()) == expected
        spent = resumed.spent
        assert spent.samples == len(expected)
        assert replace(spent.cost, seconds=0.0) == sum((c.cost for c in pool.chains()), Cost())


class Fair:
    """A deployable verifier that tells what it was shown."""

    name = "fair"
    oracle = False

    def __init__(self) -> None:
        self.seen: list[Attempt] = []

    def verify(self, attempts):
        self.seen += attempts
        return [Verdict(0.5, a.response.split()[-1], scored_tokens=10, flops=100.0) for a in attempts]

    def worst_case(self, attempts):
        return 10 * len(attempts), 100.0 * len(attempts)


class Gold(Fair):
    name = "gold"
    oracle = True

    def verify(self, attempts):
        self.seen += attempts
        return [Verdict(float(a.response.endswith(f" {a.reference}."))) for a in attempts]


def test_only_an_oracle_sees_the_reference(tmp_path):
    fair, gold = Fair(), Gold()
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, n=2, sampling=S)
        verify(pool, fair)
        report = verify(pool, gold)
        assert {a.reference for a in fair.seen} == {None}
        assert [a.reference for a in gold.seen] == [p.reference for p in PROBLEMS for _ in range(2)]
        chain = pool.chains()[0]
        shown = fair.seen[0]
        assert (shown.prompt, shown.response) == (PROBLEMS[0].prompt, chain.text)
        assert shown.metadata["token_ids"] == chain.token_ids
        assert shown.metadata["prompt_token_ids"] == chain.prompt_token_ids
        assert shown.metadata["steps"] == 0
        assert pool.verifiers() == {"fair": False, "gold": True}
        assert report.judged == 10
        assert report.correct == sum(v.correct for v in pool.verdicts("gold").values()) > 0


def test_verify_judges_only_what_has_no_verdict(tmp_path):
    fair = Fair()
    with Pool.open(tmp_path) as pool, Ledger(None, tmp_path) as ledger:
        sample(PROBLEMS, ScriptedEngine(), pool, n=2, sampling=S)
        verify(pool, fair, ledger=ledger, batch_chains=3)
        sample(PROBLEMS, ScriptedEngine(), pool, n=3, sampling=S)
        sample(PROBLEMS, ScriptedEngine("other@1"), pool, n=3, sampling=S)
        second = verify(pool, fair, ledger=ledger, model="scripted@1")
        assert (second.wanted, second.present, second.judged) == (15, 10, 5)
        assert len(fair.seen) == 15
        total = ledger.totals(by=("phase", "strategy"))[("verify", "fair")]
        assert (total.cost.scored_tokens, total.cost.flops) == (150, 1500.0)


def test_verify_never_overshoots(tmp_path):
    ledger = Ledger(Budget(tokens=55))
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, n=2, sampling=S)
        report = verify(pool, Fair(), ledger=ledger)
        assert ledger.spent.cost.tokens == 50
        assert (report.judged, report.unaffordable) == (5, 5)
        assert verify(pool, Fair()).judged == 5


class Away(Fair):
    """Reached for the responses of ``reached`` alone, as a judge's server that goes down."""

    def __init__(self, reached=lambda response: False):
        super().__init__()
        self.reached = reached

    def verify(self, attempts):
        fair = super().verify(attempts)
        lost = Verdict(None, status="infrastructure", reason="the server answered 401")
        return [v if self.reached(a.response) else lost for a, v in zip(attempts, fair, strict=True)]


def test_a_verifier_that_is_away_is_not_asked_on_and_is_asked_again(tmp_path):
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, n=2, sampling=S)
        away = Away()
        with pytest.raises(
            UserError, match=r"none of 4 chains \(infrastructure: the server answered 401\)\. Mend"
        ):
            verify(pool, away, batch_chains=4)
        assert len(away.seen) == 4
        known = {c.text for c in pool.chains()[:3]}
        partly = verify(pool, Away(known.__contains__))
        assert (partly.present, partly.judged, partly.missing) == (0, 10, 7)
        again = verify(pool, Fair())
        assert (again.present, again.judged, again.missing) == (3, 7, 0)
        assert not any(v.missing for v in pool.verdicts("fair").values())
        assert verify(pool, Fair()).judged == 0


def test_a_run_that_goes_on_keeps_what_failed_where_it_is_told_to(tmp_path):
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, n=2, sampling=S)
        assert verify(pool, Away(), again=False).missing == 10
        assert verify(pool, Fair(), again=False).judged == 0


class Short(Fair):
    def verify(self, attempts):
        return super().verify(attempts)[1:]


def test_a_verifier_of_the_wrong_length_is_an_error(tmp_path):
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, sampling=S)
        with pytest.raises(EngineError, match="4 verdicts on 5 attempts"):
            verify(pool, Short())
        assert not pool.verdicts("fair")


class Mine(Fair):
    def __init__(self, give):
        super().__init__()
        self.give = give

    def verify(self, attempts):
        return self.give(attempts)


@pytest.mark.parametrize(
    ("give", "says"),
    [
        (lambda a: 1 / 0, "^Verifier 'fair' failed with ZeroDivisionError: division by zero$"),
        (lambda a: None, "^Verifier 'fair' gave None where a list of Verdict was due.$"),
        (lambda a: [0.5] * len(a), "^Verifier 'fair' gave 0.5 where a Verdict was due.$"),
        (lambda a: [Verdict(7.0)] * len(a), r"gave a score of 7.0 \(a score lies in \[0, 1\]\).$"),
    ],
)
def test_a_verifier_that_misbehaves_is_one_line_that_names_it(tmp_path, give, says):
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, sampling=S)
        with pytest.raises(UserError, match=says):
            verify(pool, Mine(give))
        assert not pool.verdicts("fair")
        assert verify(pool, Mine(lambda a: [Verdict(float("nan"))] * len(a))).missing == len(PROBLEMS)
