"""The purse as a whole: no strategy, engine, kind of limit, failure or thread spends more than the budget, and
everything that was computed is in a column."""

import random
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fake_engine import ScriptedEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasoning.budget import LIMITS, Budget, Ledger
from reasoning.drawing import ATTEMPTS
from reasoning.engines.base import ended_by
from reasoning.engines.replay import ReplayEngine
from reasoning.errors import BudgetError, EngineError, UserError
from reasoning.pool import Pool
from reasoning.prices import Prices
from reasoning.records import Chain, Cost, Problem, Sampling
from reasoning.sampling import sample, verify
from reasoning.search import open_search
from reasoning.solve import solve
from verifiers import Verdict
from verifiers.numeric import Numeric

PROBLEMS = [Problem.make(f"What is {i} plus {i} ?", str(2 * i)) for i in range(7)]
S = Sampling(max_new_tokens=32, seed=5)
SEARCHES = ["majority:n=5", "best_of_n:n=5", "weighted_majority:n=5", "adaptive:n=9,step=3"]
PRICES = Prices.from_mapping(
    {
        "models": {
            "scripted": {"input": 3.0, "cached": 4.0, "output": 9.0},
            "t": {"input": 3.0, "cached": 1.0, "output": 9.0},
            "length": {"scored": 2.0},
        }
    }
)


class Length:
    """Likes long responses; it costs 3 tokens a chain, and judges one in five not at all."""

    name = "length"
    oracle = False

    def verify(self, attempts):
        return [
            Verdict(len(a.response) / 1000 if len(a.response) % 5 else None, scored_tokens=3, flops=30.0)
            for a in attempts
        ]

    def worst_case(self, attempts):
        return 3 * len(attempts), 30.0 * len(attempts)


class Faulty(ScriptedEngine):
    """Some chains fail once or for good, some are cancelled, and now and then the whole call dies; it knows to the
    token what was computed. used: all of it."""

    def __init__(self, seed: int, trouble: float = 0.3):
        super().__init__()
        self.rng = random.Random(seed)
        self.trouble = trouble
        self.used = Cost()
        self.left: list[Chain] = []

    def generate(self, draws):
        todo = list(super().generate(draws))
        try:
            while todo:
                chain = todo.pop()
                if self.rng.random() < self.trouble:
                    part = len(chain.token_ids) // 2
                    cost = replace(
                        chain.cost, output_tokens=part, flops=1000.0 * (chain.cost.prompt_tokens + part)
                    )
                    chain = replace(chain, finish_reason=self.rng.choice(["failed", "cancelled"]), cost=cost)
                if self.rng.random() < self.trouble / 20:
                    todo.append(chain)
                    raise EngineError("the machine died")
                self.used += chain.cost
                yield chain
        finally:
            reason = ended_by(sys.exception())
            if todo and reason == "failed":  # only the chain at work had been begun
                self.left += [replace(todo[-1], finish_reason=reason)]
                self.used += todo[-1].cost

    def unfinished(self):
        left, self.left = self.left, []
        return left


def limits():
    one = {
        "tokens": st.integers(1, 1500),
        "flops": st.floats(1e3, 1.5e6),
        "samples": st.integers(1, 40),
        "price": st.floats(1e-5, 1e-2),
    }
    return st.dictionaries(st.sampled_from(sorted(one)), st.none(), min_size=1).flatmap(
        lambda names: st.fixed_dictionaries({name: one[name] for name in names}).map(lambda d: Budget(**d))
    )


def within(ledger: Ledger) -> bool:
    used = ledger.used()
    given = {name: getattr(ledger.budget, name) for name in LIMITS}
    return all(
        limit is None or used[name] <= limit * (1 + 1e-9 * (name in ("flops", "price")))
        for name, limit in given.items()
    )


def work(engine, ledger: Ledger, spec: str, pool: Pool | None = None, problems=PROBLEMS, sampling=S) -> None:
    """As a user would: sample, verify and search until the engine has had enough."""
    for _ in range(5):
        try:
            if pool is not None:
                sample(problems, engine, pool, ledger, n=3, sampling=sampling, batch_chains=3)
                verify(pool, Length(), ledger=ledger, batch_chains=4)
            solve(problems, open_search(spec), engine, ledger, pool, Length(), Numeric(), sampling)
            return
        except BudgetError:  # not even one chain
            return
        except EngineError as e:
            if "machine died" not in str(e):
                raise


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    budget=limits(),
    spec=st.sampled_from(SEARCHES),
    seed=st.integers(0, 999),
    trouble=st.sampled_from([0, 0.3]),
)
def test_nothing_spends_more_than_the_budget(budget, spec, seed, trouble):
    engine = Faulty(seed, trouble)
    ledger = Ledger(budget, prices=PRICES)
    work(engine, ledger, spec)
    assert within(ledger)
    spent = ledger.spent
    charged = replace(spent.cost, scored_tokens=0, seconds=0.0, flops=0.0)
    assert charged == replace(engine.used, flops=0.0), "every token that was computed is charged, none twice"
    assert spent.cost.flops == pytest.approx(engine.used.flops + 10.0 * spent.cost.scored_tokens)
    assert spent.cancelled_tokens + spent.failed_tokens <= spent.cost.tokens
    if not trouble:
        assert spent.cancelled_tokens == 0
    left = ledger.left()
    for name in LIMITS:
        limit = getattr(budget, name)
        if limit is not None:
            assert getattr(left, name) == pytest.approx(limit - ledger.used()[name]), "nothing stays reserved"


@pytest.mark.parametrize("spec", SEARCHES)
@pytest.mark.parametrize("budget", [Budget(tokens=3000), Budget(price=0.02), Budget(samples=60)])
def test_threads_with_one_purse(tmp_path, spec, budget):
    ledger = Ledger(budget, prices=PRICES)
    engines = [Faulty(seed) for seed in range(6)]
    wrong: list[BaseException] = []

    def run(number: int) -> None:
        problems = [Problem.make(f"What is {i} plus {number} ?", str(number + i)) for i in range(4)]
        try:
            with Pool.open(tmp_path / str(number)) as pool:
                work(engines[number], ledger, spec, pool, problems)
        except BaseException as e:
            wrong.append(e)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert within(ledger)
    total = sum((e.used for e in engines), Cost())
    assert ledger.spent.cost.output_tokens == total.output_tokens
    assert ledger.spent.cost.prompt_tokens == total.prompt_tokens


@pytest.mark.parametrize("spec", SEARCHES)
def test_a_replayed_pool_keeps_the_budget_too(tmp_path, spec):
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, n=9, sampling=S)
    for budget in (Budget(tokens=400), Budget(flops=2e5), Budget(price=0.003), Budget(samples=11)):
        ledger = Ledger(budget, prices=PRICES)
        work(ReplayEngine.open(tmp_path), ledger, spec)
        assert within(ledger)
        assert ledger.spent.samples > 0


@pytest.fixture(scope="module")
def tiny():
    sys.path.append(str(Path(__file__).parent / "engines"))
    try:
        from contract import tiny_model, tiny_tokenizer  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop()
    from reasoning.engines.transformers import TransformersEngine

    return TransformersEngine(tiny_model(), tiny_tokenizer(), name="t", version="1", max_rows=5)


WORDS = [Problem.make(" ".join(f"w{(7 * i + j) % 90}" for j in range(3 + 2 * i)), "1") for i in range(4)]


@pytest.mark.parametrize("spec", SEARCHES)
def test_a_real_model_keeps_the_budget(tiny, spec):
    sampling = Sampling(max_new_tokens=12)
    for budget in (Budget(tokens=250), Budget(flops=4e7), Budget(price=0.002), Budget(samples=9)):
        ledger = Ledger(budget, prices=PRICES)
        work(tiny, ledger, spec, None, WORDS, sampling)
        assert within(ledger)
        assert ledger.spent.samples > 0


class Interrupting:
    """A real engine whose caller is interrupted after ``after`` chains."""

    def __init__(self, engine, after):
        self.engine, self.after = engine, after
        self.model, self.shape = engine.model, engine.shape
        self.worst_case, self.unfinished = engine.worst_case, engine.unfinished

    def generate(self, draws):
        chains = self.engine.generate(draws)
        try:
            for number, chain in enumerate(chains):
                if number == self.after:
                    raise KeyboardInterrupt
                yield chain
        finally:
            chains.close()

    def close(self):
        pass


def test_chains_under_way_at_an_interrupt_are_charged_as_cancelled(tiny, tmp_path):
    sampling = Sampling(max_new_tokens=40)
    with Pool.open(tmp_path) as pool:
        ledger = Ledger(Budget(tokens=4000), tmp_path)
        with pytest.raises(KeyboardInterrupt):
            sample(WORDS, Interrupting(tiny, 3), pool, ledger, n=3, sampling=sampling)
        spent, kept = ledger.spent, pool.chains()
        assert len(kept) == spent.samples == 3
        assert spent.cancelled_tokens > 0
        assert spent.failed_tokens == spent.discarded_tokens == 0
        stored = sum(c.cost.tokens for c in kept)
        # The chain that had arrived and was not handed on is lost to its caller, and to nobody else.
        lost = spent.cost.tokens - stored - spent.cancelled_tokens
        assert lost == 0
        assert not tiny.unfinished(), "told once"
        ledger.close()
    assert Ledger(path=tmp_path, read_only=True).spent.cancelled_tokens == spent.cancelled_tokens


class Stubborn(ScriptedEngine):
    """Fails the chains of ``bad`` (index -> how often) before it draws them."""

    def __init__(self, bad):
        super().__init__(shuffled=False)
        self.bad = Counter(bad)
        self.asked: Counter[int] = Counter()

    def generate(self, draws):
        for chain in super().generate(draws):
            self.asked[chain.index] += 1
            if self.bad[chain.index] > 0:
                self.bad[chain.index] -= 1
                yield replace(chain, finish_reason="failed", cost=Cost(output_tokens=2))
            else:
                yield chain


def test_a_failed_chain_is_paid_for_and_asked_for_again(tmp_path):
    engine, ledger = Stubborn({1: ATTEMPTS - 1, 2: 99}), Ledger()
    with Pool.open(tmp_path) as pool:
        report = sample(PROBLEMS[:1], engine, pool, ledger, n=4, sampling=S)
        assert [c.index for c in pool.chains()] == [0, 1, 3]
        assert dict(engine.asked) == {0: 1, 1: ATTEMPTS, 2: ATTEMPTS, 3: 1}
        assert (report.drawn, report.failed, report.unavailable) == (3, 1, 0)
        assert f"failed {ATTEMPTS} times each" in report.warnings[0]
        assert ledger.spent.failed_tokens == 2 * (ATTEMPTS - 1 + ATTEMPTS)
        kept = sum(c.cost.tokens for c in pool.chains())
        assert ledger.spent.cost.tokens == kept + ledger.spent.failed_tokens
        assert ledger.spent.samples == 3


def test_tokens_read_without_a_judgement_count_as_failed(tmp_path):
    ledger = Ledger()
    with Pool.open(tmp_path) as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, n=5, sampling=S)
        report = verify(pool, Length(), ledger=ledger)
        assert report.missing > 0
        assert ledger.spent.failed_tokens == 3 * report.missing


def test_a_limit_in_time_stops_a_long_call(tmp_path):
    engine, ledger = ScriptedEngine(seconds_per_chain=0.05), Ledger(Budget(seconds=0.2))
    with Pool.open(tmp_path) as pool:
        report = sample(PROBLEMS[:1], engine, pool, ledger, n=16, sampling=S)
        assert 1 <= report.drawn < 16, "the first step asks for 16 chains, which take 0.8 s"
        assert report.unaffordable == 16 - report.drawn
        assert ledger.spent.samples == len(pool.chains()) == report.drawn


def test_a_limit_in_flops_is_refused_where_flops_are_not_known(tmp_path):
    class Unknown(ScriptedEngine):
        def worst_case(self, draw):
            return replace(super().worst_case(draw), flops=0.0)

    with (
        Pool.open(tmp_path) as pool,
        pytest.raises(UserError, match="does not know the FLOPs of 'scripted@1'"),
    ):
        sample(PROBLEMS, Unknown(), pool, Ledger(Budget(flops=1e9)), sampling=S)


def test_an_unpriced_model_is_an_error_before_anything_is_drawn(tmp_path):
    engine, ledger = ScriptedEngine("other@1"), Ledger(Budget(price=1.0), prices=PRICES)
    with Pool.open(tmp_path) as pool, pytest.raises(UserError, match="no price for model 'other'"):
        sample(PROBLEMS, engine, pool, ledger, sampling=S)
    assert engine.drawn == 0


def test_a_run_goes_on_with_a_budget_below_what_it_has_spent(tmp_path):
    """What takes nothing of it is done; what would is not, and nothing is called an overshoot."""
    with Pool.open(tmp_path) as pool:
        with Ledger(path=tmp_path) as ledger:
            sample(PROBLEMS, ScriptedEngine(), pool, ledger, n=3, sampling=S)
        with Ledger(Budget(samples=2, tokens=50), tmp_path) as ledger:
            assert verify(pool, Numeric(), ledger=ledger).judged == 21
            assert verify(pool, Length(), ledger=ledger).unaffordable == 21
            solutions = solve(
                PROBLEMS, open_search("majority:n=5"), ScriptedEngine(), ledger, pool, sampling=S
            )
            assert [len(s.chains) for s in solutions] == [3] * len(PROBLEMS)
        with Ledger(Budget(samples=2), tmp_path) as ledger:
            assert verify(pool, Length(), ledger=ledger).judged == 21
            with pytest.raises(EngineError, match="23 samples were spent of 2"):
                ledger.charge(Cost(), 2, phase="sample")
