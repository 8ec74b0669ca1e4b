"""Fitting a learned verifier: what it learns from, what it refuses, what it keeps."""

import json

import pytest

from reasoning.budget import Ledger
from reasoning.cli.fit import run as show
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Chain, Sampling, chain_key
from reasoning.tasks import load_problems
from reasoning.train.fresh import new_model, save_folder
from reasoning.train.heads import Example
from reasoning.train.parting import split
from reasoning.train.reward import FitOptions, fit, gather
from verifiers import Attempt, Verdict, open_verifier

PROBLEMS = load_problems("word:train:n=60")


def fill(folder, right=lambda i: i % 2 == 0):
    """A pool in which right chains are long and wrong ones short, so that there is something to learn."""
    with Pool.open(folder) as pool:
        pool.add_problems(PROBLEMS)
        chains, verdicts = [], {}
        for problem in PROBLEMS:
            for i in range(4):
                key = chain_key("m@1", Sampling(), problem.id, problem.prompt, i)
                text = (
                    f" Gus has {i}. Leo has {i}+3={i + 3}. The answer is 5."
                    if right(i)
                    else f" The answer is {i}."
                )
                chains.append(Chain(problem.id, i, text, model="m@1", key=key))
                verdicts[key] = Verdict(float(right(i)))
        pool.append(chains)
        pool.add_verdicts("numeric", verdicts, oracle=True)
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    texts = [p.prompt for p in PROBLEMS] + [" Gus has 1. Leo has 1+3=4. The answer is 5."]
    model, tokenizer = new_model("new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48", texts)
    save_folder(folder / "model", model, tokenizer)
    fill(folder / "pool")
    return folder


def options(home, **changes):
    given = {"run": str(home / "v"), "model": str(home / "model"), "pool": [str(home / "pool")], "batch": 16}
    given |= {"task": "word:train:n=60"}
    return FitOptions(**(given | changes))


def test_it_fits_both_keeps_the_better_and_tells_right_from_wrong(home):
    measured = fit(options(home))
    compared = measured["compared"]
    assert set(compared) == {"features", "finetuned"}
    assert measured["kept"] == max(compared, key=lambda kind: compared[kind]["auc"])
    assert compared[measured["kept"]]["auc"] > 0.95
    assert measured["fitted_on"] + measured["held_out"] == 240
    verifier = open_verifier(f"learned:{home}/v")
    prompt = load_problems("word:test:n=1")[0].prompt
    right, wrong = verifier.verify(
        [
            Attempt(prompt, " Gus has 9. Leo has 9+3=12. The answer is 5."),
            Attempt(prompt, " The answer is 9."),
        ]
    )
    assert right.score > wrong.score
    assert fit(options(home)) == json.loads((home / "v" / "verifier.json").read_text())["measured"]


def test_verdicts_of_a_learned_verifier_are_labels_too(home, tmp_path):
    run = fill(tmp_path / "pool")
    with Pool.open(run) as pool:
        pool.add_verdicts("learned:runs/v:version=1a", pool.verdicts("numeric"), oracle=False)
    same = gather(options(home, pool=[run], verifier="learned:runs/v"))
    assert same == gather(options(home, pool=[run]))
    with pytest.raises(UserError, match=r"Did you mean 'numeric'.*has verdicts of: numeric, learned"):
        gather(options(home, pool=[run], verifier="numerics"))


def test_problems_are_held_out_whole():
    examples = [Example(f"p{i}", "q", f"r{j}", 1.0) for i in range(40) for j in range(3)]
    held, used = split(examples, seed=0)
    assert len(held) + len(used) == 120
    assert len(held) == 8 * 3
    assert not {e.problem_id for e in held} & {e.problem_id for e in used}


def test_figures_of_few_held_out_problems_are_said_to_be_rough(home, tmp_path, capsys):
    show(options(home, run=str(tmp_path / "few"), kind="features"))
    assert "Only 12 problems were held out: these figures are rough" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("problems", "count"), [(2, 1), (5, 2), (10, 5), (30, 6)])
def test_of_few_problems_enough_are_held_out_with_right_and_wrong_ones_in_both_parts(problems, count, seed):
    """One right problem in four, or two: left to chance, all of them would at times be in one part."""
    right = max(2, problems // 4)
    examples = [Example(f"p{i}", "q", f"r{j}", float(i < right)) for i in range(problems) for j in range(2)]
    held, used = split(examples, seed)
    assert len({e.problem_id for e in held}) == count
    assert not {e.problem_id for e in held} & {e.problem_id for e in used}
    if problems > 2:
        assert {e.label for e in held} == {e.label for e in used} == {0.0, 1.0}


def test_of_many_problems_each_stays_in_its_part_when_more_come():
    few = [Example(f"p{i}", "q", "r", 1.0) for i in range(300)]
    more = [*few, *(Example(f"n{i}", "q", "r", 0.0) for i in range(300))]
    held = {e.problem_id for e in split(few, 0)[0]}
    assert 40 < len(held) < 80
    assert held == {e.problem_id for e in split(more, 0)[0] if e.problem_id.startswith("p")}


def test_the_limit_takes_whole_problems(home):
    examples = gather(options(home, chains=50))
    assert len(examples) == 48
    assert len({e.problem_id for e in examples}) == 12


def test_only_chains_of_the_named_problems_are_used(home):
    examples = gather(options(home, task="word:train:n=10"))
    assert {e.problem_id for e in examples} <= {p.id for p in load_problems("word:train:n=10")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pool": []}, "--pool RUN"),
        ({"verifier": "exact"}, "reasoning verify"),
        ({"eval_task": "word:train:n=5"}, "evaluation"),
    ],
)
def test_mistakes_are_named(home, changes, words):
    with pytest.raises(UserError, match=words):
        gather(options(home, **changes))


def test_one_label_alone_teaches_nothing(home, tmp_path):
    pool = fill(tmp_path / "pool", right=lambda i: True)
    with pytest.raises(UserError, match="all right"):
        fit(options(home, run=str(tmp_path / "v"), pool=[pool]))
    assert not (tmp_path / "v").exists()


def test_a_fit_that_was_killed_as_its_folder_became_whole_is_charged(home, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def rmdir(self):
        raise Killed

    asked = options(home, run=str(tmp_path / "killed"), kind="features")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rmdir", rmdir)
        with pytest.raises(Killed):
            fit(asked)
    fit(asked)
    with Ledger(path=tmp_path / "killed", read_only=True) as ledger:
        assert [c.strategy for c in ledger.charges] == ["fit"]
        assert ledger.spent.cost.scored_tokens > 0
