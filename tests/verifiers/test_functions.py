import pytest

from verifiers import Attempt, VerifierError, open_verifier, reward_function

CODE = """
from verifiers import Verdict

def short(response):
    return len(response) < 10

def equal(response, reference):
    return response == reference

def trl(completions, answer, **columns):
    return [float(c == a) for c, a in zip(completions, answer)]

def chatty(completions, prompts, **columns):
    return [float(c[0]["content"] == "yes") for c in completions]

def short_list(completions, **columns):
    return [1.0]

def loud(response):
    raise RuntimeError("out of tea")

def wild(response):
    return 7

def nan(response):
    return float("nan")

def unsure(response):
    return None

def verdict(attempt):
    return Verdict(0.25, answer="mine", rule="own")

def strange(a, b):
    return 1

def bare():
    return 1

def signed(completions, answer, completion_ids=None, **columns):
    return [{"a": 1, "b": 0, "c": -1, "d": -2}[c] for c in completions]

def of_trainer(completions, completion_ids):
    return [1.0] * len(completions)

class Own:
    name = "own"
    oracle = False
    def __init__(self, bonus: float = 0.5):
        self.bonus = bonus
    def verify(self, attempts):
        return [Verdict(self.bonus) for _ in attempts]

NUMBER = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def one(spec, **fields):
    return open_verifier(spec).verify([Attempt(**fields)])[0]


def test_conventions(file):
    assert one(f"{file}:short", response="yes").score == 1
    assert open_verifier(f"{file}:short").oracle is False
    assert one(f"{file}:equal", response="a", reference="b").score == 0
    assert open_verifier(f"{file}:equal").oracle is True
    assert one(f"{file}:trl", response="a", reference="a").score == 1
    assert one(f"{file}:chatty", response="yes", prompt=[{"role": "user", "content": "?"}]).score == 1
    own = one(f"{file}:verdict", response="a")
    assert (own.score, own.answer, own.rule) == (0.25, "mine", "own")
    assert one(f"{file}:Own", response="a").score == 0.5
    assert one(f"{file}:Own:bonus=0.75", response="a").score == 0.75
    assert one(f"{file}:short*3+numeric*1", response="36", reference=36).score == 1


@pytest.mark.parametrize("name", ["loud", "wild", "nan", "unsure", "short_list"])
def test_trouble_is_missing_never_zero(file, name):
    verdicts = open_verifier(f"{file}:{name}").verify([Attempt(response="a"), Attempt(response="b")])
    assert [v.score for v in verdicts] == [None, None]
    assert all(v.status in ("error", "no_judgement") and v.reason for v in verdicts)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shortt", "Did you mean 'short'"),
        ("strange", "not known"),
        ("NUMBER", "neither"),
        ("bare", "has no parameters"),
        ("of_trainer", "comes from TRL's trainer alone"),
        ("signed:lowest=-1", "Did you mean 'low'"),
        ("signed:low=-x", "is not a float"),
        ("signed:low=1", "low=1 must lie below high=1"),
        ("signed:low=nan", "must lie below"),
    ],
)
def test_unfit_names(file, name, says):
    with pytest.raises(VerifierError, match=says):
        open_verifier(f"{file}:{name}")


def test_rewards_of_another_range_become_scores(file):
    some = [Attempt(response=text, reference="") for text in "abcd"]
    verdicts = open_verifier(f"{file}:signed:low=-1,high=1").verify(some)
    assert [v.score for v in verdicts] == [1.0, 0.5, 0.0, None]
    assert "-2.0; a score lies in [-1, 1]" in verdicts[-1].reason
    assert "low=-1,high=1" in open_verifier(f"{file}:signed").verify(some)[2].reason
    for mixed in (f"{file}:signed:low=-1,high=1*0.5+exact*0.5", f"exact+{file}:signed:low=-1,high=1"):
        assert open_verifier(mixed).verify([Attempt("", "a", "a"), Attempt("", "b", "b")])[1].score == 0.75


def test_a_path_may_hold_a_plus_sign(file):
    inside = file.parent / "c+exact.py"
    inside.write_text(CODE)
    assert one(f"{inside}:short", response="yes").score == 1


def test_a_file_without_a_function_is_told(file):
    with pytest.raises(VerifierError, match=r"names a file and no function in it: write .*mine\.py:FUNCTION"):
        open_verifier(str(file))


def test_file_that_fails_to_load(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere")
    with pytest.raises(VerifierError, match="fails to load"):
        open_verifier(f"{tmp_path}/broken.py:x")


def test_reward_function_for_trl():
    reward = reward_function(open_verifier("numeric"), reference="answer")
    completions = ["The answer is 3.", "The answer is 4.", "?"]
    assert reward(completions=completions, prompts=["q"] * 3, answer=["3", "3", "many"]) == [1.0, 0.0, None]
    chat = [[{"role": "assistant", "content": c}] for c in completions]
    assert reward(completions=chat, prompts=[[{"role": "user", "content": "q"}]] * 3, answer=[3, 3, 3]) == [
        1.0,
        0.0,
        0.0,
    ]
    with pytest.raises(VerifierError, match="no column 'answer'"):
        reward(completions=completions, solution=["3"] * 3)
    puzzle = reward_function(open_verifier("game24"))
    assert puzzle(completions=["(8-4)*2*3"], numbers=[[4, 8, 2, 3]]) == [1.0]


def test_reward_function_takes_a_spec():
    reward = reward_function("math", reference="answer")
    assert reward(completions=[r"\boxed{7}", "8"], answer=["7", "7"]) == [1.0, 0.0]
    with pytest.raises(VerifierError, match="Did you mean 'math'"):
        reward_function("maths")
