"""The recipes: every key is known, nothing in them contradicts, and each runs with a tiny model put in."""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import small_runs
from launch import torchrun

from reasoning.cli import parse
from reasoning.engines.vllm import VLLMEngine
from reasoning.spec import parse_spec
from reasoning.tasks import parse_task
from reasoning.train.checks import check
from reasoning.train.loop import train
from reasoning.train.objective import objective

RECIPES = sorted((Path(__file__).resolve().parents[2] / "evals" / "recipes").glob("*.toml"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return small_runs.made(tmp_path_factory, "recipes")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_whole_and_runs(home, path):
    options, _ = parse("train", ["--config", str(path)])
    check(options, objective(options.objective, **options.axes()))
    for spec in (options.task, options.eval_task):
        task, split, given = parse_task(spec)
        assert split in task.splits
        assert set(given) <= {"limit"}
    known = inspect.signature(VLLMEngine.open).parameters
    engine = parse_spec(options.engine)
    defaults = {name: p.default for name, p in known.items() if p.kind is p.KEYWORD_ONLY}
    assert engine.name == "vllm"
    assert engine.take(defaults)["max_model_len"] > options.max_new_tokens
    result = train(
        replace(
            options,
            run=str(home / path.stem),
            model=str(home / "base" / "model"),
            task="word:train:n=16",
            eval_task="word:dev:n=2",
            verifier=f"{home}/reward.py:even",
            engine="transformers",
            shard="ddp",
            device="cpu",
            dtype="float32",
            steps=2,
            problems_per_step=3,
            chains_per_problem=4,
            minibatch=options.minibatch and 8,
            max_new_tokens=24,
        )
    )
    assert result.summary["steps"] == 2


@pytest.mark.parametrize("path", [p for p in RECIPES if "8gpu" in p.stem], ids=lambda p: p.stem)
def test_a_recipe_of_eight_gpus_runs_on_two_processes(home, path):
    """By the command in it, with less of everything: cut among the ranks, in bfloat16, and so on."""
    assert "torchrun --nproc-per-node 8 -m reasoning train --config" in path.read_text()
    changed = {
        "model": home / "base" / "model",
        "task": "word:train:n=16",
        "eval-task": "word:dev:n=2",
        "verifier": f"{home}/reward.py:even",
        "engine": "transformers",
        "device": "cpu",
        "steps": 2,
        "problems-per-step": 3,
        "chains-per-problem": 4,
        "minibatch": 8,
        "max-new-tokens": 24,
    }
    flags = [str(x) for name, value in changed.items() for x in (f"--{name}", value)]
    code, said = torchrun(2, ["train", str(home / f"two-{path.stem}"), "--config", str(path), *flags], home)
    assert code == 0, said[-3000:]
    assert (home / f"two-{path.stem}" / "model" / "model.safetensors").is_file()


def test_there_are_recipes_for_both_sizes():
    assert {p.stem for p in RECIPES} == {f"qwen_{t}_{n}gpu" for t in ("gsm8k", "math") for n in (1, 8)}
