"""Verifiers work wherever they are called: in a thread, beside and inside an asyncio loop, in a Ray task or actor."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from verifiers import Attempt, Verdict, open_verifier

MATH = [
    Attempt("1/2 + 1/4?", r"So it is $\boxed{\frac{3}{4}}$", "0.75"),
    Attempt("1/2 + 1/4?", r"So it is $\boxed{\frac{1}{4}}$", "0.75"),
    Attempt("1/2 + 1/4?", "I do not know.", "0.75"),
]
CODE = [
    Attempt("", "```python\ndef f(x):\n    return x + 1\n```", {"function": "f", "args": [1], "output": 2}),
    Attempt("", "```python\ndef f(x):\n    return x\n```", {"function": "f", "args": [1], "output": 2}),
]


def _sandbox() -> bool:
    """Whether bubblewrap is there and may be used."""
    found = shutil.which("bwrap")
    command = [str(found), "--ro-bind", "/", "/", "--unshare-all", "true"]
    return bool(found) and subprocess.run(command, capture_output=True).returncode == 0


CASES = [
    pytest.param("math", MATH, [1.0, 0.0, 0.0], id="math"),
    pytest.param("pooled:math", MATH, [1.0, 0.0, 0.0], id="pooled"),
    pytest.param(
        "code",
        CODE,
        [1.0, 0.0],
        id="code",
        marks=pytest.mark.skipif(not _sandbox(), reason="bubblewrap (bwrap) is missing or not allowed"),
    ),
]

everywhere = pytest.mark.parametrize(("spec", "attempts", "scores"), CASES)


def judged(spec: str, attempts: list[Attempt]) -> list[Verdict]:
    """Opened and used in the same place, as a reward function in a worker does."""
    verifier = open_verifier(spec)
    try:
        return verifier.verify(attempts)
    finally:
        close = getattr(verifier, "close", None)
        if close is not None:
            close()


def scores_of(verdicts: list[Verdict]) -> list[float | None]:
    return [v.score for v in verdicts]


@everywhere
def test_in_threads(spec, attempts, scores):
    assert threading.current_thread() is threading.main_thread()
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(judged, [spec] * 2, [attempts] * 2):
            assert scores_of(found) == scores
        verifier = open_verifier(spec)  # opened here, used there, by two at once
        for found in threads.map(verifier.verify, [attempts] * 2):
            assert scores_of(found) == scores


@everywhere
def test_beside_a_running_loop(spec, attempts, scores):
    async def beside():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        found = await asyncio.to_thread(judged, spec, attempts)
        ticking.cancel()
        return found, ticks

    found, ticks = asyncio.run(beside())
    assert scores_of(found) == scores
    assert ticks, "the loop stood still"


@everywhere
def test_inside_a_running_loop(spec, attempts, scores):
    async def inside():
        return judged(spec, attempts)

    assert scores_of(asyncio.run(inside())) == scores


@pytest.fixture(scope="module")
def ray():
    """A small Ray on this machine."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray")
    from reasoning.cluster.connect import quiet_environment

    quiet_environment(alone=True)
    ray = importlib.import_module("ray")
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=80 << 20,
    )
    yield ray
    ray.shutdown()


def test_threads_do_not_disturb_each_others_precision():
    """`mpmath.mp` has one working precision for the process."""
    import sys

    batches = [
        [
            Attempt(response=f"\\boxed{{\\frac{{{i}}}{{7}}+\\sqrt{{{i}}}}}", reference=f"\\sqrt{{{i}}}+{i}/7")
            for i in range(start, start + 25)
        ]
        for start in range(2, 252, 25)
    ]
    verifier = open_verifier("math")
    pause = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            wrong = [v for found in threads.map(verifier.verify, batches) for v in found if not v.correct]
    finally:
        sys.setswitchinterval(pause)
    assert wrong == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
@everywhere
def test_in_a_ray_task_and_an_actor(ray, spec, attempts, scores):
    def task(spec, attempts):
        from verifiers import open_verifier

        return [v.score for v in open_verifier(spec).verify(attempts)]

    class Judge:
        def __init__(self, spec):
            from verifiers import open_verifier

            self.verifier = open_verifier(spec)

        def scores(self, attempts):
            return [v.score for v in self.verifier.verify(attempts)]

        async def scores_in_a_loop(self, attempts):
            return self.scores(attempts)

    actor = ray.remote(num_cpus=0)(Judge).remote(spec)
    found = [
        ray.remote(num_cpus=0)(task).remote(spec, attempts),
        actor.scores.remote(attempts),
        actor.scores_in_a_loop.remote(attempts),
    ]
    assert ray.get(found, timeout=60) == [scores] * 3
    ray.kill(actor)
