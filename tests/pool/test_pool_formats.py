"""Pools written by earlier and later versions, and rows that only an earlier version took."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_pool import PROBLEMS, chain

from reasoning.durable import frame_row
from reasoning.errors import PoolError
from reasoning.pool import Pool
from reasoning.records import Cost
from verifiers import Verdict

GOLDEN = Path(__file__).parent / "format1"


def old_pool(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "run"))


def expected():
    first = [chain(PROBLEMS[k], i) for k in range(3) for i in range(2)]
    return sorted(
        [*first, *(chain(index=i, text=f"naïve {i} ☃") for i in (2, 3))],
        key=lambda c: ([p.id for p in PROBLEMS].index(c.problem_id), c.index),
    )


def test_format_1_is_read_and_then_written_as_2(tmp_path):
    path = old_pool(tmp_path)
    verdicts = {
        chain().key: Verdict(1.0, "4", rule="integer", reason="equal"),
        chain(index=2).key: Verdict(0.0, None, "timeout", steps=(0.1, 0.9), scored_tokens=7, flops=1e8),
    }

    def look(pool: Pool) -> None:
        assert pool.chains() == expected()
        assert pool.verdicts("math") == verdicts
        assert list(pool.problems().values()) == PROBLEMS
        assert sorted(c.cost.output_tokens for c in pool.charges()) == [3, 5]
        assert pool.missing([c.key for c in expected()]) == []
        assert len(pool) == 8

    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with Pool.open(path, read_only=True) as pool:
        look(pool)
        assert not pool.notes
    assert before == {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with Pool.open(path) as pool:
        look(pool)
        pool.append([chain(index=9)])
        pool.seal()
    assert json.loads((path / "pool" / "pool.json").read_text())["format"] == 2
    assert not list((path / "pool" / "wal").iterdir())
    with Pool.open(path, read_only=True) as pool:
        assert len(pool.chains()) == 9


def test_rows_that_no_shard_takes_are_set_aside_and_never_raise_again(tmp_path):
    path = old_pool(tmp_path)
    (wal,) = (path / "pool" / "wal").iterdir()
    chain_row, verdict_row = (
        next(json.loads(line)["row"] for line in wal.read_text().splitlines() if kind in line)
        for kind in ('"chain"', '"verdict"')
    )
    poisoned = [
        {"chain": chain_row["chain"] | {"index": 10**30, "key": "a" * 32}},
        {"chain": chain_row["chain"] | {"ids": "AAA=", "key": "b" * 32}},
        {"verdict": verdict_row["verdict"] | {"score": "high"}},
        {"verdict": verdict_row["verdict"] | {"score": 7}},
        {"problem": {"id": 3}},
        {"charge": {}},
        {"novelty": {}},
        [],
    ]
    with wal.open("ab") as f:
        f.writelines(frame_row(row) for row in poisoned)
    with Pool.open(path, read_only=True) as pool:
        assert pool.chains() == expected()
        assert len([n for n in pool.notes if "which no shard takes" in n]) == len(poisoned)
        assert all("\n" not in n for n in pool.notes)
    with Pool.open(path) as pool:
        assert pool.chains() == expected()
        kept = path / "pool" / "quarantine" / wal.name
        assert kept.read_bytes() == b"".join(map(frame_row, poisoned))
        assert any(str(kept) in n for n in pool.notes)
    with Pool.open(path) as pool:
        assert pool.chains() == expected()
        assert not pool.notes


def test_a_newer_format_is_one_line_that_says_so(tmp_path):
    path = old_pool(tmp_path)
    (path / "pool" / "pool.json").write_text('{"format": 3}')
    with pytest.raises(PoolError, match=r"newer version, in pool format 3.*pip install --upgrade") as e:
        Pool.open(path)
    assert "\n" not in str(e.value)


def test_odd_but_honest_numbers_are_stored_as_plain_ones(tmp_path):
    odd = chain(
        index=np.int64(1),
        token_ids=tuple(np.arange(3)),
        logprobs=tuple(np.float32([-0.5, -1, -2])),
        cost=Cost(np.int64(2), 0, 3, 0, 1, 0),  # type: ignore[arg-type]
    )
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([odd])
        (back,) = pool.chains()
    assert back == odd
    assert [type(v) for v in (back.index, back.cost.prompt_tokens, back.cost.flops)] == [int, int, float]


def test_a_broken_format_file_says_what_to_write_there(tmp_path):
    Pool.open(tmp_path / "r").close()
    path = tmp_path / "r" / "pool" / "pool.json"
    path.write_text('{"form')
    with pytest.raises(PoolError, match=r'write \{"format": 2\} there'):
        Pool.open(tmp_path / "r")
    path.write_text('{"format": 2}')
    Pool.open(tmp_path / "r").close()
