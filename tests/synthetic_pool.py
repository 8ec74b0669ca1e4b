"""A pool that looks like a finished run, made from a seed: three models, greedy and sampled chains,
verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reasoning.flops import ModelShape
from reasoning.pool import Pool
from reasoning.records import Chain, Cost, Problem, Sampling, chain_key
from verifiers.base import Verdict

SHAPE = ModelShape(
    parameters=610_000,
    hidden=128,
    heads=4,
    kv_heads=2,
    head_dim=32,
    value_head_dim=32,
    vocab=184,
    windows=(0, 0, 0),
)
NAMES = ("Gus", "Leo", "Ann", "Mia", "Ida", "Tom")

# model -> (mean of a chain being right on the easiest level in logits, tokens per step, training FLOPs)
MODELS = {
    "base@0": (0.6, 6, 3.0e11),
    "expert_iteration@5": (2.1, 9, 2.4e12),
    "grpo@24": (2.6, 9, 4.1e12),
}


def synthetic_pool(
    path: Path, problems: int = 60, chains: int = 16, seed: int = 0, models=tuple(MODELS)
) -> Pool:
    """Fill and return a pool at ``path``: verdicts of "numeric" (oracle) and "learned" (not one)."""
    rng = np.random.default_rng(seed)
    pool = Pool.open(path)
    asked = [_problem(rng, number) for number in range(problems)]
    pool.add_problems(asked)
    hard = rng.normal(0, 1.2, problems)
    for model in models:
        skill, pace, training = MODELS[model]
        pool.add_model(
            model,
            {
                "shape": SHAPE.to_json(),
                "training": {
                    "flops": training,
                    "shared_flops": 0.0 if model.startswith("base") else MODELS["base@0"][2],
                },
            },
        )
        drawn, numeric, learned = [], {}, {}
        for problem, trouble in zip(asked, hard, strict=True):
            steps = problem.metadata["difficulty"]
            logit = skill - trouble - 0.55 * (steps - 2)
            rate = 1 / (1 + np.exp(-logit))
            looks = rng.normal(0, 1.3, 100)  # how right each answer seems to the learned verifier
            near = [int(problem.reference) + d for d in rng.integers(1, 9, 4)]
            for sampling, count in ((Sampling(temperature=0.0), 1), (Sampling(), chains)):
                for index in range(count):
                    greedy_rate = float(logit > -0.3) if sampling.greedy else rate
                    right = rng.random() < greedy_rate
                    answer = (
                        int(problem.reference) if right else int(rng.choice(near, p=[0.4, 0.3, 0.2, 0.1]))
                    )
                    chain = _chain(rng, model, problem, sampling, index, answer, steps, pace)
                    drawn.append(chain)
                    said = None if chain.truncated else str(answer)
                    score = None if index == 3 and trouble > 2.2 else float(right and said is not None)
                    numeric[chain.key] = Verdict(score, answer=said, status="ok" if said else "no_answer")
                    belief = 1 / (
                        1 + np.exp(-(0.8 * (2 * right - 1) + looks[answer % 100] + rng.normal(0, 1.0)))
                    )
                    flops = SHAPE.score_flops(len(chain.prompt_token_ids) + len(chain.token_ids))
                    learned[chain.key] = Verdict(round(float(belief), 6), flops=flops)
        pool.append(drawn)
        pool.add_verdicts("numeric", numeric, oracle=True)
        pool.add_verdicts("learned", learned, oracle=False)
    return pool


def _problem(rng: np.random.Generator, number: int) -> Problem:
    steps = int(rng.integers(2, 6))
    first, total = str(rng.choice(NAMES)), int(rng.integers(2, 9))
    question = f"{first} has {total} toys."
    for _ in range(steps):
        more = int(rng.integers(1, 9))
        total += more
        question += f" {rng.choice(NAMES)} has {more} more toys than the one before."
    question += f" How many toys does the last one have? ({number})"
    return Problem.make(f"Q: {question}\nA:", str(total), "word", {"question": question, "difficulty": steps})


def _chain(rng, model, problem, sampling, index, answer, steps, pace) -> Chain:
    lines = " ".join(f"{NAMES[i % 6]} has {i + 2}+{i + 1}={2 * i + 3}." for i in range(steps))
    cut = not sampling.greedy and rng.random() < 0.02
    text = lines if cut else f"{lines} The answer is {answer}."
    if index == 0 and problem.metadata["difficulty"] == 5:
        text += " <script>alert('chains are untrusted')</script> & <b>so on</b>"
    length = int(steps * pace + rng.integers(4, 9))
    prompt = 12 * steps + 14
    key = chain_key(model, sampling, problem.id, problem.prompt, index)
    return Chain(
        problem_id=problem.id,
        index=index,
        text=text,
        token_ids=tuple(range(2, 2 + length)),
        prompt_token_ids=tuple(range(prompt)),
        finish_reason="length" if cut else "stop",
        model=model,
        sampling=sampling,
        key=key,
        cost=Cost(prompt_tokens=prompt if index == 0 else 0, output_tokens=length, seconds=rng.random()),
    )
