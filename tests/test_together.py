"""Processes that use one run folder at the same time: its ledger, its small files, its pool."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from fake_engine import ScriptedEngine

from reasoning import durable
from reasoning.budget import Budget, Ledger
from reasoning.cli.search import store, stored
from reasoning.durable import AppendFile, turn
from reasoning.errors import PoolError, UserError
from reasoning.pool import Pool, claims
from reasoning.pool.merge import merge
from reasoning.records import Cost, Problem, Sampling, digest
from reasoning.runfile import read_run, write_run
from reasoning.sampling import sample
from reasoning.search import open_search
from reasoning.search.base import Answer
from reasoning.solve import Solution, solve
from reasoning.train.together import Shared
from verifiers import Verdict
from verifiers.numeric import Numeric

PROBLEMS = [Problem.make(f"What is {i} plus {i} ?", str(2 * i)) for i in range(5)]
S = Sampling(max_new_tokens=32, seed=3)
LIMIT = 400
BUDGET = Budget(tokens=LIMIT)
PROCESSES = multiprocessing.get_context("forkserver")
MANY = [Problem.make(f"What is {i} and {i} ?", str(2 * i)) for i in range(25)]


def all_at_once(work, count):
    """``work(i)`` in ``count`` threads that begin together."""
    gate = threading.Barrier(count)
    raised = []

    def run(i):
        gate.wait()
        try:
            work(i)
        except Exception as e:
            raised.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert raised == []


def test_commands_that_begin_together_share_a_ledger_without_a_budget(tmp_path):
    """Each is alone with the file while it reads: no reason to turn the others away."""
    Ledger(path=tmp_path).close()
    other = AppendFile(tmp_path / "ledger.jsonl")
    assert other.lock()
    threading.Timer(0.2, other.close).start()
    with Ledger(path=tmp_path) as a, Ledger(path=tmp_path) as b:
        assert a.id == b.id
    with Ledger(BUDGET, tmp_path), pytest.raises(PoolError, match="another process is spending"):
        Ledger(path=tmp_path)
    with Ledger(path=tmp_path), pytest.raises(PoolError, match="another process is spending"):
        Ledger(BUDGET, tmp_path)


def test_searches_that_end_together_keep_each_others_answers(tmp_path):
    solutions = [Solution(p.id, Answer("1"), Cost()) for p in PROBLEMS]
    path = tmp_path / "solutions.jsonl"

    def end(i):
        for n in range(10):
            store(path, f"strategy {i} {n}", "m", PROBLEMS, solutions, [True] * len(PROBLEMS))

    all_at_once(end, 4)
    assert len({row["strategy"] for row in stored(path)}) == 40
    assert len(stored(path)) == 40 * len(PROBLEMS)


def test_commands_that_begin_together_keep_each_others_settings(tmp_path, monkeypatch):
    monkeypatch.setattr("reasoning.runfile.versions", dict)
    monkeypatch.setattr("reasoning.runfile.git_revision", lambda: "")

    def begin(i):
        for n in range(10):
            write_run(tmp_path, f"verb{i}-{n}", {"n": n, "text": "x" * 100 * i})

    all_at_once(begin, 4)
    assert len(read_run(tmp_path)) == 41
    assert {p.name for p in tmp_path.iterdir()} == {"run.toml", ".rewriting"}


def test_a_lock_of_a_stopped_process_is_told_and_not_waited_for_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "TURN_SECONDS", 0.1)
    with Pool.open(tmp_path) as pool, turn(pool.path / "lock"), pytest.raises(PoolError, match="stopped"):
        pool.add_problems(PROBLEMS)


def draw_and_die(folder):
    """Killed between the pool's write and the ledger's."""
    Ledger._commit = lambda *_, **__: os._exit(9)
    with Pool.open(folder) as pool, Ledger(BUDGET, folder) as ledger:
        sample(PROBLEMS, ScriptedEngine(), pool, ledger, n=9, sampling=S)


def killed(folder):
    process = PROCESSES.Process(target=draw_and_die, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 9
    with Pool.open(folder, read_only=True) as pool:
        return sum(c.cost.tokens for c in pool.chains())


def test_what_was_drawn_while_one_waited_for_the_purse_is_spent(tmp_path):
    """The pool was opened before its last writer drew and died, and the ledger after."""
    with Pool.open(tmp_path) as pool:
        drawn = killed(tmp_path)
        assert drawn > 200
        with Ledger(BUDGET, tmp_path) as ledger:
            sample(PROBLEMS, ScriptedEngine(), pool, ledger, n=99, sampling=S)
            assert drawn < ledger.spent.cost.tokens <= LIMIT
    with Pool.open(tmp_path) as pool, Ledger(path=tmp_path) as ledger:
        assert ledger.recover(pool.charges()) == 0
        assert ledger.spent.cost.tokens == sum(c.cost.tokens for c in pool.chains()) <= LIMIT


def test_training_that_goes_on_knows_what_its_ledger_lacks(tmp_path):
    drawn = killed(tmp_path)
    with Shared(tmp_path, budget=BUDGET) as shared:
        assert shared.ledger.spent.cost.tokens == drawn


def test_what_was_drawn_after_the_pool_was_opened_is_not_drawn_again(tmp_path):
    with Pool.open(tmp_path) as early:
        with Pool.open(tmp_path) as other:
            sample(PROBLEMS, ScriptedEngine(), other, n=3, sampling=S)
        engine = ScriptedEngine()
        report = sample(PROBLEMS, engine, early, n=4, sampling=S)
        assert (report.present, report.drawn, engine.drawn) == (15, 5, 5)


class Logged(ScriptedEngine):
    """Writes down the keys that it draws, in a file of its own process. hangs_after: chains, after which it draws no
    more."""

    def __init__(self, folder, hangs_after=float("inf"), **options):
        super().__init__(**options)
        self.path = Path(folder) / f"{os.getpid()}.drawn"
        self.hangs_after = hangs_after

    def chain(self, *args):
        if self.drawn > self.hangs_after:
            (self.path.parent / "hangs").touch()
            time.sleep(600)
        chain = super().chain(*args)
        with self.path.open("a") as file:
            file.write(chain.key + "\n")
        return chain


def draw_beside_others(folder, what, gate=None, **options):
    """Sample, or search, and store the answers; without a budget, as commands that share a run do."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are deaf to it
    if gate is not None:
        gate.wait(60)
    engine = Logged(folder, **options)
    problems = MANY[::-1] if what.startswith("adaptive") else MANY
    with Pool.open(folder) as pool, Ledger(path=folder) as ledger:
        if what == "sample":
            sample(MANY, engine, pool, ledger, 16, S, batch_seconds=0.1)
        else:
            found = solve(problems, open_search(what), engine, ledger, pool, None, Numeric(), S)
            answers = {s.problem_id: (s.answer.answer, s.chains) for s in found}
            (Path(folder) / f"{what}.json").write_text(json.dumps(answers))


def assert_as_if_alone(folder, what):
    found = solve(MANY, open_search(what), ScriptedEngine(), extractor=Numeric(), sampling=S)
    expected = {s.problem_id: [s.answer.answer, [*s.chains]] for s in found}
    assert json.loads((folder / f"{what}.json").read_text()) == expected


def assert_paid_once(folder):
    with Pool.open(folder) as pool, Ledger(path=folder) as ledger:
        ledger.recover(pool.charges())
        chains = pool.chains()
        assert ledger.spent.cost.tokens == sum(c.cost.tokens for c in chains)
        assert ledger.spent.samples == len(chains)


def drawn_by_each(folder):
    return [path.read_text().split() for path in folder.glob("*.drawn")]


def begin_search(what, pool, scorer=None):
    """A thread in which a search is under way, and the list that will have its solutions."""
    found = []

    def run():
        found.extend(solve(MANY, open_search(what), ScriptedEngine(), None, pool, scorer, Numeric(), S))

    search = threading.Thread(target=run)
    search.start()
    return search, found


def wait_for(what, seconds=60):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_searches_beside_a_sampler_draw_and_pay_nothing_twice_and_answer_as_if_alone(tmp_path):
    gate = PROCESSES.Barrier(3)
    work = ["sample", "majority:n=16", "adaptive:n=20,step=4"]  # the last one begins at the other end
    processes = [
        PROCESSES.Process(
            target=draw_beside_others, args=(tmp_path, what, gate), kwargs={"seconds_per_chain": 0.002}
        )
        for what in work
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    for what in work[1:]:
        assert_as_if_alone(tmp_path, what)
    times = Counter(key for drawn in drawn_by_each(tmp_path) for key in drawn)
    assert set(times.values()) == {1}
    assert_paid_once(tmp_path)
    assert [p.name for p in (tmp_path / "pool" / "claims").iterdir()] == [".lock"]


@pytest.mark.parametrize(("other", "end"), [("sample", signal.SIGINT), ("majority:n=16", signal.SIGKILL)])
def test_a_search_waits_for_the_living_and_takes_over_from_those_that_end(tmp_path, other, end):
    """The other has claimed everything, and draws no more; the search gets its turn when the other ends."""
    first = PROCESSES.Process(
        target=draw_beside_others, args=(tmp_path, other), kwargs={"hangs_after": 40, "shuffled": False}
    )
    first.start()
    wait_for((tmp_path / "hangs").exists)
    search = PROCESSES.Process(target=draw_beside_others, args=(tmp_path, "majority:n=4"))
    search.start()
    wait_for(lambda: len(list((tmp_path / "pool" / "claims").glob("*.claim"))) == 2)
    search.join(0.5)
    assert search.is_alive()
    assert len(drawn_by_each(tmp_path)) == 1, "it waits"
    os.kill(first.pid, end)
    search.join(60)
    assert search.exitcode == 0
    first.join(60)
    assert first.exitcode
    assert_as_if_alone(tmp_path, "majority:n=4")
    assert_paid_once(tmp_path)


class Slow:
    """A scorer that costs something, and writes down what it judges."""

    name, oracle = "slow", False

    def __init__(self, folder):
        self.path = Path(folder) / f"{os.getpid()}.judged"

    def verify(self, attempts):
        time.sleep(0.001 * len(attempts))
        with self.path.open("a") as file:
            file.writelines(
                json.dumps([a.prompt, a.response, *a.metadata["token_ids"]]) + "\n" for a in attempts
            )
        return [Verdict(len(a.response) / 1000, scored_tokens=3) for a in attempts]

    def worst_case(self, attempts):
        return 3 * len(attempts), 0.0


def score_beside_others(folder, what, gate):
    gate.wait(60)
    with Pool.open(folder) as pool, Ledger(path=folder) as ledger:
        found = solve(MANY, open_search(what), Logged(folder), ledger, pool, Slow(folder), Numeric(), S)
    answers = {s.problem_id: (s.answer.answer, s.chains) for s in found}
    (Path(folder) / f"{what}.json").write_text(json.dumps(answers))


def test_searches_score_nothing_twice(tmp_path):
    """The chains are there already; scores are shared batch by batch."""
    work = ["best_of_n:n=40", "weighted_majority:n=40"]
    with Pool.open(tmp_path) as pool, Ledger(path=tmp_path) as ledger:
        sample(MANY, ScriptedEngine(), pool, ledger, 40, S)
        drawn = ledger.spent.cost
    gate = PROCESSES.Barrier(2)
    processes = [PROCESSES.Process(target=score_beside_others, args=(tmp_path, w, gate)) for w in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    judged = [line for path in tmp_path.glob("*.judged") for line in path.read_text().splitlines()]
    assert len(judged) == len({*judged}) == 1000
    with Ledger(path=tmp_path) as ledger:
        assert ledger.spent.cost.scored_tokens == 3000
        assert ledger.spent.cost.output_tokens == drawn.output_tokens
    for what in work:
        alone = solve(MANY, open_search(what), ScriptedEngine(), None, None, Slow(tmp_path), Numeric(), S)
        expected = {s.problem_id: [s.answer.answer, [*s.chains]] for s in alone}
        assert json.loads((tmp_path / f"{what}.json").read_text()) == expected


@pytest.mark.parametrize("slow_to_read", [False, True])
def test_claims_of_many_chains_to_score_do_not_grow_with_their_square(tmp_path, monkeypatch, slow_to_read):
    """1,000 chains in batches of 4, beside a process that holds the first 8: few keys are looked at for a batch, and
    where the pool is read longer than a batch is judged, batches grow."""
    asked = []
    take, read = claims.Claims.take, Pool.verdicts

    def counted(self, keys, groups=None, most=None):
        asked.append((len(keys), most))
        return take(self, keys, groups, most)

    def read_slowly(self, name):
        time.sleep(0.2 * slow_to_read)
        return read(self, name)

    monkeypatch.setattr(sys.modules["reasoning.solve"], "BATCH_CHAINS", 4)
    with Pool.open(tmp_path) as pool, Pool.open(tmp_path) as others, others.claims() as theirs:
        sample(MANY, ScriptedEngine(), pool, n=40, sampling=S)
        keys = [c.key for p in MANY for c in sorted(pool.chains(problem_ids=[p.id]), key=lambda c: c.index)]
        theirs.take([digest("slow", key, length=32) for key in keys[:8]])
        monkeypatch.setattr(claims.Claims, "take", counted)
        monkeypatch.setattr(Pool, "verdicts", read_slowly)
        search, found = begin_search("best_of_n:n=40", pool, Slow(tmp_path))
        wait_for(lambda: others.refresh() or len(read(others, "slow")) == 992)
        assert search.is_alive()
        theirs.drop()
        search.join(60)
        assert len(found) == len(MANY)
        assert len(read(pool, "slow")) == 1000
    scored = [(count, most) for count, most in asked if most]
    assert all(count <= 32 * most for count, most in scored)
    if slow_to_read:
        assert len(scored) < 60
    judged = [line for path in tmp_path.glob("*.judged") for line in path.read_text().splitlines()]
    assert len(judged) == len({*judged}) == 1000


def test_a_sampler_that_gives_way_finishes_what_it_has_begun(tmp_path, monkeypatch):
    """An engine with eight chains under way, which can leave it at these; one that cannot cancels them."""
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.3)

    class Eight(ScriptedEngine):
        def __init__(self, gives_way):
            super().__init__(seconds_per_chain=0.002)
            self.gives_way = gives_way
            self.left = []

        def generate(self, draws):
            under_way, coming = [], super().generate(draws)
            try:
                while True:
                    under_way += islice(coming, 8 - len(under_way))
                    if not under_way:
                        return
                    if (yield under_way.pop(0)):
                        coming = iter(())
            finally:
                self.left += [replace(c, finish_reason="cancelled") for c in under_way]

        def unfinished(self):
            left, self.left = self.left, []
            return left

    def come(folder):
        wait_for(lambda: any(folder.rglob("*.claim")))
        with Pool.open(folder) as pool, Ledger(path=folder) as ledger:
            solve(MANY, open_search("majority:n=10"), ScriptedEngine(), ledger, pool, sampling=S)

    for gives_way in (True, False):
        folder = tmp_path / str(gives_way)
        folder.mkdir()
        search = threading.Thread(target=come, args=(folder,))
        search.start()
        with Pool.open(folder) as pool, Ledger(path=folder) as ledger:
            report = sample(MANY, Eight(gives_way), pool, ledger, 20, S, batch_chains=10)
        search.join(60)
        with Pool.open(folder) as pool, Ledger(path=folder) as ledger:
            chains = pool.chains()
            spent = ledger.spent
        assert report.complete
        assert report.drawn < len(chains) == 500, "the search has drawn some"
        assert spent.samples == 500
        assert (spent.cancelled_tokens == 0) == gives_way
        assert spent.cost.tokens == sum(c.cost.tokens for c in chains) + spent.cancelled_tokens


def test_problems_that_others_do_not_draw_go_on_meanwhile(tmp_path):
    alone = solve(
        MANY, open_search("adaptive:n=20,step=4"), ScriptedEngine(), extractor=Numeric(), sampling=S
    )
    wanted = [key for s in alone for key in s.chains]
    with Pool.open(tmp_path) as pool, Pool.open(tmp_path) as others, others.claims() as theirs:
        theirs.take(alone[3].chains[:2])
        search, found = begin_search("adaptive:n=20,step=4", pool)
        rest = {*wanted} - {*alone[3].chains}
        wait_for(lambda: not pool.missing([*rest]))
        assert search.is_alive()
        assert len(pool.missing(wanted)) >= 2
        theirs.drop()
        search.join(60)
    strip = [(s.answer.answer, s.chains) for s in alone]
    assert [(s.answer.answer, s.chains) for s in found] == strip


def spend_until_killed(folder):
    with Pool.open(folder) as pool, Ledger(BUDGET, folder) as ledger:
        sample(PROBLEMS, Logged(folder, hangs_after=5), pool, ledger, n=9, sampling=S, batch_chains=1)


def test_a_merge_never_overshoots_the_budget_of_a_process_at_work(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        folder.mkdir()
    with Pool.open(other) as pool, Ledger(path=other) as ledger:
        sample(MANY, ScriptedEngine(), pool, ledger, n=2, sampling=S)
        cost = ledger.spent.cost.tokens
        assert cost > LIMIT
    writer = PROCESSES.Process(target=spend_until_killed, args=(run,))
    writer.start()
    wait_for((run / "hangs").exists)
    with pytest.raises(PoolError, match="another process is spending from this budget"):
        merge([other], run)
    with Pool.open(run, read_only=True) as pool:
        assert {c.problem_id for c in pool.chains()} <= {p.id for p in PROBLEMS}, "nothing was merged"
    writer.kill()
    writer.join()
    with Ledger(path=run) as beside:  # without a budget there is nothing to overshoot
        assert merge([other], run)["charges"] > 0
    with Ledger(BUDGET, run) as ledger, Pool.open(run) as pool:
        assert ledger.spent.cost.tokens == sum(c.cost.tokens for c in pool.chains()) > cost
        assert ledger.left().tokens == 0
    assert beside.spent.cost.tokens < ledger.spent.cost.tokens


def test_runs_that_were_charged_in_two_currencies_are_not_merged(tmp_path):
    for name, currency in (("a", "EUR"), ("b", "USD")):
        with Pool.open(tmp_path / name) as pool, Ledger() as ledger:
            charge = ledger.charge(Cost(5), phase="sample")
            pool.append([], charges=[replace(charge, price=1.0, currency=currency)])
    with pytest.raises(UserError, match="EUR, USD"):
        merge([tmp_path / "b"], tmp_path / "a")
    with Pool.open(tmp_path / "a", read_only=True) as pool:
        assert [c.currency for c in pool.charges()] == ["EUR"]
