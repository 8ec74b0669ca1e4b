"""The two sides of `bench_training`: TRL's GRPOTrainer and this toolkit's learner, on models with random weights that
are the same on both. Knows nothing of what is timed or printed.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasoning.budget import Ledger
from reasoning.engines.transformers import TransformersEngine
from reasoning.flops import ModelShape
from reasoning.pool import Pool
from reasoning.records import Problem
from reasoning.train.assemble import open_learner
from reasoning.train.assign import assign
from reasoning.train.learner import Learner
from reasoning.train.objective import objective
from reasoning.train.options import TrainOptions
from reasoning.train.rollouts import ModelSource
from reasoning.train.rows import Forward, Row, by_prompt, computed_tokens
from reasoning.train.sources import order_of
from reasoning.train.stream import Stream, Weighted
from verifiers import Verdict

LR = 1e-6
FIRST = 0x4E00  # the first character of the tokenizer: one character is one token
SURROGATES = range(0xD800, 0xE000)  # stand for no character

_DEMO = dict(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    tie_word_embeddings=False,
)
MODELS: dict[str, dict[str, Any]] = {
    "demo": _DEMO,
    "qwen3-0.6b": dict(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    ),
    # The same, shrunken: where the two gradients are compared in float32, and what a CPU can try the script on.
    "qwen3-small": dict(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
    ),
}


@dataclass(frozen=True)
class Regime:
    """groups x chains a step; prompt and completion lengths in tokens. ends: a chain ends with about this chance at
    each token. dead: share of groups in which every chain earns the same. forward: chains in one of TRL's forwards
    and backwards (0: the whole step's)."""

    title: str
    groups: int = 16
    chains: int = 8
    prompt: int = 24
    completion: int = 64
    vocabulary: int = 192
    ends: float = 0.0
    dead: float = 0.0
    training_only: bool = False
    forward: int = 0


def letter(i: int) -> str:
    """Character number ``i`` of the tokenizer."""
    code = FIRST + i
    return chr(code if code < SURROGATES.start else code + len(SURROGATES))


def make_model(name: str, regime: Regime, seed: int = 0) -> tuple[Any, Any]:
    """The shape ``name`` with random weights in float32, and a tokenizer of one character a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = regime.vocabulary
    table = {"<pad>": 0, "<eos>": 1} | {letter(i): i + 2 for i in range(vocabulary - 2)}
    backend = Tokenizer(models.WordLevel(table, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.Fuse()  # type: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    config = Qwen3Config(
        vocab_size=vocabulary,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        **MODELS[name],
    )
    torch.manual_seed(seed)
    model: Any = Qwen3ForCausalLM(config)
    # Random weights spread the next token about evenly, so a share of the vocabulary ends chains at that rate.
    ends = max(1, round(regime.ends * vocabulary))
    model.generation_config = GenerationConfig(eos_token_id=list(range(1, 1 + ends)), pad_token_id=0)
    with torch.no_grad():
        if not regime.ends and not config.tie_word_embeddings:
            # The end gets logit 0 beside others spread over several units: it hardly ever comes.
            model.lm_head.weight.mul_(20.0)
            model.lm_head.weight[1] = 0.0
    return model.to(device()), tokenizer


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def prompts_of(regime: Regime, steps: int) -> list[str]:
    """Prompts in the order in which they are asked. The first character says whether a group is dead: of each
    step's groups the same number is."""
    rng = random.Random(0)
    low = min(150, regime.vocabulary - 60)
    found = []
    for i in range(regime.groups * steps):
        dead = (i % regime.groups) < regime.dead * regime.groups
        tail = "".join(letter(rng.randrange(4, low)) for _ in range(regime.prompt - 1))
        found.append(letter(2 * rng.randrange(20) + (0 if dead else 1)) + tail)
    return found


def reward_of(regime: Regime) -> Callable[[str, str], float]:
    """The share of every third kind of character in the completion: hardly ever equal in a whole group; of a dead
    group always 0."""

    def score(prompt: str, completion: str) -> float:
        if regime.dead and (ord(prompt[0]) - FIRST) % 2 == 0:
            return 0.0
        return sum(ord(c) % 3 == 0 for c in completion) / max(1, len(completion))

    return score


@dataclass
class Phase:
    """seconds and CPU seconds (of all threads) of a phase, and the device memory that it took at most above what was
    there before (bytes; 0 on a CPU)."""

    seconds: float = 0.0
    cpu: float = 0.0
    peak: int = 0


class Watch:
    """A stopwatch: `lap` is the phase since the last one, or since `start`."""

    def start(self) -> None:
        wait()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.there = torch.cuda.memory_allocated()
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def lap(self) -> Phase:
        wait()
        found = Phase(time.perf_counter() - self.began, time.process_time() - self.cpu)
        if torch.cuda.is_available():
            found.peak = torch.cuda.max_memory_allocated() - self.there
        self.start()
        return found


class TRL:
    """Its trainer, held between two steps by a callback, so that ours can run there.

    after: called between two steps with the phases of the last one, drawing (with the rewards) and training.
    """

    def __init__(self, model_name: str, regime: Regime, steps: int, folder: str, low: bool = False):
        """low: products in bfloat16 (autocast), weights in float32."""
        from datasets import Dataset
        from transformers import PrinterCallback, TrainerCallback
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer

        model, tokenizer = make_model(model_name, regime)
        score = reward_of(regime)

        def reward(completions: list[str], prompts: list[str], **_: Any) -> Any:
            return [score(p, c) for p, c in zip(prompts, completions, strict=True)]

        batch = regime.groups * regime.chains
        self.forward = regime.forward or batch
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=self.forward,
            gradient_accumulation_steps=batch // self.forward,
            steps_per_generation=batch // self.forward,
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
            use_cpu=device() == "cpu",
            bf16=low,
            disable_tqdm=True,
            gradient_checkpointing=False,
            disable_dropout=True,
            shuffle_dataset=False,
        )
        watch = Watch()
        self.after: Callable[[Phase, Phase], None] = lambda drawing, training: None
        outer = self

        class Turn(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                watch.start()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                outer.after(outer.drawing, watch.lap())

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
        self.drawing = Phase()

        def spy(inputs: Any) -> Any:
            out = inner(inputs)
            self.batches.append(copy.copy(out))
            self.drawing = watch.lap()
            return out

        self.trainer._generate_and_score_completions = spy

    def gradient(self, batch: Any) -> dict[str, Any]:
        """Of the batch's loss, by parameter; as many rows at a time as in training."""
        model, training = self.trainer.model, self.trainer.model.training
        model.eval()  # no dropout either way; the loss is divided by steps of accumulation in training alone
        model.zero_grad(set_to_none=True)
        count = len(batch["prompt_ids"])
        for start in range(0, count, self.forward):
            part = {
                k: v[start : start + self.forward] for k, v in batch.items() if torch.is_tensor(v) and v.ndim
            }
            share = len(part["prompt_ids"]) / count
            (self.trainer.compute_loss(model, part) * share).backward()
        found = {
            n.removeprefix("module."): p.grad.detach().clone()
            for n, p in model.named_parameters()
            if p.grad is not None
        }
        model.zero_grad(set_to_none=True)
        model.train(training)
        return found


class Ours:
    """The product's own path: roll-outs through a pool, advantages, learner, weights delivered to the engine."""

    def __init__(self, model_name: str, regime: Regime, steps: int, folder: str, low: bool = False):
        """low: products in bfloat16 (autocast), weights in float32; the engine samples from a bfloat16 copy."""
        model, tokenizer = make_model(model_name, regime)
        score = reward_of(regime)

        class Reward:
            name, oracle = "reward", False

            def verify(self, attempts: Any) -> list[Any]:
                return [Verdict(score(a.prompt, a.response)) for a in attempts]

        self.goal = objective("grpo", overlong="judge")  # as TRL rewards chains that were cut
        options = TrainOptions(
            run=folder,
            model="",
            problems_per_step=regime.groups,
            chains_per_problem=regime.chains,
            max_new_tokens=regime.completion,
            lr=LR,
            dtype="mixed" if low else "float32",
        )
        engine = TransformersEngine(model, tokenizer, name="bench", version="0", chat="no")
        self.engine, self.learner = open_learner(options, self.goal, engine)
        self.pool, self.ledger = Pool.open(folder), Ledger(path=folder)
        prompts = prompts_of(regime, steps + 1)
        problems: list[Any] = [None] * len(prompts)
        for place, prompt in zip(order_of(len(prompts), 0, 0), prompts, strict=True):
            problems[place] = Problem.make(prompt, None, "bench")
        stream = Stream([Weighted("bench", 1.0, problems)], seed=0)
        shape = self.engine.shape
        assert shape is not None
        self.source = ModelSource(
            options,
            self.goal,
            stream,
            [Reward()],
            self.engine,
            self.pool,
            self.ledger,
            shape.training_flops,
        )
        self.count = 0
        self.rows: Sequence[Row] = ()

    def step(self) -> tuple[Phase, Phase]:
        """One step; the phases of drawing (with the rewards) and training. Its rows are in ``rows``."""
        watch = Watch()
        watch.start()
        data = self.source.draw(self.count)
        drawing = watch.lap()
        self.rows = assign(self.goal, data.groups, self.learner)
        self.learn(self.rows, fresh=True)
        return drawing, watch.lap()

    def learn(self, rows: Sequence[Row], fresh: bool = False) -> None:
        self.learner.step(rows, fresh=fresh)
        self.count += 1
        self.learner.policy.deliver()
        self.engine.set_version(str(self.count))
        self.engine.refresh()

    def close(self) -> None:
        self.pool.close()
        self.ledger.close()


def rows_of(batch: Any) -> list[Row]:
    """TRL's padded batch as rows; its old log-probabilities are those of the forward itself, as TRL takes them."""
    rows = []
    prompts, completions = batch["prompt_ids"].cpu(), batch["completion_ids"].cpu()
    asked, given = batch["prompt_mask"].bool().cpu(), batch["completion_mask"].bool().cpu()
    advantages = batch["advantages"].tolist()
    for i in range(len(prompts)):
        prompt, ids = prompts[i][asked[i]].tolist(), completions[i][given[i]].tolist()
        rows.append(Row(tuple(prompt), tuple(ids), advantages[i]))
    return rows


def made_up(regime: Regime) -> list[Row]:
    """Rows of the regime's sizes with random tokens and advantages."""
    rng = random.Random(0)
    top = min(150, regime.vocabulary)
    rows = []
    for _ in range(regime.groups):
        prompt = tuple(rng.randrange(2, top) for _ in range(regime.prompt))
        for _ in range(regime.chains):
            ids = tuple(rng.randrange(2, top) for _ in range(regime.completion))
            rows.append(Row(prompt, ids, rng.gauss(0, 1)))
    return rows


def batch_of(rows: Sequence[Row]) -> dict[str, Any]:
    """``rows`` of equal lengths as TRL's batch."""
    at = device()
    prompts = torch.tensor([row.prompt_ids for row in rows], device=at)
    completions = torch.tensor([row.ids for row in rows], device=at)
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completions,
        "completion_mask": torch.ones_like(completions),
        "advantages": torch.tensor([row.advantage for row in rows], device=at),
    }


def work_of(learner: Learner, rows: Sequence[Row], ours: bool) -> float:
    """FLOPs of a forward and backward over ``rows`` without padding: the matrices of the layers for every position,
    the output head for completions alone, attention for every pair of positions.

    ours: a prompt counts once where the learner computes it once for its group, and rows that teach nothing not at
    all. Else every row counts whole.
    """
    shape = ModelShape.from_config(learner.model.config)
    head = shape.hidden * shape.vocab
    live = [row for row in rows if row.teaches] if ours else list(rows)
    plan = learner.plan(live) if ours else [Forward(tuple(range(len(live))))]
    packed = learner.policy.packed or not ours

    def attention(positions: int) -> float:
        return shape.prefill_flops(positions) - 2.0 * shape.parameters * positions

    flops = 0.0
    for forward in plan:
        part = [live[i] for i in forward.rows]
        computed, padding = computed_tokens(live, forward, packed)
        flops += 2.0 * (shape.parameters - head) * (computed - padding)
        flops += 2.0 * head * sum(len(row.ids) for row in part)
        for prompt, same in by_prompt(part).items():
            once = (len(same) - 1) * attention(len(prompt)) if forward.shared else 0.0
            flops += sum(attention(len(part[i]) - 1) for i in same) - once
    return 3 * flops
