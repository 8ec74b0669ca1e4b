"""Few-shot examples: right ones, in the form that is asked for, and never the problem itself."""

import json
import shutil

import pytest

from reasoning.errors import UserError
from reasoning.records import Problem
from reasoning.tasks import load_problems, open_task, split_of
from reasoning.tasks.conversation import messages_of
from reasoning.tasks.exemplars import EXEMPLARS
from reasoning.tasks.fewshot import candidates, shots_for
from verifiers import Attempt, open_verifier


def turns(problem):
    messages = messages_of(problem)
    return [(messages[i]["content"], messages[i + 1]["content"]) for i in range(0, len(messages) - 1, 2)]


@pytest.mark.parametrize("task", ["word", "countdown"])
def test_procedural_tasks_show_right_work_of_their_training_split(task):
    problems = load_problems(f"{task}:test:n=5,few_shot=4")
    assert all(turns(p) == turns(problems[0]) for p in problems)
    examples = open_task(task).worked(40, 3)
    assert all(split_of(p.fingerprint) == "train" for p, _ in examples)
    verifier = open_verifier(open_task(task).verifier)
    attempts = [Attempt(p.prompt, answer, p.reference, p.metadata) for p, answer in examples]
    assert all(v.correct for v in verifier.verify(attempts))


def test_the_seed_chooses_and_a_limit_changes_nothing():
    some = load_problems("word:test:n=8,few_shot=2")
    assert load_problems("word:test:n=8,few_shot=2", limit=3) == some[:3]
    other = load_problems("word:test:n=8,few_shot=2,shots_seed=1")
    assert turns(other[0]) != turns(some[0])
    assert {p.id for p in other}.isdisjoint(p.id for p in some)


def rows(path, questions):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            json.dumps({"question": q, "answer": f"work on {q}\n#### {i}"}) + "\n"
            for i, q in enumerate(questions)
        )
    )


def test_the_problem_itself_is_never_an_example(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    train = [f"question {i}" for i in range(6)]
    rows(tmp_path / "benchmarks/gsm8k/train.jsonl", train)
    rows(tmp_path / "benchmarks/gsm8k/test.jsonl", ["  QUESTION 3", "unseen"])
    for split in ("train", "test"):
        for problem in load_problems(f"gsm8k:{split}:few_shot=5"):
            shown = [q.split("\n")[0].lower() for q, _ in turns(problem)]
            assert len(set(shown)) == 5
            assert problem.question.strip().lower() not in shown
    with pytest.raises(UserError, match="Only 5 worked examples are left"):
        load_problems("gsm8k:train:few_shot=6")
    with pytest.raises(UserError, match="has 6 worked examples for few-shot prompts, not 7"):
        load_problems("gsm8k:test:few_shot=7")


def test_answers_are_stated_as_the_template_asks(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    for split in ("train", "test"):
        rows(tmp_path / f"benchmarks/gsm8k/{split}.jsonl", [f"{split} {i}" for i in range(3)])
    for template, end in (("boxed", "\\boxed{"), ("stated", "The answer is "), ("tagged", "<answer>")):
        ((asked, answer),) = turns(load_problems(f"gsm8k:test:few_shot=1,template={template}")[0])
        assert asked.startswith("train ")
        assert end in answer.splitlines()[-1]
        assert answer.startswith("work on train ")


@pytest.mark.parametrize("kind", ["numeric", "math", "choice"])
@pytest.mark.parametrize("template", ["boxed", "stated"])
def test_our_own_examples_are_right(kind, template):
    task = open_task({"numeric": "svamp", "math": "aime25", "choice": "aqua"}[kind])
    found = candidates(task, len(EXEMPLARS[kind]), 0, {"template": template}, "own")
    attempts = [Attempt(p.prompt, answer, p.reference, p.metadata) for p, answer in found]
    assert all(v.correct for v in open_verifier(kind).verify(attempts))


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap (bwrap) is not installed")
def test_our_own_programs_do_what_their_question_says():
    tests = {"longest_word": ("'a bird sang'", "'bird'"), "halves": ("[4, 7, 10]", "[2.0, 5.0]")}
    for _, answer, _ in EXEMPLARS["code"]:
        name = answer.split("def ")[1].split("(")[0]
        given, expected = tests.pop(name)
        reference = {"asserts": [f"assert {name}({given}) == {expected}"]}
        assert open_verifier("code").verify([Attempt(response=answer, reference=reference)])[0].correct
    assert not tests


def test_mistakes():
    with pytest.raises(UserError, match="few_shot must be 0 or above"):
        load_problems("word:test:n=1,few_shot=-1")
    with pytest.raises(UserError, match="give that too"):
        load_problems("word:test:n=1,shots=own")
    with pytest.raises(UserError, match="shots=task"):
        load_problems("word:test:n=1,few_shot=1,shots=mine")
    with pytest.raises(UserError, match="has 0 worked examples"):
        candidates(open_task("humaneval"), 1, 0, {}, "task")
    with pytest.raises(UserError, match="Only 1 worked examples"):
        shots_for(Problem.make("a", "1"), [(Problem.make(q, "1"), "1") for q in "aAb"], 2)
