import threading
import time

import pytest

from verifiers import Attempt, Pooled, VerifierError, open_verifier

CODE = """
import os, time

def slow(response):
    if response == "hang":
        while True:
            pass
    if response == "die":
        os._exit(3)
    if response == "greedy":
        return len(bytearray(8 << 30)) > 0
    if response == "chatty":
        print("noise on standard output", flush=True)
    return response == "yes"
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "mine.py"
    path.write_text(CODE)
    with Pooled(f"{path}:slow", workers=2, seconds=0.5, memory_bytes=2 << 30) as opened:
        yield opened


def test_one_hanging_answer_delays_no_other(pool):
    attempts = [Attempt(response=f"no {i}") for i in range(40)]
    attempts[5] = Attempt(response="hang")
    attempts[20] = Attempt(response="yes")
    pool.verify([Attempt(response="warm"), Attempt(response="up")])
    begun = time.monotonic()
    verdicts = pool.verify(attempts)
    assert time.monotonic() - begun < 20
    assert [i for i, v in enumerate(verdicts) if v.missing] == [5]
    assert (verdicts[5].score, verdicts[5].status) == (None, "timeout")
    assert verdicts[20].score == 1


def test_death_memory_and_noise(pool):
    verdicts = pool.verify([Attempt(response=r) for r in ("die", "greedy", "chatty", "yes")])
    assert [v.score for v in verdicts] == [None, None, 0.0, 1.0]
    assert verdicts[0].status == "died"
    assert "MemoryError" in verdicts[1].reason


def test_same_verdicts_as_without_and_a_cache():
    plain = open_verifier("math")
    attempts = [Attempt(response=rf"\boxed{{{i}}}", reference=str(i % 3)) for i in range(12)] * 2
    attempts += [Attempt(response=None), Attempt(response="5", reference=b"5")]  # type: ignore[arg-type]
    with Pooled("math", workers=2) as pool:
        assert pool.name == "pooled:math"
        assert pool.oracle
        first = pool.verify(attempts)
        assert first[:24] == plain.verify(attempts[:24])
        assert [v.status for v in first[24:]] == ["bad_response", "bad_reference"]
        assert pool.verify(attempts) == first
        results = []
        threads = [threading.Thread(target=lambda: results.append(pool.verify(attempts))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [first] * 4


def test_errors_reach_the_caller():
    with pytest.raises(VerifierError, match="Did you mean 'math'"):
        open_verifier("pooled:maths")
