import contextlib
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers import Attempt, open_verifier
from verifiers.arithmetic import NotArithmetic, canonical, parse_arithmetic


def judge(response, numbers=(4, 8, 2, 3), target=24, use_all=False, spec="countdown"):
    metadata = {"numbers": list(numbers), "target": target, "use_all": use_all}
    return open_verifier(spec).verify([Attempt(response=response, metadata=metadata)])[0]


@pytest.mark.parametrize(
    "response",
    [
        "The answer is 8*3.",
        "Steps: 4 + 8 = 12\nAnswer: (4 + 8) * 2 = 24",
        r"\boxed{8 \times 3}",
        r"\boxed{\left(4+8\right) \cdot 2 = 24}",
        "I try.\n8*3",
        "8 x 3",
        "24 = 8 * 3",
        "The answer is 8*3 = 25.",
        "Answer: [4 + 8] × 2",
        "The answer is 4 * -(2 - 8)",
    ],
)
def test_right(response):
    verdict = judge(response)
    assert verdict.score == 1, verdict
    assert verdict.answer


@pytest.mark.parametrize(
    ("response", "status"),
    [
        ("The answer is 8*3+1.", "ok"),
        ("The answer is 24.", "ok"),
        ("The answer is 8+8+8.", "ok"),
        ("The answer is 8*4 = 24.", "ok"),
        ("The answer is 4*8.", "ok"),
        ("The answer is __import__('os').getcwd().", "unparsable"),
        ("The answer is 8**3.", "unparsable"),
        ("The answer is 8/(4-2-2).", "unparsable"),
        ("The answer is (8*3", "unparsable"),
        ("The answer is " + "(" * 500 + "8*3" + ")" * 500, "unparsable"),
        ("The answer is 8//3", "unparsable"),
        ("", "no_answer"),
    ],
)
def test_wrong(response, status):
    verdict = judge(response)
    assert (verdict.score, verdict.status) == (0.0, status), verdict


def test_use_all():
    assert judge(r"The answer is $\frac{8}{4} * 3$.", target=6).score == 1
    assert judge("The answer is 8*3", use_all=True).score == 0
    assert judge("Answer: (8 - 4) * 2 * 3 = 24", use_all=True).score == 1
    assert judge("Answer: (8 - 4) * 2 * 3 = 24", spec="game24").score == 1
    metadata = {"numbers": "4 8 2 3"}
    assert open_verifier("game24").verify([Attempt(response="8*3", metadata=metadata)])[0].score == 0
    assert open_verifier("game24").verify([Attempt(response="(8-4)*2*3", metadata=metadata)])[0].score == 1


@pytest.mark.parametrize(
    "metadata", [{}, {"numbers": [1]}, {"numbers": 3, "target": 3}, {"numbers": ["a"], "target": 1}]
)
def test_missing_puzzle_is_not_a_zero(metadata):
    (verdict,) = open_verifier("countdown").verify([Attempt(response="1+1", metadata=metadata)])
    assert (verdict.score, verdict.status) == (None, "bad_reference")


def test_votes_join_across_spellings():
    spellings = [
        "(8 - 2) + 3 * 4",
        "4*3 + 8 - 2",
        "8 - (2 - 3*4)",
        "Answer: 3 × 4 - (2 - 8) = 18",
        "-(2 - 8) + 4*3",
    ]
    assert len({judge(s).answer for s in spellings}) == 1
    assert judge("8/(4/2)").answer == judge("8*2/4").answer
    assert judge("8/4/2").answer != judge("8*2/4").answer


def expressions():
    leaves = st.integers(1, 99).map(str)
    return st.recursive(
        leaves,
        lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        max_leaves=7,
    )


@given(expressions())
def test_value_and_canonical_form_agree_with_python_rationals(text):
    oracle = eval(re.sub(r"(\d+)", r"Fraction(\1)", text)) if safe(text) else None  # noqa: S307 own text
    node = parse_arithmetic(text)
    if oracle is None:
        with pytest.raises(ZeroDivisionError):
            node.value()
        return
    assert node.value() == oracle
    again = parse_arithmetic(canonical(node))
    assert again.value() == oracle
    assert canonical(again) == canonical(node)
    assert (
        sorted(again.numbers()) == sorted(node.numbers())
        or "1*" in canonical(node)
        or "1/" in canonical(node)
    )


def safe(text):
    try:
        parse_arithmetic(text).value()
    except ZeroDivisionError:
        return False
    return True


@given(st.text(alphabet="0123456789+-*/() \\{}fractimesx=", max_size=40))
def test_parser_either_reads_or_refuses(text):
    with contextlib.suppress(NotArithmetic, ZeroDivisionError):
        assert isinstance(parse_arithmetic(text).value(), Fraction)


def test_a_puzzle_without_a_target_says_so():
    attempt = Attempt(response="3+4", metadata={"numbers": [3, 4]})
    (verdict,) = open_verifier("countdown").verify([attempt])
    assert (verdict.score, verdict.status) == (None, "bad_reference")
    assert "the target is missing" in verdict.reason
