"""`math` on its table of cases, on generated expressions, on any text, and from threads."""

import asyncio
import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_cases import DIFFERENT, SAME
from math_kinds import DIFFERENT as DIFFERENT_KINDS
from math_kinds import SAME as SAME_KINDS
from math_responses import RESPONSES

from verifiers import Attempt, open_verifier, reading


@pytest.fixture(scope="module")
def math():
    return open_verifier("math")


@pytest.mark.parametrize(("reference", "response"), SAME + SAME_KINDS)
def test_accepts(math, reference, response):
    (verdict,) = math.verify([Attempt(response=response, reference=reference)])
    assert verdict.score == 1, verdict
    assert verdict.rule
    assert verdict.answer


@pytest.mark.parametrize(("reference", "response"), DIFFERENT + DIFFERENT_KINDS)
def test_rejects(math, reference, response):
    (verdict,) = math.verify([Attempt(response=response, reference=reference)])
    assert verdict.score == 0, verdict


def answers():
    """(reference, answer, whether they are equal) of the file of answers."""
    for line in (Path(__file__).parent / "math_answers.txt").read_text(encoding="utf-8").splitlines():
        if " ==> " in line and not line.startswith("# "):
            reference, _, rest = line.partition(" ==> ")
            for part, equal in zip(rest.split(" !! "), (True, False), strict=False):
                yield from ((reference, answer, equal) for answer in part.split(" ;; "))


def test_answers_in_the_voice_of_data_sets(math):
    table = list(answers())
    verdicts = math.verify([Attempt(response=answer, reference=reference) for reference, answer, _ in table])
    wrong = [(*row, v.reason) for row, v in zip(table, verdicts, strict=True) if (v.score == 1) != row[2]]
    assert len(table) > 2500
    assert not wrong


@pytest.mark.parametrize(("right", "reference", "response"), RESPONSES)
def test_whole_responses(math, right, reference, response):
    (verdict,) = math.verify([Attempt(response=response, reference=reference)])
    assert (verdict.score == 1) == right, verdict


@pytest.mark.parametrize("reference", ["", " ", "NaN", r"\frac{1}{0}", "0^0", None, True, [], b"5"])
def test_unusable_references(math, reference):
    for response in ("5", str(reference), r"\frac{2}{0}"):
        (verdict,) = math.verify([Attempt(response=response, reference=reference)])
        assert (verdict.score, verdict.status) == (None, "bad_reference"), verdict


def test_equal_constants_share_a_vote(math):
    for group in (
        [r"\boxed{\sqrt{50}}", r"\boxed{5\sqrt2}", r"\boxed{\frac{10}{\sqrt2}}"],
        [r"\boxed{\frac12}", "The answer is 0.5", "#### 1/2", r"\boxed{x = \frac{2}{4}}"],
        [r"\boxed{1,2}", r"\boxed{\{2,1\}}", r"\boxed{x=1 \text{ or } x=2}"],
        [r"\boxed{(x+1)^2}", r"\boxed{x^2+2x+1}"],
        [r"\boxed{x>3}", r"\boxed{(3,\infty)}"],
    ):
        answers = {math.verify([Attempt(response=r, reference="7")])[0].answer for r in group}
        assert len(answers) == 1, answers
        assert None not in answers


def test_a_choice_votes_for_its_letter(math):
    said = ["B", "(B) 6", r"\textbf{(B)}\ 6", "B.", "Option B", "The answer is (B)."]
    verdicts = math.verify([Attempt(response=text, reference="(B) 6") for text in said])
    assert {v.answer for v in verdicts} == {"B"}
    assert all(v.correct for v in verdicts)


def test_a_choice_is_its_letter_or_its_text(math):
    for response, score in (("6", 1), ("(B) six", 1), ("(C) 6", 0), ("7", 0), ("(A)", 0)):
        (verdict,) = math.verify([Attempt(response=response, reference="(B) 6")])
        assert verdict.score == score, verdict


def test_decimals_of_many_digits_are_compared_exactly(math):
    for response, score in (("0." + "3" * 30, 1), ("0." + "3" * 20 + "4" * 10, 0), ("0." + "3" * 11, 0)):
        (verdict,) = math.verify([Attempt(response=response, reference="1/3")])
        assert verdict.score == score, verdict


digits = st.text(alphabet="0123456789", min_size=1, max_size=5)
grouped = st.integers(1, 10**12).map("{:,}".format)
plain = st.one_of(
    digits,
    grouped,
    st.builds("{}.{}".format, st.one_of(digits, grouped), digits),
    st.builds(r"\frac{{{}}}{{{}}}".format, digits, digits),
    st.builds("{}/{}".format, digits, digits),
)


@given(
    st.builds(
        "{}{}{}{}{}".format,
        st.sampled_from(["", "-", " ", "\n"]),
        st.sampled_from(["", "$", r"\$"]),
        plain,
        st.sampled_from(["", "%", r"\%"]),
        st.sampled_from(["", " "]),
    )
)
def test_plain_numbers_are_read_the_short_way_as_the_long_way(text):
    short = reading.plain_number(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_PLAIN", lambda text: None)
        long = reading._read.__wrapped__(text)
    assert short is None or short == long


def test_only_short_texts_are_remembered(math):
    before = reading._read.cache_info().currsize
    for i in range(50):
        text = f"{i} " * 600
        math.verify([Attempt(response=rf"\boxed{{{text}}}", reference="1")])
        math.verify([Attempt(response="1", reference=text)])
    assert reading._read.cache_info().currsize <= before + 1


LONG = 100_000
RUNS = [
    "answer" + " " * LONG + "x",
    " " * LONG + "a: b" + " " * LONG,
    "answer " * LONG,
    "</answer>" + "<answer>" * LONG,
    r"\boxed{" * LONG,
    r"\begin{x}" + r"\[" * LONG,
    "the answer is " + "**" * LONG,
    r"\boxed{the answer" + " " * LONG + "}",
    r"\boxed{" + r"\ " * 2_500 + "5}",
    r"\boxed{" + r"\over" * 1_000 + "}",
    r"\boxed{" + r"\begin{vmatrix}1&2\\3&4\end{vmatrix}" * 70 + "}",
    r"\boxed{0." + "1" * 1_400 + "2" * 1_400 + "...}",
]


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_long_runs_take_time_in_proportion(math, number):
    """Quadratic patterns would take minutes on these."""
    begun = time.process_time()
    math.verify(
        [Attempt(response=RUNS[number], reference="5"), Attempt(response="5", reference=RUNS[number])]
    )
    assert time.process_time() - begun < 10


TEXT = st.text(alphabet=r"0123456789abexyzin +-*/^_=<>()[]{}|,.;:!%$\'pqrtfcdmosul", max_size=40)
PIECES = [
    *[
        r"\frac",
        r"\sqrt",
        r"{",
        r"}",
        r"x",
        r"2",
        r"^",
        r"_",
        r"(",
        r")",
        r",",
        r"\cup",
        r"\pm",
        r"&",
        r"\\",
        r"=",
        r"<",
        r"|",
        r"\sin",
        r"!",
        r"%",
        r":",
        r"\in",
        r"\mathbb{Z}",
    ],
    *(r"\begin{pmatrix}", r"\end{pmatrix}", r"\text{ or }"),
]


@settings(max_examples=400, deadline=None)
@given(TEXT, st.sampled_from(["1", "x", r"\{1,2\}", "(1,2)", "x>1"]))
def test_any_text_gets_a_verdict(math, text, reference):
    for frame in ("@", r"\boxed{@}", "The answer is @"):
        (verdict,) = math.verify([Attempt(response=frame.replace("@", text), reference=reference)])
        assert verdict.status != "error", verdict
        assert verdict.score in (0.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=16))
def test_any_latex_gets_a_verdict_as_answer_and_as_reference(math, parts):
    text = " ".join(parts)
    (verdict,) = math.verify([Attempt(response=rf"\boxed{{{text}}}", reference=text or "1")])
    assert verdict.status != "error", verdict
    assert verdict.score in (0.0, 1.0) or verdict.status == "bad_reference"


rationals = st.fractions(min_value=-50, max_value=50, max_denominator=30)


@settings(max_examples=150, deadline=None)
@given(rationals, rationals)
def test_numbers_equal_exactly_when_they_are(math, a, b):
    spelled = rf"\frac{{{b.numerator}}}{{{b.denominator}}}"
    (verdict,) = math.verify([Attempt(response=rf"\boxed{{{spelled}}}", reference=str(a))])
    assert verdict.score == (a == b)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(-6, 6), min_size=2, max_size=4), st.lists(st.integers(-6, 6), min_size=2, max_size=4)
)
def test_polynomials_against_expansion(math, left, right):
    """Products of (x - r) are equal exactly when their roots are."""
    factored = "".join(f"(x-({r}))" for r in left)
    coefficients = [1]
    for r in right:
        shifted = [*coefficients, 0]
        coefficients = [a - r * b for a, b in zip(shifted, [0, *coefficients], strict=True)]
    degree = len(coefficients) - 1
    expanded = "+".join(f"({c})x^{{{degree - i}}}" for i, c in enumerate(coefficients))
    (verdict,) = math.verify([Attempt(response=rf"\boxed{{{expanded}}}", reference=factored)])
    assert verdict.score == (sorted(left) == sorted(right))


def test_from_threads_and_asyncio(math):
    attempt = Attempt(response=r"\boxed{5\sqrt2}", reference=r"\sqrt{50}")
    scores = []
    threads = [
        threading.Thread(target=lambda: scores.append(math.verify([attempt])[0].score)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores == [1.0] * 8

    async def many():
        return await asyncio.gather(*(asyncio.to_thread(math.verify, [attempt]) for _ in range(8)))

    assert [v[0].score for v in asyncio.run(many())] == [1.0] * 8


def test_labelled_cases_of_the_data_folder(math):
    folder = os.environ.get("REASONING_DATA", "")
    path = Path(folder) / "grader_labels" / "math_cases_dev.jsonl"
    if not folder or not path.is_file():
        pytest.skip("REASONING_DATA does not name a data folder with labelled cases")
    wrong = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        gold, answer = (
            "".join(unit * count for unit, count in row[f"{name}_parts"])
            if row.get(f"{name}_parts")
            else row[name]
            for name in ("gold", "answer")
        )
        (verdict,) = math.verify([Attempt(response=answer, reference=gold)])
        if verdict.correct != row["expected"]:
            wrong.append((row["id"], gold, answer, verdict))
    assert not wrong


@pytest.mark.parametrize("reference", ["((", "\\frac{1}{", "x +", "\\foo{3}", "\\sum_{i=1}^3 i", "{"])
def test_a_reference_that_cannot_be_read_is_missing_and_no_zero(math, reference):
    (verdict,) = math.verify([Attempt(response="\\boxed{6}", reference=reference)])
    assert (verdict.score, verdict.status, verdict.answer) == (None, "bad_reference", "6")
    assert "cannot be read" in verdict.reason
