"""One of several processes of test_distributed: trains each case for some steps and writes what it ended with.

    python rank.py FOLDER CASES

Its place among the others comes from torchrun's environment; without one it is alone.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from reasoning.cli.ending import end
from reasoning.train.checkpoint import load_checkpoint, save_checkpoint
from reasoning.train.distributed import join, leave, whole
from reasoning.train.learner import Learner
from reasoning.train.objective import objective
from reasoning.train.policy import new_value_head, open_policy
from reasoning.train.rows import Row

STEPS = 3
CASES = {
    "whole": {},
    "kl": {"kl": "k3", "kl_weight": 0.1, "entropy_weight": 0.01},
    "corrected": {"mismatch": "token_truncate", "packed": False},  # through the model's own modules
    "critic": {"objective": "ppo"},
    "adapter": {"lora_rank": 4, "kl": "k3", "kl_weight": 0.1},
    "recomputed": {"recompute": True},
    "muon": {"optimizer": "muon"},
    "bfloat16": {"dtype": "bfloat16"},
    "mixed": {"dtype": "mixed"},
}


def make_model():
    config = Qwen3Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).eval()


def make_rows(step):
    """Some with a prompt in common, some not, of unlike length; now and then fewer than there are ranks."""
    generator = torch.Generator().manual_seed(step)
    rows = []
    for i in range((11, 1, 6)[step % 3]):
        prompt = tuple(range(4, 24)) if i % 3 else tuple(range(30, 34 + i))
        length = int(torch.randint(1, 15, (1,), generator=generator))
        ids = tuple(torch.randint(4, 60, (length,), generator=generator).tolist())
        noise = (-2.0 + 0.3 * torch.randn(length, generator=generator)).tolist()
        advantage = float(torch.randn(1, generator=generator))
        rows.append(
            Row(
                prompt,
                ids,
                advantage,
                old_logprobs=tuple(noise),
                token_advantages=(advantage,) * length,
                old_values=(0.1,) * length,
                returns=(0.5,) * length,
            )
        )
    return rows


def open_case(name, ranks, sharded):
    given = dict(CASES[name])
    goal = objective(
        given.pop("objective", "grpo"),
        **{k: given.pop(k) for k in list(given) if k.startswith(("kl", "entropy", "mismatch"))},
    )
    optimizer = given.pop("optimizer", "adamw")
    model = make_model()
    if given.get("dtype") == "bfloat16":
        model.to(torch.bfloat16)
    policy = open_policy(
        model,
        needs_reference=goal.needs_reference,
        value_head=new_value_head(model) if goal.critic else None,
        ranks=ranks,
        sharded=sharded,
        **given,
    )
    return goal, policy, Learner(policy, goal, lr=1e-2, optimizer=optimizer, micro_tokens=70)


def run(folder, name, ranks, sharded):
    """Train, beside a second learner that is made anew from a checkpoint before the last step."""
    goal, policy, learner = open_case(name, ranks, sharded)
    figures = []
    kind = "fsdp" if sharded else "ddp"
    for step in range(STEPS):
        if step == STEPS - 1:
            where = folder / f"{name}-{kind}-{ranks.size}"
            save_checkpoint(where, step, learner.trained(), learner.optimizers, {}, write=ranks.first)
            ranks.wait()
        rows = make_rows(step)
        if goal.corrects:
            rows = learner.with_own_logprobs(rows)
        figures.append(learner.step(rows).metrics)
    _, _, second = open_case(name, ranks, sharded)
    assert load_checkpoint(where, second.trained(), second.optimizers) == (STEPS - 1, {})
    second.masters.deliver()
    rows = make_rows(STEPS - 1)
    if goal.corrects:
        rows = second.with_own_logprobs(rows)
    second.step(rows)
    found = {n: whole(p).detach() for n, p in learner.trained().items()}
    again = {n: whole(p).detach() for n, p in second.trained().items()}
    resumed = all(torch.equal(found[n], again[n]) for n in found)
    policy.deliver()
    found |= {f"sampler.{n}": p.detach() for n, p in policy.sampler.named_parameters()}
    label = f"{name}-{kind}-{ranks.size}-{ranks.rank}"
    save_file({n: t.contiguous().clone() for n, t in found.items()}, folder / f"{label}.safetensors")
    (folder / f"{label}.json").write_text(json.dumps({"metrics": figures, "resumed": resumed}))


def main(folder, cases):
    torch.set_num_threads(1)
    ranks, _ = join("cpu")
    for case in cases.split(","):
        name, _, kind = case.partition(":")
        run(Path(folder), name, ranks, kind == "fsdp")
    leave(ranks)
    end(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
