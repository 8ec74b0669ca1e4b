"""From verdicts to rewards; which groups can be compared; under which name a run draws its chains."""

import math

import numpy as np
import pytest
import small_runs
from small_runs import metrics, reinforce

from reasoning.errors import ReasoningError
from reasoning.records import Chain, Problem
from reasoning.train.lineage import first_lineage
from reasoning.train.loop import train
from reasoning.train.objective import objective
from reasoning.train.options import TrainOptions
from reasoning.train.rollouts import Group, ModelSource, Shaping
from reasoning.train.stream import Stream, Weighted
from verifiers import Verdict, open_verifier

PROBLEM = Problem.make("1+1?", "2", "t")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return small_runs.made(tmp_path_factory, "rollouts")


def chain(length, truncated=False):
    return Chain(
        PROBLEM.id, 0, "2", tuple(range(length)), finish_reason="length" if truncated else "stop", key="k"
    )


@pytest.mark.parametrize(
    ("overlong", "short", "late", "cut"),
    [
        ("zero", 1.0, 1.0, 0.0),
        ("mask", 1.0, 1.0, math.nan),
        ("shape", 1.0, 0.5, -1.0),
        ("shape_mask", 1.0, 0.5, math.nan),
    ],
)
def test_rewards_of_long_and_of_truncated_chains(overlong, short, late, cut):
    changes = {"overlong_buffer": 20} if overlong.startswith("shape") else {}
    shaping = Shaping(objective("dapo", overlong=overlong, **changes), 100)
    right = Verdict(1.0)
    got = [shaping.reward(right, c) for c in (chain(80), chain(90), chain(100, truncated=True))]
    assert got == pytest.approx([short, late, cut], nan_ok=True)
    assert math.isnan(shaping.reward(None, chain(10)))
    assert math.isnan(shaping.reward(Verdict(None), chain(10)))


def test_only_groups_with_rewards_that_differ_can_be_compared():
    """A group that was truncated or not judged altogether is neither: dynamic sampling replaces it."""

    def group(*rewards):
        return Group(PROBLEM, [chain(1)] * len(rewards), np.array(rewards))

    assert group(1.0, 0.0, math.nan).differs
    assert not group(1.0, 1.0, math.nan).differs
    assert group(1.0, math.nan).dead
    nothing = group(math.nan, math.nan)
    assert not nothing.differs
    assert not nothing.dead


def test_a_step_whose_chains_are_all_cut_and_left_out_says_so():
    options = TrainOptions(run="r", model="m", task="word:train", max_new_tokens=9)
    goal = objective("dapo")
    tasks = [Weighted("t", 1.0, [PROBLEM])]
    source = ModelSource(options, goal, Stream(tasks, 0), [open_verifier("numeric")], *[None] * 4)  # type: ignore[arg-type]
    cut = chain(9, truncated=True)
    groups = [Group(PROBLEM, [cut, cut], np.array([Shaping(goal, 9).reward(None, cut)] * 2))] * 3
    with pytest.raises(
        ReasoningError, match=r"All 6 chains of this step were cut at --max-new-tokens 9, and"
    ):
        source._refuse_silence(groups)


def test_a_penalty_in_the_reward_is_told_as_kl(home):
    train(reinforce(home, "kl", kl="k1", kl_in="reward", kl_weight=0.05, steps=2))
    rows = metrics(home, "kl")
    assert rows[1]["kl"] == pytest.approx(0, abs=1e-5)  # drawn by the starting model itself
    assert abs(rows[2]["kl"]) > 1e-4


def test_the_lineage_knows_files_by_their_content_and_not_by_their_folder(tmp_path):
    def named(folder, body):
        path = tmp_path / folder / "reward.py"
        path.parent.mkdir()
        path.write_text(body)
        verifier = f"{path}:even*1.0+format*0.5"
        return first_lineage(TrainOptions(run=folder, model="m", task="word:train", verifier=verifier), "v")

    assert named("a", "x = 1") == named("b", "x = 1")
    assert named("c", "x = 2") != named("d", "x = 1")
