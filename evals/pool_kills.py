"""Kill a sampling process at random moments, again and again; is the pool it ends with the undisturbed one?

    python -m evals.pool_kills [--kills 200] [--seed 0]

A writer draws chains with an engine without a model, in small batches, with sealing every few of them, verdicts and
charges. It is killed (SIGKILL) at a random moment, started again, killed again, ... and at last left alone. Then
everything in the pool (chains, verdicts, problems, models, keys) is compared with that of a writer that was never
killed; every chain must be charged once; `check` must find no damage. Also prints how often a kill hit which state:
nothing but a write-ahead file, a half-written shard, shards without their line in the manifest.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from reasoning.budget import Charge
from reasoning.pool import Pool
from reasoning.pool.check import check
from reasoning.records import Chain, Cost, Problem, Sampling, chain_key, digest
from verifiers import Verdict

CHAINS, PER_CALL = 2400, 30
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["evals.pool_kills"])
SAMPLING = Sampling(max_new_tokens=64)
PROBLEMS = [Problem.make(f"problem {i}", str(i)) for i in range(60)]


def chain(number: int) -> Chain:
    """Chain ``number``: a function of it alone."""
    problem, index = PROBLEMS[number % 60], number // 60
    key = chain_key("fake@1", SAMPLING, problem.id, problem.prompt, index)
    rng = random.Random(key)
    ids = tuple(rng.randrange(50_000) for _ in range(rng.randrange(1, 60)))
    logprobs = tuple(-rng.randrange(1, 1000) / 1024 for _ in ids)
    text = " ".join(map(str, ids))
    cost = Cost(0, 8, len(ids), 0, 1e6, 0.0)
    return Chain(problem.id, index, text, ids, logprobs, (1, 2), "stop", "fake@1", SAMPLING, key, "", cost)


def verdict(key: str) -> Verdict:
    return Verdict(float(int(key[0], 16) < 8), key[:3])


def fill(
    folder: Path, said: Connection | None = None, number: int = CHAINS, segment_bytes: int = 60_000
) -> None:
    """What the process does that is killed: draw what is missing, judge it, say how many chains are stored."""

    def say(stored: int) -> None:
        if said is not None:
            said.send(stored)

    with Pool.open(folder, segment_bytes=segment_bytes) as pool:
        pool.add_problems(PROBLEMS)
        pool.add_model("fake@1", {"kind": "fake"})
        chains = {c.key: c for c in map(chain, range(number))}
        missing = pool.missing(list(chains))
        judged = pool.verdicts("parity")
        pool.add_verdicts("parity", {k: verdict(k) for k in chains.keys() - judged.keys() - set(missing)})
        say(len(chains) - len(missing))
        for at in range(0, len(missing), PER_CALL):
            keys = missing[at : at + PER_CALL]
            cost = sum((chains[k].cost for k in keys), Cost())
            charge = Charge("sample", "fake", cost, len(keys), id=digest(*keys))
            pool.append([chains[k] for k in keys], charges=[charge])
            say(len(chains) - len(missing) + at + len(keys))
            pool.add_verdicts("parity", {k: verdict(k) for k in keys})


def contents(folder: Path) -> tuple[object, ...]:
    with Pool.open(folder, read_only=True) as pool:
        charged = [c.samples for c in pool.charges()]
        chains, verdicts = pool.chains(), pool.verdicts("parity")
        return chains, verdicts, pool.problems(), pool.models(), pool.keys(), sum(charged)


def state(folder: Path) -> str:
    """What a kill left behind."""
    pool = folder / "pool"
    if any((pool / "shards").glob(".*.tmp")):
        return "a half-written shard"
    manifest = (pool / "manifest.jsonl").read_text() if (pool / "manifest.jsonl").exists() else ""
    if any(p.stem.partition("-")[2] not in manifest for p in (pool / "shards").glob("chains-*.parquet")):
        return "shards without their line"
    return f"{min(3, len(list((pool / 'wal').glob('*.wal'))))} write-ahead files"


def kill_again_and_again(folder: Path, kills: int, seed: int, chains: int = CHAINS) -> Counter[str]:
    """Run the writer ``kills`` times to its death. The pool starts anew when it is full, so that every kill hits
    work; each full one is compared. Raises AssertionError for anything lost, doubled or changed."""
    alone = folder / "alone"
    fill(alone, number=chains)
    expected = contents(alone)
    rng = random.Random(seed)
    met: Counter[str] = Counter()
    number, acknowledged = 0, 0
    killed = folder / "killed-0"
    seconds = 0.3  # a writer's whole life, learned as we go
    while met.total() < kills:
        hear, say = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=fill, args=(killed, say, chains))
        process.start()
        say.close()
        acknowledged = max(acknowledged, hear.recv())
        since = time.monotonic()
        process.join(rng.uniform(0.0, seconds))
        process.kill()
        process.join()
        with contextlib.suppress(EOFError):
            while True:
                acknowledged = max(acknowledged, hear.recv())
        hear.close()
        if process.exitcode == 0:  # it came to its end
            seconds = 0.8 * (time.monotonic() - since)
            assert contents(killed) == expected, "the pool differs from the undisturbed one"
            number, acknowledged = number + 1, 0
            killed = folder / f"killed-{number}"
            continue
        assert process.exitcode == -signal.SIGKILL, f"the writer failed ({process.exitcode})"
        met[state(killed)] += 1
        seconds = min(1.0, seconds * 1.05)
        with Pool.open(killed, read_only=True) as pool:
            assert len(pool) >= acknowledged, (
                f"{acknowledged} chains were acknowledged, {len(pool)} are there"
            )
    fill(killed, number=chains)
    assert contents(killed) == expected, "the pool differs from the undisturbed one"
    report = check(killed)
    assert report.whole, report.damage
    met["runs compared"] = number + 1
    return met


def _die(moment: int, work: Callable[[Path], object], folder: Path) -> None:
    """Do the work, and die by SIGKILL just before the ``moment``-th call that changes the disk."""
    calls = 0

    def before(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    for name in ("write", "fsync", "rename", "replace", "link", "unlink", "mkdir", "ftruncate"):
        setattr(os, name, before(getattr(os, name)))
    work(folder)


def killed_before_each_change(start: Path, work: Callable[[Path], object], stride: int = 1) -> Iterator[Path]:
    """The folders that are left when ``work`` on a copy of the folder ``start`` dies before its first change of the
    disk, before its second (with a stride of 1), ... up to the one that it survives."""
    moment, code = 1, -1
    while code:
        folder = Path(shutil.copytree(start, start.with_name(f"{start.name}-{moment}")))
        process = PROCESSES.Process(target=_die, args=(moment, work, folder))
        process.start()
        process.join()
        code = process.exitcode
        assert code in (0, -signal.SIGKILL), f"the work failed ({code})"
        yield folder
        moment += stride


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a writer at random moments.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        met = kill_again_and_again(Path(folder), options.kills, options.seed)
    compared = met.pop("runs compared")
    print(
        f"{met.total()} kills in {time.monotonic() - start:.0f} s; {compared} pools equal the undisturbed one"
    )
    for what, count in met.most_common():
        print(f"  left {what}: {count}")


if __name__ == "__main__":
    main()
