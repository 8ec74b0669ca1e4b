"""Tokens per second of the embedded engine beside Hugging Face `generate(num_return_sequences=...)`.

    python -m evals.bench_sampling [--rounds 5] [--threads 2] [--quick]

Both sample the same number of chains of the same prompts from the same random-weight model of the demo's shape,
at the same number of rows, temperature 1, no truncation; the engine also returns log-probabilities, which
`generate` is not asked for. Rounds are interleaved: engine, peer, engine, peer, ... Only tokens up to and with
the end of a chain count. Cases:

    fixed    no end token: every chain has exactly 50 tokens
    ragged   an end token has a chance of about 1 in 46 each step, at most 128 tokens; more chains than rows

Single times depend on the machine and on what else runs there; the ratio within a round is what counts.
`evals.bench_engines` compares with vLLM too, and with a larger model.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from reasoning.engines import Engine
from reasoning.engines.transformers import TransformersEngine
from reasoning.records import Cost, Draw, Problem, Sampling

VOCAB, PAD = 184, 183


@dataclass(frozen=True)
class Case:
    name: str
    prompts: int
    chains: int  # of each prompt
    rows: int  # at once
    new_tokens: int
    end_ids: tuple[int, ...]


CASES = (
    Case("fixed, groups of 8", 64, 8, 512, 50, ()),
    Case("fixed, groups of 64", 8, 64, 512, 50, ()),
    Case("ragged, groups of 8", 192, 8, 512, 128, (1, 2, 3, 4)),
    Case("ragged, groups of 64", 24, 64, 512, 128, (1, 2, 3, 4)),
    Case("fixed, 64 rows", 8, 8, 64, 50, ()),
)


def build_tokenizer(vocab: int = VOCAB) -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(vocab - 1)} | {"<pad>": vocab - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="w0", padding_side="left"
    )


def build_model(end_ids: tuple[int, ...]) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    model = Qwen3ForCausalLM(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=list(end_ids) or None, pad_token_id=PAD)
    return model


def build_prompts(count: int) -> list[str]:
    """Prompts of 24 to 56 words."""
    generator = torch.Generator().manual_seed(1)
    out = []
    for _ in range(count):
        length = int(torch.randint(24, 57, (1,), generator=generator))
        words = torch.randint(5, VOCAB - 1, (length,), generator=generator).tolist()
        out.append(" ".join(f"w{word}" for word in words))
    return out


def run_engine(engine: Engine, prompts: list[str], case: Case, seed: int) -> tuple[int, float, Cost]:
    sampling = Sampling(max_new_tokens=case.new_tokens, seed=seed)
    draws = [Draw(Problem.make(p, None), sampling, tuple(range(case.chains))) for p in prompts]
    start = time.perf_counter()
    chains = list(engine.generate(draws))
    seconds = time.perf_counter() - start
    cost = sum((chain.cost for chain in chains), Cost())
    return cost.output_tokens, seconds, cost


def run_peer(model, tokenizer, prompts: list[str], case: Case, seed: int) -> tuple[int, float]:
    torch.manual_seed(seed)
    at_once = case.rows // case.chains
    tokens = 0
    start = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(prompts), at_once):
            batch = tokenizer(prompts[first : first + at_once], return_tensors="pt", padding=True)
            batch = batch.to(model.device)
            out = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=case.new_tokens,
                num_return_sequences=case.chains,
            )
            new = out[:, batch["input_ids"].shape[1] :]
            if case.end_ids:
                ends = torch.isin(new, torch.tensor(case.end_ids, device=new.device))
                ended = ends.cumsum(1)
                tokens += int(((ended == 0) | ((ended == 1) & ends)).sum())
            else:
                tokens += new.numel()
    return tokens, time.perf_counter() - start


def product_flops_per_second(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """What the machine's matrix product reaches, 2048 cubed (8192 on a GPU), best of 5."""
    size = 2048 if device == "cpu" else 8192
    a = torch.randn(size, size).to(device, dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, a)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--quick", action="store_true", help="first case only, one round")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{processor()}, {os.cpu_count()} cores, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}"
    )
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, float32, 0.6 M parameters")
    limit = product_flops_per_second()
    print(f"matrix product {limit / 1e9:.0f} GFLOP/s\n")
    print(f"{'case':22}{'rows':>5}  {'engine tok/s':26}{'generate tok/s':26}{'ratio':20}share of product")
    tokenizer = build_tokenizer()
    for case in CASES[:1] if arguments.quick else CASES:
        model, prompts = build_model(case.end_ids), build_prompts(case.prompts)
        engine = TransformersEngine(model, tokenizer, name="bench", version="0", max_rows=case.rows)
        run_engine(engine, prompts, case, 0)
        run_peer(model, tokenizer, prompts[: max(1, case.rows // case.chains)], case, 0)
        ours, theirs, shares = [], [], []
        for seed in range(1, 2 if arguments.quick else arguments.rounds + 1):
            tokens, seconds, cost = run_engine(engine, prompts, case, seed)
            ours.append(tokens / seconds)
            shares.append(100 * cost.flops / seconds / limit)
            tokens, seconds = run_peer(model, tokenizer, prompts, case, seed)
            theirs.append(tokens / seconds)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(
            f"{case.name:22}{case.rows:>5}  {spread(ours, ',.0f'):26}{spread(theirs, ',.0f'):26}"
            f"{spread(ratios, '.2f'):20}{spread(shares, '.0f')}%"
        )
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
