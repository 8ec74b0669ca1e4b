"""reasoning-gym's tasks as problems of ours."""

import importlib.util

import pytest

from reasoning.errors import MissingExtra, UserError
from reasoning.tasks import load_problems, open_task, split_of, verifier_of

there = importlib.util.find_spec("reasoning_gym") is not None
installed = pytest.mark.skipif(not there, reason="reasoning-gym is not installed (extra: gym)")


@pytest.mark.skipif(there, reason="reasoning-gym is installed")
def test_the_extra_is_named():
    with pytest.raises(MissingExtra, match=r"reasoning-toolkit\[gym\]"):
        load_problems("gym:chain_sum:test")


@installed
@pytest.mark.parametrize("name", ["chain_sum", "countdown", "spell_backward", "number_sorting"])
def test_problems_are_nested_split_by_content_and_scored(name):
    from verifiers import Attempt
    from verifiers.gym import Scorer

    spec = f"gym:{name}:test"
    many = load_problems(spec, limit=12)
    assert load_problems(spec, limit=5) == many[:5]
    assert load_problems(spec, limit=5, seed=1) != many[:5]
    assert all(split_of(p.fingerprint) == "test" for p in many)
    assert {p.fingerprint for p in many}.isdisjoint(
        p.fingerprint for p in load_problems(f"gym:{name}:train", limit=12)
    )
    assert verifier_of(spec) == f"gym:{name}"
    attempts = [Attempt(p.prompt, f"<answer>{p.reference}</answer>", p.reference, p.metadata) for p in many]
    assert all(v.correct for v in Scorer(name).verify(attempts))
    (shown,) = load_problems(f"gym:{name}:test:n=1,few_shot=2")
    assert shown.prompt.count("</answer>") == 2 + 3  # two answers, and three times the instruction


@installed
def test_the_configuration_is_the_librarys():
    for problem in load_problems("gym:chain_sum:n=5,min_terms=3,max_terms=3,max_digits=1"):
        assert problem.question.count("+") + problem.question.count("- ") == 2
    assert "min_terms" in open_task("gym:chain_sum").options
    with pytest.raises(UserError, match="Did you mean 'min_terms'"):
        load_problems("gym:chain_sum:min_term=3")
    with pytest.raises(UserError, match=r"refuses \{'min_terms': 9\}"):
        load_problems("gym:chain_sum:min_terms=9")
    with pytest.raises(UserError, match="Did you mean 'chain_sum'"):
        load_problems("gym:chainsum")
    with pytest.raises(UserError, match="gym needs a task"):
        load_problems("gym")
    with pytest.raises(UserError, match="no answer of their own"):
        load_problems("gym:graph_color")
