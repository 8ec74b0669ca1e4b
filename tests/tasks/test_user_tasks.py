"""User code as a task: ``path/to/file.py:name``."""

import pytest

from reasoning.errors import UserError
from reasoning.tasks import load_problems, open_task, verifier_of

CODE = """
from reasoning.records import Problem
from reasoning.tasks import Task

def squares(split, upto=3):
    return [Problem.make(f"{split}: {i} squared?", str(i * i), "squares") for i in range(int(upto))]

def wrong(split):
    return ["not a problem"]

TASK = Task(name="squares", verifier="numeric", problems=squares, options={"upto": 3}, splits=("a", "b"))
NUMBER = 5
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_a_task_and_a_function(path):
    assert [p.reference for p in load_problems(f"{path}:TASK:b:upto=4")] == ["0", "1", "4", "9"]
    assert verifier_of(f"{path}:TASK:b") == "numeric"
    assert load_problems(f"{path}:squares:test")[0].prompt == "test: 0 squared?"
    assert open_task(f"{path}:TASK").name == "squares"


def test_mistakes_are_named(path, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'squares'"):
        load_problems(f"{path}:square:test")
    with pytest.raises(UserError, match="is a int; a task is a Task or a function"):
        load_problems(f"{path}:NUMBER")
    with pytest.raises(UserError, match="gave a str where a Problem was expected"):
        load_problems(f"{path}:wrong:test")
    with pytest.raises(UserError, match="Unknown split"):
        load_problems(f"{path}:TASK:c")
    with pytest.raises(UserError, match="No such file"):
        load_problems(f"{tmp_path}/none.py:TASK")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UserError, match="failed while it was loaded: ZeroDivisionError"):
        load_problems(f"{tmp_path}/broken.py:TASK")
