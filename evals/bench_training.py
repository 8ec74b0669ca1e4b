"""GRPO steps beside TRL's GRPOTrainer: the same weights, tokenizer, optimizer, precision and reward, step by step in
turn in one process.

    python -m evals.bench_training [--regimes A,B,C,D,E,F] [--steps 5] [--threads 2]

Before anything is timed, both compute the gradient of one batch that TRL drew, and must agree to 1e-5. A whole step
is drawing, judging, learning. Ratios are firm, single times are not. Needs TRL (extra: bench).

A  fixed lengths: 16 groups of 8, 64 tokens each        D  as A, half of the groups without a reward to learn from
B  ragged lengths, up to 256 tokens                     E  a vocabulary of 32,768
C  a prompt of 512 tokens shared by 16 chains           F  the training phase alone, on the chains that TRL drew in A
"""

from __future__ import annotations

import argparse
import copy
import gc
import math
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from typing import Any

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


@dataclass(frozen=True)
class Regime:
    """groups x chains a step; prompt and completion lengths in tokens. ragged: chains end by chance. dead: share of
    groups in which every chain earns the same."""

    title: str
    groups: int = 16
    chains: int = 8
    prompt: int = 24
    completion: int = 64
    vocabulary: int = 192
    ragged: bool = False
    dead: float = 0.0
    training_only: bool = False


REGIMES = {
    "A": Regime("fixed lengths"),
    "B": Regime("ragged lengths", completion=256, ragged=True),
    "C": Regime("512-token prompt shared by 16", groups=4, chains=16, prompt=512),
    "D": Regime("half of the groups dead", dead=0.5),
    "E": Regime("vocabulary of 32,768", groups=8, vocabulary=32768),
    "F": Regime("training phase alone", training_only=True),
}
WANTED = {"A": 1.3, "B": 3.0, "C": 3.0, "D": 2.5, "E": 2.0, "F": 1.2}
LR = 1e-6


def make_model(regime: Regime, seed: int = 0) -> tuple[Any, Any]:
    """The demo's shape with random weights, and a tokenizer of one character a token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    letters = [chr(0x4E00 + i) for i in range(regime.vocabulary - 2)]
    table = {"<pad>": 0, "<eos>": 1} | {c: i + 2 for i, c in enumerate(letters)}
    backend = Tokenizer(models.WordLevel(table, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    config = Qwen3Config(
        vocab_size=regime.vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        head = model.lm_head.weight
        if (
            not regime.ragged
        ):  # the end gets logit 0 beside others spread over several units: it hardly ever comes
            head.mul_(20.0)
            head[1] = 0.0
        head[0] = 0.0
    return model, tokenizer


def prompts_of(regime: Regime, steps: int) -> list[str]:
    rng = random.Random(0)
    count = regime.groups * steps
    return ["".join(chr(0x4E00 + rng.randrange(150)) for _ in range(regime.prompt)) for _ in range(count)]


def reward_of(regime: Regime) -> Any:
    """1 where the completion holds an even number of low characters; of a dead group always 0."""

    def score(prompt: str, completion: str) -> float:
        if regime.dead and (ord(prompt[0]) % 100) / 100 < regime.dead:
            return 0.0
        return float(sum(ord(c) % 3 == 0 for c in completion) % 2 == 0)

    return score


class TRL:
    """Its trainer, held between two steps by a callback, so that ours can run there."""

    def __init__(self, regime: Regime, steps: int, folder: str):
        from datasets import Dataset
        from transformers import PrinterCallback, TrainerCallback
        from trl import GRPOConfig, GRPOTrainer

        model, tokenizer = make_model(regime)
        score = reward_of(regime)

        def reward(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
            return [score(p, c) for p, c in zip(prompts, completions, strict=True)]

        batch = regime.groups * regime.chains
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=batch,
            num_generations=regime.chains,
            max_completion_length=regime.completion,
            max_steps=steps,
            learning_rate=LR,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            loss_type="grpo",
            beta=0.0,
            temperature=1.0,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            use_cpu=not _cuda(),
            bf16=False,
            disable_tqdm=True,
            gradient_checkpointing=False,
            disable_dropout=True,
            shuffle_dataset=False,
        )
        outer = self

        class Turn(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                outer.begun = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                outer.after(time.perf_counter() - outer.begun)

        self.trainer: Any = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=[reward],
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": p} for p in prompts_of(regime, steps + 1)]),
            callbacks=[Turn()],
        )
        self.trainer.remove_callback(PrinterCallback)
        inner = self.trainer._generate_and_score_completions
        self.batches: list[Any] = []
        self.training_seconds: list[float] = []

        def spy(inputs: Any) -> Any:
            out = inner(inputs)
            self.batches.append(copy.copy(out))
            self.drawn = time.perf_counter()
            return out

        self.trainer._generate_and_score_completions = spy
        self.after: Any = lambda seconds: None
        self.begun = self.drawn = 0.0

    def gradient(self, batch: Any) -> dict[str, Any]:
        model = self.trainer.model
        model.zero_grad(set_to_none=True)
        self.trainer.compute_loss(model, batch).backward()
        found = {
            n.removeprefix("module."): p.grad.clone()
            for n, p in model.named_parameters()
            if p.grad is not None
        }
        model.zero_grad(set_to_none=True)
        return found


class Ours:
    """The product's own path: roll-outs through a pool, advantages, learner."""

    def __init__(self, regime: Regime, steps: int, folder: str):
        from reasoning.budget import Ledger
        from reasoning.engines.transformers import TransformersEngine
        from reasoning.pool import Pool
        from reasoning.records import Problem
        from reasoning.train.learner import Learner
        from reasoning.train.objective import objective
        from reasoning.train.options import TrainOptions
        from reasoning.train.rollouts import ModelSource
        from verifiers import Verdict

        model, tokenizer = make_model(regime)
        if _cuda():
            model.cuda()
        score = reward_of(regime)

        class Reward:
            name, oracle = "reward", False

            def verify(self, attempts: Any) -> list[Any]:
                return [Verdict(score(a.prompt, a.response)) for a in attempts]

        self.goal = objective("grpo")
        options = TrainOptions(
            run=folder,
            model="",
            problems_per_step=regime.groups,
            chains_per_problem=regime.chains,
            max_new_tokens=regime.completion,
        )
        self.engine = TransformersEngine(model, tokenizer, name="bench", version="0", chat="no")
        self.learner = Learner(model, self.goal, lr=LR, max_new_tokens=regime.completion)
        self.pool, self.ledger = Pool.open(folder), Ledger(path=folder)
        problems = [Problem.make(p, None, "bench") for p in prompts_of(regime, steps + 1)]
        self.source = ModelSource(options, self.goal, problems, self.engine, Reward(), self.pool, self.ledger)
        self.count = 0

    def step(self) -> float:
        from reasoning.train.assign import assign

        begun = time.perf_counter()
        data = self.source.draw(self.count)
        self.learner.step(assign(self.goal, data.groups, self.learner), fresh=True)
        self.count += 1
        self.engine.set_version(str(self.count))
        self.engine.refresh()
        self.tokens = data.output_tokens
        return time.perf_counter() - begun

    def close(self) -> None:
        self.pool.close()
        self.ledger.close()


def rows_of(batch: Any) -> list[Any]:
    """TRL's padded batch as rows; its old log-probabilities are those of the forward itself, as TRL takes them."""
    from reasoning.train.rows import Row

    rows = []
    for i in range(len(batch["prompt_ids"])):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
        ids = batch["completion_ids"][i][batch["completion_mask"][i].bool()].tolist()
        rows.append(Row(tuple(prompt), tuple(ids), float(batch["advantages"][i])))
    return rows


def check_agreement(trl: TRL, ours: Ours, batch: Any) -> float:
    """Relative difference of the two gradients of one batch. Raises SystemExit past 1e-5."""
    theirs = trl.gradient(batch)
    ours.learner.model.zero_grad(set_to_none=True)
    ours.learner.gradients(rows_of(batch))
    mine = {n: p.grad for n, p in ours.learner.model.named_parameters() if p.grad is not None}
    gap = sum(float((theirs[n] - mine[n]).square().sum()) for n in theirs) ** 0.5
    size = sum(float(theirs[n].square().sum()) for n in theirs) ** 0.5
    ours.learner.model.zero_grad(set_to_none=True)
    if not gap / size < 1e-5:
        raise SystemExit(f"The gradients differ by {gap / size:.2g} of their size: nothing is timed.")
    return gap / size


def run_regime(name: str, steps: int) -> None:
    regime = REGIMES[name]
    times: list[tuple[float, float]] = []
    agreement = math.nan
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        trl, ours = TRL(regime, steps + 1, one), Ours(regime, steps + 1, two)
        lengths: list[float] = []

        def after(seconds: float) -> None:
            nonlocal agreement
            batch = trl.batches.pop()
            if math.isnan(agreement):  # the first step of each warms up and is not timed
                # TRL has stepped already: compare where both began, on weights made anew.
                fresh, _ = make_model(regime)
                for net in (trl.trainer.model, ours.learner.model):
                    net.load_state_dict(fresh.state_dict())
                trl.trainer.model.eval()
                agreement = check_agreement(trl, ours, batch)
                trl.trainer.model.train()
                if not regime.training_only:
                    ours.step()
                return
            if regime.training_only:
                seconds = time.perf_counter() - trl.drawn
                rows = rows_of(batch)
                begun = time.perf_counter()
                ours.learner.step(rows)
                mine = time.perf_counter() - begun
            else:
                mine = ours.step()
            lengths.append(float(batch["completion_mask"].sum(1).float().mean()))
            times.append((seconds, mine))

        trl.after = after
        trl.trainer.train()
        ours.close()
    theirs, mine = (statistics.median(t) for t in zip(*times, strict=True))
    ratios = sorted(a / b for a, b in times)
    print(
        f"{name}  {regime.title:32s} TRL {theirs:7.3f} s   ours {mine:7.3f} s   "
        f"ratio {statistics.median(ratios):5.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})   asked {WANTED[name]}   "
        f"{statistics.mean(lengths):.0f} tokens a chain   gradients agree to {agreement:.0e}",
        flush=True,
    )
    gc.collect()


def peak_memory(name: str) -> None:
    """Peak resident memory of the training phase alone, each side in a process of its own."""
    import subprocess
    import sys

    found = {}
    for side in ("trl", "ours"):
        code = f"from evals.bench_training import alone; alone({name!r}, {side!r})"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        found[side] = int(out.split()[-1])
    print(
        f"   peak memory of one training phase above what was there before it: TRL {found['trl']} MiB, ours "
        f"{found['ours']} MiB ({found['ours'] / max(1, found['trl']):.2f} x)",
        flush=True,
    )


def alone(name: str, side: str) -> None:
    """One training phase on made-up chains; prints how far the peak of resident memory rose, in MiB."""
    import resource

    import torch

    regime = REGIMES[name]
    rng = random.Random(0)
    b, p, c = regime.groups * regime.chains, regime.prompt, regime.completion
    ids = torch.tensor([[rng.randrange(2, 150) for _ in range(p + c)] for _ in range(b)])
    batch = {
        "prompt_ids": ids[:, :p],
        "prompt_mask": torch.ones(b, p, dtype=torch.long),
        "completion_ids": ids[:, p:],
        "completion_mask": torch.ones(b, c, dtype=torch.long),
        "advantages": torch.tensor([rng.gauss(0, 1) for _ in range(b)]),
    }
    with tempfile.TemporaryDirectory() as folder:
        made: Any = TRL(regime, 1, folder) if side == "trl" else Ours(regime, 1, folder)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if side == "trl":
            made.gradient(batch)
        else:
            made.learner.gradients(rows_of(batch))
            made.close()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) // 1024)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regimes", default="A,B,C,D,E,F")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each, after one that is not")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's own choice")
    options = parser.parse_args()
    import torch
    import transformers
    import trl

    if options.threads:
        torch.set_num_threads(options.threads)
    device = (
        torch.cuda.get_device_name() if _cuda() else f"{os.cpu_count()} x {platform.processor() or 'CPU'}"
    )
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}, {device}, "
        f"{torch.get_num_threads()} threads, float32, {options.steps} steps each"
    )
    for name in options.regimes.split(","):
        run_regime(name, options.steps)
        if name == "E":
            peak_memory(name)


if __name__ == "__main__":
    main()
