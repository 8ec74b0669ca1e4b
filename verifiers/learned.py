"""A learned verifier: how likely is this response right, or preferred? It never sees the reference, so it can be
deployed: for best-of-n, for weighted votes, in search, and as a reward.

A folder holds a causal language model (an ordinary Hugging Face checkpoint), ``head.safetensors`` and
``verifier.json``. Four kinds share this format:

features    logistic regression on statistics of the model's own log-probabilities of the response (the model is
            left as it was)
finetuned   a linear head on the last hidden state of a model that was fine-tuned together with it
            (arXiv 2110.14168)
preference  the same, fitted on comparisons (Bradley-Terry, arXiv 2203.02155)
process     the same head at the end of each step (arXiv 2312.08935): `Verdict.steps`, and one score made of them

How one is fitted is not known here. Torch and transformers are imported when a verifier is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verifiers.base import Attempt, Verdict
from verifiers.errors import VerifierError
from verifiers.steps import AGGREGATES, STEPS, aggregate, split_steps

Floats = NDArray[np.float64]

FEATURES = (
    "mean_logprob",
    "lowest_logprob",
    "second_lowest_logprob",
    "lowest_group_of_4",
    "tail_mean_logprob",
    "sum_logprob",
    "mean_entropy",
    "highest_entropy",
    "share_below_half",
    "lowest_margin",
    "second_lowest_margin",
    "tokens_not_top",
    "log_length",
)
"""Statistics over a response's T tokens of three figures: the token's log-probability, the entropy of its
distribution, and its margin (its log-probability less that of the most likely token: 0 when it is that token).
The lowest group and the tail are the confidence measures of arXiv 2508.15260."""

KINDS = ("features", "finetuned", "preference", "process")

LARGEST_BATCH_TOKENS = 16384
FEWEST_ROWS = 16
"""Rows of a forward pass: matrix kernels give a row the same bits whatever its neighbours only from about this
size on, and the score of a response must not depend on what it was scored with."""


def features(
    logprobs: NDArray[np.float64], entropies: NDArray[np.float64], margins: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`FEATURES` of one response. logprobs, entropies, margins: (T,), T >= 1. Returns (len(FEATURES),)."""
    ordered, behind = np.sort(logprobs), np.sort(margins)
    width = min(4, len(logprobs))
    group = np.convolve(logprobs, np.ones(width) / width, mode="valid")
    return np.array(
        [
            logprobs.mean(),
            ordered[0],
            ordered[min(1, len(ordered) - 1)],
            group.min(),
            logprobs[-8:].mean(),
            logprobs.sum(),
            entropies.mean(),
            entropies.max(),
            (logprobs < np.log(0.5)).mean(),
            behind[0],
            behind[min(1, len(behind) - 1)],
            (margins < 0).sum(),
            np.log(len(logprobs)),
        ]
    )


@dataclass(frozen=True, slots=True)
class Card:
    """``verifier.json``. flops_per_token and flops_per_pair: reading T tokens costs per_token x T + per_pair x
    T(T+1)/2 (the second is attention). measured: figures on chains that were held out of the fit. steps,
    aggregate: of a process verifier, how a response is cut and its score made (see `verifiers.steps`)."""

    kind: str
    model: str
    flops_per_token: float
    flops_per_pair: float
    measured: dict[str, Any]
    steps: str = ""
    aggregate: str = ""

    def flops(self, tokens: int) -> float:
        return self.flops_per_token * tokens + self.flops_per_pair * tokens * (tokens + 1) / 2


class Reader:
    """Runs the language model over prompt and response. One forward per group of responses to one prompt: the
    prompt is read once, its keys and values are shared."""

    def __init__(self, model: Any, tokenizer: Any):
        self.model = model
        self.tokenizer = tokenizer
        self.device = next(model.parameters()).device

    def encode(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt (chat template applied where the tokenizer has one) and of the response with
        an end token."""
        return self.encode_prompt(prompt), self.encode_response(response)

    def encode_response(self, response: str) -> list[int]:
        ids = self._ids(response)
        end = self.tokenizer.eos_token_id
        return [*ids, end] if end is not None else ids

    def encode_steps(self, response: str, by: str) -> tuple[list[int], list[int]]:
        """Token ids of a response, each step encoded by itself, and the place of each step's last token: what is
        read of a step does not depend on the steps behind it."""
        ids: list[int] = []
        ends = []
        for step in split_steps(response, by):
            ids += self._ids(step)
            ends.append(max(len(ids) - 1, 0))
        return ids, ends

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, prompt: str) -> list[int]:
        if self.tokenizer.chat_template:
            message = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            prompt_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            prompt_ids = self.tokenizer(prompt)["input_ids"]
        return list(prompt_ids)

    def read(
        self, prompt_ids: list[int], responses: list[list[int]], places: Sequence[Sequence[int]] | None = None
    ) -> list[Any]:
        """For each response (log-probability, entropy, margin), float64 arrays (T,); or with ``places`` the last
        hidden states at those of its tokens, a float64 array (places, H)."""
        import torch
        from transformers import DynamicCache

        order = sorted(range(len(responses)), key=lambda i: len(responses[i]))
        found: list[Any] = [None] * len(responses)
        # The last prompt token is read together with the response: it predicts the response's first token.
        shared, last = prompt_ids[:-1], prompt_ids[-1]
        step = max(FEWEST_ROWS, LARGEST_BATCH_TOKENS // (len(prompt_ids) + len(responses[order[-1]]) + 1))
        with torch.inference_mode():
            for at in range(0, len(order), step):
                part = order[at : at + step]
                rows = max(FEWEST_ROWS, len(part))
                width = max(FEWEST_ROWS, 1 + max(len(responses[i]) for i in part))
                ids = torch.zeros(rows, width, dtype=torch.long)
                for r, i in enumerate(part):
                    ids[r, : len(responses[i]) + 1] = torch.tensor([last, *responses[i]])
                cache = DynamicCache()
                if shared:
                    first = torch.tensor([shared], device=self.device)
                    self.model.get_decoder()(input_ids=first, past_key_values=cache, use_cache=True)
                    cache.batch_repeat_interleave(rows)
                out = self.model.get_decoder()(
                    input_ids=ids.to(self.device), past_key_values=cache, use_cache=True
                ).last_hidden_state  # (rows, width, H)
                if places is not None:
                    for r, i in enumerate(part):
                        where = (
                            torch.tensor(places[i], device=self.device) + 1
                        )  # behind the last prompt token
                        found[i] = out[r, where].double().cpu().numpy()
                    continue
                logits = self.model.get_output_embeddings()(out).float()  # (rows, width, V)
                logprobs = torch.log_softmax(logits, -1)
                picked = (
                    logprobs[:, :-1]
                    .gather(-1, ids[:, 1:, None].to(self.device))[..., 0]
                    .double()
                    .cpu()
                    .numpy()
                )
                margin = picked - logprobs[:, :-1].amax(-1).double().cpu().numpy()
                entropy = -(logprobs.exp() * logprobs).sum(-1).double().cpu().numpy()
                for r, i in enumerate(part):
                    n = len(responses[i])
                    found[i] = (picked[r, :n], entropy[r, :n], margin[r, :n])
        return found


class Learned:
    """See the module. ``name`` is ``learned:FOLDER:version=DIGEST``, so that verdicts of an earlier fit are told
    apart."""

    oracle = False

    def __init__(self, folder: str, card: Card, reader: Reader, head: dict[str, Any]):
        self.name = f"learned:{folder}"
        self.card = card
        self.reader = reader
        self.head = head

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        """Score = probability that the response is right, to six decimals. Status "no_answer" for an empty
        response or one that is not text."""
        verdicts: list[Verdict | None] = [None] * len(attempts)
        groups: dict[str, dict[str, list[int]]] = {}
        for i, attempt in enumerate(attempts):
            if (
                isinstance(attempt.response, str)
                and isinstance(attempt.prompt, str)
                and attempt.response.strip()
            ):
                groups.setdefault(attempt.prompt, {}).setdefault(attempt.response, []).append(i)
            else:
                verdicts[i] = Verdict(0.0, None, "no_answer", "learned", "the response is empty or not text")
        for prompt, responses in groups.items():
            prompt_ids = self.reader.encode_prompt(prompt)
            encoded = [self._encode(response) for response in responses]
            scores = self._scores(prompt_ids, encoded)
            for (ids, _), where, (score, steps) in zip(encoded, responses.values(), scores, strict=True):
                tokens = len(prompt_ids) + len(ids)
                verdict = Verdict(
                    round(score, 6),
                    rule=self.card.kind,
                    steps=None if steps is None else tuple(round(float(p), 6) for p in steps),
                    scored_tokens=tokens,
                    flops=self.card.flops(tokens),
                )
                for i in where:
                    verdicts[i] = verdict
        return [v for v in verdicts if v is not None]

    def worst_case(self, attempts: Sequence[Attempt]) -> tuple[int, float]:
        """(tokens read, FLOPs) that judging ``attempts`` can cost at most."""
        tokens = [
            len(self.reader.encode_prompt(attempt.prompt)) + len(self._encode(attempt.response)[0])
            for attempt in attempts
            if isinstance(attempt.response, str) and isinstance(attempt.prompt, str)
        ]
        return sum(tokens), sum(self.card.flops(n) for n in tokens)

    def _encode(self, response: str) -> tuple[list[int], list[int]]:
        """Ids of the response, and the places in it that are judged."""
        if self.card.kind == "process":
            return self.reader.encode_steps(response, self.card.steps)
        ids = self.reader.encode_response(response)
        return ids, [len(ids) - 1]

    def _scores(
        self, prompt_ids: list[int], encoded: list[tuple[list[int], list[int]]]
    ) -> list[tuple[float, NDArray[np.float64] | None]]:
        """(score, scores of the steps or None) of each response."""
        responses = [ids for ids, _ in encoded]
        if self.card.kind == "features":
            x = np.stack([features(*pair) for pair in self.reader.read(prompt_ids, responses)])
            return [(float(p), None) for p in probability(x, self.head)]
        states = self.reader.read(prompt_ids, responses, [at for _, at in encoded])
        found = [probability(x, self.head) for x in states]
        if self.card.kind == "process":
            return [(chain_score(p, self.card.aggregate, self.head), p) for p in found]
        return [(float(p[0]), None) for p in found]


def probability(x: NDArray[np.float64], head: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """sigmoid of `logits`. x: (N, D) -> (N,)."""
    return sigmoid(logits(x, head))


def logits(x: NDArray[np.float64], head: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """((x - mean) / scale) . weight + bias, each row by itself. x: (N, D) -> (N,)."""
    return (((x - head["mean"]) / head["scale"]) * head["weight"]).sum(-1) + head["bias"][0]


def sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -40, 40)))


def chain_logit(steps: NDArray[np.float64], how: str) -> float:
    """The log-odds of the aggregate of step scores (n,)."""
    p = min(max(aggregate(steps.tolist(), how), 1e-9), 1 - 1e-9)
    return float(np.log(p) - np.log1p(-p))


def chain_score(steps: NDArray[np.float64], how: str, head: dict[str, NDArray[np.float64]]) -> float:
    """How likely a chain with these step scores is right: the aggregate, calibrated (a monotone map, slope and shift
    of its log-odds, ``head["chain"]``)."""
    slope, shift = head["chain"]
    return float(sigmoid(np.array(slope * chain_logit(steps, how) + shift)))


def save_learned(
    folder: Path, card: Card, head: dict[str, NDArray[np.float64]], model: Any, tokenizer: Any
) -> None:
    """Write a verifier's folder."""
    from safetensors.numpy import save_file

    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file(
        {name: np.ascontiguousarray(value) for name, value in head.items()}, folder / "head.safetensors"
    )
    (folder / "verifier.json").write_text(json.dumps(asdict(card), indent=1, sort_keys=True) + "\n")


def version_of(path: Path) -> str:
    """Digest of a fitted verifier: another fit in the same folder is another verifier."""
    content = (path / "head.safetensors").read_bytes() + (path / "verifier.json").read_bytes()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def open_learned(folder: str, version: str = "") -> Learned:
    """Open a verifier's folder; with ``version`` only that very fit. Raises VerifierError when it is not one."""
    path = Path(folder)
    if not (path / "verifier.json").is_file() or not (path / "head.safetensors").is_file():
        raise VerifierError(
            f"{folder!r} holds no learned verifier (verifier.json, head.safetensors). Fit one:  "
            f"reasoning fit {folder or 'FOLDER'} --model MODEL --pool RUN"
        )
    from safetensors import SafetensorError
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = version_of(path)
    if version and version != found:
        raise VerifierError(
            f"{folder!r} was fitted anew (now version {found}, not {version}): verify again with it."
        )
    try:
        card = Card(**json.loads((path / "verifier.json").read_text(encoding="utf-8")))
        head = load_file(path / "head.safetensors")
        width = len(FEATURES) if card.kind == "features" else None
        if card.kind not in KINDS or width not in (None, len(head["weight"])):
            raise ValueError(f"kind {card.kind!r} with {len(head['weight'])} weights")
        if card.kind == "process" and not (
            card.steps in STEPS and card.aggregate in AGGREGATES and len(head["chain"]) == 2
        ):
            raise ValueError(f"steps {card.steps!r}, aggregate {card.aggregate!r}")
    except (ValueError, TypeError, KeyError, SafetensorError) as e:
        raise VerifierError(f"{folder!r} is damaged ({e}): fit it again.") from e
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    model: Any = AutoModelForCausalLM.from_pretrained(
        path, trust_remote_code=False, use_safetensors=True, dtype="auto"
    )
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Learned(f"{folder}:version={found}", card, Reader(model.eval().to(device), tokenizer), head)
