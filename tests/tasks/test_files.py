"""Local JSONL with a column mapping: what is read, and what each malformed file is told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.errors import UserError
from reasoning.tasks import load_problems, verifier_of
from reasoning.tasks.files import column, read_jsonl


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
        return path

    return write


def test_columns_are_mapped(write):
    path = write(
        {"q": "What is 1+1?", "meta": {"gold": [2, "two"]}, "level": 3},
        "",
        {"q": "2+2?", "meta": {"gold": [4]}, "level": 1},
    )
    first, second = load_problems(f"jsonl:{path}:question=q,answer=meta.gold.0,difficulty=level,template=qa")
    assert first.prompt == "Q: What is 1+1?\nA:"
    assert (first.question, first.reference, first.task) == ("What is 1+1?", "2", "data")
    assert first.metadata["difficulty"] == 3
    assert second.reference == "4"


def test_the_verifier_can_be_named(write):
    path = write({"question": "a", "answer": "b"})
    assert verifier_of(f"jsonl:{path}:verifier=exact") == "exact"
    assert verifier_of("gsm8k:test") == "numeric"
    assert len(load_problems(f"jsonl:{path}:verifier=exact")) == 1


def test_repeated_rows_are_given_once_and_a_seed_shuffles(write):
    path = write(*[{"question": f"question {i % 50}", "answer": i % 50} for i in range(100)])
    said = []
    problems = load_problems(f"jsonl:{path}", say=said.append)
    assert [p.question for p in problems] == [f"question {i}" for i in range(50)]
    assert len(said) == 1
    assert "50 of 100 problems repeat others" in said[0]
    assert load_problems(f"jsonl:{path}", limit=10, say=pytest.fail)
    some = load_problems(f"jsonl:{path}", limit=10, seed=1)
    assert some == load_problems(f"jsonl:{path}", limit=10, seed=1)
    assert some != load_problems(f"jsonl:{path}", limit=10, seed=2)
    assert set(p.id for p in some) < set(p.id for p in problems)
    assert load_problems(f"jsonl:{path}", limit=10) == problems[:10]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (({"question": "a", "answer": "b"}, "{not json"), r"data.jsonl, line 2: not valid JSON"),
        (('{"question": "a", "answer": "b"}', "[1]"), r"line 2: expected a JSON object, found list"),
        (({"qestion": "a", "answer": "b"},), r"Unknown column 'question'. Did you mean 'qestion'\?"),
        (({"question": "", "answer": "b"},), r"line 1: column 'question' is empty"),
        (({"question": ["a"], "answer": "b"},), r"line 1: column 'question' must hold text, found list"),
        (({"question": "a", "answer": None},), r"line 1: column 'answer' is empty"),
        (("",), "holds no problem"),
        (("[" * 100_000,), "line 1: not valid JSON"),
    ],
)
def test_malformed_files(write, rows, message):
    with pytest.raises(UserError, match=message):
        load_problems(f"jsonl:{write(*rows)}")


def test_a_missing_file_and_bytes_that_are_not_text(tmp_path):
    with pytest.raises(UserError, match=r"No such file: .*nowhere.jsonl"):
        load_problems(f"jsonl:{tmp_path / 'nowhere.jsonl'}")
    with pytest.raises(UserError, match="jsonl needs a file"):
        load_problems("jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b'{"question": "a", "answer": "b"}\n\xff\xfe\n')
    with pytest.raises(UserError, match="line 2: not valid JSON"):
        load_problems(f"jsonl:{tmp_path / 'bytes.jsonl'}")


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"question": "a", "answer": "b"}\n')
    assert len(load_problems(f"jsonl:{tmp_path / 'bom.jsonl'}")) == 1


def test_a_key_with_dots_wins_over_a_path():
    assert column({"a.b": 1, "a": {"b": 2}}, "a.b", "row") == 1
    assert column({"a": {"b": [5, {"c": 7}]}}, "a.b.1.c", "row") == 7
    for bad in ("a.x", "a.b.9", "a.b.c", "a.b.0.z"):
        with pytest.raises(UserError, match=r"row has: a, a\.b"):
            column({"a": {"b": [5]}}, bad, "row")


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none())))
def test_what_json_writes_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    read = list(read_jsonl(path))
    assert [row for _, row in read] == rows
    assert [number for number, _ in read] == [2 * i + 1 for i in range(len(rows))]


ROWS = [{"q": "2+2?", "gold": "4", "level": "1"}, {"q": 'say "hi",\nplease', "gold": "hi", "level": "2"}]


def as_file(path):
    """ROWS in the format of the path's ending."""
    import csv

    import pyarrow
    from pyarrow import parquet

    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, ROWS[0], delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS, indent=1))
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "parquet", "csv", "tsv", "CSV"])
def test_every_format_reads_the_same(ending, tmp_path):
    path = as_file(tmp_path / f"data.{ending.lower()}").rename(tmp_path / f"data.{ending}")
    problems = load_problems(f"{path}:prompt=q,reference=gold,difficulty=level,template=plain")
    assert [(p.prompt, p.reference) for p in problems] == [(r["q"], r["gold"]) for r in ROWS]
    assert problems == load_problems(f"file:{path}:question=q,answer=gold,difficulty=level,template=plain")
    assert [p.reference for p in load_problems(f"{path}:prompt=q,reference=gold,level=2")] == ["hi"]
    with pytest.raises(
        UserError, match=r"Unknown column 'question'.* has: q, gold, level; say which:  FILE:question=C"
    ):
        load_problems(f"{path}:reference=gold")
    with pytest.raises(UserError, match=r"Unknown column 'golf'\. Did you mean 'gold'\?"):
        load_problems(f"{path}:prompt=q,reference=golf")
    with pytest.raises(UserError, match="both given as the column of the question"):
        load_problems(f"{path}:prompt=q,question=r,reference=gold")


def test_a_limit_reads_no_further(write):
    path = write({"question": "a", "answer": "1"}, {"question": "b", "answer": "2"}, "{broken")
    assert len(load_problems(f"jsonl:{path}", limit=2)) == 2
    assert len(load_problems(f"jsonl:{path}:limit=1", limit=2)) == 1
    with pytest.raises(UserError, match="line 3: not valid JSON"):
        load_problems(f"jsonl:{path}", limit=3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"PAR1 not", "not a Parquet file"),
        ("x.csv", b"question,answer\na,b,c\n", "line 2: 3 values where the header names 2 columns"),
        ("x.csv", b"question,answer\na\n", "line 2: 1 values where the header names 2"),
        ("x.csv", b"question,question\na,b\n", "two columns have one name"),
        ("x.csv", b'question,answer\n"a,b\n', "cannot be read"),
        ("x.csv", b"question,answer\n\xff,b\n", "cannot be read"),
        ("x.csv", b"", "holds no problem"),
        ("x.json", b"[1]", "row 0: expected a JSON object"),
        ("x.json", b"[{", "not valid JSON"),
        ("x.xlsx", b"", "files of problems end with one of"),
    ],
)
def test_damaged_files(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_problems(f"file:{path}")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_broken_rows_can_be_left_out_and_are_counted(ending, tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / f"data.{ending}"
    rows = [{"q": f"{i} + 1?", "a": "" if i == 2 else str(i + 1)} for i in range(6)]
    if ending == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending == "csv":
        lines = [f"{r['q']},{r['a']}" for r in rows]
        path.write_text("\n".join([" q , a ", *lines[:4], "one too few", *lines[4:]]) + "\n")
    elif ending == "json":
        path.write_text(json.dumps([*rows[:4], "no object", *rows[4:]]))
    else:
        path.write_text("\n".join([*map(json.dumps, rows[:4]), "{broken", *map(json.dumps, rows[4:])]) + "\n")
    said = []
    spec = f"{path}:question=q,answer=a"
    found = load_problems(f"{spec},broken=skip", say=said.append)
    assert [p.reference for p in found] == ["1", "2", "4", "5", "6"]
    count = 1 if ending == "parquet" else 2
    assert len(said) == 1
    rows = "1 row cannot be used and is" if count == 1 else f"{count} rows cannot be used and are"
    assert said[0].startswith(f"data: {rows} left out: {path}, ")
    assert "column 'a' is empty." in said[0]
    with pytest.raises(UserError, match=r"column 'a' is empty\.  \(broken=skip leaves such rows out\)$"):
        load_problems(spec)
    assert len(load_problems(f"{spec},broken=skip", limit=2, say=pytest.fail)) == 2


def test_a_mistyped_column_is_no_broken_row(write):
    path = write({"question": "a", "gold": "1"}, {"question": "b", "gold": "2"})
    with pytest.raises(
        UserError, match=r"none of 2 rows can be used\. Unknown column 'golf'\. Did you mean 'gold'"
    ):
        load_problems(f"{path}:answer=golf,broken=skip")
    with pytest.raises(UserError, match="say which:  FILE:question=question,answer=gold"):
        load_problems(str(path))
    with pytest.raises(UserError, match="Unknown value of broken 'yes'"):
        load_problems(f"{path}:answer=gold,broken=yes")


def test_not_a_number_is_an_empty_answer(write):
    with pytest.raises(UserError, match="line 1: column 'answer' is empty"):
        load_problems(str(write('{"question": "a", "answer": NaN}')))


def test_typed_cells_of_parquet_become_plain(tmp_path):
    import datetime
    import decimal

    import pyarrow
    from pyarrow import parquet

    row = {"question": "When?", "answer": datetime.date(2024, 2, 29), "level": decimal.Decimal("2.50")}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "x.parquet")
    (problem,) = load_problems(f"{tmp_path / 'x.parquet'}:difficulty=level")
    assert (problem.reference, problem.metadata["difficulty"]) == ("2024-02-29", "2.50")


@given(st.integers(0, 50), st.integers(1, 60), st.integers())
def test_a_stream_in_random_order_loses_and_doubles_nothing(count, buffer, seed):
    from reasoning.tasks.hub import in_random_order

    rows = [(f"row {i}", {"i": i}) for i in range(count)]
    found = list(in_random_order(iter(rows), seed, buffer))
    assert sorted(found, key=lambda r: r[1]["i"]) == rows
    assert found == list(in_random_order(iter(rows), seed, buffer))
