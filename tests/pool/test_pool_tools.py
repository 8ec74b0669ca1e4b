"""Checking, querying, exporting, importing and merging pools."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_pool import PROBLEMS, chain, full

from reasoning.budget import Ledger
from reasoning.cli import main
from reasoning.errors import PoolError, UserError
from reasoning.pool import Pool, shards
from reasoning.pool.check import check
from reasoning.pool.export import export
from reasoning.pool.folder import Folder
from reasoning.pool.merge import merge
from reasoning.recorded import import_rows
from reasoning.records import Cost
from verifiers import Verdict

VERDICTS = {
    chain().key: Verdict(1.0, "4", rule="integer", reason="equal"),
    chain(index=1).key: Verdict(0.0, None, steps=(0.1, 0.9), scored_tokens=7, flops=1e8),
    chain(PROBLEMS[1]).key: Verdict(None, None, "timeout"),
}


def run(path: Path) -> Path:
    """A run with sealed and unsealed rows, a chain that was drawn twice, and one that was judged twice."""
    full(path)
    with Pool.open(path) as pool:
        pool.add_verdicts("math", {k: Verdict(0.25) for k in VERDICTS}, oracle=True)
        pool.append([chain(index=1, text="näive\n☃ again"), chain(index=9, parent=chain().key)])
        pool.seal()
    with Pool.open(path) as pool:
        pool.add_verdicts("math", VERDICTS, oracle=True)
        charge = Ledger().charge(Cost(output_tokens=3), 1, phase="sample")
        pool.append([chain(index=5, logprobs=(-math.inf, -0.1, math.nan))], charges=[charge])
        pool.add_model("tiny@1", {"shape": {"layers": 3}})
    assert [len(list((path / "pool").rglob(f"{what}*"))) for what in ("chains-", "*.wal")] == [2, 1]
    return path


def contents(path: Path):
    with Pool.open(path, read_only=True) as pool:
        chains = pool.chains(continuations=True)
        numbers = [np.asarray(c.logprobs, np.float64).tobytes() for c in chains]
        plain = [replace(c, logprobs=()) for c in chains]
        return plain, numbers, list(pool.problems().values()), pool.verdicts("math"), pool.verifiers()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "dataset"])
def test_what_is_exported_and_imported_is_the_same(tmp_path, name):
    left = tmp_path / f".{name}.partial"  # by an export that was killed
    if name == "dataset":
        pytest.importorskip("datasets")
        left.mkdir()
    (left / "rows.arrow" if name == "dataset" else left).write_bytes(b"half")
    first = run(tmp_path / "a")
    with Pool.open(first, read_only=True) as pool:
        done = export(pool, tmp_path / name)
    assert (done.rows, done.without_verdict) == (20, 17)
    with Pool.open(tmp_path / "b") as pool:
        report = import_rows(tmp_path / name, [], pool)
        assert (report.chains, report.present) == (20, 0)
        assert import_rows(tmp_path / name, [], pool).present == 20
    assert contents(tmp_path / "b") == contents(first)
    assert not list(tmp_path.glob(".*"))


def test_export_for_trainers(tmp_path):
    with Pool.open(run(tmp_path / "r"), read_only=True) as pool:
        export(pool, tmp_path / "a.jsonl", format="messages", correct_only=True)
        export(pool, tmp_path / "b.jsonl", format="prompt-completion", verifier="math")
        assert json.loads((tmp_path / "a.jsonl").read_text()) == {
            "messages": [
                {"role": "user", "content": PROBLEMS[0].prompt},
                {"role": "assistant", "content": "four"},
            ],
            "key": chain().key,
            "score": 1.0,
        }
        rows = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
        assert len(rows) == 19, "continuations are no answers"
        assert {"prompt": PROBLEMS[0].prompt, "completion": "näive\n☃ again"}.items() <= rows[-2].items()
        for wrong, words in (
            ({"verifier": "maths"}, "Did you mean 'math'"),
            ({"format": "message"}, "Did you mean 'messages'"),
            ({}, "is there already"),
        ):
            with pytest.raises(UserError, match=words):
                export(pool, tmp_path / "a.jsonl", **wrong)
        with pytest.raises(UserError, match=r"\.jsonl or \.parquet"):
            export(pool, tmp_path / "a.csv")
    full(tmp_path / "unjudged")
    with (
        Pool.open(tmp_path / "unjudged", read_only=True) as pool,
        pytest.raises(UserError, match="no verdicts"),
    ):
        export(pool, tmp_path / "c.jsonl", correct_only=True)
    with Pool.open(tmp_path / "b") as pool, pytest.raises(UserError, match="--map"):
        import_rows([{"question": "?"}], [], pool)


def test_merging_is_by_key_and_twice_is_once(tmp_path):
    run(tmp_path / "a")
    with Pool.open(tmp_path / "b") as pool:
        pool.add_problems(PROBLEMS)
        pool.append([chain(index=i, text="other") for i in (1, 30)])
        pool.add_verdicts(
            "math", {chain(index=30).key: Verdict(1.0), chain().key: Verdict(0.0)}, oracle=False
        )
        pool.add_verdicts("fair", {chain(index=30).key: Verdict(0.5)}, oracle=False)
    added = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert added == {"problems": 6, "models": 1, "charges": 1, "chains": 21, "verdicts": 5}
    with Pool.open(tmp_path / "c", read_only=True) as pool:
        assert len(pool) == 21
        assert pool.verdicts("math")[chain().key] == VERDICTS[chain().key], "the first one's stays"
        assert pool.verdicts("fair") == {chain(index=30).key: Verdict(0.5)}
        assert pool.verifiers() == {"math": True, "fair": False}
        assert next(c.text for c in pool.chains() if c.index == 1) == "näive\n☃ again"
        before = pool.path, [c.key for c in pool.chains(continuations=True)]
    assert not +merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    with Pool.open(tmp_path / "c", read_only=True) as pool:
        assert (pool.path, [c.key for c in pool.chains(continuations=True)]) == before
    with pytest.raises(UserError, match="into itself"):
        merge([tmp_path / "a"], tmp_path / "a")


def test_merging_verdicts_whose_key_is_no_chains(tmp_path):
    for name, keys in (("a", ["odd", "0" * 32, "e" * 31]), ("b", ["ödd", "odd", "0" * 32, "1" * 32])):
        with Pool.open(tmp_path / name) as pool:
            pool.add_verdicts("math", {k: Verdict(1.0, name) for k in keys}, oracle=True)
            pool.add_verdicts(name, {"odd": Verdict(0.0)}, oracle=False)
            pool.seal()
            pool.add_verdicts("math", {"odd": Verdict(0.5, name)})
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")["verdicts"] == 3 + 1 + 2 + 1
    with Pool.open(tmp_path / "c", read_only=True) as pool:
        assert pool.verdicts("math") == {
            "odd": Verdict(0.5, "a"),
            "0" * 32: Verdict(1.0, "a"),
            "e" * 31: Verdict(1.0, "a"),
            "ödd": Verdict(1.0, "b"),
            "1" * 32: Verdict(1.0, "b"),
        }
        assert pool.summary()["verdicts"] == {"math": 5, "a": 1, "b": 1}
    assert not +merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")


def test_sql_sees_what_python_sees_and_nothing_else(tmp_path):
    pytest.importorskip("duckdb")
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    with Pool.open(run(tmp_path / "r"), read_only=True) as pool:
        one = pool.sql(
            "select count(*) n, count(distinct key) d, sum(output_tokens) o from chains"
        ).to_pylist()
        assert one == [{"n": 20, "d": 20, "o": 60}]
        texts = pool.sql(
            "select text from chains where index = 1 and problem_id = (select id from problems limit 1)"
        )
        assert texts.to_pylist() == [{"text": "näive\n☃ again"}]
        assert pool.sql("select sum(score) s, count(*) n from verdicts").to_pylist() == [{"s": 1.0, "n": 3}]
        assert pool.sql("select phase from charges").to_pylist() == [{"phase": "sample"}]
        shard = next((tmp_path / "r").rglob("chains-*.parquet")).absolute()
        before = shard.read_bytes()
        for query in (
            f"select * from read_csv('{tmp_path}/secret.csv')",
            f"select * from '{tmp_path}/secret.csv'",
            f"copy chains to '{tmp_path}/out.csv'",
            f"copy (select 1) to '{shard}'",
            f"attach '{tmp_path}/other.db'",
            "set enable_external_access = true",
            "install httpfs",
            "select 1; select 2",
            "create table x as select 1",
            "select nothing from chains",
            "selekt",
            "",
        ):
            with pytest.raises(UserError) as e:
                pool.sql(query)
            assert "\n" not in str(e.value)
        assert shard.read_bytes() == before
        assert not (tmp_path / "out.csv").exists()


def test_check_of_a_whole_pool(tmp_path, capsys):
    run(tmp_path)
    report = check(tmp_path)
    assert report.whole
    assert not report.lost_rows
    assert any("two writers" in r for r in report.remarks), "a chain that was drawn twice is told"
    assert main(["pool", "check", str(tmp_path)]) == 0
    assert "whole" in capsys.readouterr().out


def test_a_damaged_shard_is_set_aside_and_the_rest_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shards, "_GROUP_ROWS", 5)
    chains = full(tmp_path)
    with Pool.open(tmp_path) as pool:
        pool.add_verdicts("math", VERDICTS)
    shard = next(tmp_path.rglob("chains-*.parquet"))
    data = bytearray(shard.read_bytes())
    column = pq.ParquetFile(shard).metadata.row_group(0).column(7)
    assert column.path_in_schema == "text"
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 255
    shard.write_bytes(data)
    assert main(["pool", "check", str(tmp_path)]) == 3
    said = capsys.readouterr().out
    assert str(shard) in said
    assert "13 of its 18 rows can be saved" in said
    assert main(["pool", "check", str(tmp_path), "--repair"]) == 0
    assert (tmp_path / "pool" / "quarantine" / shard.name).read_bytes() == data
    report = check(tmp_path)
    assert report.whole
    assert any("3 verdicts" in r or "verdicts of 'math'" in r for r in report.remarks)
    with Pool.open(tmp_path) as pool:
        kept = pool.chains()
        assert kept == chains[5:]
        assert pool.missing([c.key for c in chains]) == [c.key for c in chains[:5]]
        pool.append(chains[:5])
        assert pool.chains() == chains


def test_a_repair_lets_the_files_of_a_writer_be_that_began_meanwhile(tmp_path, monkeypatch):
    full(tmp_path)
    plain, writers = Folder.strange, []

    def strange(folder):  # looked at after the list of writers
        if not writers:
            writers.append(Pool.open(tmp_path))
            writers[0].append([chain(index=9)])
            (file,) = folder.wal_paths()
            (tmp_path / "pool" / "shards" / f".chains-{file.stem}.parquet.tmp").touch()
        return plain(folder)

    monkeypatch.setattr(Folder, "strange", strange)
    (tmp_path / "pool" / "shards" / ".chains-123-ab.parquet.tmp").touch()
    assert check(tmp_path, repair=True).repaired == ["1 temporary files were removed."]
    writers[0].close()


def test_two_repairs_at_a_time_are_one_too_many(tmp_path, monkeypatch):
    full(tmp_path)

    def again(folder):
        with pytest.raises(PoolError, match="another process is repairing"):
            check(tmp_path, repair=True)
        return []

    monkeypatch.setattr(Folder, "strange", again)
    assert check(tmp_path, repair=True).whole


@pytest.mark.parametrize("what", ["footer", "missing", "index", "manifest", "temporary"])
def test_other_damage_is_found_and_repaired(tmp_path, what):
    chains = full(tmp_path)
    shard = next(tmp_path.rglob("chains-*.parquet"))
    lost = len(chains) if what in ("footer", "missing") else 0
    if what == "footer":
        shard.write_bytes(shard.read_bytes()[:-9])
    elif what == "missing":
        shard.unlink()
    elif what == "index":
        (part,) = tmp_path.rglob("*.keys")
        data = part.read_bytes()
        part.write_bytes(data[:-3] + bytes(3))
    elif what == "manifest":
        (tmp_path / "pool" / "manifest.jsonl").unlink()
    else:
        (shard.parent / ".chains-0-0.parquet.tmp").write_bytes(b"half")
    report = check(tmp_path)
    assert report.whole == (what == "temporary")
    assert report.lost_rows == lost
    check(tmp_path, repair=True)
    after = check(tmp_path)
    assert after.whole, after.damage
    assert not list(tmp_path.rglob(".*.tmp"))
    with Pool.open(tmp_path, read_only=True) as pool:
        assert pool.chains() == ([] if lost else chains)
        assert len(pool.missing([c.key for c in chains])) == lost


def test_the_commands(tmp_path, capsys):
    pytest.importorskip("duckdb")
    run(tmp_path / "r")
    r = str(tmp_path / "r")
    assert main(["pool", "seal", r]) == 0
    assert not list((tmp_path / "r" / "pool" / "wal").iterdir())
    assert (
        main(["pool", "query", r, "select model, count(*) n from chains group by 1", "--format", "csv"]) == 0
    )
    assert "model,n\ntiny@1,20\n" in capsys.readouterr().out
    assert main(["pool", "query", r, "select 1.5 x, 'a' y"]) == 0
    assert capsys.readouterr().out == "x    y\n1.5  a\n"
    assert main(["pool", "export", r, "--to", str(tmp_path / "x.parquet")]) == 0
    assert main(["import", str(tmp_path / "x.parquet"), str(tmp_path / "copy")]) == 0
    assert main(["pool", "merge", r, str(tmp_path / "copy"), "--to", str(tmp_path / "all")]) == 0
    assert "20 chains" in capsys.readouterr().out
    assert main(["pool"]) == 0
    assert "reasoning pool merge" in capsys.readouterr().out
    assert main(["pool", "chek", r]) == 2
    assert "Did you mean 'pool check'" in capsys.readouterr().err
    assert main(["pool", "merge", str(tmp_path / "none"), "--to", r]) == 2


def test_scan_gives_each_row_once(tmp_path):
    with Pool.open(run(tmp_path), read_only=True) as pool:
        for table, columns in (("chains", ["key"]), ("verdicts", ["key"]), ("problems", ["id"])):
            rows = pa.concat_tables(pool.scan(table, columns))
            assert rows.column_names == columns
            assert len(set(rows[0].to_pylist())) == rows.num_rows
        assert len(pool) == 20 == pool.summary()["chains"]


def test_a_truncated_shard_is_said_at_opening(tmp_path, capsys):
    full(tmp_path / "run")
    with Pool.open(tmp_path / "run") as pool:
        pool.seal()
        assert not pool.notes
    shard = min((tmp_path / "run" / "pool" / "shards").glob("chains-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with Pool.open(tmp_path / "run", read_only=True) as pool:
        assert len(pool.notes) == 1
        assert f"reasoning pool check {tmp_path / 'run'} --repair" in pool.notes[0]
    assert main(["show", str(tmp_path / "run")]) == 0
    assert "were written: damaged" in capsys.readouterr().err
    assert main(["pool", "check", str(tmp_path / "run"), "--repair"]) == 0
    said = capsys.readouterr()
    assert "rows were lost" in said.out
    assert "were written: damaged" not in said.out + said.err  # it is told once
    with Pool.open(tmp_path / "run", read_only=True) as pool:
        assert not pool.notes


def test_one_is_not_many(tmp_path, capsys):
    run(tmp_path / "a")
    assert main(["pool", "merge", str(tmp_path / "a"), "--to", str(tmp_path / "b")]) == 0
    said = capsys.readouterr()
    assert "1 model," in said.out
    assert "1 charge," in said.out
    assert "models" not in said.out
    assert main(["pool", "seal", str(tmp_path / "b")]) == 0
    assert main(["pool", "check", str(tmp_path / "b")]) == 0
    assert "1 verifier" in capsys.readouterr().out
    manifest = tmp_path / "b" / "pool" / "manifest.jsonl"
    manifest.write_bytes(b"damaged\n" + manifest.read_bytes())
    main(["pool", "check", str(tmp_path / "b")])
    said = capsys.readouterr()
    assert (said.out + said.err).count("skipped the damaged record in line 1") == 1
