"""The pool as its callers see it: what is stored comes back, whatever befalls writers, files and the disk."""

import contextlib
import errno
import gc
import math
import os
import random
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasoning.budget import Ledger
from reasoning.durable import AppendFile, frame_row
from reasoning.errors import PoolError, UserError
from reasoning.pool import Pool, columns, folder, wal
from reasoning.pool.check import check
from reasoning.pool.segment import Segment
from reasoning.pool.wal import read_blocks
from reasoning.records import Chain, Cost, Problem, Sampling, chain_key
from verifiers import Verdict

PROBLEMS = [Problem.make(f"What is {i} + {i}?", str(2 * i), "sums", {"difficulty": i % 3}) for i in range(6)]
S = Sampling(temperature=0.7, max_new_tokens=8, stop=("\n\n",))


def chain(problem: Problem = PROBLEMS[0], index: int = 0, text: str = "four", **changes) -> Chain:
    made = Chain(
        problem_id=problem.id,
        index=index,
        text=text,
        token_ids=(1, 2, index),
        logprobs=(-0.5, float(np.float32(-0.1)), -math.inf),
        prompt_token_ids=(7, 8),
        model="tiny@1",
        sampling=S,
        cost=Cost(2, 0, 3, 0, 1e9 / 3, 0.1),
    )
    made = replace(made, **changes)
    key = chain_key(made.model, made.sampling, problem.id, problem.prompt, made.index, made.parent)
    return made if made.key else replace(made, key=key)


def full(path: Path, n: int = 3) -> list[Chain]:
    """A pool that is sealed."""
    chains = [chain(p, i) for p in PROBLEMS for i in range(n)]
    with Pool.open(path) as pool:
        pool.add_problems(PROBLEMS)
        pool.append(chains)
        pool.seal()
    return chains


def test_everything_comes_back_live_and_sealed(tmp_path):
    verdicts = {
        chain().key: Verdict(1.0, "4", rule="integer", reason="equal"),
        chain(index=1).key: Verdict(None, None, "timeout", steps=(0.1, 0.9), scored_tokens=7, flops=1e8),
        chain(index=2).key: Verdict(0.25, "", steps=()),
    }
    info = {"shape": {"layers": 3}, "training": {"flops": 1e12}}
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([chain(index=i) for i in range(3)])
        pool.add_verdicts("math", verdicts, oracle=True)
        pool.add_model("tiny@1", info)
        for _ in ("live", "sealed"):
            assert list(pool.problems().values()) == PROBLEMS
            assert pool.chains() == [chain(index=i) for i in range(3)]
            assert pool.verdicts("math") == verdicts
            assert pool.verdicts("other") == {}
            assert pool.verifiers() == {"math": True}
            assert pool.models() == {"tiny@1": info}
            assert pool.samplings("tiny@1") == [S]
            assert pool.samplings("other") == []
            assert pool.has(chain(index=2).key)
            assert pool.missing([chain(index=3).key, chain().key]) == [chain(index=3).key]
            assert pool.keys() == {chain(index=i).key for i in range(3)}
            pool.seal()
    assert not list((tmp_path / "pool" / "wal").iterdir())
    assert Pool.open(tmp_path, read_only=True).summary()["verdicts"] == {"math": 3}


numbers = st.floats(width=32) | st.floats()
texts = st.text(st.characters(), max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=texts,
    ids=st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
    logprobs=st.lists(numbers, max_size=5).map(tuple),
    prompt=st.lists(st.integers(0, 10), max_size=3).map(tuple),
    finish=st.sampled_from(["stop", "length", "budget", "cancelled"]),
    cost=st.builds(Cost, *[st.integers(0, 2**60)] * 4, st.floats(0, 1e30), st.floats(0, 1e9)),
    metadata=st.dictionaries(texts.filter(lambda t: not any(0xD800 <= ord(c) < 0xE000 for c in t)), st.none()
                             | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.lists(st.integers())),
    sealed=st.booleans(),
)  # fmt: skip
def test_round_trip_is_exact(tmp_path_factory, text, ids, logprobs, prompt, finish, cost, metadata, sealed):
    path = tmp_path_factory.mktemp("pool")
    problem = Problem.make("q", metadata, "t", metadata)
    stored = chain(
        problem,
        text=text,
        token_ids=ids,
        logprobs=logprobs,
        prompt_token_ids=prompt,
        finish_reason=finish,
        cost=cost,
    )
    pool = Pool.open(path)
    pool.add_problems([problem])
    pool.append([stored])
    if sealed:
        pool.seal()
    with Pool.open(path, read_only=True) as again:
        (back,) = again.chains()
        assert again.problems() == {problem.id: problem}
    pool.close()
    exact = np.asarray(back.logprobs, np.float64).tobytes() == np.asarray(logprobs, np.float64).tobytes()
    assert exact, "bit for bit, NaN and -0.0 included"
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert replace(back, logprobs=()) == replace(stored, logprobs=(), text=whole)


def test_queries_are_sorted_whatever_the_order_of_arrival(tmp_path):
    chains = [chain(p, i) for p in PROBLEMS for i in range(4)]
    shuffled = chains.copy()
    random.Random(1).shuffle(shuffled)
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS[:3])
        pool.add_problems(PROBLEMS)
        for i in range(0, len(shuffled), 5):
            pool.append(shuffled[i : i + 5])
            if i % 10 == 0:
                pool.seal()
        assert pool.chains() == chains
        assert list(pool.problems().values()) == PROBLEMS
        two = {PROBLEMS[4].id, PROBLEMS[1].id}
        assert pool.chains(problem_ids=two) == [c for c in chains if c.problem_id in two]


def test_filters(tmp_path):
    greedy = Sampling(temperature=0, max_new_tokens=8)
    root, other, cold = chain(), chain(model="tiny@2"), chain(sampling=greedy)
    child = chain(parent=root.key, token_ids=(9,), logprobs=())
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([root, other, cold, child])
        for _ in ("live", "sealed"):
            assert set(pool.chains(model="tiny@1")) == {root, cold}
            assert pool.chains(model="tiny@1", sampling=S) == [root]
            assert set(pool.chains(model="tiny@1", sampling=S, continuations=True)) == {root, child}
            assert pool.chains(model="tiny@3") == []
            assert set(pool.samplings("tiny@1")) == {S, greedy}
            assert pool.samplings("tiny@2") == [S]
            assert list(pool.models()) == ["tiny@1", "tiny@2"]
            pool.seal()


def test_the_last_row_of_a_key_wins_across_seals_and_writers(tmp_path):
    for text in ("one", "two", "three"):
        with Pool.open(tmp_path) as pool:
            pool.add_problems(PROBLEMS)
            pool.append([chain(text="stale"), chain(text=text)])
            pool.add_verdicts("v", {chain().key: Verdict(0.0, text)}, oracle=text != "three")
            assert [c.text for c in pool.chains()] == [text]
            assert pool.verdicts("v")[chain().key].answer == text
            pool.seal()
    assert pool.verifiers() == {"v": False}
    assert len(list(tmp_path.rglob("chains-*.parquet"))) == 3


def files(run: Path) -> tuple[list[str], list[str]]:
    """Names of the segments that are write-ahead files, and of those that are shards."""
    folder = run / "pool"
    shards = {p.stem.partition("-")[2] for p in (folder / "shards").iterdir()}
    return sorted(p.stem for p in (folder / "wal").iterdir()), sorted(shards)


def test_a_writer_goes_on_with_a_small_file_that_another_left(tmp_path):
    for number in range(3):
        with Pool.open(tmp_path) as pool:
            pool.add_problems(PROBLEMS)
            pool.append([chain(index=number), chain(text=str(number))])
        assert [len(names) for names in files(tmp_path)] == [1, 0]
    with Pool.open(tmp_path, read_only=True) as pool:
        assert [(c.index, c.text) for c in pool.chains()] == [(0, "2"), (1, "four"), (2, "four")]
        assert not pool.notes
    with Pool.open(tmp_path, segment_bytes=1000) as pool:  # by its measure the file is not small
        assert len(pool.chains()) == 3
    assert [len(names) for names in files(tmp_path)] == [0, 1]


def test_only_a_whole_file_that_is_the_youngest_is_gone_on_with(tmp_path):
    with Pool.open(tmp_path) as old, Pool.open(tmp_path) as young:
        for pool in (old, young):
            pool.add_problems(PROBLEMS)
            pool.append([chain()])
    first, second = files(tmp_path)[0]
    with Pool.open(tmp_path) as pool:
        pool.append([chain(text="later")])
    assert files(tmp_path) == ([second], [first]), (
        "in the older file the row would not overrule the younger's"
    )
    assert [c.text for c in Pool.open(tmp_path, read_only=True).chains()] == ["later"]
    with (tmp_path / "pool" / "wal" / f"{second}.wal").open("ab") as f:
        f.write(b"torn")
    with Pool.open(tmp_path) as pool:
        assert any("torn record" in n for n in pool.notes)
        pool.append([chain(text="last")])
    (third,), sealed = files(tmp_path)
    assert sealed == [first, second]
    assert third > second
    with Pool.open(tmp_path) as pool:
        assert [c.text for c in pool.chains()] == ["last"]
        assert not pool.notes


def test_a_writer_overrules_what_was_written_since_it_took_a_file_over(tmp_path):
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
        pool.add_verdicts("math", {chain().key: Verdict(0.0)}, oracle=True)
    with Pool.open(tmp_path) as first:  # goes on with the file, and writes later than others
        with Pool.open(tmp_path) as second:
            second.add_verdicts("math", {chain().key: Verdict(0.25)})
        first.add_verdicts("math", {chain().key: Verdict(1.0)})
        first.refresh()
        assert first.verdicts("math") == {chain().key: Verdict(1.0)}
    with Pool.open(tmp_path, read_only=True) as pool:
        assert pool.verdicts("math") == {chain().key: Verdict(1.0)}


def test_a_file_that_a_writer_is_making_is_not_taken_for_one_that_was_left(tmp_path, monkeypatch):
    first, others = Pool.open(tmp_path), []
    lock = AppendFile.lock

    def after_another(file, shared=False):
        if not others:
            others.append(None)
            others.append(Pool.open(tmp_path))
        return lock(file, shared)

    monkeypatch.setattr(AppendFile, "lock", after_another)
    first.add_problems(PROBLEMS)
    assert others[1]._file is None
    others[1].refresh()
    assert list(others[1].problems().values()) == PROBLEMS
    others[1].close()
    first.close()


def test_files_that_are_sealed_while_they_are_looked_at_are_no_damage(tmp_path, monkeypatch):
    full(tmp_path)
    with Pool.open(tmp_path) as pool:
        pool.append([chain(index=9)])
        (path,) = (tmp_path / "pool" / "wal").iterdir()
        is_file = Path.is_file

        def sealed_then(self):
            there = is_file(self)
            if self == path:
                pool.seal()
            return there

        with monkeypatch.context() as m:
            m.setattr(Path, "is_file", sealed_then)
            assert pool.summary()["bytes"] > 0
        assert not path.exists()
        (tmp_path / "pool" / "index" / "gone.keys").symlink_to(
            "merged.keys"
        )  # as between listing and reading
        shard_paths, new = folder.Folder.shard_paths, [chain(index=i) for i in range(10, 13)]

        def then_sealed(self):
            if self is not pool.folder and new:
                pool.append([new.pop()])
                pool.seal()
            return shard_paths(self)

        with monkeypatch.context() as m:
            m.setattr(folder.Folder, "shard_paths", then_sealed)
            report = check(tmp_path)
        assert not new
        assert report.whole, report.damage


def test_a_file_older_than_what_we_are_sealing_is_not_gone_on_with(tmp_path, monkeypatch):
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
    left = Pool.open(tmp_path)
    goes_on = threading.Event()
    with Pool.open(tmp_path, segment_bytes=100) as pool:
        seal = pool.folder.seal
        monkeypatch.setattr(pool.folder, "seal", lambda *it: goes_on.wait() and seal(*it))
        pool.add_verdicts("math", {chain().key: Verdict(0.0)}, oracle=True)  # full: handed to the sealer
        left.close()
        pool._small_bytes = 1 << 20
        pool.refresh()
        pool.add_verdicts("math", {chain().key: Verdict(1.0)})
        goes_on.set()
    assert Pool.open(tmp_path, read_only=True).verdicts("math") == {chain().key: Verdict(1.0)}


@pytest.mark.parametrize("read_only", [True, False])
def test_a_row_that_cannot_be_read_in_a_file_that_was_left_is_left_out(tmp_path, read_only):
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([chain()])
        odd = pa.record_batch([["x"], ['{"of": "a newer version"}']], schema=columns.SCHEMAS["charges"])
        assert pool._file is not None
        pool._file.append(*wal.Encoder().pieces({"charges": odd}))
    for _ in range(2):
        with Pool.open(tmp_path, read_only=read_only) as pool:
            assert pool.charges() == []
            assert pool.chains() == [chain()]
    with Pool.open(tmp_path, read_only=True) as pool:
        assert len(pool.notes) == read_only, "what a writer left out is in quarantine"
        assert (tmp_path / "pool" / "quarantine").exists() != read_only


def test_a_failure_behind_the_manifests_line_loses_nothing(tmp_path, monkeypatch):
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([chain()])

        def broken(path):
            if path == tmp_path / "pool":  # the last thing before the write-ahead file goes
                raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as m:
            m.setattr(folder, "fsync_folder", broken)
            with pytest.raises(PoolError, match="Input/output"):
                pool.seal()
            pool._sealer.give_up()
    for read_only in (True, False, True):
        with Pool.open(tmp_path, read_only=read_only) as pool:
            assert pool.chains() == [chain()]
            assert not pool.notes
    assert check(tmp_path).whole


def test_the_index_has_the_keys_that_came_after_a_failed_sealing(tmp_path, monkeypatch):
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([chain()])
        with monkeypatch.context() as m:
            m.setattr(folder.Folder, "add_line", no_room)
            with pytest.raises(PoolError, match="disk is full"):
                pool.seal()
            pool.close()
    with Pool.open(tmp_path) as pool:
        pool.append([chain(index=1)])
        for i in range(8):  # small parts of the index are merged into one
            with Pool.open(tmp_path) as other:
                other.append([chain(PROBLEMS[1], i)])
                other.seal()
        pool.seal()
    assert check(tmp_path).whole
    with Pool.open(tmp_path, read_only=True) as pool:
        assert pool.missing([chain().key, chain(index=1).key]) == []


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_that_a_writer_is_at_work_on_is_left_to_it(tmp_path):
    with Pool.open(tmp_path) as first, Pool.open(tmp_path) as second:
        first.add_problems(PROBLEMS)
        second.refresh()
        second.append([chain()])
        assert [len(names) for names in files(tmp_path)] == [2, 0]
        first.append([chain(index=1)])
    assert len(Pool.open(tmp_path, read_only=True).chains()) == 2


def test_an_unknown_verifier_is_taken_for_an_oracle(tmp_path):
    with Pool.open(tmp_path) as pool:
        pool.add_verdicts("new", {})
        pool.add_verdicts("fair", {}, oracle=False)
        pool.add_verdicts("fair", {chain().key: Verdict(1.0)})
        assert pool.verifiers() == {"new": True, "fair": False}


def test_malformed_rows_are_refused_whole(tmp_path):
    with Pool.open(tmp_path) as pool:
        with pytest.raises(ValueError, match="add_problems comes first"):
            pool.append([chain()])
        pool.add_problems(PROBLEMS)
        for key in ("x", "A" * 32, " 0" * 16, "0" * 31 + "g", "é" * 32):
            with pytest.raises(ValueError, match="32 hex digits"):
                pool.append([chain(), chain(key=key)])
        with pytest.raises(UserError, match="plain JSON") as e:
            pool.add_problems([PROBLEMS[0], Problem("odd", "q", {1, 2})])
        assert "problem odd" in str(e.value)
        assert not pool.chains()
        assert len(pool.problems()) == len(PROBLEMS)


def test_truncation_at_every_byte_of_the_last_record(tmp_path):
    pool = Pool.open(tmp_path)
    pool.add_problems(PROBLEMS)
    pool.append([chain(index=0)])
    (wal,) = (tmp_path / "pool" / "wal").iterdir()
    before = wal.stat().st_size
    pool.append([chain(index=1)])
    data = wal.read_bytes()
    pool._file.close()  # as a dead process would
    for cut in range(before, len(data)):
        reading = read_blocks(data[:cut], Segment("w"))
        assert reading.segment.keys == {chain(index=0).key}
        assert reading.whole_bytes == before
        assert len(reading.notes) == (cut > before)
    for cut in (before, before + 1, (before + len(data)) // 2, len(data) - 1):
        wal.write_bytes(data[:cut])
        assert Pool.open(tmp_path, read_only=True).chains() == [chain(index=0)]
    wal.write_bytes(data[: len(data) - 5])
    with Pool.open(tmp_path) as again:
        assert "torn record" in again.notes[0]
        assert again.chains() == [chain(index=0)]
        again.append([chain(index=1)])
    with Pool.open(tmp_path) as last:
        assert last.chains() == [chain(index=0), chain(index=1)]
        assert not last.notes


def test_a_damaged_record_in_the_middle_is_named_and_the_rest_is_kept(tmp_path):
    pool = Pool.open(tmp_path)
    pool.add_problems(PROBLEMS)
    (wal,) = (tmp_path / "pool" / "wal").iterdir()
    starts = []
    for i in range(3):
        starts.append(wal.stat().st_size)
        pool.append([chain(index=i)])
    pool._file.close()
    data = wal.read_bytes()
    for at in (
        starts[1],
        starts[1] + 12,
        starts[1] + 100,
        starts[2] - 1,
    ):  # magic, length, content, last byte
        broken = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
        reading = read_blocks(broken, Segment("w"))
        assert reading.segment.keys == {chain(index=0).key, chain(index=2).key}
        (note,) = reading.notes
        assert f"{starts[2] - starts[1]} damaged bytes at byte {starts[1]}" in note
    wal.write_bytes(broken)
    with Pool.open(tmp_path) as again:
        assert [c.index for c in again.chains()] == [0, 2]
        assert "damaged bytes" in again.notes[0]


def test_truncated_manifest_loses_nothing(tmp_path):
    """The write-ahead file goes only after the manifest's line is on the disk."""
    chains = full(tmp_path)
    manifest = tmp_path / "pool" / "manifest.jsonl"
    with Pool.open(tmp_path) as pool:
        pool.append([chain(index=9)])
        (wal,) = (tmp_path / "pool" / "wal").iterdir()
        data = wal.read_bytes()
        pool.seal()
    sealed = manifest.read_bytes()
    first = sealed.index(b"\n") + 1
    for cut in (first, first + 1, len(sealed) - 2):
        manifest.write_bytes(sealed[:cut])
        wal.write_bytes(data)
        with Pool.open(tmp_path) as again:
            assert again.chains() == sorted([*chains, chain(index=9)], key=lambda c: again_order(c))
            again.seal()
        assert manifest.read_bytes() == sealed
        assert not wal.exists()
    wal.write_bytes(data)  # killed between the line and the unlink
    with Pool.open(tmp_path) as again:
        assert len(again.chains()) == len(chains) + 1
    assert not wal.exists()


def again_order(c: Chain) -> tuple[int, int]:
    return [p.id for p in PROBLEMS].index(c.problem_id), c.index


def test_a_damaged_shard_is_named_with_what_to_do(tmp_path):
    chains = full(tmp_path)
    with Pool.open(tmp_path) as pool:
        pool.append([chain(index=9)])
        pool.seal()
    shard = max(tmp_path.rglob("chains-*.parquet"))
    good = shard.read_bytes()
    shard.write_bytes(good[:60] + bytes(b ^ 255 for b in good[60:80]) + good[80:])
    with pytest.raises(PoolError, match="Its 1 rows are lost") as e:
        Pool.open(tmp_path, read_only=True).chains()
    assert str(shard) in str(e.value)
    assert "\n" not in str(e.value)
    shard.unlink()
    with Pool.open(tmp_path) as again:
        assert again.chains() == chains
        assert not again.has(chain(index=9).key)
        assert "is missing: its 1 rows" in again.notes[0]


def test_a_full_disk_loses_nothing_acknowledged(tmp_path, monkeypatch):
    pool = Pool.open(tmp_path)
    pool.add_problems(PROBLEMS)
    pool.append([chain(index=0)])
    real = os.write

    def full_disk(fd, data):
        real(fd, bytes(data)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "write", full_disk)
        with pytest.raises(PoolError, match="disk is full") as e:
            pool.append([chain(index=1)])
        assert "\n" not in str(e.value)
    assert pool.chains() == [chain(index=0)]
    pool.append([chain(index=2)])
    with monkeypatch.context() as m:
        m.setattr(pq, "write_table", lambda *a, **k: full_disk(os.open(os.devnull, os.O_WRONLY), b""))
        with pytest.raises(PoolError, match="disk is full"):
            pool.seal()
        pool.close()
    assert "disk is full" in pool.notes[0]
    assert not list(tmp_path.rglob("*.parquet"))
    with Pool.open(tmp_path) as again:
        assert again.chains() == [chain(index=0), chain(index=2)]
        assert not again.notes


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_a_really_full_disk(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mount is not permitted here")
    try:
        pool = Pool.open(tmp_path)
        pool.add_problems(PROBLEMS)
        acknowledged = []

        def fill() -> None:
            for i in range(10_000):
                pool.append([chain(index=i, text="x" * 2000)])
                acknowledged.append(chain(index=i, text="x" * 2000))

        with pytest.raises(PoolError, match="disk is full"):
            fill()
        assert len(acknowledged) > 30
        pool.close()
        assert Pool.open(tmp_path, read_only=True).chains() == acknowledged
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_two_writers_at_once(tmp_path):
    with Pool.open(tmp_path) as a, Pool.open(tmp_path, segment_bytes=2000) as b:
        a.add_problems(PROBLEMS)
        b.add_problems(PROBLEMS)

        def write(pool: Pool, indices: range) -> None:
            for i in indices:
                pool.append([chain(PROBLEMS[i % 6], i)])

        threads = [
            threading.Thread(target=write, args=(p, r)) for p, r in ((a, range(60)), (b, range(30, 90)))
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        a.refresh()
        assert len(a.chains()) == 90
        assert list(a.problems().values()) == PROBLEMS
    with Pool.open(tmp_path) as last:
        assert last.keys() == {chain(PROBLEMS[i % 6], i).key for i in range(90)}
        assert sorted(c.index for c in last.chains()) == list(range(90))
        assert not last.notes


def test_charges_are_kept_with_the_chains_they_paid_for(tmp_path):
    ledger = Ledger()
    charge = ledger.charge(Cost(output_tokens=3), 1, phase="sample")
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([chain()], charges=[charge])
        assert pool.charges() == [charge]
    assert Pool.open(tmp_path, read_only=True).charges() == [charge]


def test_opening(tmp_path):
    with pytest.raises(UserError, match="No pool at"):
        Pool.open(tmp_path / "none", create=False)
    with pytest.raises(UserError, match="No pool at"):
        Pool.open(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="is a file"):
        Pool.open(file)
    full(tmp_path / "run")
    direct, by_run = Pool.open(tmp_path / "run" / "pool"), Pool.open(tmp_path / "run")
    assert direct.path == by_run.path == tmp_path / "run" / "pool"
    with pytest.raises(PoolError, match="reading only"):
        Pool.open(tmp_path / "run", read_only=True).append([chain()])
    (tmp_path / "run" / "pool" / "pool.json").write_text('{"format": 99}')
    with pytest.raises(PoolError, match="newer version, in pool format 99"):
        Pool.open(tmp_path / "run")


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict("high", "1"),  # type: ignore[arg-type]
        Verdict(7.0),
        Verdict(-math.inf),
        Verdict(10**400),
        Verdict(1.0, 3),  # type: ignore[arg-type]
        Verdict(1.0, status="\ud800"),
        Verdict(1.0, rule=None),  # type: ignore[arg-type]
        Verdict(1.0, steps=("a",)),  # type: ignore[arg-type]
        Verdict(1.0, steps=0.5),  # type: ignore[arg-type]
        Verdict(1.0, scored_tokens=2**63),
        Verdict(1.0, flops=-1.0),
        None,
    ],
)
def test_a_verdict_that_no_shard_takes_is_refused_before_it_is_written(tmp_path, verdict):
    first = full(tmp_path)[0]
    with Pool.open(tmp_path) as pool:
        with pytest.raises(UserError, match=r"^Verifier 'mine' gave [^\n]*$"):
            pool.add_verdicts("mine", {first.key: Verdict(1.0), chain(index=1).key: verdict})
        assert not pool.verdicts("mine")
        pool.add_verdicts("mine", {first.key: Verdict(math.nan, steps=[1, np.float32(0.5)])})  # type: ignore[arg-type]
        pool.seal()
    with Pool.open(tmp_path) as pool:
        assert pool.verdicts("mine") == {first.key: Verdict(None, steps=(1.0, 0.5))}


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 99999999999999999999999},
        {"index": 1.5},
        {"model": "\ud800"},
        {"finish_reason": 3},
        {"token_ids": (2**31,)},
        {"token_ids": ("a",)},
        {"logprobs": ("a",)},
        {"cost": Cost(2**63)},
        {"cost": Cost(0.5)},  # type: ignore[arg-type]
        {"cost": Cost(flops=2**70)},
    ],
)
def test_a_chain_that_no_shard_takes_is_refused_before_it_is_written(tmp_path, changes):
    chains = full(tmp_path)
    with Pool.open(tmp_path) as pool:
        with pytest.raises(PoolError, match="nothing was stored"):
            pool.append([chain(index=9), replace(chain(index=8), **changes)])
        pool.seal()
    assert not list((tmp_path / "pool" / "wal").iterdir())
    with Pool.open(tmp_path) as pool:
        assert len(pool.keys()) == len(chains)


def test_a_problem_that_no_shard_takes_is_refused_before_it_is_written(tmp_path):
    with Pool.open(tmp_path) as pool:
        for changes in ({"id": "\ud800"}, {"task": "\ud800"}, {"prompt": 3}):
            with pytest.raises(PoolError, match="nothing was stored"):
                pool.add_problems([replace(PROBLEMS[0], **changes)])
        with pytest.raises(PoolError, match="nothing was stored"):
            pool.add_model("\ud800", {})
        pool.seal()
        assert not pool.problems()


@pytest.mark.parametrize("how", ["deleted", "emptied", "first line damaged"])
def test_shards_without_a_line_in_the_manifest_are_taken_in_again(tmp_path, how):
    chains = full(tmp_path)
    with Pool.open(tmp_path) as pool:
        pool.append([chain(index=7), chain(index=8, parent="a" * 32)])
        pool.add_verdicts("mine", {chains[0].key: Verdict(1.0)}, oracle=False)
        pool.seal()
    with Pool.open(tmp_path) as pool:
        everything = pool.chains(continuations=True), pool.problems(), pool.verdicts("mine"), pool.samplings()
        counts = [s.groups() for s in pool._segments]
    manifest = tmp_path / "pool" / "manifest.jsonl"
    whole = manifest.read_bytes()
    if how == "deleted":
        manifest.unlink()
    else:
        manifest.write_bytes(b"" if how == "emptied" else b"x" + whole[1:])
    notes = []
    for read_only in (True, False, True):
        with Pool.open(tmp_path, read_only=read_only) as pool:
            assert everything == (
                pool.chains(continuations=True),
                pool.problems(),
                pool.verdicts("mine"),
                pool.samplings(),
            )
            assert [s.groups() for s in pool._segments] == counts
            lost = [n for n in pool.notes if "had lost the shards" in n]
            notes.append(len(lost))
    some = 1 if how.startswith("first") else 2
    assert notes == [some, some, 0], "a writer puts them into the manifest again"


def test_a_damaged_shard_without_a_line_is_noted(tmp_path):
    full(tmp_path)
    (tmp_path / "pool" / "manifest.jsonl").unlink()
    (shard,) = (tmp_path / "pool" / "shards").glob("chains-*")
    shard.write_bytes(shard.read_bytes()[:-9])
    with Pool.open(tmp_path) as pool:
        assert not pool.chains()
        assert len(pool.problems()) == len(PROBLEMS)
        assert any("damaged" in note and shard.name in note for note in pool.notes)


def test_a_file_that_is_removed_while_it_is_written_takes_nothing_with_it(tmp_path):
    with Pool.open(tmp_path) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([chain(index=0)])
        (wal,) = (tmp_path / "pool" / "wal").iterdir()
        wal.unlink()
        pool.append([chain(index=1)])
        pool._sealer.wait()
        assert any(str(wal) in n and "was removed" in n for n in pool.notes)
        (other,) = (tmp_path / "pool" / "wal").iterdir()
        assert read_blocks(other.read_bytes(), Segment("w")).segment.keys == {chain(index=1).key}
        with Pool.open(tmp_path, read_only=True) as again:  # as after a kill
            assert again.chains() == [chain(index=0), chain(index=1)]


def test_a_folder_that_is_removed_while_it_is_written_acknowledges_nothing(tmp_path):
    pool = Pool.open(tmp_path)
    pool.add_problems(PROBLEMS)
    pool.append([chain()])
    shutil.rmtree(tmp_path / "pool")
    with pytest.raises(PoolError, match="cannot be written"):
        pool.append([chain(index=1)])
    assert not any(c.index == 1 for c in pool.chains())
    pool.close()
    assert "not sealed yet" in pool.notes[-1]


def test_a_shard_that_is_removed_while_the_pool_is_open_is_noted(tmp_path):
    chains = full(tmp_path)
    with Pool.open(tmp_path) as pool:
        shard = next(tmp_path.rglob("chains-*.parquet"))
        shard.unlink()
        assert pool.chains() == []
        assert list(pool.scan("chains")) == []
        (note,) = pool.notes
        assert f"{shard} is missing: its {len(chains)} rows" in note


def test_files_that_are_not_the_pools_are_left_alone(tmp_path):
    chains = full(tmp_path)
    shard = next(tmp_path.rglob("chains-*.parquet"))
    strange = [
        shard.with_name("chains-copy-of.parquet"),
        shard.with_name(f"{shard.stem} (copy).parquet"),
        tmp_path / "pool" / "wal" / "notes.wal",
        tmp_path / "pool" / "wal" / "rows.jsonl",
    ]
    for path in strange:
        path.write_bytes(shard.read_bytes())
    with Pool.open(tmp_path) as pool:
        assert pool.chains() == chains
        assert not pool.notes
        pool.append([chain(index=9)])
    assert len(Pool.open(tmp_path, read_only=True).keys()) == len(chains) + 1
    assert all(path.exists() for path in strange)
    report = check(tmp_path, repair=True)
    assert report.whole
    assert sorted(r for r in report.remarks if "no file of the pool" in r) == sorted(
        f"{path} is no file of the pool: it is not read." for path in strange
    )


@pytest.mark.parametrize(
    "row", [{"segment": 3}, [], "x", {"rows": {}}, {"segment": "1-a", "rows": 3, "groups": []}]
)
def test_a_line_of_the_manifest_that_this_version_does_not_know_is_passed_over(tmp_path, row):
    chains = full(tmp_path)
    manifest = tmp_path / "pool" / "manifest.jsonl"
    with manifest.open("ab") as f:
        f.write(frame_row(row))
    with Pool.open(tmp_path) as pool:
        assert pool.chains() == chains
        (note,) = pool.notes
        assert f"{manifest}: passed over a line" in note
        pool.append([chain(index=9)])
        pool.seal()
    assert check(tmp_path).damage == [note]
    manifest.write_bytes(frame_row(row))
    with Pool.open(tmp_path) as pool:
        assert len(pool.chains()) == len(chains) + 1
        assert sum("had lost the shards" in n for n in pool.notes) == 2


def test_the_clock_may_go_backwards(tmp_path, monkeypatch):
    """Names are times of birth, and the later row wins: a new segment is younger than all that are there."""
    now = [10**18]
    monkeypatch.setattr("reasoning.pool.folder.time.time_ns", lambda: now[0])
    for text in ("one", "two", "three"):
        with Pool.open(tmp_path) as pool, Pool.open(tmp_path) as beside:
            pool.add_problems(PROBLEMS)
            pool.append([chain(text="stale")])
            now[0] -= 10**16
            beside.refresh()
            beside.append([chain(text=text)])
        now[0] -= 10**16
        assert [c.text for c in Pool.open(tmp_path, read_only=True).chains()] == [text]


def test_a_pool_that_lost_its_format_file_says_so(tmp_path):
    chains = full(tmp_path)
    (tmp_path / "pool" / "pool.json").unlink()
    with pytest.raises(PoolError, match=r'pool\.json is missing.*write \{"format": 2\} there'):
        Pool.open(tmp_path, read_only=True)
    with Pool.open(tmp_path) as pool:
        assert pool.chains() == chains
    assert len(Pool.open(tmp_path, read_only=True)) == len(chains)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_a_disk_that_fills_up_while_sealing(tmp_path):
    def mount(*options: str) -> bool:
        return not subprocess.run(["mount", *options, tmp_path], capture_output=True).returncode

    if not mount("-t", "tmpfs", "-o", "size=600k", "none"):
        pytest.skip("mount is not permitted here")
    try:
        rng = random.Random(0)
        pool = Pool.open(tmp_path, segment_bytes=150_000)
        pool.add_problems(PROBLEMS)
        acknowledged = []

        def fill() -> None:
            for i in range(10_000):
                made = chain(index=i, text="".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=2000)))
                pool.append([made])
                acknowledged.append(made)

        with pytest.raises(PoolError, match="disk is full"):
            fill()
        assert pool.chains() == acknowledged
        pool._sealer.wait(retry=False)  # what it had in hand may have made room
        with contextlib.suppress(PoolError):
            pool.append([chain(index=10_000)])
            acknowledged.append(chain(index=10_000))
        pool._sealer.wait(retry=False)
        with (tmp_path / "else").open("wb", buffering=0) as other, contextlib.suppress(OSError):
            while True:
                other.write(bytes(4096))
        assert pool.chains() == acknowledged
        owed = bool(pool._pending)  # the sealer may have been quick enough
        pool.close()
        assert any("not sealed yet" in n for n in pool.notes) == owed
        for read_only in (True, False):
            with Pool.open(tmp_path, read_only=read_only) as again:
                assert again.chains() == acknowledged
        assert mount("-o", "remount,size=8m")
        with Pool.open(tmp_path) as again:
            assert again.chains() == acknowledged
            assert not again.notes
            again.seal()
        assert not list((tmp_path / "pool" / "wal").iterdir())
        assert check(tmp_path).whole
        gc.collect()  # an index that is mapped still, and was merged away, would keep the disk writable
        assert mount("-o", "remount,ro")
        assert Pool.open(tmp_path, read_only=True).chains() == acknowledged
        with Pool.open(tmp_path) as again, pytest.raises(PoolError, match="Read-only file system"):
            again.append([chain(index=10_001)])
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
