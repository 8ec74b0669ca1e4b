import json
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.agreement import Agreement, agreement
from reasoning.engines.replay import ReplayEngine
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.recorded import RecordedScores, RowMapping, import_rows
from reasoning.records import Sampling
from reasoning.search import open_search
from reasoning.solve import solve
from verifiers.countdown import game24
from verifiers.numeric import Numeric

LISTS = "question=q,answer=gold,response=outs[].text,label=outs[].ok,score.rm=rm[][0],meta.level=info.level"
ROWS = [
    {
        "q": "2 + 2 ?",
        "gold": "4",
        "outs": [{"text": "The answer is 4.", "ok": True}, {"text": "The answer is 5.", "ok": False}],
        "rm": [[2.5], [-1.0]],
        "info": {"level": 1},
    },
    {
        "q": "3 + 3 ?",
        "gold": 6,
        "outs": [{"text": "The answer is 6", "ok": 0}, {"text": None, "ok": None}],
        "rm": [[0.5], [None]],
        "info": {"level": 2},
    },
]


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_a_list_without_brackets_says_what_to_write(tmp_path):
    file = write(tmp_path / "rows.jsonl", ROWS)
    flat = "question=q,answer=gold,response=outs"
    with Pool.open(tmp_path) as pool:
        for mapping, says in (
            (f"{flat}", r"response is a list of 2: write 'response=COLUMN\[\]'"),
            (f"{flat}.text", r"'outs' is a list of 2: write 'outs\[\]'"),
            (f"{flat}[].text,label=rm", r"label: one response, but a list of 2: write 'COLUMN\[\]'"),
            (
                f"{flat}[].txt",
                r"Did you mean 'outs\[\].text'.*line 1 has: q, gold, outs\[\].text, outs\[\].ok",
            ),
        ):
            with pytest.raises(UserError, match=says):
                import_rows(file, mapping, pool)


def test_without_a_mapping_one_is_suggested_that_works(tmp_path):
    file = write(tmp_path / "rows.jsonl", [{"problem": "1+1?", "gt": "2", "outputs": ["2", "3"], "n": 2}])
    with Pool.open(tmp_path) as pool:
        with pytest.raises(UserError, match="--map 'question=problem,answer=gt,response=outputs") as e:
            import_rows(file, [], pool)
        [mapping] = re.findall(r"--map '(.*?)'", str(e.value))
        assert import_rows(file, mapping, pool).chains == 2


def test_lists_of_responses(tmp_path):
    file = write(tmp_path / "gpt.jsonl", ROWS)
    sampling = Sampling(temperature=0.7)
    with Pool.open(tmp_path) as pool:
        report = import_rows(file, LISTS, pool, sampling=sampling, verifier=Numeric())
        assert (report.rows, report.problems, report.chains, report.present, report.empty) == (2, 2, 3, 0, 1)
        assert report.models == ["gpt"]
        chains = pool.chains(model="gpt", sampling=sampling)
        assert [(c.index, c.text) for c in chains] == [
            (0, "The answer is 4."),
            (1, "The answer is 5."),
            (0, "The answer is 6"),
        ]
        assert all(c.token_ids == () and c.cost.tokens == 0 for c in chains)
        assert [p.metadata["level"] for p in pool.problems().values()] == [1, 2]
        assert pool.verifiers() == {"label": True, "recorded:rm": False, "numeric": True}
        assert [pool.verdicts("label")[c.key].score for c in chains] == [1.0, 0.0, 0.0]
        scores = [pool.verdicts("recorded:rm")[c.key].score for c in chains]
        assert scores == [pytest.approx(1 / (1 + math.exp(-x))) for x in (2.5, -1.0, 0.5)]
        assert report.squashed == ["recorded:rm"]
        found = report.agreement
        assert (found.both, found.only_verifier, found.only_label, found.neither) == (1, 1, 0, 1)
        (odd,) = found.disagreements
        assert (odd.question, odd.reference, odd.label, odd.verdict.score) == ("3 + 3 ?", 6, 0.0, 1.0)
        before = sorted(p.name for p in tmp_path.rglob("*"))
        again = import_rows(file, LISTS, pool, sampling=sampling)
        assert (again.chains, again.present) == (0, 3)
        assert sorted(p.name for p in tmp_path.rglob("*")) == before, "the same file again changes nothing"


def test_scores_in_the_unit_interval_stay_as_they_are(tmp_path):
    rows = [{"q": "a", "r": ["x", "y"], "s": [0.25, 1]}]
    with Pool.open(tmp_path) as pool:
        report = import_rows(rows, "question=q,response=r[],score=s[]", pool)
        assert sorted(v.score for v in pool.verdicts("recorded:score").values()) == [0.25, 1.0]
        assert not report.squashed


def test_one_response_per_row_and_several_models(tmp_path):
    rows = [
        {"q": "a", "who": "m1", "r": "1", "k": 3},
        {"q": "a", "who": "m1", "r": "2", "k": 7},
        {"q": "a", "who": "m2", "r": 3, "k": 0},
    ]
    with Pool.open(tmp_path / "given") as pool:
        import_rows(rows, "question=q,response=r,model=who,index=k", pool)
        assert [(c.model, c.index, c.text) for c in pool.chains()] == [
            ("m2", 0, "3"),
            ("m1", 3, "1"),
            ("m1", 7, "2"),
        ]
    with Pool.open(tmp_path / "counted") as pool:
        import_rows(rows, "question=q,response=r,model=who", pool)
        assert [(c.model, c.index) for c in pool.chains()] == [("m1", 0), ("m2", 0), ("m1", 1)]


def test_the_number_of_a_row_is_metadata_and_that_of_a_response_its_index(tmp_path):
    rows = [{"q": "a", "n": 17, "r": [{"t": "x", "k": 4}, {"t": "y", "k": 2}]}]
    with Pool.open(tmp_path) as pool:
        import_rows(rows, "question=q,response=r[].t,index=n", pool, model="by place")
        assert [c.index for c in pool.chains()] == [0, 1]
        assert [p.metadata["index"] for p in pool.problems().values()] == [17]
        import_rows(rows, "question=q,response=r[].t,index=r[].k", pool, model="given")
        assert [(c.index, c.text) for c in pool.chains(model="given")] == [(2, "y"), (4, "x")]


def test_several_mappings_of_one_row(tmp_path):
    rows = [
        {
            "q": "1 + 1 ?",
            "a": "2",
            "small": {"text": "#### 3", "ok": False},
            "big": {"text": "#### 2", "ok": True},
        }
    ]
    mappings = [f"question=q,answer=a,response={m}.text,label={m}.ok,model='{m}'" for m in ("small", "big")]
    with Pool.open(tmp_path) as pool:
        report = import_rows(rows, mappings, pool, verifier=Numeric())
        assert (report.rows, report.chains, report.models) == (1, 2, ["big", "small"])
        assert report.agreement.rate == report.agreement.kappa == 1.0


def test_a_recorded_score_is_a_scorer_for_searches_on_the_replay(tmp_path):
    with Pool.open(tmp_path) as pool:
        import_rows(ROWS, LISTS, pool, model="m")

    with Pool.open(tmp_path) as pool:
        problems = list(pool.problems().values())
        engine = ReplayEngine.open(tmp_path)
        solutions = solve(
            problems, open_search("best_of_n:n=2"), engine, None, pool, RecordedScores("rm"), Numeric()
        )
    assert [s.answer.answer for s in solutions] == ["4", "6"]
    assert [s.short for s in solutions] == [False, True]


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ("question=q", "where the response is"),
        ("response=r", "where the question is"),
        ("question=q,response=r,anwser=a", "Did you mean 'answer'"),
        ("question=q,response=r,response=s", "given twice"),
        ("question=q,response", "field=path"),
        ("question=q,response=r[][]", "at most one"),
        ("question=q,response=r[x]", "Malformed path"),
        ("question=q[],response=r[]", "no \\[\\] here"),
        ("question=q,response=r,meta=x", "Unknown field"),
    ],
)
def test_bad_mappings(mapping, says):
    with pytest.raises(UserError, match=says) as e:
        RowMapping.parse(mapping)
    assert "\n" not in str(e.value)


GOOD = '{"q": "a", "r": ["x"], "s": [1]}'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{oops", "line 2: not valid JSON"),
        ("[1]", "line 2: expected a JSON object"),
        (b"\xff\xfe", "line 2: not valid JSON"),
        ('{"q": "a", "rr": ["x"], "s": [1]}', "Unknown column 'r\\[\\]'.*line 2 has: q, rr\\[\\], s\\[\\]"),
        ('{"q": "a", "r": "x", "s": [1]}', "line 2: 'r\\[\\]' expects a list, found str"),
        ('{"q": "a", "r": ["x", "y"], "s": [1]}', "line 2: lists of different lengths"),
        ('{"q": "", "r": ["x"], "s": [1]}', "line 2: column 'question' is empty"),
        ('{"q": "a", "r": [{}], "s": [1]}', "line 2, response 0: column 'response' must hold text"),
        ('{"q": "a", "r": ["x"], "s": ["high"]}', "line 2, response 0, score: expected a number"),
        ('{"q": "a", "r": ["x"], "s": [Infinity]}', "line 2, response 0, score: expected a number"),
        ('{"q": "a", "r": ["x"], "s": [1' + "0" * 400 + "]}", "line 2, response 0, score: expected a number"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_stored(tmp_path, line, says):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(GOOD.encode() + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with Pool.open(tmp_path) as pool:
        with pytest.raises(UserError, match=says) as e:
            import_rows(file, "question=q,response=r[],score=s[]", pool)
        assert "\n" not in str(e.value)
        assert not pool.problems()
        assert not pool.chains()


def test_other_bad_rows(tmp_path):
    with Pool.open(tmp_path) as pool:
        for rows, mapping, says in (
            ([{"q": "a", "r": "x", "k": -1}], "question=q,response=r,index=k", "whole number"),
            ([{"q": "a", "r": "x", "k": 10**23}], "question=q,response=r,index=k", "row 1: index .* 2.63"),
            (
                [{"q": "a", "r": "x", "k": 0}] * 2,
                "question=q,response=r,index=k",
                "row 2: response 0 .* there before",
            ),
            ([{"q": "a", "r": "x", "ok": 2}], "question=q,response=r,label=ok", "a label lies in"),
            ([{"q": "a", "r": "x", "f": "eos"}], "question=q,response=r,finish=f", "finish must be"),
            ([{"q": "a", "r": None}], "question=q,response=r", "no responses found"),
            ([{"q": "a", "r": "x", "s": [1]}], "question=q,response=r,score=s[]", "a list for one response"),
            ([], "question=q,response=r", "no responses found"),
        ):
            with pytest.raises(UserError, match=says):
                import_rows(rows, mapping, pool)
        with pytest.raises(UserError, match="No such file"):
            import_rows(tmp_path / "none.jsonl", "question=q,response=r", pool)


@given(st.tuples(*[st.integers(0, 40)] * 4))
def test_kappa_by_its_definition(counts):
    """Against expected counts of a table with the same margins."""
    both, only_verifier, only_label, neither = counts
    found = Agreement("v", *counts, missing=0)
    n = sum(counts)
    right = (both + only_verifier) * (both + only_label)
    wrong = (neither + only_label) * (neither + only_verifier)
    if n == 0 or right + wrong == n * n:
        assert math.isnan(found.kappa)
    else:
        expected = (right + wrong) / n
        assert found.kappa == pytest.approx((both + neither - expected) / (n - expected), abs=1e-9)


def test_agreement_counts_what_is_missing(tmp_path):
    with Pool.open(tmp_path) as pool:
        import_rows(ROWS, LISTS, pool)
        none = agreement(pool, "numeric")
        assert (none.judged, none.missing) == (0, 3)
        assert math.isnan(none.rate)


DATA = Path(os.environ.get("REASONING_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="REASONING_DATA names no folder")
SOLUTIONS = "benchmarks/gsm8k/example_model_solutions.jsonl"


@needs_data
@pytest.mark.parametrize(
    ("file", "mapping", "verifier", "chains", "least_kappa"),
    [
        (
            "recorded/qwen25math_math100_x8_rm/math_cot_100.jsonl",
            "question=question,answer=gt,response=response[],score.rm=pred_score[][0],label=score[],meta.level=level",
            None,  # formulas: not a case for the numeric verifier
            800,
            None,
        ),
        (
            "recorded/llama32_3b_aime24_x50/aime24_step400.jsonl",
            "question=question,answer=expected_answer,response=completions[].full_model_response,"
            "label=completions[].score,model=model",
            Numeric(),
            1500,
            0.95,
        ),
        (
            "recorded/zeroeval_gsm8k_x44models/gsm.jsonl",
            "question=question,answer=gold,response=samples[].answer,model=samples[].model",
            None,
            57257,
            None,
        ),
        (
            SOLUTIONS,
            [
                f"question=question,answer=ground_truth,response={m}.solution,label={m}.is_correct,model='{m}'"
                for m in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
            ],
            Numeric(),
            4 * 1319,
            0.99,
        ),
    ],
)
def test_real_recorded_outputs(tmp_path, file, mapping, verifier, chains, least_kappa):
    if not (DATA / file).is_file():
        pytest.skip(f"REASONING_DATA has no {file}")
    with Pool.open(tmp_path) as pool:
        report = import_rows(DATA / file, mapping, pool, verifier=verifier)
        assert report.chains == chains == len(pool.chains())
        if verifier is not None:
            assert report.agreement.missing == 0
            assert report.agreement.kappa > least_kappa


@needs_data
def test_real_outputs_that_need_a_second_table(tmp_path):
    """Game of 24: the rows name their puzzle by its place in another file, so they are joined first."""
    folder = DATA / "recorded/game24_tot"
    if not (folder / "24.csv").is_file():
        pytest.skip("REASONING_DATA has no Game of 24")
    puzzles = [line.split(",")[1] for line in (folder / "24.csv").read_text().splitlines()[1:]]
    with (folder / "gpt-4_0.7_naive_cot_sample_100_start900_end1000.jsonl").open() as lines:
        rows = [row | {"puzzle": puzzles[row["idx"]]} for row in map(json.loads, lines)]
    mapping = "question=puzzle,response=ys[],label=infos[].r,meta.numbers=puzzle,model='gpt-4'"
    with Pool.open(tmp_path) as pool:
        report = import_rows(rows[:20], mapping, pool, verifier=game24())
        assert report.chains == 2000
        assert report.agreement.rate > 0.999
