"""Processes that fill one pool together: nothing twice, nothing left, whoever comes late or dies."""

import os
import threading
import time
from dataclasses import replace

import pytest
from fake_engine import ScriptedEngine

from reasoning.errors import EngineError
from reasoning.pool import Pool, claims
from reasoning.records import Cost, Problem, Sampling, chain_key
from reasoning.sampling import sample

PROBLEMS = [Problem.make(f"{i} + {i}?", str(2 * i)) for i in range(40)]
KEYS = [f"{i:032x}" for i in range(100)]


@pytest.fixture
def two(tmp_path):
    with Pool.open(tmp_path) as pool, pool.claims() as a, pool.claims() as b:
        yield a, b


def test_what_one_claims_is_not_the_others(two):
    a, b = two
    assert a.take(KEYS[:60]) == set(KEYS[:60])
    assert b.take(KEYS) == set(KEYS[60:])
    assert not a.asked()
    assert b.take(KEYS[:60]) == set()
    assert a.asked()
    assert len(a.take(KEYS[:60])) == 30, "half is for the one that waits"
    assert not a.asked(), "it is given the time to come for it"
    assert b.take(KEYS[:60]) == set(KEYS[30:60])


def test_who_waits_is_left_what_it_waits_for_with_its_groups_before_anything_is_shared(two):
    a, b = two
    problem = {key: at // 10 for at, key in enumerate(KEYS)}
    assert a.take(KEYS, lambda: [problem[k] for k in KEYS]) == set(KEYS)
    assert b.take([KEYS[3], KEYS[25]]) == set()
    assert a.asked(2)
    assert not a.asked(3)
    apart = set(KEYS[10:20]) | set(KEYS[30:])
    assert a.take(KEYS, lambda: [problem[k] for k in KEYS]) == apart
    assert b.take([KEYS[3], KEYS[25]]) == {KEYS[3], KEYS[25]}, "what it waited for is free"
    rest = KEYS[:10] + KEYS[20:30]
    assert a.take(rest, lambda: [problem[k] for k in rest]) == set(rest) - {KEYS[3], KEYS[25]}
    b.drop()
    assert a.take(rest) == set(rest), "nothing is claimed or waited for any more"


def test_who_has_waited_for_long_is_heard_for_one_key(two, monkeypatch):
    a, b = two
    a.take(KEYS)
    b.take(KEYS[:2])
    monkeypatch.setattr(claims, "LONG_SECONDS", 0.05)
    time.sleep(0.1)
    assert not a.asked(3)
    b.take(KEYS[:2])
    assert a.asked(3)
    b.take(KEYS[:1])
    assert not a.asked(3), "it has got one of them meanwhile"


def test_company_that_came_and_went_is_noticed(tmp_path):
    with Pool.open(tmp_path) as pool, pool.claims() as a:
        a.take(KEYS[:1])
        assert a.company, "somebody may have been there before"
        a.take(KEYS[:1])
        assert not a.company
        time.sleep(0.02)
        with pool.claims() as b:
            b.take(KEYS[1:])
        a.take(KEYS[:1])
        assert a.company, "what it drew is to be looked for"
        a.take(KEYS[:1])
        assert not a.company


def test_claims_of_the_dead_and_of_the_stopped_are_free(tmp_path, monkeypatch):
    with Pool.open(tmp_path) as pool, pool.claims() as a:
        dead, stopped = pool.claims(), pool.claims()
        dead.__enter__(), stopped.__enter__()
        dead.take(KEYS[:10])
        stopped.take(KEYS[10:20])
        assert a.take(KEYS[:20]) == set()
        path = dead._path
        dead._stop.set()
        os.close(dead._fd)  # what a kill leaves: the file without its lock
        assert a.take(KEYS[:20]) == set(KEYS[:10])
        assert not path.exists()
        stopped._stop.set()  # a process that hangs holds its lock and moves no more
        os.utime(stopped._fd, (time.time() - 60,) * 2)
        assert a.take(KEYS[:20]) == set(KEYS[:20])
        os.truncate(stopped._fd, 7)
        os.utime(stopped._fd)
        assert a.take(KEYS[:20]) == set(KEYS[:20]), "a torn claim claims nothing"
        stopped.__exit__()
    assert [p.name for p in (tmp_path / "pool" / "claims").iterdir()] == [".lock"]


def test_samplers_share_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.3)
    engines = [ScriptedEngine(seconds_per_chain=0.004) for _ in range(3)]  # 4 s for one alone
    reports = [None] * 3

    def work(at: int) -> None:
        time.sleep(0.15 * at)  # the others come when the first has claimed everything
        with Pool.open(tmp_path) as pool:
            reports[at] = sample(PROBLEMS, engines[at], pool, n=25, sampling=Sampling(), batch_chains=20)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(r.complete for r in reports)
    drawn = [r.drawn for r in reports]
    assert sum(drawn) == 1000, "nothing is drawn twice"
    assert min(drawn) > 100, drawn
    with Pool.open(tmp_path, read_only=True) as pool, Pool.open(tmp_path / "alone") as alone:
        sample(PROBLEMS, ScriptedEngine(), alone, n=25, sampling=Sampling())
        # which sibling pays for the prompt depends on the company it was drawn in; the chain does not
        assert [replace(c, cost=Cost()) for c in pool.chains()] == [
            replace(c, cost=Cost()) for c in alone.chains()
        ]
    assert sum(e.drawn for e in engines) < 1010, "what was in flight when work was given away"


def test_what_one_drew_that_came_and_failed_is_not_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.3)
    engines = [ScriptedEngine(seconds_per_chain=0.003), ScriptedEngine(fail_after=100)]

    def come() -> None:
        while not engines[0].drawn:
            time.sleep(0.01)
        with Pool.open(tmp_path) as pool, pytest.raises(EngineError):
            sample(PROBLEMS, engines[1], pool, n=25, sampling=Sampling())

    other = threading.Thread(target=come)
    other.start()
    with Pool.open(tmp_path) as pool:
        report = sample(PROBLEMS, engines[0], pool, n=25, sampling=Sampling(), batch_chains=20)
    other.join()
    assert report.complete
    assert report.drawn == 900


def test_a_sampler_takes_over_from_one_that_died(tmp_path):
    with Pool.open(tmp_path) as pool:
        dead = pool.claims()
        dead.__enter__()
        pool.add_problems(PROBLEMS)
        engine = ScriptedEngine()
        half = sample(PROBLEMS[:20], engine, pool, n=2, sampling=Sampling())
        assert half.drawn == 40
        dead.take(
            [chain_key(engine.model, Sampling(), p.id, p.prompt, i) for p in PROBLEMS for i in range(2)]
        )
        threading.Timer(0.5, lambda: (dead._stop.set(), os.close(dead._fd))).start()
        start = time.monotonic()
        report = sample(PROBLEMS, engine, pool, n=2, sampling=Sampling())
        assert report.drawn == report.present == 40
        assert time.monotonic() - start > 0.4
