"""The examples of CONTRIBUTING.md run as they stand."""

from pathlib import Path

import pytest

from reasoning.records import Problem, Sampling
from reasoning.search import open_search
from verifiers import Attempt, open_verifier

TEXT = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def file(tmp_path):
    def write(heading):
        section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
        lines = section.splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("    "))
        last = max(i for i, line in enumerate(lines) if line.startswith("    "))
        code = "\n".join(line[4:] for line in lines[first : last + 1])
        path = tmp_path / "my_file.py"
        path.write_text(code)
        return path

    return write


def test_the_verifier(file):
    verifier = open_verifier(f"{file('Add a verifier')}:Palindrome")
    assert [v.score for v in verifier.verify([Attempt(response="abba"), Attempt(response="abc")])] == [1, 0]


def test_the_strategy(file):
    from reasoning.records import Chain
    from reasoning.search import Candidate

    search = open_search(f"{file('Add a search strategy')}:FirstTwoAgree:n=8")
    problem = Problem.make("1+1=", "2")
    steps = search(problem, Sampling())
    assert search.name == "first_two_agree:n=8"
    request = next(steps)
    for answer in ("3", "2", None):
        request = steps.send([Candidate(Chain(problem.id, request.indices[0], "..."), answer)])
    assert request.indices == (3,)
    with pytest.raises(StopIteration) as end:
        steps.send([Candidate(Chain(problem.id, 3, "..."), "2")])
    assert end.value.value.answer == "2"
