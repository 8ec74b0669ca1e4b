"""What the pool and the ledger cost: chains stored a second, against SQLite and plain JSONL on the same rows.

    python -m evals.bench_pool [--chains 40000] [--rounds 5] [--open 100000 1000000 10000000]

Every round writes the same chains (about 2 KB each: text, 80 token ids, 80 log-probabilities) in batches of
512, each batch durable before the next, in turns: the pool (all of it sealed), the pool's
write-ahead part alone, SQLite (write-ahead log, full sync, one commit a batch) and plain JSONL with an fsync
a batch and no checksums. Every way makes its own rows of the same chains.

Two readings, because a busy machine or a slow disk spoils the first: chains a second by the clock, from the first
write until all is closed; and processor seconds (of all threads, the kernel's included) per 100,000 chains, which is
what it costs however long the disk takes. Beside them the megabytes that went to the disk. Run it on a quiet machine,
on the disk that the runs will be on.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import os
import platform
import random
import sqlite3
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from reasoning.budget import Budget, Ledger
from reasoning.pool import Pool
from reasoning.pool.rows import cost_values, sampling_json
from reasoning.records import Chain, Cost, Problem, Sampling, chain_key

BATCH = 512
SAMPLING = Sampling(max_new_tokens=100)


def make_chains(n: int, per_problem: int = 64) -> tuple[list[Problem], list[Chain]]:
    rng = random.Random(0)
    problems = [Problem.make(f"problem {i}", str(i)) for i in range(-(-n // per_problem))]
    words = ["so", "then", "because", "equals", "twelve", "x", "+", "="]
    chains = []
    for i in range(n):
        problem, index = problems[i // per_problem], i % per_problem
        logprobs = np.log(np.asarray([rng.random() for _ in range(80)], np.float32))
        chains.append(
            Chain(
                problem.id,
                index,
                " ".join(rng.choices(words, k=180)),
                tuple(rng.choices(range(50_000), k=80)),
                tuple(logprobs.tolist()),
                tuple(range(40)),
                model="bench@1",
                sampling=SAMPLING,
                key=chain_key("bench@1", SAMPLING, problem.id, problem.prompt, index),
                cost=Cost(0, 40, 100, 0, 1e9, 0.0),
            )
        )
    return problems, chains


def row(chain: Chain) -> str:
    """A chain as the peers store it: JSON, its numbers in base64."""
    made = {
        "key": chain.key,
        "problem": chain.problem_id,
        "index": chain.index,
        "model": chain.model,
        "sampling": sampling_json(chain.sampling),
        "finish": chain.finish_reason,
        "cost": cost_values(chain.cost),
        "prompt_ids": base64.b64encode(array("i", chain.prompt_token_ids)).decode(),
        "ids": base64.b64encode(array("i", chain.token_ids)).decode(),
        "logprobs": base64.b64encode(array("f", chain.logprobs)).decode(),
        "text": chain.text,
    }
    return json.dumps(made, separators=(",", ":"))


def batches(chains: list[Chain]) -> list[list[Chain]]:
    return [chains[i : i + BATCH] for i in range(0, len(chains), BATCH)]


def pool(folder: Path, problems: list[Problem], chains: list[Chain]) -> None:
    with Pool.open(folder) as store:
        store.add_problems(problems)
        for batch in batches(chains):
            store.append(batch)
        store.seal()


def write_ahead(folder: Path, problems: list[Problem], chains: list[Chain]) -> None:
    store = Pool.open(folder, segment_bytes=1 << 60)
    store.add_problems(problems)
    for batch in batches(chains):
        store.append(batch)


def sqlite(folder: Path, problems: list[Problem], chains: list[Chain]) -> None:
    db = sqlite3.connect(folder / "chains.db")
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=full")
    db.execute("create table chains (key text primary key, row text)")
    for batch in batches(chains):
        with db:
            db.executemany("insert into chains values (?, ?)", [(c.key, row(c)) for c in batch])
    db.close()


def jsonl(folder: Path, problems: list[Problem], chains: list[Chain]) -> None:
    with (folder / "chains.jsonl").open("wb") as f:
        for batch in batches(chains):
            f.writelines(row(c).encode() + b"\n" for c in batch)
            f.flush()
            os.fsync(f.fileno())


WAYS: dict[str, Callable[[Path, list[Problem], list[Chain]], None]] = {
    "pool, sealed": pool,
    "pool, write-ahead part": write_ahead,
    "SQLite (full sync)": sqlite,
    "JSONL + fsync": jsonl,
}


def compare(chains: int, rounds: int, folder: Path) -> None:
    problems, rows = make_chains(chains)
    size = sum(len(row(c)) for c in rows[:100]) / 100
    print(f"{chains} chains, {size / 1000:.1f} KB each, batches of {BATCH}, {rounds} rounds in turns")
    walls: dict[str, list[float]] = {name: [] for name in WAYS}
    cpus: dict[str, list[float]] = {name: [] for name in WAYS}
    written: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(rounds + 1):
        for name, way in WAYS.items():
            with tempfile.TemporaryDirectory(dir=folder) as target:
                few = slice(None) if turn else slice(0, 2 * BATCH)  # the first turn loads the libraries
                wall, cpu, megabytes = time.perf_counter(), time.process_time(), megabytes_written()
                way(Path(target), problems, rows[few])
                if turn:
                    walls[name].append(time.perf_counter() - wall)
                    cpus[name].append(time.process_time() - cpu)
                    written[name].append(megabytes_written() - megabytes)
    for name in WAYS:
        speeds = [chains / wall / 1e3 for wall in walls[name]]
        ratio, cheaper = (
            statistics.median(a / b for a, b in zip(spent["SQLite (full sync)"], spent[name], strict=True))
            for spent in (walls, cpus)
        )
        print(
            f"  {name:24} {statistics.median(speeds):6.1f} k chains/s ({min(speeds):.1f} to {max(speeds):.1f}), "
            f"{ratio:.2f} x SQLite   {statistics.median(cpus[name]) * 1e5 / chains:.2f} s of processor per 100 k "
            f"({cheaper:.2f} x as cheap)   {statistics.median(written[name]):.0f} MB to disk"
        )


def megabytes_written() -> float:
    """What this process has sent towards the disk so far."""
    with open("/proc/self/io") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("write_bytes")) / 1e6


def opening(chains: int, folder: Path) -> None:
    """In processes of their own: the memory that writing so many (small) chains takes, the time to open the pool and
    to look up keys in it, and the memory of that. Of memory, what no file backs is told apart: the system can take
    mapped pages of the key index back whenever it likes."""
    with tempfile.TemporaryDirectory(dir=folder) as target:
        for step in (_write, _open):
            done = multiprocessing.get_context("spawn").Process(target=step, args=(target, chains))
            done.start()
            done.join()


def _write(target: str, chains: int) -> None:
    problems, _ = make_chains(1)
    small = Chain(problems[0].id, 0, "x", (1, 2), (-0.5, -0.5), model="bench@1", sampling=SAMPLING)
    start, most = time.perf_counter(), 0.0
    with Pool.open(target, segment_bytes=8 << 20) as store:
        store.add_problems(problems)
        store.append([replace(small, index=0, key=scattered(0))])
        store.seal()  # the libraries are loaded
        at_first = memory_megabytes()[1]
        for at in range(1, chains, 8192):
            numbers = range(at, min(chains, at + 8192))
            store.append([replace(small, index=i, key=scattered(i)) for i in numbers])
            most = max(most, memory_megabytes()[1] - at_first)
    print(
        f"pool of {chains} chains: written in {time.perf_counter() - start:.0f} s, {time.process_time():.0f} s of "
        f"processor, memory at most +{most:.0f} MB"
    )


def _open(target: str, chains: int) -> None:
    resident, private = memory_megabytes()
    start = time.perf_counter()
    store = Pool.open(target)
    opened = time.perf_counter()
    missing = store.missing([scattered(i) for i in range(0, 2 * chains, max(1, chains // 1000))])
    looked = time.perf_counter()
    after = memory_megabytes()
    print(
        f"  opened in {opened - start:.2f} s, first look-up of 2,000 keys "
        f"{looked - opened:.2f} s ({len(missing)} missing); memory +{after[0] - resident:.0f} MB, of it "
        f"{after[1] - private:.0f} MB not mapped from files"
    )


def scattered(i: int) -> str:
    """A key that is spread as digests are."""
    return f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}{i:016x}"


def memory_megabytes() -> tuple[float, float]:
    """(resident, resident and not mapped from a file)."""
    with open("/proc/self/statm") as f:
        _, resident, shared, *_ = map(int, f.read().split())
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    return resident * page, (resident - shared) * page


def ledger(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as target, Ledger(Budget(tokens=10**12), target) as purse:
        start, n = time.perf_counter(), 2000
        for _ in range(n):
            held = purse.reserve(Cost(output_tokens=100), BATCH, phase="sample")
            assert held is not None
            held.settle(Cost(output_tokens=50), BATCH)
        print(
            f"ledger: {(time.perf_counter() - start) / n * 1e6:.0f} us a reservation and durable settlement"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="What the pool and the ledger cost.")
    parser.add_argument("--chains", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=Path("."), help="on the disk to measure")
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
        f"pyarrow {pa.__version__}, SQLite {sqlite3.sqlite_version}"
    )
    compare(options.chains, options.rounds, options.folder)
    for chains_there in options.open:
        opening(chains_there, options.folder)
    ledger(options.folder)


if __name__ == "__main__":
    main()
