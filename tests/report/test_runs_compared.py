"""Training runs against each other: what is read of their folders, the statistics against plain loops, the picture
and the page, and every mistake in one line."""

import html
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report.made_up_runs import METRIC, curve, drawn
from train.small_runs import cold_start, made, reinforce

from reasoning.cli import main
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.report.compared import at, compare_runs, differing, first_reached
from reasoning.report.pictures_runs import runs_compared
from reasoning.report.runs import read_runs
from reasoning.report.style import image
from reasoning.report.write_runs import as_object, runs_table, sentences, write_compared
from reasoning.statistics import holm, paired
from reasoning.train.loop import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """GRPO and expert iteration from one base, on four held-out problems; GRPO again on six, and on another task."""
    folder = made(tmp_path_factory, "compared")
    train(reinforce(folder, "grpo"))
    train(reinforce(folder, "expert", "expert_iteration", steps=2))
    train(reinforce(folder, "more", eval_task="word:dev:n=6"))
    train(reinforce(folder, "other", eval_task="countdown:dev:n=4", steps=1))
    train(reinforce(folder, "silent", eval_task="", steps=1))
    return folder


def of(folder, *names):
    return read_runs([folder / name for name in names])


# ---- what is read


def test_values_are_those_of_the_evaluations(trained):
    runs, metric, _ = of(trained, "grpo", "expert")
    assert metric == METRIC
    for run, steps in zip(runs, (3, 2), strict=True):
        rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert [e.step for e in run.evaluations] == list(range(steps + 1))
        assert run.values is not None
        assert run.values.shape == (4, steps + 1)
        assert np.allclose(run.values.mean(axis=0), [row[METRIC] for row in rows], atol=1e-12)
        assert [e.flops for e in run.evaluations] == pytest.approx(
            [0, *(row["flops/sample"] + row["flops/update"] for row in rows[1:])]
        )
        assert run.evaluations[-1].seconds == pytest.approx(sum(row.get("step_time", 0) for row in rows))
        assert (run.step, run.ended, run.unpaired) == (steps, True, "")
        assert run.chains == steps * 4 * 4
    assert runs[0].problems == runs[1].problems
    assert runs[0].parent == runs[1].parent
    assert runs[0].parent.startswith("base@")
    # By hand, from the chains of the last weights under the evaluations' seed.
    with Pool.open(runs[0].folder, read_only=True) as pool:
        last = list(pool.models())[-1]
        verdicts = pool.verdicts(next(iter(pool.verifiers())))
        seen: dict[str, list[float]] = {}
        for chain in pool.chains(last):
            right = verdicts[chain.key].score == 1.0 and not chain.truncated
            assert chain.sampling.seed == 1
            seen.setdefault(chain.problem_id, []).append(float(right))
    assert [float(np.mean(seen[id])) for id in runs[0].problems] == runs[0].values[:, -1].tolist()  # type: ignore[index]


def test_a_run_that_goes_on(trained, tmp_path):
    shutil.copytree(trained / "grpo", tmp_path / "going")
    shutil.rmtree(tmp_path / "going" / "model")
    lines = (tmp_path / "going" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "going" / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:40])
    runs, metric, _ = read_runs([trained / "expert", tmp_path / "going"])
    going = runs[1]
    assert (going.step, going.ended, len(going.evaluations)) == (2, False, 3)
    assert going.values is not None
    compared = compare_runs(runs, metric)
    assert any(note.startswith("Not ended: going (at step 2 of 3)") for note in compared.notes)
    assert runs_table(compared).rows[1][2] == "2 of 3"


def test_only_shared_problems_are_paired(trained):
    runs, metric, _ = of(trained, "grpo", "more")
    assert [len(run.problems) for run in runs] == [4, 6]
    compared = compare_runs(runs, metric)
    assert {d.problems for d in compared.differences} == {4}
    assert any(
        "Not evaluated on the same problems: grpo word:dev:n=4; more word:dev:n=6" in n
        for n in compared.notes
    )
    assert all(
        math.isnan(low) for *_, low, _ in compared.ratios
    )  # replicates of other problems do not move together


def test_what_cannot_be_compared_is_refused_in_one_line(trained, tmp_path):
    for names, why in (
        (
            ("grpo", "other"),
            "grpo was evaluated on word:dev:n=4 and other on countdown:dev:n=4: they have no problem",
        ),
        (("grpo", "silent"), "silent/metrics.jsonl has no evaluation to compare by"),
        (("grpo", "grpo"), "is given twice"),
        (("grpo", "nowhere"), "no such run folder"),
    ):
        with pytest.raises(UserError, match=why) as refused:
            of(trained, *names)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="it is not a training run"):
        read_runs([trained / "grpo", tmp_path])


def test_what_is_no_run_to_compare_is_left_out_where_two_are(trained, tmp_path):
    """As `runs/*` gives them: with verifiers, files and runs that were not evaluated."""
    (tmp_path / "training_compared.html").write_text("of the last time")
    folders = [
        tmp_path / "training_compared.html",
        trained / "grpo",
        trained / "silent",
        trained / "expert",
        tmp_path,
    ]
    runs, metric, left_out = read_runs(folders)
    assert [run.name for run in runs] == ["grpo", "expert"]
    assert left_out == [
        f"Left out, no training run: {tmp_path / 'training_compared.html'}, {tmp_path}.",
        f"Left out, no evaluation (--eval-task): {trained / 'silent'}.",
    ]
    assert compare_runs(runs, metric, left_out).notes[-2:] == left_out


def test_without_a_pool_the_lines_are_there_and_it_says_so(trained, tmp_path):
    shutil.copytree(trained / "grpo", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "pool")
    runs, metric, _ = read_runs([trained / "expert", tmp_path / "bare"])
    compared = compare_runs(runs, metric)
    assert compared.differences == []
    assert "Not compared problem by problem: bare (it has no pool any more)." in compared.notes
    shutil.copytree(trained / "other", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere" / "pool")
    with pytest.raises(UserError, match="no problem in common"):
        read_runs([trained / "grpo", tmp_path / "elsewhere"])


def test_verdicts_that_do_not_give_the_recorded_accuracy_are_not_paired(trained, tmp_path):
    shutil.copytree(trained / "grpo", tmp_path / "edited")
    rows = [json.loads(line) for line in (tmp_path / "edited" / "metrics.jsonl").read_text().splitlines()]
    rows[2][METRIC] += 0.125
    (tmp_path / "edited" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs, *_ = read_runs([trained / "expert", tmp_path / "edited"])
    assert runs[1].values is None
    assert "no verdicts in its pool give the accuracies" in runs[1].unpaired


def test_pairs_right_are_compared_where_that_is_all_there_is(tmp_path):
    for name, right in (("a", 0.75), ("b", 0.5)):
        (tmp_path / name).mkdir()
        rows = [
            {"step": 0, "eval/rewards/accuracies": 0.5},
            {"step": 1, "flops/sample": 0.0, "flops/update": 5.0, "eval/rewards/accuracies": right},
        ]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs, metric, _ = read_runs([tmp_path / "a", tmp_path / "b"])
    assert metric == "eval/rewards/accuracies"
    table = runs_table(compare_runs(runs, metric))
    assert table.rows[0][-2] == "75.0"
    assert table.notes[0] == "Held-out pairs right in %."
    (tmp_path / "b" / "metrics.jsonl").write_text(json.dumps({"step": 0, METRIC: 0.5}) + "\n")
    with pytest.raises(UserError, match=r"/b was evaluated by held-out problems .*/a by held-out pairs"):
        read_runs([tmp_path / "a", tmp_path / "b"])


def test_a_mixture_of_tasks_is_drawn_and_not_paired(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [
            {"step": i, METRIC: 0.2 + i / 2, f"{METRIC}/word": 0.5, "flops/update": 5.0 * i} for i in range(2)
        ]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    compared = compare_runs(*read_runs([tmp_path / "a", tmp_path / "b"]))
    assert [reach.flops for reach in compared.reaches] == pytest.approx([2.5, 2.5], abs=0.1)
    assert (
        "Not compared problem by problem: a, b (its evaluation mixes several tasks by weight)."
        in compared.notes
    )
    assert sentences(compared) == ["To 45%: a took 2.50 FLOPs, b 2.50."]


def test_names_are_as_long_as_it_takes(tmp_path):
    for place in ("x/grpo", "y/grpo"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "metrics.jsonl").write_text(json.dumps({"step": 0, METRIC: 0.5}) + "\n")
    runs, *_ = read_runs([tmp_path / "x" / "grpo", tmp_path / "y" / "grpo"])
    assert [run.name for run in runs] == ["x/grpo", "y/grpo"]


# ---- the statistics


def test_first_reached_against_a_walk():
    rng = np.random.default_rng(0)
    spent = np.array([0.0, 3.0, 4.0, 9.0])
    fine = np.linspace(0, 9, 90_001)
    for accuracies in rng.random((200, 4)).round(2):
        there = np.interp(fine, spent, accuracies) >= 0.6
        expected = fine[there.argmax()] if there.any() else np.inf
        assert first_reached(spent, accuracies[None], 0.6)[0] == pytest.approx(expected, abs=2e-4)
    assert first_reached(spent, [[0.7, 0.1, 0.1, 0.1]], 0.6)[0] == 0.0
    assert first_reached([0.0], [[0.5]], 0.6)[0] == np.inf


def test_for_the_same_flops_a_run_lies_between_its_evaluations():
    run = curve("a", [0.0, 4.0, 10.0], [[0, 1, 0.5], [0.25, 0.25, 1]])
    assert at(run, 0.0).tolist() == [[0, 0.25]]
    assert at(run, 1.0).tolist() == [[0.25, 0.25]]
    assert at(run, 4.0).tolist() == [[1, 0.25]]
    assert at(run, 7.0).tolist() == [[0.75, 0.625]]
    assert at(run, 10.0).tolist() == [[0.5, 1]]


def test_differences_are_paired_and_adjusted():
    a = curve("a", [0.0, 10.0], drawn(1, 0.3, 0.8))
    b = curve("b", [0.0, 10.0, 20.0], drawn(2, 0.3, 0.5, 0.8))
    c = curve("c", [0.0, 10.1], drawn(3, 0.3, 0.4))
    compared = compare_runs([a, b, c], METRIC)
    made_of = [(d.a, d.b, d.basis, d.flops) for d in compared.differences]
    assert made_of == [
        (0, 1, "flops", (10.0, 10.0)),
        (0, 1, "end", (10.0, 20.0)),
        (0, 2, "flops", (10.0, 10.0)),  # 10.1 is the same end
        (1, 2, "flops", (10.1, 10.1)),
        (1, 2, "end", (20.0, 10.1)),
    ]
    first, end = compared.differences[:2]
    assert a.values is not None
    assert b.values is not None
    expected = paired(a.values[:, 1], b.values[:, 1])
    assert (first.difference, first.low, first.high) == (
        expected.difference,
        expected.interval.low,
        expected.interval.high,
    )
    assert first.supported
    assert end.difference == pytest.approx(float((a.values[:, 1] - b.values[:, 2]).mean()))
    assert not end.supported
    assert [d.p_holm for d in compared.differences] == holm([d.p for d in compared.differences])
    told = sentences(compared)
    assert told[0].startswith("For the same 10 FLOPs a is at ")
    assert " points more (95% interval " in told[0]
    assert any(
        "a (" in line and "cannot be told apart" in line and line.startswith("At the last") for line in told
    )


def test_an_interval_without_0_among_many_comparisons_is_told_as_that():
    many = [curve(str(i), [0.0, 10.0], drawn(i, 0.3, 0.5 + 0.012 * i)) for i in range(12)]
    compared = compare_runs(many, METRIC)
    chance = [d for d in compared.differences if (d.low > 0 or d.high < 0) and not d.supported]
    assert chance  # 66 comparisons of runs that differ by little
    lines = sentences(replace(compared, differences=[*chance[:1]] * 2))
    assert "which may be chance: p = " in lines[0]
    told = sentences(compare_runs([*many, curve("best", [0.0, 10.0], drawn(99, 0.3, 1.0))], METRIC))
    assert "more differences are on the page" in told[6]
    assert all(" points fewer (95% interval " in line and "chance" not in line for line in told[:6])
    assert told[-1].endswith(", the least; the table has the others.")


def test_the_target_is_midway_and_who_never_had_it_is_said():
    good = curve("good", [0.0, 10.0], drawn(1, 0.2, 0.8))
    slow = curve("slow", [0.0, 40.0], drawn(2, 0.2, 0.7))
    flat = curve("flat", [0.0, 10.0], drawn(3, 0.2, 0.2))
    compared = compare_runs([good, slow, flat], METRIC)
    start = np.mean([r.accuracies[0] for r in (good, slow, flat)])
    assert compared.target is not None
    assert compared.target == round(50 * float(start + good.accuracies[1])) / 100
    assert [math.isinf(r.flops) for r in compared.reaches] == [False, False, True]
    for reach in compared.reaches[:2]:
        assert 0 < reach.low < reach.flops < reach.high < 40
    ((dear, cheap, ratio, low, high),) = compared.ratios
    assert (dear, cheap) == (1, 0)
    assert 1 < low < ratio < high
    assert runs_table(compared).rows[2][-1] == "not reached"
    assert sentences(compared)[-1].startswith(f"To {100 * compared.target:g}%: good took ")
    assert "flat never had it (best " in sentences(compared)[-1]
    # Of one's own, one that nobody had, and none where nobody rose.
    assert compare_runs([good, slow], METRIC, target=0.3).reaches[0].flops < compared.reaches[0].flops
    assert not any("To 99%" in line for line in sentences(compare_runs([good, slow], METRIC, target=0.99)))
    still = compare_runs([flat, replace(flat, name="again")], METRIC)
    assert (still.target, list(still.reaches)) == (None, [])
    assert runs_table(still).columns[-1] == "after"
    assert any("No FLOPs to a common accuracy" in note for note in runs_table(still).notes)


def test_equal_runs_take_equally_much():
    one = curve("one", [0.0, 10.0], drawn(1, 0.2, 0.8))
    compared = compare_runs([one, replace(one, name="two")], METRIC)
    assert compared.ratios == [(1, 0, 1.0, 1.0, 1.0)]
    (difference,) = compared.differences
    assert (difference.difference, difference.p) == (0.0, 1.0)


def test_other_starts_and_settings_are_said():
    a = curve("a", [0.0, 10.0], drawn(1, 0.2, 0.8))
    b = curve("b", [0.0, 10.0], drawn(2, 0.2, 0.8), parent="tuned@2", parent_flops=3e9)
    b = replace(
        b, settings={**b.settings, "lr": 0.2, "max_new_tokens": 9, "keep": "best", "run": "elsewhere"}
    )
    notes = "\n".join(compare_runs([a, b], METRIC).notes)
    assert (
        "They start from different models, each at 0 FLOPs here: a from base@1; b from tuned@2 (3.00 G FLOPs"
        in notes
    )
    assert "RUN/model of b is that of the best evaluation" in notes
    assert differing([a, b]) == {
        "objective": ["a", "b"],
        "lr": ["0.1", "0.2"],
        "max_new_tokens": ["–", "9"],
        "keep": ["–", "best"],
    }


# ---- picture and page


def test_a_line_a_run_in_every_panel():
    runs = [curve(n, [0.0, f], drawn(i, 0.2, 0.8)) for i, (n, f) in enumerate((("a", 10.0), ("b", 20.0)))]
    for narrow in (False, True):
        figure = runs_compared(compare_runs(runs, METRIC), narrow)
        assert len(figure.axes) == 3
        for panel, ends in zip(figure.axes, ((10, 20), (1, 2), (1, 1)), strict=True):
            lines = [line for line in panel.lines if line.get_marker() != "None"]
            assert [line.get_xdata()[-1] for line in lines] == list(ends)  # type: ignore[index]
            assert [line.get_ydata()[-1] for line in lines] == [100 * r.accuracies[1] for r in runs]  # type: ignore[index]
            assert panel.get_xscale() == "linear"
            assert len(panel.collections) == 2
    far = [curve("a", [0.0, 10.0], drawn(1, 0.2, 0.8)), curve("b", [0.0, 1e4], drawn(2, 0.2, 0.8))]
    panel = runs_compared(compare_runs(far, METRIC)).axes[0]
    assert panel.get_xscale() == "log"
    assert panel.get_xticklabels()[0].get_text() == "start"
    only = [replace(r, evaluations=r.evaluations[:1], values=None) for r in runs]
    assert len(runs_compared(compare_runs(only, METRIC)).axes) == 1


def test_names_are_shown_as_they_are():
    runs = [curve(n, [0.0, 10.0], drawn(1, 0.2, 0.8)) for n in ("_hidden", "lr$1$2_a^b")]
    figure = runs_compared(compare_runs(runs, METRIC))
    image(figure, "svg")  # a formula that cannot be parsed would raise
    legend = [text.get_text().lstrip("\u200b").replace("\\$", "$") for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["_hidden", "lr$1$2_a^b"]


def test_the_page_holds_everything_escaped_and_is_the_same_again(tmp_path):
    runs = [curve(n, [0.0, 10.0], drawn(i, 0.2, 0.8)) for i, n in enumerate(("<script>x</script>", "b"))]
    compared = compare_runs(runs, METRIC)
    page, picture = write_compared(compared, tmp_path / "new", 30)
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;x" in text
    assert '<meta http-equiv="refresh" content="30">' in text
    for sentence in sentences(compared):
        assert html.escape(sentence) in text
    assert picture.read_bytes()[:4] == b"\x89PNG"
    files = {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()}
    assert sorted(files) == ["training_compared.html", "training_compared.png", "training_compared.svg"]
    write_compared(compared, tmp_path / "new", 30)
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()}
    json.dumps(as_object(compared), allow_nan=False)


# ---- the command


def test_the_command(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    before = {p for p in trained.rglob("*") if p.is_file()}
    assert main(["show", "grpo", "--training", "expert", "--watch", "9"]) == 0  # both have ended: once
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["run", "grpo", "expert"]
    assert "Held-out accuracy in %" in out
    assert "training_compared.html" in err
    assert {p.name for p in {p for p in trained.rglob("*") if p.is_file()} - before} == {
        "training_compared.html",
        "training_compared.png",
        "training_compared.svg",
    }
    assert (
        main(["show", "grpo", "expert", "--training", "--json", "--target", "0.5", "--out", str(tmp_path)])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in found["runs"]] == ["grpo", "expert"]
    assert found["target"] == 0.5
    assert len(found["runs"][0]["evaluations"]) == 4
    assert (tmp_path / "training_compared.png").is_file()
    assert main(["show", "grpo", "--training", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "training.html").is_file()
    capsys.readouterr()
    for wrong, said in (
        (["grpo", "expert"], "Several runs are compared with --training"),
        (["grpo", "expert", "--training", "--cost"], "Several runs are compared with --training"),
        (["grpo", "--target", "0.5", "--training"], "give two runs or more"),
        (["grpo", "--out", "x"], "--out goes with --training"),
        (["grpo", "expert", "--each"], "--each goes with --training"),
        (["grpo", "--training", "--each"], "--each gives every one of several runs a line: give two"),
        (["grpo", "expert", "--training", "--target", "60"], "between 0 and 1"),
    ):
        assert main(["show", *wrong]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1


def test_the_page_of_runs_in_no_folder_together_needs_a_place(monkeypatch):
    from reasoning.cli.training import common_folder

    monkeypatch.chdir("/")
    with pytest.raises(UserError, match="--out FOLDER"):
        common_folder([Path("/a/run"), Path("/b/run")])
    assert common_folder([Path("/a/b/c"), Path("/a/b/d")]) == Path("a/b")


def test_supervised_learning_beside_reinforcement(trained, tmp_path):
    train(cold_start(tmp_path, eval_task="word:dev:n=4", eval_every=2, eval_chains=2))
    runs, metric, _ = read_runs([tmp_path / "base", trained / "grpo"])
    assert runs[0].values is not None
    assert runs[0].chains == 0
    compared = compare_runs(runs, metric)
    assert any("They start from different models" in note for note in compared.notes)
    assert any("new tokens" in note or "different length" in note for note in compared.notes)
