import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.records import Cost, Sampling, chain_key, chain_keys, digest

TEXT = st.text() | st.sampled_from(['"quoted" \\ and\nbroken\x00\x7f', "\u2028 é 漢 😀", ""])
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0, 0.0, -0.0, 1, 1.0, 0.7, 1e-7]),
    top_p=st.sampled_from([1, 1.0, 0.9]),
    top_k=st.integers(0, 9),
    max_new_tokens=st.integers(1, 10**6),
    stop=st.lists(TEXT, max_size=2).map(tuple),
    seed=st.integers(-(2**70), 2**70),
)


@given(TEXT, SAMPLINGS, TEXT, TEXT, st.integers(0, 10**9), TEXT)
def test_a_chain_key_is_the_digest_of_its_parts(model, sampling, problem_id, prompt, index, parent):
    parts = (model, sampling.to_json(), problem_id, prompt, index, parent)
    assert chain_key(model, sampling, problem_id, prompt, index, parent) == digest(*parts, length=32)


def test_equal_samplings_of_other_types_keep_their_own_keys():
    for first, second in (((1, 1), (1.0, 1.0)), ((0.0, 1.0), (-0.0, 1.0)), ((True, 1), (1, 1))):
        for temperature, top_p in (first, second, first):
            sampling = Sampling(temperature, top_p)
            assert chain_key("m", sampling, "p", "q", 0) == digest(
                "m", sampling.to_json(), "p", "q", 0, "", length=32
            )


def test_an_index_that_is_no_plain_number_keeps_its_key():
    sampling = Sampling()
    expected = digest("m", sampling.to_json(), "p", "q", np.int64(3), "", length=32)
    assert chain_key("m", sampling, "p", "q", np.int64(3)) == expected  # type: ignore[arg-type]


def test_costs_add_up_column_by_column():
    one, two = Cost(1, 2, 3, 4, 5.0, 6.0), Cost(10, 20, 30, 40, 50.0, 60.0)
    assert one + two == Cost(11, 22, 33, 44, 55.0, 66.0)
    assert (one + two).tokens == 11 + 33 + 44


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_a_temperature_is_a_finite_number(temperature):
    with pytest.raises(ValueError, match="temperature must be 0"):
        Sampling(temperature=temperature)


@given(SAMPLINGS, TEXT, st.lists(st.integers(0, 10**9), max_size=5), TEXT)
def test_keys_of_several_chains_are_the_keys_of_each(sampling, prompt, indices, parent):
    each = [chain_key("m@1", sampling, "p", prompt, index, parent) for index in indices]
    assert chain_keys("m@1", sampling, "p", prompt, indices, parent) == each
