"""25 kills at random moments (``python -m evals.pool_kills`` does 200), and one before each change of the disk."""

import signal
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from test_pool import PROBLEMS, chain, full

from evals.pool_kills import PROCESSES, contents, fill, kill_again_and_again, killed_before_each_change
from reasoning.pool import Pool, shards
from reasoning.pool.check import check
from reasoning.pool.merge import merge
from verifiers import Verdict


def test_a_writer_that_is_killed_again_and_again_ends_with_the_undisturbed_pool(tmp_path):
    met = kill_again_and_again(tmp_path, 25, seed=1, chains=900)
    assert met.pop("runs compared") >= 1
    assert met.total() == 25
    assert len(met) > 1, "kills hit more than one kind of moment"


def test_two_writers_that_are_killed_while_they_seal(tmp_path):
    fill(tmp_path / "alone", number=300)
    expected = contents(tmp_path / "alone")
    for seconds in (0.05, 0.1, 0.15, 0.2, 0.25):
        writers = [
            PROCESSES.Process(target=fill, args=(tmp_path / "two", None, 300, 20_000)) for _ in range(2)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(seconds)
            writer.kill()
        for writer in writers:
            writer.join()
            assert writer.exitcode in (0, -signal.SIGKILL)
    fill(tmp_path / "two", number=300)
    assert contents(tmp_path / "two") == expected
    assert check(tmp_path / "two").whole


def test_a_repair_that_is_killed_at_any_moment_saves_what_can_be_saved(tmp_path, monkeypatch):
    start = tmp_path / "start"
    with monkeypatch.context() as m:
        m.setattr(shards, "_GROUP_ROWS", 5)
        chains = full(start)
    shard = next(start.rglob("chains-*.parquet"))
    data = bytearray(shard.read_bytes())
    column = pq.ParquetFile(shard).metadata.row_group(0).column(7)
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 255
    shard.write_bytes(data)
    moments = 0
    for folder in killed_before_each_change(start, partial(check, repair=True)):
        check(folder, repair=True)
        assert check(folder).whole
        with Pool.open(folder) as pool:
            assert pool.chains() == chains[5:]
            assert pool.missing([c.key for c in chains]) == [c.key for c in chains[:5]]
        kept = [p.read_bytes() for p in (folder / "pool" / "quarantine").iterdir()]
        assert kept == [data], "the damaged shard, and nothing in its place"
        moments += 1
    assert moments > 10


def merge_and_seal(sources: list[Path], to: Path) -> None:
    merge(sources, to)
    with Pool.open(to) as pool:
        pool.seal()


def test_a_merge_that_is_killed_at_any_moment_is_finished_by_the_same_command(tmp_path):
    sources = [tmp_path / "a", tmp_path / "b"]
    full(sources[0])
    with Pool.open(sources[1]) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([chain(index=i) for i in (1, 30)])
        pool.add_verdicts("math", {chain(index=30).key: Verdict(1.0)}, oracle=False)
    start = tmp_path / "start"
    start.mkdir()

    def look(folder: Path):
        with Pool.open(folder, read_only=True) as pool:
            return pool.chains(), pool.problems(), pool.verdicts("math"), pool.verifiers(), pool.keys()

    merge(sources, tmp_path / "all")
    moments = 0
    for folder in killed_before_each_change(start, partial(merge_and_seal, sources), stride=3):
        merge(sources, folder)
        assert look(folder) == look(tmp_path / "all")
        report = check(folder)
        assert report.whole, report.damage
        moments += 1
    assert moments > 10


def go_on(folder: Path) -> None:
    with Pool.open(folder) as pool:
        pool.append([chain(index=1)])
        pool.append([chain(text="later")])
        pool.add_verdicts("math", {chain().key: Verdict(1.0)}, oracle=True)


def test_a_writer_that_goes_on_with_anothers_file_is_killed_at_any_moment(tmp_path):
    start = tmp_path / "start"
    with Pool.open(start) as pool:
        pool.add_problems(PROBLEMS)
        pool.append([chain(), chain(index=2)])
    moments = 0
    for folder in killed_before_each_change(start, go_on):
        for _ in range(2):
            with Pool.open(folder, read_only=True) as pool:
                indices = [c.index for c in pool.chains()]
                assert indices in ([0, 2], [0, 1, 2]), "what was there before stays"
                assert pool.chains()[0].text == "four" or indices == [0, 1, 2], "in the order of writing"
                assert not pool.verdicts("math") or pool.chains()[0].text == "later"
            go_on(folder)
            assert [c.text for c in Pool.open(folder, read_only=True).chains()] == ["later", "four", "four"]
        report = check(folder)
        assert report.whole, report.damage
        moments += 1
    assert moments > 5
