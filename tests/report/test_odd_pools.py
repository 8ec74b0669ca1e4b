"""Pools that are smaller, poorer or more ragged than a finished run still give a report, and no warning."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from synthetic_pool import synthetic_pool

from reasoning.pool import Pool
from reasoning.records import Cost, Sampling
from reasoning.report import write_report
from verifiers.base import Verdict


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    with synthetic_pool(tmp_path_factory.mktemp("source"), problems=10, chains=8) as pool:
        yield pool


@pytest.fixture(autouse=True)
def laid_out_but_not_painted(monkeypatch):
    """Every figure is built and laid out; painting it, which takes the time, is tested elsewhere."""

    done = []

    def laid_out(figure, kind):
        if figure not in done:
            done.append(figure)
            figure.draw_without_rendering()
        return kind.encode()

    monkeypatch.setattr("reasoning.report.style.image", laid_out)


def copied(
    source, path, *, keep=lambda chain, place: True, change=lambda chain: chain, info=None, judge=None
):
    """A pool of some of the chains of another, changed."""
    pool = Pool.open(path)
    problems = list(source.problems().values())
    place = {p.id: i for i, p in enumerate(problems)}
    pool.add_problems(problems)
    for model, known in source.models().items():
        pool.add_model(model, known if info is None else info)
    chains = [change(c) for c in source.chains() if keep(c, place[c.problem_id])]
    pool.append(chains)
    for name, oracle in source.verifiers().items():
        table = source.verdicts(name)
        verdicts = {c.key: table[c.key] if judge is None else judge(name, table[c.key], c) for c in chains}
        pool.add_verdicts(name, {k: v for k, v in verdicts.items() if v is not None}, oracle=oracle)
    return pool


def report(pool, **options):
    with pool:
        written = write_report(pool.path.parent, pool, oracle="numeric", scorers=["learned"], **options)
    return written, json.loads(written.curves_json.read_text())


SAMPLED = Sampling()


def test_a_single_chain(source, tmp_path):
    pool = copied(
        source,
        tmp_path,
        keep=lambda c, at: at == 0 and c.index == 0 and c.model == "base@0" and c.sampling == SAMPLED,
    )
    written, content = report(pool)
    assert content["ks"] == [1]
    (point,) = next(c for c in content["curves"] if c["strategy"] == "pass")["points"]
    assert (point["problems"], point["low"], point["band_high"]) == (1, None, None)
    assert "nothing to compare" in written.findings[0]


def test_greedy_chains_alone(source, tmp_path):
    written, content = report(copied(source, tmp_path, keep=lambda c, at: c.sampling.greedy))
    assert content["ks"] == [1]
    assert "greedy" in written.table.columns


def test_sampled_chains_alone(source, tmp_path):
    written, _ = report(copied(source, tmp_path, keep=lambda c, at: not c.sampling.greedy))
    assert "greedy" not in written.table.columns


def test_recorded_outputs_without_tokens_shapes_or_costs(source, tmp_path):
    pool = copied(
        source,
        tmp_path,
        info={},
        change=lambda c: replace(c, token_ids=(), prompt_token_ids=(), cost=Cost()),
        judge=lambda name, v, c: replace(v, flops=0.0),
    )
    written, content = report(pool)
    assert content["iso_compute"] is None
    assert all(p["flops"] is None for c in content["curves"] for p in c["points"])
    assert {c["basis"] for c in content["comparisons"]} == {"k"}
    assert "iso_compute" not in written.pictures
    assert "tokens" not in written.table.columns
    assert "FLOPs" not in written.table.columns
    assert "FLOPs" not in written.table.notes[0]


def test_a_model_with_fewer_chains_and_other_problems(source, tmp_path):
    def keep(c, at):
        if c.model == "grpo@24":
            return c.sampling.greedy or (c.index < 4 and at < 7)
        return at > 1

    written, content = report(copied(source, tmp_path, keep=keep))
    # Every k that is shown is one that all of them have.
    assert content["ks"] == [1, 2, 4]
    overlap = [
        c["problems"]
        for c in content["comparisons"]
        if {c["a"]["model"], c["b"]["model"]} == {"grpo@24", "base@0"}
    ]
    assert overlap
    assert max(overlap) <= 8
    with Pool.open(tmp_path, read_only=True) as pool:
        more = write_report(tmp_path, pool, oracle="numeric", ks=[8], models=["base@0"])
    assert [row[1] for row in more.table.rows] == ["8"]
    assert written.html.exists()


def test_a_problem_without_any_verdict(source, tmp_path):
    first = next(iter(source.problems()))

    def judge(name, verdict, chain):
        return Verdict(None, status="error") if name == "numeric" and chain.problem_id == first else verdict

    written, content = report(copied(source, tmp_path, judge=judge))
    points = [p for c in content["curves"] if c["difficulty"] is None for p in c["points"]]
    assert {p["problems"] for p in points if p["k"] == 1} == {9}
    assert any("have no verdict and are left out" in note for note in written.table.notes)


def test_a_verifier_that_gave_no_score_at_all(source, tmp_path):
    def judge(name, verdict, chain):
        return Verdict(None, status="error") if name == "learned" else verdict

    written, content = report(copied(source, tmp_path, judge=judge))
    learned = [c for c in content["curves"] if c["scorer"] == "learned" and c["difficulty"] is None]
    assert learned
    assert all(p["accuracy"] is None for c in learned for p in c["points"])
    assert written.html.exists()


def test_all_wrong_and_all_right(source, tmp_path):
    for score in (0.0, 1.0):
        pool = copied(
            source,
            tmp_path / str(score),
            judge=lambda name, v, c, score=score: replace(v, score=score) if name == "numeric" else v,
            change=lambda c: replace(c, finish_reason="stop"),
        )
        _, content = report(pool)
        point = next(c for c in content["curves"] if c["strategy"] == "pass")["points"][-1]
        assert point["accuracy"] == score
        # Ten problems of a kind do not prove that there is no other.
        assert point["high"] - point["low"] == pytest.approx(0.2775, abs=1e-3)


def test_chosen_ks_without_one(source, tmp_path):
    written, content = report(copied(source, tmp_path), ks=[4])
    assert content["ks"] == [4]
    assert "nan" not in re.sub(r"base64,[^\"]*", "", written.html.read_text(encoding="utf-8"))
    assert [row[1] for row in written.table.rows] == ["4"] * 3


def test_an_empty_score_table_and_one_problem_missing_from_the_greedy_run(source, tmp_path):
    pool = copied(source, tmp_path, keep=lambda c, at: not (c.sampling.greedy and at == 3))
    _, content = report(pool)
    greedy = next(c for c in content["curves"] if c["strategy"] == "greedy" and c["difficulty"] is None)
    assert greedy["points"][0]["problems"] == 9
