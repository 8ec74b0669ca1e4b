# ruff: noqa: E501
import importlib.util
import json

import pytest

from verifiers import Attempt, VerifierError, open_verifier
from verifiers.gym import UNSUPPORTED, is_formula, is_literal

installed = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed (extra: gym)"
)


@pytest.mark.parametrize(
    "text", ["x**2/2 + 3*x + C", "sin(x)*exp(2*x)", "(1 + 2)*3", "-4.5*x", "24", "log(x) + sqrt(2)"]
)
def test_formulas(text):
    assert is_formula(text)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "exit()", "x.__class__", "(x).y", "eval(x)", "open", "'a'", "x[0]", "lambda x", "a;b", "x_1", "", "9" * 40, "x" * 700],
)  # fmt: skip
def test_not_formulas(text):
    assert not is_formula(text)


def test_literals():
    assert is_literal("[1, 2, 3]")
    assert is_literal("[['a', 'b'], ['c']]")
    assert is_literal("1 2 3")
    for text in (
        "[print(1)]",
        "__import__('os').system('x')",
        "[x for x in y]",
        "(" * 5000,
        "{}.__class__",
        "exit()",
    ):
        assert not is_literal(text)


def test_unsupported_tasks_say_why():
    with pytest.raises(VerifierError, match="no answer of their own"):
        open_verifier("gym:graph_color")
    assert all(reason for reason in UNSUPPORTED.values())


@pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is not None, reason="reasoning-gym is installed"
)
def test_a_missing_package_names_the_extra():
    with pytest.raises(VerifierError, match=r"reasoning-toolkit\[gym\]"):
        open_verifier("gym:chain_sum")


@installed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    "task", ["chain_sum", "countdown", "polynomial_multiplication", "spiral_matrix", "n_queens", "arc_agi"]
)
def test_oracle_answers_score_one_and_code_is_refused(task, tmp_path):
    from verifiers.gym import entries

    verifier = open_verifier(f"gym:{task}")
    trace = tmp_path / "gym_was_here"
    attempts, hostile = [], []
    for entry in entries(task, 3, seed=5):
        attempts.append(Attempt(response=f"<answer>{entry['answer']}</answer>", metadata={"entry": entry}))
        text = f"__import__('os').system('touch {trace}')"
        hostile.append(Attempt(response=f"<answer>{text}</answer>", metadata={"entry": entry}))
    assert [v.score for v in verifier.verify(attempts)] == [1.0] * 3
    assert not any(v.correct for v in verifier.verify(hostile))
    assert not trace.exists(), "the text of an answer was executed"
    assert verifier.verify([Attempt(response="1")])[0].status == "bad_reference"


@installed
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_every_supported_task_scores_its_own_answer():
    from verifiers.gym import Scorer, entries, task_names

    for task in task_names():
        scorer = Scorer(task)
        for entry in entries(task, 2, seed=3):
            entry = json.loads(json.dumps(entry))  # as it comes out of a file, or to the worker
            attempt = Attempt(response=f"<answer>{entry['answer']}</answer>", metadata={"entry": entry})
            nonsense = Attempt(response="<answer>17 zebras</answer>", metadata={"entry": entry})
            verdict, other = scorer.verify([attempt, nonsense])
            assert verdict.correct, (task, verdict)
            assert other.score is not None, (task, other)
            assert not other.correct, (task, other)


@installed
@pytest.mark.parametrize(
    ("task", "answers"),
    [
        ("game_of_life_halting", ["17 zebras", "maybe"]),
        ("puzzle24", ["4*3*2*1", "24", "6*4*1*1", "50/2 - 1"]),
        ("coin_flip", ["0", "0.", "1/0", "nan"]),
        ("complex_arithmetic", ["nan", "nan+nanj", "inf"]),
        ("prime_factorization", ["17 zebras", "2 x"]),
    ],
)
def test_answers_that_trick_the_scorers_of_reasoning_gym_are_wrong(task, answers):
    from verifiers.gym import Scorer, entries

    scorer = Scorer(task)
    for entry in entries(task, 4, seed=11):
        tricks = [Attempt(response=f"<answer>{text}</answer>", metadata={"entry": entry}) for text in answers]
        assert all(v.score is not None and not v.correct for v in scorer.verify(tricks))
