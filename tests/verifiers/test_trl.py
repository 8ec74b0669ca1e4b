"""Both directions with TRL itself: our verifiers reward its trainer, and its reward functions verify for us."""

import math
from typing import Any

import pytest

from verifiers import Attempt, open_verifier, reward_function

trl = pytest.importorskip("trl", reason="needs TRL: pip install trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # TRL and transformers warn of each other's options


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(reward, rows): two GRPO steps of TRL's trainer on an empty tiny model; gives its log."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Dataset

    from reasoning.train.fresh import new_model

    def run(reward, rows):
        size = "new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=32"
        model, tokenizer = new_model(size, [row["prompt"] for row in rows if isinstance(row["prompt"], str)])
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        settings = trl.GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=6,
            max_steps=2,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        )
        trainer = trl.GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_list(rows),
        )
        trainer.train()
        return [row for row in trainer.state.log_history if "reward" in row]

    return run


@pytest.mark.parametrize("chat", [False, True])
def test_our_verifier_rewards_trl(train, chat):
    inner = reward_function(open_verifier("math"), reference="answer")
    seen = []

    def spy(completions, **columns):
        seen.append((completions, columns["answer"], inner(completions=completions, **columns)))
        return seen[-1][2]

    questions = [f"Q: What is {i} + 1? " for i in range(8)]
    rows = [
        {"prompt": [{"role": "user", "content": q}] if chat else q, "answer": str(i + 1)}
        for i, q in enumerate(questions)
    ]
    log = train([spy], rows)
    assert len(log) == len(seen) == 2
    for row, (completions, answers, rewards) in zip(log, seen, strict=True):
        assert len(rewards) == len(completions) == len(answers) == 4
        texts = [c[0]["content"] if chat else c for c in completions]
        verdicts = open_verifier("math").verify(
            [Attempt(response=t, reference=a) for t, a in zip(texts, answers, strict=True)]
        )
        assert rewards == [v.score for v in verdicts]
        known = [r for r in rewards if r is not None]
        assert math.isclose(row["reward"], sum(known) / len(known), abs_tol=1e-6)


def test_trl_takes_a_missing_judgement_for_no_reward(train):
    """Every second chain has no judgement: TRL's mean reward is over the others, not with zeros in it."""

    class Halting:
        name, oracle = "halting", False

        def verify(self, attempts):
            from verifiers import Verdict

            return [
                Verdict(1.0) if i % 2 else Verdict(None, status="error", reason="down")
                for i in range(len(attempts))
            ]

    always = reward_function(Halting())

    def fallback(completions, **columns):
        return [0.0] * len(completions)

    log = train([always, fallback], [{"prompt": f"Q: {i}? "} for i in range(8)])
    assert [row["rewards/halting/mean"] for row in log] == [1.0, 1.0]


def test_a_reward_function_of_trl_is_a_verifier_here(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("from trl.rewards import think_format_reward\n")
    verifier = open_verifier(f"{own}:think_format_reward")
    right, wrong = "<think>2 + 2 = 4</think>4", "4"
    prompt: Any = [{"role": "user", "content": "2 + 2?"}]
    verdicts = verifier.verify([Attempt(prompt=prompt, response=text) for text in (right, wrong)])
    assert [v.score for v in verdicts] == [1.0, 0.0]
