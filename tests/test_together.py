"""Processes that use one run folder at the same time: its ledger, its small files, its pool."""

import multiprocessing
import os
import threading

import pytest
from fake_engine import ScriptedEngine

from reasoning import durable
from reasoning.budget import Budget, Ledger
from reasoning.cli.search import store, stored
from reasoning.durable import AppendFile, turn
from reasoning.errors import PoolError
from reasoning.pool import Pool
from reasoning.records import Cost, Problem, Sampling
from reasoning.runfile import read_run, write_run
from reasoning.sampling import sample
from reasoning.search.base import Answer
from reasoning.solve import Solution
from reasoning.train.together import Shared

PROBLEMS = [Problem.make(f"What is {i} plus {i} ?", str(2 * i)) for i in range(5)]
S = Sampling(max_new_tokens=32, seed=3)
LIMIT = 400
BUDGET = Budget(tokens=LIMIT)
PROCESSES = multiprocessing.get_context("forkserver")


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
