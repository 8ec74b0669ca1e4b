from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifiers import Attempt, open_verifier
from verifiers.numbers import parse_number

GOOD = [
    ("The answer is 36.", 36, "36"),
    ("The answer is 36 apples.", 36, "36"),
    ("The answer is **36**.", 36, "36"),
    ("so 6+3=9.\n#### 9", "9", "9"),
    ("The answer is 6+3=9.", 9, "9"),
    (r"Hence \boxed{\frac{7}{2}}.", "3.5", "7/2"),
    (r"Hence \boxed{3\frac{1}{2}}", "7/2", "7/2"),
    ("The answer is 3 1/2.", 3.5, "7/2"),
    ("The answer is $1,234.50.", "1234.5", "2469/2"),
    (r"\boxed{1{,}234}", 1234, "1234"),
    (r"\boxed{\$1,234}", "1234", "1234"),
    ("Answer: 50%", "50", "50"),
    ("The answer is \u221212.", -12, "-12"),
    ("The answer is 5. Wait, no. The answer is 6.", 6, "6"),
    ("36", 36, "36"),
    ("<think>The answer is 4.</think>The answer is 36.", 36, "36"),
    ("The answer is x = 5", 5, "5"),
    ("The answer is $10$.", 10, "10"),
    ("The answer is €20.", 20, "20"),
    ("The answer is 1.2e5", 120000, "120000"),
    ("The answer is: 18\nThat is all.", 18, "18"),
    ("The answer is 18 dollars per day.", "She makes 9 * 2 = <<9*2=18>>18.\n#### 18", "18"),
    (r"\boxed{5} and so \boxed{5.0}", 5, "5"),
    ("The answer is １２.", 12, "12"),
    ("The answer is 3½", 3.5, "7/2"),
    ("Sally has 9 books.", 9, "9"),
    ("I have 36 apples.", 36, "36"),
    ("#### Sally has 9 books", 9, "9"),
    ("She has $12.50 left.", 12.5, "25/2"),
    (r"\boxed{9\text{ books}}", 9, "9"),
    (r"\boxed{12\,\text{cm}^2}", 12, "12"),
    ("The answer is 5 p.m.", 5, "5"),
    ("The answer is 4m", 4, "4"),
    ("The final answer is $\\boxed{8}$. I hope it is correct.", 8, "8"),
]
BAD = [
    ("The answer is 36 or 37.", 36, "unparsable"),
    ("The answer is 41 (or 42).", 41, "unparsable"),
    ("I have 36 or 37 apples.", 36, "no_answer"),
    ("I have 36 apples. Tom has 3.", 36, "no_answer"),
    ("Sally doesn't have 9 books.", 9, "no_answer"),
    ("Sally has at least 9 books.", 9, "no_answer"),
    ("Step 9.", 9, "no_answer"),
    ("4t", 4, "no_answer"),
    ("The answer is 4t", 4, "unparsable"),
    ("The answer is 4 t", 4, "unparsable"),
    (r"\boxed{9x}", 9, "unparsable"),
    ("The answer is 9i", 9, "unparsable"),
    ("", 36, "no_answer"),
    ("The answer is x^2 = 36", 36, "unparsable"),
    (r"I get 36. \boxed{unknown}", 36, "unparsable"),
    (r"\boxed{36} or \boxed{37}", 37, "ambiguous"),
    ("The answer is 6+3=10", 10, "unparsable"),
    ("The answer is 1/0", 1, "unparsable"),
    ("The answer is 9^9^9^9", 9, "unparsable"),
    ("The answer is 1e999999999", 9, "unparsable"),
    ("The answer is between 3 and 4", 3, "unparsable"),
    ("The answer is 5 more than x", 5, "unparsable"),
    ("The answer is " + "9" * 100_000, 9, "unparsable"),
]


@pytest.mark.parametrize(("response", "reference", "answer"), GOOD)
def test_accepts(response, reference, answer):
    (verdict,) = open_verifier("numeric").verify([Attempt(response=response, reference=reference)])
    assert (verdict.score, verdict.answer, verdict.status) == (1.0, answer, "ok"), verdict
    (other,) = open_verifier("numeric").verify([Attempt(response=response, reference="-77777")])
    assert (other.score, other.answer) == (0.0, answer), "the answer must not depend on the reference"


@pytest.mark.parametrize(("response", "reference", "status"), BAD)
def test_fails_closed(response, reference, status):
    (verdict,) = open_verifier("numeric").verify([Attempt(response=response, reference=reference)])
    assert (verdict.score, verdict.answer, verdict.status) == (0.0, None, status), verdict


@pytest.mark.parametrize("reference", [None, "", "many", [], {}, float("nan"), float("inf"), True, object()])
def test_bad_reference_is_missing_not_wrong(reference):
    (verdict,) = open_verifier("numeric").verify([Attempt(response="The answer is 1.", reference=reference)])
    assert verdict.score is None
    assert verdict.status == "bad_reference"


def test_tolerance():
    attempt = Attempt(response="The answer is 0.3333", reference="1/3")
    assert open_verifier("numeric").verify([attempt])[0].score == 0
    assert open_verifier("numeric:tolerance=1e-3").verify([attempt])[0].score == 1


@given(
    st.fractions(max_denominator=10**6), st.sampled_from(["{}", "${}$", "The answer is {}.", r"\boxed{{{}}}"])
)
def test_canonical_form_reads_back(value, frame):
    assert parse_number(str(value)) is not None
    (verdict,) = open_verifier("numeric").verify([Attempt(response=frame.format(value), reference=value)])
    assert verdict.score == 1
    assert Fraction(verdict.answer or "nothing") == value


@given(st.integers(-(10**15), 10**15))
def test_separators(value):
    number = parse_number(f"{value:,}")
    assert number is not None
    assert number.value == value


@settings(max_examples=300)
@given(st.text(alphabet="0123456789.,/ -+%$\\{}frac()=eE^x", max_size=30))
def test_any_text_gives_a_verdict(text):
    (verdict,) = open_verifier("numeric").verify([Attempt(response="The answer is " + text, reference=1)])
    assert verdict.score in (0.0, 1.0)
    assert (verdict.answer is None) == (verdict.status != "ok")
