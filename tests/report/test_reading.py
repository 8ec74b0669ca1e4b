"""Every chain that is shown obeys the rule it is shown under."""

from __future__ import annotations

import numpy as np

from reasoning.report.reading import worth_reading


def votes(group):
    return np.bincount(group.answers[group.answers >= 0])


def test_readings_obey_their_rules(measured):
    readings = worth_reading(measured)
    assert len(readings) == 10
    seen = set()
    for reading in readings:
        group, i = reading.group, reading.position
        assert group.keys[i] not in seen
        seen.add(group.keys[i])
        top = int(np.argmax(votes(group)))
        value = group.correct[group.answers == top].mean()
        if "majority is wrong, though" in reading.rule:
            assert value == 0
            assert group.correct[i] == 1
        elif "one chain of each" in reading.rule:
            assert group.correct[i] == (reading.model == "grpo@24")
        elif "what training lost" in reading.rule:
            assert (reading.model, group.correct[i]) == ("grpo@24", 0)
        elif "scores this wrong chain highest" in reading.rule:
            assert group.correct[i] == 0
            assert group.scores["learned"][i] == np.nanmax(group.scores["learned"])
            assert (group.correct == 1).any()
        elif "scores this right chain lowest" in reading.rule:
            assert group.correct[i] == 1
            assert group.scores["learned"][i] == np.nanmin(group.scores["learned"])
        elif "same wrong answer" in reading.rule:
            assert votes(group).max() >= 0.9 * group.n
            assert group.correct[i] == 0
        elif "No chain of any model" in reading.rule:
            assert (group.correct == 0).all()
        elif "cut off" in reading.rule:
            assert group.truncated[i]
        else:
            assert "longest right" in reading.rule
            assert group.correct[i] == 1
    kinds = [reading.rule for reading in readings]
    assert len(set(kinds)) >= 5
    assert kinds == sorted(kinds, key=kinds.index), "chains of one rule stand together"


def test_the_choice_repeats_and_can_be_shorter(measured):
    def keys(most):
        return [r.group.keys[r.position] for r in worth_reading(measured, most)]

    assert keys(10) == keys(10)
    assert len(keys(3)) <= 3
