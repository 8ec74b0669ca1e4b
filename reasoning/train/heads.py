"""What a fit reads from a model: features of chains for a logistic regression, and hidden states for a head that was
tuned with the model. What features are is in `verifiers.learned`; tuning is in `scorer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasoning.flops import ModelShape
from reasoning.progress import Progress
from reasoning.train.scorer import new_head
from verifiers.learned import Floats, Reader, features

new_value_head = new_head
"""A critic's head is a scorer's."""


@dataclass(frozen=True, slots=True)
class Example:
    """A judged response: label 1.0 right (or chosen), 0.0 wrong (or rejected)."""

    problem_id: str
    prompt: str
    response: str
    label: float


@dataclass(frozen=True, slots=True)
class Text:
    """A response to a prompt and the places in it that are to be read."""

    prompt: str
    ids: tuple[int, ...]
    places: tuple[int, ...]


def labels_of(examples: Sequence[Example]) -> Floats:
    return np.array([e.label for e in examples])


def by_prompt(prompts: Sequence[str]) -> list[list[int]]:
    """Indices of equal prompts together."""
    groups: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    return list(groups.values())


def featurise(
    reader: Reader, examples: Sequence[Example], shape: ModelShape, progress: Progress | None, what: str
) -> tuple[Floats, tuple[int, float]]:
    """(N, features) and (tokens, FLOPs) of reading them."""
    texts = [Text(e.prompt, tuple(reader.encode_response(e.response)), ()) for e in examples]
    read, spent = _read_all(reader, texts, shape, False, progress, what)
    return np.stack([features(*pair) for pair in read]), spent


def states(
    reader: Reader, texts: Sequence[Text], shape: ModelShape, progress: Progress | None = None, what: str = ""
) -> tuple[list[Floats], tuple[int, float]]:
    """The last hidden states (places, H) of each text, and (tokens, FLOPs) of reading them."""
    return _read_all(reader, texts, shape, True, progress, what)


def _read_all(
    reader: Reader,
    texts: Sequence[Text],
    shape: ModelShape,
    hidden: bool,
    progress: Progress | None,
    what: str,
) -> tuple[list[Any], tuple[int, float]]:
    out: list[Any] = [None] * len(texts)
    tokens, flops, done = 0, 0.0, 0
    for group in by_prompt([text.prompt for text in texts]):
        prompt = reader.encode_prompt(texts[group[0]].prompt)
        responses = [list(texts[i].ids) for i in group]
        places = [texts[i].places for i in group] if hidden else None
        for i, read in zip(group, reader.read(prompt, responses, places), strict=True):
            out[i] = read
        lengths = np.array([len(prompt) + len(ids) for ids in responses])
        tokens += int(lengths.sum())
        flops += float(np.sum(shape.score_flops(lengths)))
        done += len(group)
        if progress:
            progress.update(done=done, total=len(texts), note=what)
    return out, (tokens, flops)


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
