"""The engine of many machines with actors of a known latency: how much of the ideal throughput it reaches, and
whether anything is lost or comes twice while an actor is killed every second.

    python -m evals.bench_ray                       both parts, 1, 2, 4 and 8 actors
    python -m evals.bench_ray --actors 8 --chains 800 --kill-seconds 1

Each actor's engine sleeps so long for each chain and computes next to nothing, so the ideal is
chains x latency / actors. What is measured is what comes between: Ray, batches, the end of the work. A peer runs
in the same round, interleaved: one Ray task per chain (`ray.util.ActorPool.map_unordered`), without batches, deaths,
or costs.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import statistics
import sys
import threading
import time
from pathlib import Path

from reasoning.cluster import ClusterSpec
from reasoning.cluster.connect import quiet_environment
from reasoning.engines.base import WHOLE
from reasoning.engines.ray import RayEngine
from reasoning.errors import EngineError
from reasoning.records import Chain, Draw, Problem, Sampling, chain_key

HERE = Path(__file__).resolve()
LATENCY_VARIABLE = "BENCH_RAY_LATENCY_SECONDS"


def sleepy():
    """What each actor opens: so many seconds a chain."""
    sys.path.insert(0, str(HERE.parent.parent / "tests"))
    from fake_engine import ScriptedEngine

    return ScriptedEngine(seconds_per_chain=float(os.environ[LATENCY_VARIABLE]))


class Peer:
    """One task per chain."""

    def __init__(self, spec: str):
        from reasoning.engines import open_engine

        self.engine = open_engine(spec)

    def draw(self, draw: Draw) -> list[Chain]:
        return list(self.engine.generate([draw]))


def work(chains: int, together: int, seed: int) -> list[Draw]:
    """``chains`` chains of problems with ``together`` chains each."""
    problems = [Problem.make(f"{seed}: {i} and 1", str(i + 1)) for i in range(chains // together)]
    return [Draw(p, Sampling(seed=seed), tuple(range(together))) for p in problems]


def keys(draws: list[Draw]) -> list[str]:
    return sorted(
        chain_key("scripted@1", d.sampling, d.problem.id, d.problem.prompt, i)
        for d in draws
        for i in d.indices
    )


def check(chains: list[Chain], draws: list[Draw]) -> None:
    """Nothing lost, nothing twice."""
    got = sorted(c.key for c in chains if c.finish_reason in WHOLE)
    if got != keys(draws):
        raise SystemExit(
            f"{len(got)} chains with {len(set(got))} keys came, {len(keys(draws))} were asked for"
        )


def throughput(ray, actors: int, chains: int, latency: float, rounds: int) -> None:
    engine = RayEngine(f"{HERE}:sleepy", spec(actors))
    peers = [ray.remote(num_cpus=0)(Peer).remote(f"{HERE}:sleepy") for _ in range(actors)]
    if engine.wait_for_actors(180) < actors:
        raise SystemExit(f"not all of {actors} actors could be started")
    ray.get([p.draw.remote(d) for p, d in zip(peers, work(actors, 1, -1), strict=True)])
    ideal = chains * latency / actors
    shares: dict[str, list[float]] = {"ours": [], "a task per chain": []}
    for number in range(rounds):
        for name in sorted(shares, reverse=bool(number % 2)):
            draws = work(chains, 8, number)
            started = time.monotonic()
            if name == "ours":
                got = list(engine.generate(draws))
            else:
                singles = [Draw(d.problem, d.sampling, (i,)) for d in draws for i in d.indices]
                pool = ray.util.ActorPool(peers)
                got = [c for cs in pool.map_unordered(lambda p, d: p.draw.remote(d), singles) for c in cs]
            shares[name].append(ideal / (time.monotonic() - started))
            check(got, draws)
    engine.close()
    for peer in peers:
        ray.kill(peer)
    for name, found in shares.items():
        print(
            f"{actors:>6}  {name:<18}{statistics.median(found):>7.1%}  ({min(found):.1%} to {max(found):.1%})"
            f"  {chains} chains, ideal {ideal:.1f} s",
            flush=True,
        )


def killing(ray, actors: int, chains: int, latency: float, every: float) -> None:
    engine = RayEngine(f"{HERE}:sleepy", spec(actors))
    engine.wait_for_actors(180)
    stop, kills, rng = threading.Event(), 0, random.Random(0)

    def kill() -> None:
        nonlocal kills
        while not stop.wait(every):
            ready = [s.actor for s in engine.pool.slots if s.ready]
            if ready:
                ray.kill(rng.choice(ready))
                kills += 1

    killer = threading.Thread(target=kill, daemon=True)
    draws = work(chains, 8, 0)
    started = time.monotonic()
    killer.start()
    got: list[Chain] = []
    asked, calls = draws, 0
    while asked and calls < 3:  # a driver asks for what failed again, a few times
        calls += 1
        try:
            got += engine.generate(asked)
        except EngineError as e:
            raise SystemExit(str(e)) from None
        have = {c.key for c in got if c.finish_reason in WHOLE}
        left = [
            Draw(
                d.problem,
                d.sampling,
                tuple(i for i, k in zip(d.indices, keys_of(d), strict=True) if k not in have),
            )
            for d in asked
        ]
        asked = [d for d in left if d.indices]
    seconds = time.monotonic() - started
    stop.set()
    killer.join()
    engine.close()
    check(got, draws)
    lost = [c for c in got if c.finish_reason == "failed"]
    print(
        f"killed {kills} actors of {actors}, one every {every:g} s, in {seconds:.1f} s: {chains} of {chains} chains, "
        f"none twice; {len(lost)} lost attempts charged with {sum(c.cost.tokens for c in lost)} tokens; "
        f"{calls} call{'s' * (calls > 1)}"
    )


def keys_of(draw: Draw) -> list[str]:
    p = draw.problem
    return [chain_key("scripted@1", draw.sampling, p.id, p.prompt, i) for i in draw.indices]


def spec(actors: int) -> ClusterSpec:
    return ClusterSpec(actors=actors, cpus_per_actor=0.0, backoff_seconds=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--chains", type=int, default=100, help="for each actor")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds a chain")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kill-seconds", type=float, default=1.0, help="0: leave that part out")
    given = parser.parse_args()
    os.environ[LATENCY_VARIABLE] = str(given.latency)
    quiet_environment(alone=True)
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 << 20,
    )
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, Ray {ray.__version__}"
    )
    print(f"{given.latency:g} s a chain, {given.rounds} rounds: share of the ideal, median (range)\nactors")
    for actors in given.actors:
        throughput(ray, actors, given.chains * actors // 8 * 8, given.latency, given.rounds)
    if given.kill_seconds:
        most = max(given.actors)
        killing(ray, most, 2 * given.chains * most // 8 * 8, given.latency, given.kill_seconds)
    ray.shutdown()


if __name__ == "__main__":
    main()
