"""The engine of many machines, on a real Ray cluster of several nodes in this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if importlib.util.find_spec("ray") is None:  # imported later, when its settings are made
    pytest.skip("needs Ray", allow_module_level=True)

from fake_engine import ScriptedEngine

from reasoning.budget import Budget, Ledger
from reasoning.cluster import ClusterSpec, parse_cluster
from reasoning.engines import open_engine
from reasoning.engines.base import WHOLE
from reasoning.engines.ray import RayEngine, engine_on
from reasoning.errors import EngineError, UserError
from reasoning.pool import Pool
from reasoning.records import Cost, Draw, Problem, Sampling
from reasoning.sampling import sample

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")

HERE = Path(__file__).resolve().parent
ENGINES = HERE / "ray_engines.py"


@pytest.fixture(scope="module")
def cluster():
    """A head and one more node; tests add others and take them away."""
    from reasoning.cluster.connect import quiet_environment

    quiet_environment(alone=True)
    from ray.cluster_utils import Cluster

    options = {"include_dashboard": False, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **options})
    made.add_node(num_cpus=2, object_store_memory=80 << 20)
    yield made
    import ray

    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def engine(cluster):
    """Two actors for all tests that ask for no others: starting one takes seconds."""
    made = RayEngine(f"{ENGINES}:scripted", ClusterSpec(cluster.address, actors=2, backoff_seconds=0.05))
    assert made.wait_for_actors(60) == 2
    yield made
    made.close()


@pytest.fixture
def opened(cluster):
    """Opens other engines on the cluster, and closes them."""
    engines = []

    def open_one(name: str = "scripted", **options):
        spec = ClusterSpec(cluster.address, **{"actors": 2, "backoff_seconds": 0.05, **options})
        engines.append(RayEngine(f"{ENGINES}:{name}", spec))
        return engines[-1]

    yield open_one
    for engine in engines:
        engine.close()


def problems(count: int, start: int = 0) -> list[Problem]:
    return [Problem.make(f"how much is {i} and 1", str(i + 1)) for i in range(start, start + count)]


def draws(wanted: list[Problem], n: int = 4, milliseconds: int = 0) -> list[Draw]:
    return [Draw(p, Sampling(max_new_tokens=32, seed=milliseconds), tuple(range(n))) for p in wanted]


def expected(asked: list[Draw]) -> dict:
    """What one engine on one machine gives: the oracle."""
    return {c.key: c for c in ScriptedEngine().generate(asked)}


def whole(chains) -> list:
    return [c for c in chains if c.finish_reason in WHOLE]


def check_once_and_same(chains, asked: list[Draw]) -> None:
    got = whole(chains)
    assert len({c.key for c in got}) == len(got), "a chain came twice"
    assert {c.key: c.token_ids for c in got} == {k: c.token_ids for k, c in expected(asked).items()}


def kill(engine: RayEngine, slot: int = 0) -> None:
    engine.pool.ray.kill(engine.pool.slots[slot].actor)


def test_the_same_chains_as_on_one_machine(engine):
    asked = [*draws(problems(7), 11), Draw(problems(1)[0], Sampling(seed=0), ()), *draws(problems(1, 50), 1)]
    check_once_and_same(engine.generate(asked), asked)
    assert engine.model == "scripted@1"
    assert list(engine.generate([])) == []
    hosts = {slot.about["pid"] for slot in engine.pool.slots if slot.ready}
    assert len(hosts) >= 1
    assert os.getpid() not in hosts


def test_costs_stay_within_the_worst_case(engine):
    for n in (1, 3, 8, 13):
        (asked,) = draws(problems(1), n)
        spent = sum((c.cost for c in engine.generate([asked])), Cost())
        assert spent.tokens <= engine.worst_case(asked).tokens
    assert engine.worst_case(draws(problems(1), 0)[0]) == Cost()
    worst = [engine.worst_case(draws(problems(1), n)[0]).tokens for n in range(1, 20)]
    assert worst == sorted(worst)


def test_an_actor_that_is_killed_costs_no_chain(engine):
    before = engine.pool.deaths
    asked = draws(problems(20), 8, milliseconds=10)
    chains = engine.generate(asked)
    got = [next(chains) for _ in range(5)]
    kill(engine, 0)
    got += list(chains)
    check_once_and_same(got, asked)
    assert engine.pool.deaths == before + 1
    for draw in asked:
        cost = sum((c.cost for c in got if c.problem_id == draw.problem.id), Cost())
        assert cost.tokens <= engine.worst_case(draw).tokens
    check_once_and_same(engine.generate(asked), asked)  # and the engine goes on


def test_a_process_that_dies_by_itself_is_repeated_and_charged(opened, tmp_path):
    engine = opened(actors=1)
    asked = draws([Problem.make(f"once {tmp_path / 'died'} ", "1")], 3)
    worst = engine.worst_case(
        asked[0]
    )  # as a purse asks; else it has to be asked of the next actor, when that is up
    got = list(engine.generate(asked))
    assert len(whole(got)) == 3
    (lost,) = [c for c in got if c.finish_reason == "failed"]
    assert lost.cost == Cost(prompt_tokens=2)
    assert sum((c.cost for c in got), Cost()).tokens <= worst.tokens


def test_a_node_that_goes_away_costs_no_chain(cluster, opened):
    node = cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
    engine = opened(actors=4)
    assert engine.wait_for_actors(60) == 4
    asked = draws(problems(20), 8, milliseconds=20)
    chains = engine.generate(asked)
    got = [next(chains)]
    cluster.remove_node(node, allow_graceful=False)
    got += list(chains)
    check_once_and_same(got, asked)
    until = time.monotonic() + 60  # the chains may have been faster than the node's end
    while not engine.pool.deaths and time.monotonic() < until:
        check_once_and_same(engine.generate(asked), asked)
    assert engine.pool.deaths >= 1


def test_what_kills_is_told_from_what_was_beside_it(engine):
    poison = Problem.make("poison", "1")
    fine = problems(10)
    asked = draws([*fine[:5], poison, *fine[5:]], 2)
    before = engine.pool.deaths
    got = list(engine.generate(asked))
    check_once_and_same(got, draws(fine, 2))
    failed = {c.key for c in got if c.finish_reason == "failed" and c.problem_id == poison.id}
    assert len(failed) == 2
    deaths = engine.pool.deaths
    assert 3 <= deaths - before <= 4  # one more where the batch before it was blamed first
    assert list(engine.given_up) == [poison.id]
    assert poison.id in engine.notes[-1]
    list(engine.generate(draws([poison], 2)))
    assert engine.pool.deaths == deaths + 1, "one that is known to kill gets one more chance, alone"


def test_the_driver_gives_up_what_kills_and_fills_the_rest(engine, tmp_path):
    wanted = [*problems(4), Problem.make("poison too", "1")]
    with Pool.open(tmp_path) as pool:
        report = sample(wanted, engine, pool, Ledger(Budget(tokens=100_000)), 2, Sampling(max_new_tokens=32))
        assert (report.drawn, report.failed) == (8, 2)
        assert len(pool.chains()) == 8


def test_a_call_that_raises_fails_alone(engine):
    asked = draws([*problems(4), Problem.make("raise", "1")], 2)
    before = engine.pool.deaths
    first = list(engine.generate(asked))
    assert engine.pool.deaths == before
    reached = {c.key for c in whole(first)}
    again = [Draw(d.problem, d.sampling, (i,)) for d in asked[:4] for i in d.indices]
    second = whole(engine.generate([d for d in again if not expected([d]).keys() <= reached]))
    check_once_and_same([*first, *second], asked[:4])


def test_a_mistake_of_the_caller_is_said_as_on_one_machine(engine):
    with pytest.raises(UserError, match="scripted mistake"):
        list(engine.generate(draws([Problem.make("mistake", "1")], 2)))
    check_once_and_same(engine.generate(draws(problems(3))), draws(problems(3)))


def test_closing_stops_the_actors_and_tells_what_was_under_way(engine):
    asked = draws(problems(10), 8, milliseconds=50)
    before = engine.pool.deaths
    chains = engine.generate(asked)
    got = [next(chains) for _ in range(3)]
    started = time.monotonic()
    chains.close()
    assert time.monotonic() - started < 4
    left = engine.unfinished()
    assert {c.finish_reason for c in left} <= {"cancelled"}
    assert len(got) + len(left) < 40
    assert engine.unfinished() == []
    assert not any(slot.batches for slot in engine.pool.slots)
    check_once_and_same(engine.generate(draws(problems(3))), draws(problems(3)))
    assert engine.pool.deaths == before


def test_one_call_at_a_time(engine):
    chains = engine.generate(draws(problems(4), 4))
    next(chains)
    with pytest.raises(EngineError, match="already"):
        next(engine.generate(draws(problems(1))))
    chains.close()
    assert list(engine.generate(draws(problems(1))))


def test_an_actor_without_a_sign_of_life_is_given_up(opened):
    engine = opened(deaf_seconds=2.5)
    engine.wait_for_actors(30)
    asked = draws(problems(10), 8, milliseconds=5)
    pid = engine.pool.slots[0].about["pid"]
    chains = engine.generate(asked)
    got = [next(chains)]
    os.kill(pid, signal.SIGSTOP)
    try:
        got += list(chains)  # all come while it is frozen
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    check_once_and_same(got, asked)
    assert engine.pool.deaths >= 1  # on a busy machine the other one may be silent for so long, too
    assert "no sign of life" in engine.pool.last_reason
    assert pid not in {slot.about.get("pid") for slot in engine.pool.slots if slot.ready}


def test_unlike_weights_are_refused(opened):
    engine = opened("unlike", actors=2)
    with pytest.raises(UserError, match="do not hold the same"):
        engine.wait_for_actors(30)


def test_a_wrong_spec_is_said_as_on_one_machine(opened):
    with pytest.raises(UserError, match="no such model"):
        opened("broken")


def test_actors_that_only_die_are_given_up(opened):
    with pytest.raises(EngineError, match="failures of actors in a row"):
        opened("dying", actors=2, backoff_seconds=0.001, most_failures=4)


def test_no_room_is_said(opened):
    with pytest.raises(EngineError, match="Each needs 50 CPU"):
        opened(cpus_per_actor=50, start_seconds=0.5)


def test_verifiers_on_the_cluster(cluster):
    from reasoning.cluster.verifier import RayVerifier, together
    from verifiers import Attempt, open_verifier

    attempts = [Attempt(f"p{i // 5}", f"The answer is {i % 7}.", 3) for i in range(100)]
    judge = RayVerifier("numeric", ClusterSpec(cluster.address, actors=2))
    assert (judge.name, judge.oracle) == ("numeric", True)
    assert judge.verify(attempts) == open_verifier("numeric").verify(attempts)
    assert judge.verify([]) == []
    kill(judge, 0)  # type: ignore[arg-type]
    assert judge.verify(attempts) == open_verifier("numeric").verify(attempts)
    judge.close()
    groups = together(attempts)
    assert [a for g in groups for a in g] == attempts
    assert all(len({a.prompt for a in g}) == 3 for g in groups[:-1])


def test_a_killed_driver_is_resumed(cluster, tmp_path):
    command = [
        *(sys.executable, "-m", "reasoning", "sample", str(tmp_path / "run"), "--task", "word:test:n=12"),
        *("--engine", f"{ENGINES}:scripted", "-n", "6", "--max-new-tokens", "32", "--seed", "60"),
        *("--cluster", f"{cluster.address}:actors=2", "--budget", "tokens=100000"),
    ]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    wal = tmp_path / "run" / "pool"
    while time.monotonic() < until and first.poll() is None and not _holds_chains(wal):
        time.sleep(0.02)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL, "it was over before it could be killed"
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert "72/72 chains" in second.stdout
    assert "(0 were there)" not in second.stdout
    from reasoning.tasks import load_problems

    with Pool.open(tmp_path / "run", read_only=True) as pool:
        asked = draws(load_problems("word:test:n=12"), 6, 60)
        assert {c.key: c.token_ids for c in pool.chains()} == {
            k: c.token_ids for k, c in expected(asked).items()
        }


def _holds_chains(folder: Path) -> bool:
    return any(b"finish_reason" in f.read_bytes() for f in folder.rglob("*") if f.is_file())


def test_specs_of_clusters():
    assert parse_cluster("auto") == ClusterSpec()
    assert parse_cluster("auto:actors=4,gpus_per_actor=0.5") == ClusterSpec(actors=4, gpus_per_actor=0.5)
    assert parse_cluster("10.0.0.1:6379").address == "10.0.0.1:6379"
    assert parse_cluster("ray://head:10001:actors=3") == ClusterSpec("ray://head:10001", 3)
    for text, said in {
        "auto:actor=3": "Did you mean 'actors'",
        "auto:actors=x": "is not a int",
        "auto:actors=-1": "must be 0 or above",
        "somewhere": "is no address",
        "auto:batch_seconds=0": "must be above 0",
    }.items():
        with pytest.raises(UserError, match=said):
            parse_cluster(text)


def test_an_address_where_nobody_is():
    with pytest.raises(EngineError, match=r"No Ray cluster could be reached at 127\.0\.0\.1:9"):
        engine_on("127.0.0.1:9", f"{ENGINES}:scripted")


def test_engines_that_need_no_cluster(tmp_path):
    with pytest.raises(UserError, match="nothing for a cluster"):
        open_engine(f"ray:replay:{tmp_path}")
    assert engine_on("", f"{ENGINES}:scripted").model == "scripted@1"


def test_a_cluster_on_loopback_alone_is_joined_by_its_address(cluster, tmp_path):
    """From a process of its own, as a second terminal is: Ray would ask for it at the machine's other address."""
    script = tmp_path / "join.py"
    script.write_text(
        "import sys\nfrom reasoning.cluster import connect\nprint(len(connect(sys.argv[1]).nodes()) > 0)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    found = subprocess.run(
        [sys.executable, str(script), cluster.address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout.strip() == "True", found.stderr
