import io
import json

from verifiers import open_verifier, verify_rows


def run(text, spec="math", **options):
    out = io.StringIO()
    summary = verify_rows(
        io.StringIO(text) if isinstance(text, str) else text, open_verifier(spec), out.write, **options
    )
    return [json.loads(line) for line in out.getvalue().splitlines()], summary


def test_one_line_per_row_in_order():
    rows = [
        {"reference": "5", "response": r"So \boxed{5}.", "id": "a"},
        {"gold": r"\frac12", "answer": "0.5"},
        {"gold": "5", "answer": "6", "response": "never read"},
        {"reference": "5", "response": ""},
        {"reference": "5", "response": None},
        {"reference": "", "response": "5"},
        {"question": "5", "solution": "5"},
        [1, 2],
    ]
    text = "".join(json.dumps(r) + "\n" for r in rows) + "\n{broken\n" + json.dumps(rows[0]) + "\n"
    for batch in (1, 3, 256):
        done: list[int] = []
        lines, summary = run(text, batch=batch, advance=done.append)
        assert [line["status"] for line in lines] == [
            "ok", "ok", "ok", "no_answer", "bad_response", "bad_reference", "bad_row", "bad_row", "bad_row", "ok",
        ]  # fmt: skip
        assert [line["score"] for line in lines] == [1, 1, 0, 0, None, None, None, None, None, 1]
        assert sum(done) == summary.rows == 10
        assert (summary.correct, summary.missing) == (3, 5)
    assert list(lines[1]) == ["score", "answer", "status", "rule", "reason"]
    assert lines[0]["id"] == "a"
    assert "line 7" in lines[6]["reason"]
    assert "question, solution" in lines[6]["reason"]
    assert "line 10" in lines[8]["reason"]
    assert "3 correct" in str(summary)
    assert "bad_row 3" in str(summary)


def test_metadata_and_bytes():
    row = {"response": "(8-4)*2*3", "numbers": [4, 8, 2, 3], "metadata": {"target": 24}}
    lines, _ = run([json.dumps(row).encode()], "countdown")
    assert lines[0]["score"] == 1
    lines, _ = run([b"\xff\xfe"], "countdown")
    assert lines[0]["status"] == "bad_row"


def test_bare_answers_are_compared_as_they_stand():
    row = {"gold": "the answer is red", "answer": "The answer is red"}
    assert run(json.dumps(row), "exact")[0][0]["score"] == 1


def test_empty_input():
    lines, summary = run("")
    assert lines == []
    assert str(summary) == "no rows"


def test_a_bare_answer_may_be_a_json_number():
    rows = [{"gold": 7, "answer": 7}, {"gold": "1/2", "answer": 0.5}, {"gold": 1, "answer": True}]
    lines, _ = run([json.dumps(row) for row in rows])
    assert [line["score"] for line in lines] == [1, 1, None]
    assert lines[2]["status"] == "bad_response"


def test_a_field_given_twice_is_an_error_that_names_it():
    rows = [
        '{"reference": "5", "response": "5", "response": "6", "id": 1}',
        '{"reference": "5", "response": "5"}',
    ]
    lines, _ = run("\n".join([*rows, '{"response": "5", "metadata": {"a": 1, "a": 2}}']))
    assert [line["status"] for line in lines] == ["bad_row", "ok", "bad_row"]
    assert lines[0]["score"] is None
    assert "line 1" in lines[0]["reason"]
    assert "'response' is given twice" in lines[0]["reason"]
    assert "'a' is given twice" in lines[2]["reason"]
