"""The two kinds of head of a learned verifier, fitted: logistic regression on what a frozen model makes of a
chain, and a linear head trained together with the model. What they are made of is in `verifiers.learned`;
where the chains come from is in `reward`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reasoning.flops import ModelShape
from reasoning.progress import Progress
from reasoning.records import digest
from reasoning.train.optimizers import make_optimizers
from reasoning.train.rows import micro_batches
from verifiers.learned import Reader, features

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Example:
    """A verified chain: label 1.0 right, 0.0 wrong."""

    problem_id: str
    prompt: str
    response: str
    label: float


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Settings of `finetune`."""

    epochs: int
    lr: float
    optimizer: str
    batch: int
    seed: int


def labels_of(examples: Sequence[Example]) -> Floats:
    return np.array([e.label for e in examples])


def by_prompt(examples: Sequence[Example]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault(example.prompt, []).append(i)
    return list(groups.values())


def _read_all(
    reader: Reader,
    examples: Sequence[Example],
    shape: ModelShape,
    hidden: bool,
    progress: Progress | None,
    what: str,
) -> tuple[list[Any], tuple[int, float]]:
    out: list[Any] = [None] * len(examples)
    tokens, flops, done = 0, 0.0, 0
    for group in by_prompt(examples):
        encoded = [reader.encode(examples[i].prompt, examples[i].response) for i in group]
        for i, read in zip(
            group, reader.read(encoded[0][0], [ids for _, ids in encoded], hidden), strict=True
        ):
            out[i] = read
        lengths = [len(prompt) + len(ids) for prompt, ids in encoded]
        tokens += sum(lengths)
        flops += float(np.sum(shape.score_flops(np.array(lengths))))
        done += len(group)
        if progress:
            progress.update(done=done, total=len(examples), note=what)
    return out, (tokens, flops)


def featurise(
    reader: Reader, examples: Sequence[Example], shape: ModelShape, progress: Progress | None, what: str
) -> tuple[Floats, tuple[int, float]]:
    """(N, features) and (tokens, FLOPs) of reading them."""
    read, spent = _read_all(reader, examples, shape, False, progress, what)
    return np.stack([features(*pair) for pair in read]), spent


def states(
    reader: Reader, examples: Sequence[Example], shape: ModelShape
) -> tuple[Floats, tuple[int, float]]:
    """(N, H) last hidden states and (tokens, FLOPs) of reading them."""
    read, spent = _read_all(reader, examples, shape, True, None, "")
    return np.stack([state.cpu().numpy() for state in read]).astype(np.float64), spent


def logistic(x: Floats, y: Floats, penalty: float = 1.0) -> dict[str, Floats]:
    """Logistic regression by Newton's method on standardised features, L2 ``penalty`` on the weights (not on
    the bias). x: (N, D), y: (N,) of 0 and 1."""
    mean, scale = x.mean(0), x.std(0) + 1e-9
    z = np.hstack([(x - mean) / scale, np.ones((len(x), 1))])
    w = np.zeros(z.shape[1])
    ridge = np.full(len(w), penalty)
    ridge[-1] = 1e-9
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -40, 40)))
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z + np.diag(ridge), z.T @ (y - p) - ridge * w)
        w += step
        if np.abs(step).max() < 1e-10:
            break
    return {"mean": mean, "scale": scale, "weight": w[:-1], "bias": w[-1:]}


def finetune(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    options: FineTuning,
    shape: ModelShape,
    progress: Progress,
) -> tuple[dict[str, Floats], tuple[int, float]]:
    """Train ``model`` and a linear head on its last hidden state with binary cross-entropy (arXiv 2110.14168,
    outcome supervision). Returns the head and (tokens, FLOPs) spent."""
    device = next(model.parameters()).device
    reader = Reader(model, tokenizer)
    rows = []
    for example in examples:
        prompt, ids = reader.encode(example.prompt, example.response)
        rows.append(prompt + ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        head = torch.nn.Linear(model.config.hidden_size, 1).to(device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizers = make_optimizers(model, options.optimizer, options.lr, 0.0)
    optimizers.append(torch.optim.AdamW(head.parameters(), lr=options.lr * 10, weight_decay=0.0))
    steps = max(1, len(rows) // options.batch) * options.epochs
    order = [i for epoch in range(options.epochs) for i in shuffled(len(rows), options.seed, epoch)]
    tokens, flops = 0, 0.0
    model.train()
    for step in range(steps):
        batch = order[step * options.batch : (step + 1) * options.batch]
        lr_now = min(1.0, (step + 1) / 10) * (1 - step / steps)
        for optimizer, base in zip(
            optimizers, [options.lr] * (len(optimizers) - 1) + [options.lr * 10], strict=True
        ):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = base * lr_now
        for part in micro_batches([rows[i] for i in batch], 4096):
            chosen = [batch[i] for i in part]
            lengths = [len(rows[i]) for i in chosen]
            ids = torch.zeros(len(chosen), max(lengths), dtype=torch.long)
            for r, i in enumerate(chosen):
                ids[r, : lengths[r]] = torch.tensor(rows[i])
            hidden = model.get_decoder()(input_ids=ids.to(device), use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(chosen)), torch.tensor(lengths) - 1].float()
            labels = torch.tensor([examples[i].label for i in chosen], device=device, dtype=torch.float32)
            logits = head(last)[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, labels, reduction="sum"
            ) / len(batch)
            loss.backward()
            tokens += sum(lengths)
            flops += shape.training_flops(lengths)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        progress.update(done=step + 1, total=steps, note="fine-tune")
    weight = head.weight.detach().double().cpu().numpy()[0]
    bias = head.bias.detach().double().cpu().numpy()
    return {"mean": np.zeros_like(weight), "scale": np.ones_like(weight), "weight": weight, "bias": bias}, (
        tokens,
        flops,
    )


def new_value_head(model: Any) -> torch.nn.Linear:
    """A linear map from the last hidden state to a value, 0 at the start, on the model's device."""
    head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head.to(next(model.parameters()).device)


def shuffled(n: int, seed: int, epoch: int) -> list[int]:
    order = list(range(n))
    random.Random(digest("fit order", seed, epoch, length=32)).shuffle(order)
    return order
