"""What every verifier must keep: it never raises for what an attempt contains, answers in order, keeps
scores in [0, 1] or missing, and casts its vote without looking at the reference."""

import subprocess
import sys
from typing import Any

import pytest

from verifiers import Attempt, Verdict, Verifier, VerifierError, open_verifier

PUZZLE = {"numbers": [4, 8, 2, 3], "target": 24}
SPECS = {
    "choice": ("The answer is (B).", "B"),
    "regex:36": ("The answer is 36.", None),
    "json": ('{"a": 36}', '{"a": 36}'),
    "format": ("<think>three dozen</think><answer>36</answer>", None),
    "pooled:numeric": ("The answer is 36.", "36"),
    "math*1.0+format*0.1": ("<think>three dozen</think><answer>36</answer>", "36"),
    "exact": ("The answer is cat.", "cat"),
    "math": (r"So \boxed{\frac{72}{2}}.", "36"),
    "math:tolerance=0.01": ("The answer is 36.1", "36"),
    "numeric": ("The answer is 36.", "36"),
    "countdown": ("The answer is 8*3.", None),
    "game24": ("The answer is (8-4)*2*3.", None),
    "numeric*1.0+exact*0.1": ("The answer is 36.", "36"),
}
HOSTILE = [
    None,
    12,
    b"\\boxed{36}",
    ["36"],
    "",
    " \n\t",
    "\x00\x01\xff",
    "\ud800 lone surrogate \\boxed{\udfff}",
    "\\boxed{",
    "\\boxed{" * 2000,
    "{" * 2000 + "\\boxed{" + "{" * 2000 + "1" + "}" * 5000,
    "The answer is " + "(" * 3000 + "1" + ")" * 3000,
    "\\boxed{9^9^9^9}",
    "\\boxed{(10^8)!}",
    "\\boxed{1e999999999}",
    "The answer is " + "9" * 1_000_000,
    "The answer is __import__('os').system('touch TRACE')",
    "\\boxed{__import__('os').system('touch TRACE')}",
    "<answer>open('TRACE', 'w')</answer>",
    "\\boxed{\\input{|touch TRACE}}",
    "a" * 10_000_000,
    "The answer is " * 100_000,
    "\\boxed{1}" * 20_000,
    "<think>" * 50_000,
    "#### " * 50_000,
]
REFERENCES = [None, "", "36", 36, 3.5, float("nan"), b"36", [], {}, object(), "\\boxed{", "x" * 100_000, True]


@pytest.fixture(params=sorted(SPECS))
def opened(request):
    return open_verifier(request.param), *SPECS[request.param]


def test_protocol(opened):
    verifier, response, reference = opened
    assert isinstance(verifier, Verifier)
    assert isinstance(verifier.oracle, bool)
    assert verifier.verify([]) == []
    (verdict,) = verifier.verify([Attempt(response=response, reference=reference, metadata=PUZZLE)])
    assert isinstance(verdict, Verdict)
    assert (verdict.score, verdict.status) == (1.0, "ok"), verdict
    assert verdict.answer


def test_name_opens_it_again(opened):
    verifier, response, reference = opened
    again = open_verifier(verifier.name)
    attempt = Attempt(response=response, reference=reference, metadata=PUZZLE)
    assert again.name == verifier.name
    assert again.oracle == verifier.oracle
    assert again.verify([attempt]) == verifier.verify([attempt])


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_responses(opened, number, tmp_path):
    verifier, _, reference = opened
    trace = tmp_path / "verifier_was_here"
    response = HOSTILE[number]
    response = response.replace("TRACE", str(trace)) if isinstance(response, str) else response
    (verdict,) = verifier.verify([Attempt(response=response, reference=reference, metadata=PUZZLE)])
    check(verdict)
    assert not verdict.correct
    assert not trace.exists(), "the text of a response was executed"
    if not isinstance(HOSTILE[number], str):
        assert verdict.score is None, "a response that is not text is missing, never a silent 0"


@pytest.mark.parametrize("number", range(len(REFERENCES)))
def test_any_reference_and_metadata(opened, number):
    verifier, response, _ = opened
    puzzles: list[Any] = [{}, PUZZLE, {"numbers": None}, {"numbers": [None], "target": "x"}, None, 3]
    for metadata in puzzles:
        (verdict,) = verifier.verify(
            [Attempt(response=response, reference=REFERENCES[number], metadata=metadata)]
        )
        check(verdict)


def test_order_and_independence(opened):
    verifier, response, reference = opened
    good = Attempt(response=response, reference=reference, metadata=PUZZLE)
    bad = Attempt(response="The answer is -5.", reference=reference, metadata=PUZZLE)
    broken = Attempt(response=None, reference=None)  # type: ignore[arg-type]
    (alone,) = verifier.verify([good])
    verdicts = verifier.verify([bad, good, broken, good, bad])
    assert [v.correct for v in verdicts] == [False, True, False, True, False]
    assert verdicts[1] == verdicts[3] == alone
    assert verdicts[0] == verdicts[4]


def test_the_vote_does_not_depend_on_the_reference(opened):
    verifier, response, reference = opened
    answers = {
        verifier.verify([Attempt(response=response, reference=key, metadata=PUZZLE)])[0].answer
        for key in (reference, "7", "-1/2")
    }
    assert len(answers) == 1


def check(verdict):
    assert isinstance(verdict, Verdict)
    assert verdict.score is None or 0 <= verdict.score <= 1
    assert verdict.status != "ok" or verdict.score is not None
    assert verdict.score is not None or verdict.status not in ("", "ok")
    assert verdict.answer is None or isinstance(verdict.answer, str)
    assert len(verdict.reason) <= 600
    assert "\n" not in verdict.reason


def test_import_is_light():
    code = (
        "import sys, verifiers\n"
        "heavy = {'torch', 'transformers', 'sympy', 'numpy', 'reasoning', 'vllm', 'ray', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("numeri", "Did you mean 'numeric'?"),
        ("numeric:tolerence=1", "Did you mean 'tolerance'?"),
        ("numeric:tolerance=big", "is not a float"),
        ("numeric:tolerance=2", "must lie in"),
        ("numeric:tolerance=1,tolerance=2", "given twice"),
        ("numeric:argument", "takes no argument"),
        ("", "named by text"),
        ("nowhere.py:reward", "No such file"),
        ("numeric*0+exact*0", "one of them above 0"),
        ("numeric*1+nothing", "Unknown verifier"),
    ],
)
def test_clear_errors(spec, says):
    with pytest.raises(VerifierError, match=says.replace("?", r"\?")) as caught:
        open_verifier(spec)
    assert "\n" not in str(caught.value)
