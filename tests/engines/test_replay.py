import pytest
from fake_engine import ScriptedEngine

from reasoning.engines.base import Engine
from reasoning.engines.replay import ReplayEngine
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Cost, Draw, Problem, Sampling
from reasoning.sampling import sample

PROBLEMS = [Problem.make(f"What is {i} plus {i} ?", str(2 * i)) for i in range(4)]
S = Sampling(temperature=0.8, max_new_tokens=20)


@pytest.fixture
def run(tmp_path):
    with Pool.open(tmp_path / "run") as pool:
        sample(PROBLEMS, ScriptedEngine(), pool, n=5, sampling=S)
    return tmp_path / "run"


def test_replay_equals_the_source_pool(run, tmp_path):
    engine = ReplayEngine.open(run)
    assert isinstance(engine, Engine)
    assert engine.model == "scripted@1"
    assert engine.sampling == S
    with Pool.open(run, read_only=True) as source, Pool.open(tmp_path / "again") as again:
        report = sample(PROBLEMS, engine, again, n=5)
        assert report.complete
        assert again.chains() == source.chains()
        assert again.problems() == source.problems()
        assert not engine.misses


def test_draws_past_what_is_recorded_are_reported(run, tmp_path):
    engine = ReplayEngine.open(run)
    unknown = Problem.make("What is new ?", "0")
    assert engine.available(PROBLEMS[0].id) == 5
    assert engine.available(unknown.id) == 0
    with Pool.open(tmp_path / "again") as again:
        report = sample([PROBLEMS[0], unknown], engine, again, n=7)
        assert (report.drawn, report.unavailable, report.complete) == (5, 9, False)
        assert "no chain for 9 of 14" in report.warnings[0]
    assert engine.misses == [(PROBLEMS[0].id, 5), (PROBLEMS[0].id, 6), *((unknown.id, i) for i in range(7))]


def test_the_worst_case_is_the_recorded_cost(run):
    engine = ReplayEngine.open(run)
    draws = [Draw(p, S, (0, 2, 3)) for p in PROBLEMS]
    spent = sum((c.cost for c in engine.generate(draws)), Cost())
    assert sum((engine.worst_case(d) for d in draws), Cost()) == spent


def test_other_sampling_parameters_are_refused(run):
    with pytest.raises(UserError, match="Nothing was recorded with"):
        list(ReplayEngine.open(run).generate([Draw(PROBLEMS[0], Sampling(temperature=0.1))]))


def test_several_models_and_empty_pools(run, tmp_path):
    with Pool.open(run) as pool:
        sample(PROBLEMS[:1], ScriptedEngine("other@2"), pool, sampling=S)
    with pytest.raises(UserError, match=r"name one:.*other@2"):
        ReplayEngine.open(run)
    assert ReplayEngine.open(run, model="other@2").available(PROBLEMS[0].id) == 1
    with pytest.raises(UserError, match="Did you mean 'other@2'"):
        ReplayEngine.open(run, model="other@3")
    Pool.open(tmp_path / "empty").close()
    with pytest.raises(UserError, match="no chains to replay"):
        ReplayEngine.open(tmp_path / "empty")
    with pytest.raises(UserError, match="No pool at"):
        ReplayEngine.open(tmp_path / "nowhere")
