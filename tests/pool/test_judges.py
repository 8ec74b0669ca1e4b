"""One rule for naming a verifier whose verdicts a pool holds."""

import pytest

from reasoning.errors import UserError
from reasoning.pool.judges import short_name, verifier_named

KNOWN = ["numeric", "numeric:tolerance=0.001", "learned:runs/v:version=1a", "learned:runs/v2:version=2b"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("numeric", 0),
        ("numeric:tolerance=0.001", 1),
        ("learned:runs/v", 2),
        ("learned:runs/v2", 3),
        ("learned:runs/v2:version=2b", 3),
    ],
)
def test_the_very_name_or_its_beginning_where_only_one_begins_so(name, meant):
    assert verifier_named(name, KNOWN) == KNOWN[meant]
    assert verifier_named(short_name(KNOWN[meant], KNOWN), KNOWN) == KNOWN[meant]


def test_a_name_that_may_be_several_lists_them_and_one_that_is_none_the_nearest():
    with pytest.raises(UserError, match=r"2 verifiers of runs/r; name one of: learned:.*=1a, learned:.*=2b"):
        verifier_named("learned", KNOWN, "runs/r")
    with pytest.raises(UserError, match="Did you mean 'numeric'"):
        verifier_named("numerics", KNOWN)
    with pytest.raises(UserError, match=r"was judged yet\. Run:  reasoning verify RUN --verifier math"):
        verifier_named("math", [])


def test_a_short_name_keeps_its_version_where_it_was_fitted_twice():
    twice = [*KNOWN, "learned:runs/v:version=3c"]
    assert short_name(KNOWN[2], KNOWN) == "learned:runs/v"
    assert short_name(KNOWN[2], twice) == KNOWN[2]
    assert short_name("numeric", twice) == "numeric"
