"""Runs that differ in their seed alone: which are taken together, what their line is, and how table, picture, page
and JSON tell it."""

import html
import json
from dataclasses import replace

import numpy as np
import pytest
from report.made_up_runs import METRIC, curve, drawn
from train.small_runs import made, reinforce

from reasoning.cli import main
from reasoning.report.compared import compare_runs, differing, first_reached
from reasoning.report.pictures_runs import runs_compared
from reasoning.report.runs import read_runs
from reasoning.report.seeds import by_method
from reasoning.report.write_runs import as_object, runs_table, sentences, write_compared
from reasoning.statistics import paired_seeds, t_interval
from reasoning.train.loop import train


def seeds_of(name, flops, ends, start=0, **settings):
    """A run for each of ``ends``, the accuracy it ends around, named NAME-seed0 and on."""
    runs = []
    for seed, end in enumerate(ends):
        one = curve(f"{name}-seed{seed}", [0.0, flops + seed], drawn(start + seed, 0.3, end))
        told = {**one.settings, "objective": name, "seed": seed, "run": one.name, **settings}
        runs.append(replace(one, settings=told))
    return runs


def lines_of(*runs):
    return by_method([run for some in runs for run in some])


# ---- which runs are of one method


def test_runs_that_differ_in_seed_and_folder_alone_are_one_line():
    lines, notes = lines_of(seeds_of("grpo", 10.0, (0.6, 0.7, 0.8)), seeds_of("expert", 10.0, (0.5, 0.5)))
    assert [(line.name, len(line.seeds)) for line in lines] == [("grpo", 3), ("expert", 2)]
    assert notes == []


@pytest.mark.parametrize(
    ("other", "together"),
    [
        ({"lr": 0.2}, False),
        ({"task": "word:train"}, False),
        ({"eval_every": 3}, False),
        ({"device": "cuda:1"}, True),  # beside device cuda:0
        ({"log_every": 5, "checkpoint_every": 2, "track": ["trackio"], "config": "x.toml"}, True),
        ({"minibatch": 0, "kl": None, "source": []}, True),  # as not given: an older run.toml lacks them
        ({"seed": None}, False),
    ],
)
def test_every_other_setting_makes_it_another_method(other, together):
    a, b = seeds_of("grpo", 10.0, (0.6, 0.7), device="cuda:0")
    b = replace(b, settings={**b.settings, **other})
    if other.get("seed", 1) is None:
        b.settings.pop("seed")  # type: ignore[attr-defined]
    assert len(lines_of([a, b])[0]) == (1 if together else 2)


def test_the_model_counts_by_its_weights_and_an_empty_one_by_what_it_is():
    a, b = seeds_of("grpo", 10.0, (0.6, 0.7), model="here/base")
    b = replace(b, settings={**b.settings, "model": "/there/base"})
    assert len(lines_of([a, b])[0]) == 1
    assert len(lines_of([a, replace(b, parent="base@2")])[0]) == 2
    a, b = seeds_of("sft", 10.0, (0.6, 0.7), model="new:tiny")
    assert len(lines_of([a, replace(b, parent="sft@2")])[0]) == 1


def test_a_seed_that_comes_twice_is_a_line_of_its_own_and_said():
    runs = seeds_of("grpo", 10.0, (0.6, 0.7))
    again = replace(runs[0], name="again")
    lines, notes = lines_of([*runs, again])
    assert [(line.name, len(line.seeds)) for line in lines] == [("grpo", 2), ("again", 0)]
    assert notes == ["again has the settings and the seed of grpo-seed0: it is a line of its own."]


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("grpo-seed0", "grpo-seed1"), "grpo"),
        (("grpo1", "grpo2"), "grpo"),
        (("lr1e-3-s0", "lr1e-3-s11"), "lr1e-3"),
        (("0/words", "1/words"), "words"),
        (("grpo", "grpo-seed1"), "grpo"),
        (("loss-a", "loss-b"), "loss"),
        (("a", "b"), "grpo"),  # the objective
        (("seed0", "seed1"), "grpo"),
    ],
)
def test_a_line_is_called_by_what_its_runs_share(names, called):
    runs = [replace(r, name=n) for r, n in zip(seeds_of("grpo", 10.0, (0.6, 0.7)), names, strict=True)]
    assert [line.name for line in lines_of(runs)[0]] == [called]
    if called in names:
        return
    taken = replace(curve("x", [0.0, 10.0], drawn(5, 0.3, 0.4)), name=called)
    assert len({line.name for line in lines_of(runs, [taken])[0]}) == 2


# ---- what the line is


def test_the_line_is_the_mean_at_steps_that_all_have():
    a, b, c = seeds_of("grpo", 10.0, (0.6, 0.7, 0.8))
    assert a.values is not None
    longer = curve("c", [0.0, 5.0, 14.0], np.c_[a.values[:, :1], a.values[:, :1], a.values[:, 1:]])
    steps = [replace(e, step=s) for e, s in zip(longer.evaluations, (0, 1, 2), strict=True)]
    c = replace(longer, name="grpo-seed2", settings=c.settings, evaluations=steps, step=2, ended=False)
    (line,), _ = lines_of([a, b, c])
    assert [e.step for e in line.evaluations] == [0, 1]
    assert line.evaluations[1].flops == pytest.approx(np.mean([10, 11, 5]))
    each = [run.evaluations[1].accuracy for run in (a, b, c)]
    end = line.evaluations[1]
    assert (end.accuracy, end.low, end.high) == (pytest.approx(np.mean(each)), min(each), max(each))
    assert b.values is not None
    assert c.values is not None
    assert line.by_seed is not None
    assert np.array_equal(line.by_seed[:, :, 1], [a.values[:, 1], b.values[:, 1], c.values[:, 1]])
    assert (line.step, line.ended) == (1, False)
    compared = compare_runs([line], METRIC)
    assert runs_table(compared).rows[0][2:4] == ("1 to 2 of 1", "8")
    assert any(note.startswith("Not ended: grpo-seed2 (at step 2 ") for note in compared.notes)


def test_of_four_seeds_the_band_is_the_interval_of_their_mean():
    runs = seeds_of("grpo", 10.0, (0.5, 0.6, 0.7, 0.8))
    (line,), _ = lines_of(runs)
    interval = t_interval([run.evaluations[1].accuracy for run in runs])
    end = line.evaluations[1]
    assert (end.low, end.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    lowest, highest = min(r.accuracies[1] for r in runs), max(r.accuracies[1] for r in runs)
    assert (
        runs_table(compare_runs([line], METRIC))
        .rows[0][-2]
        .endswith(f"({100 * lowest:.1f}, {100 * highest:.1f})")
    )


def test_seeds_without_a_common_evaluation_stay_runs():
    a, b = seeds_of("grpo", 10.0, (0.6, 0.7))
    b = replace(b, evaluations=[replace(e, step=e.step + 5) for e in b.evaluations])
    assert [line.name for line in lines_of([a, b])[0]] == ["grpo-seed0", "grpo-seed1"]


def test_where_one_seed_has_no_pool_nothing_is_paired():
    a, b = seeds_of("grpo", 10.0, (0.6, 0.7))
    lines, _ = lines_of([a, replace(b, values=None, unpaired="it has no pool any more")])
    other = curve("other", [0.0, 10.0], drawn(9, 0.3, 0.4))
    compared = compare_runs([*lines, other], METRIC)
    assert compared.differences == []
    assert "Not compared problem by problem: grpo (it has no pool any more)." in compared.notes


# ---- comparing methods


def test_differences_count_problems_and_seeds():
    good, bad = seeds_of("grpo", 10.0, (0.6, 0.8, 0.7)), seeds_of("expert", 10.0, (0.4, 0.5, 0.6), start=7)
    lines, _ = lines_of(good, bad)
    (d,) = compare_runs(lines, METRIC).differences
    ends = [np.array([r.values[:, 1] for r in some if r.values is not None]) for some in (good, bad)]
    # The methods' ends lie at 11 FLOPs both: by hand, the three variances and Satterthwaite's freedom.
    over_problems = (ends[0].mean(0) - ends[1].mean(0)).var(ddof=1) / 40
    over_seeds = [e.mean(1).var(ddof=1) / 3 for e in ends]
    total = over_problems + sum(over_seeds)
    df = total**2 / (over_problems**2 / 39 + sum(v**2 / 2 for v in over_seeds))
    from scipy import stats

    reach = stats.t.ppf(0.975, df) * total**0.5
    mean = float(ends[0].mean() - ends[1].mean())
    assert (d.difference, d.low, d.high) == pytest.approx((mean, mean - reach, mean + reach))
    assert d.p == pytest.approx(2 * stats.t.sf(abs(mean) / total**0.5, df))
    told = sentences(compare_runs(lines, METRIC))
    assert "40 problems, 3 seeds)" in told[0]
    one_sided = compare_runs([lines[0], bad[0]], METRIC)
    assert "40 problems, 3 and 1 seeds)" in sentences(one_sided)[0]
    assert "Of one seed, so that its spread is not known: expert-seed0." in one_sided.notes


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Accuracies with a spread over seeds and over problems, three seeds a side; the true difference is 0."""
    rng = np.random.default_rng(3)
    held, alone = 0, 0
    for _ in range(1500):
        problems = rng.normal(0.5, 0.15, 60)
        sides = []
        for _ in range(2):
            method = problems + rng.normal(0, 0.1, 60)  # what this method finds hard, of problems without end
            seeds = rng.normal(0, 0.04, (3, 1)) + rng.normal(0, 0.05, (3, 60))
            sides.append(rng.binomial(4, np.clip(method + seeds, 0, 1)) / 4)
        interval = paired_seeds(*sides).interval
        held += interval.low <= 0 <= interval.high
        over_problems = t_interval(sides[0].mean(0) - sides[1].mean(0))
        alone += over_problems.low <= 0 <= over_problems.high
    assert held / 1500 > 0.94
    assert alone / 1500 < 0.85  # what an interval over problems alone would be


def test_the_cost_of_an_accuracy_has_the_range_of_its_seeds():
    good, slow = seeds_of("grpo", 10.0, (0.7, 0.8)), seeds_of("expert", 40.0, (0.7, 0.4), start=7)
    lines, _ = lines_of(good, slow)
    compared = compare_runs(lines, METRIC, target=0.5)
    for line, reach in zip(lines, compared.reaches, strict=True):
        each = [float(first_reached(r.spent, r.accuracies[None], 0.5)[0]) for r in line.seeds]
        assert (reach.low, reach.high) == (min(each), max(each))
    assert compared.reaches[1].high == np.inf
    assert len(compared.each) == 4
    told = sentences(compared)[-1]
    assert told.startswith("To 50%: grpo took ")
    assert "expert" in told
    assert " or more, some never)" in told
    assert runs_table(compared).rows[1][-1].endswith(", not reached)")


# ---- what is shown


def test_thin_lines_behind_the_mean_and_the_number_of_seeds_in_the_key():
    lines, _ = lines_of(seeds_of("grpo", 10.0, (0.6, 0.7, 0.8)), seeds_of("expert", 10.0, (0.5,)))
    figure = runs_compared(compare_runs(lines, METRIC))
    panel = figure.axes[0]
    drawn_lines = [line for line in panel.lines if len(line.get_xdata()) == 2]  # type: ignore[arg-type]
    thin = [line for line in drawn_lines if line.get_linewidth() < 1 and line.get_marker() == "None"]
    thick = [line for line in drawn_lines if line.get_marker() != "None"]
    assert len(thin) == 3
    assert len(thick) == 2
    assert {line.get_color() for line in thin} == {thick[0].get_color()}
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["grpo, 3 seeds", "expert-seed0"]
    assert differing(lines)["seed"] == ["0, 1, 2", "0"]


def test_page_and_object_have_the_methods_and_every_run(tmp_path):
    lines, _ = lines_of(
        seeds_of("grpo", 10.0, (0.6, 0.7, 0.8)), seeds_of("expert", 10.0, (0.5, 0.6, 0.4, 0.3))
    )
    compared = compare_runs(lines, METRIC)
    text = write_compared(compared, tmp_path)[0].read_text()
    for part in ("The methods", "Every run", "grpo-seed2", "expert-seed3", "or, of more, the 95% interval"):
        assert html.escape(part) in text
    assert "is half of the 95% interval" in text.partition("Every run")[2]
    found = json.loads(json.dumps(as_object(compared), allow_nan=False))
    assert [(m["name"], m["seeds"]) for m in found["methods"]] == [("grpo", 3), ("expert", 4)]
    assert found["methods"][0]["runs"] == ["grpo-seed0", "grpo-seed1", "grpo-seed2"]
    assert [(r["name"], r["seed"]) for r in found["runs"]][3] == ("expert-seed0", 0)
    end = found["methods"][1]["evaluations"][-1]
    ends = [r["evaluations"][-1]["accuracy"] for r in found["runs"][3:]]
    assert (end["lowest"], end["highest"]) == (min(ends), max(ends))
    assert end["low"] < end["accuracy"] < end["high"]
    assert all("target_flops" in one for one in found["methods"] + found["runs"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two methods under two seeds each, from one base."""
    folder = made(tmp_path_factory, "seeds")
    for seed in range(2):
        train(reinforce(folder, f"grpo-seed{seed}", seed=seed, steps=2))
        train(reinforce(folder, f"expert-seed{seed}", "expert_iteration", seed=seed, steps=2))
    return folder


def test_the_command_on_real_runs(trained, tmp_path, capsys):
    folders = [str(trained / f"{name}-seed{seed}") for seed in range(2) for name in ("grpo", "expert")]
    assert main(["show", *folders, "--training", "--out", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in rows[:3]] == [["method", "seeds"], ["grpo", "2"], ["expert", "2"]]
    assert main(["show", *folders, "--training", "--json", "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [m["seeds"] for m in found["methods"]] == [2, 2]
    runs, metric, _ = read_runs([trained / "grpo-seed0", trained / "grpo-seed1"])
    assert metric == METRIC
    assert found["methods"][0]["evaluations"][-1]["accuracy"] == pytest.approx(
        np.mean([run.accuracies[-1] for run in runs])
    )
    assert found["differences"][0]["problems"] == 4
    assert main(["show", *folders, "--training", "--each", "--out", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in rows[:5]] == [
        "run",
        "grpo-seed0",
        "expert-seed0",
        "grpo-seed1",
        "expert-seed1",
    ]
