"""GRPO steps beside TRL's GRPOTrainer: the same weights, tokenizer, prompts, optimizer, precision and reward, step by
step in turn in one process.

    python -m evals.bench_training [--regimes A,B,C,D,E,F] [--steps 5] [--threads 2]
    python -m evals.bench_training --model qwen3-0.6b --dtype bfloat16 --steps 2   # a GPU; qwen3-small to try it

Before anything is timed, both compute the gradient of one batch that TRL drew. In float32 they must agree to 1e-5. In
bfloat16 (float32 weights, products in bfloat16 under autocast, on both sides) each is compared with the gradient in
float32, and ours must not be further from it than 1.5 times what TRL's is: the rounding of bfloat16 is the only
difference that is allowed; a shrunken model is held to 1e-5 in float32 first.

A whole step is drawing, judging, learning. Ratios are firm, single times are not; on a busy machine look at those of
CPU time. TRL draws with Hugging Face `generate`, as it does without vLLM, and its settings are its best here: dropout
and checkpointing off, no reference model, its fused output head. Needs TRL (extra: dev).

A  fixed lengths                                  D  as A, half of the groups without a reward to learn from
B  ragged lengths                                 E  a vocabulary of 32,768 (qwen3-0.6b: its own, 151,936, always)
C  a prompt of 512 tokens shared by 16 chains     F  the training phase alone, on the chains that TRL drew in A
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch  # noqa: E402

from evals.training_sides import (  # noqa: E402
    MODELS,
    TRL,
    Ours,
    Phase,
    Regime,
    Watch,
    batch_of,
    device,
    made_up,
    make_model,
    rows_of,
    wait,
    work_of,
)
from reasoning.train.learner import Learner  # noqa: E402
from reasoning.train.rows import Row  # noqa: E402

REGIMES = {
    "A": Regime("fixed lengths"),
    "B": Regime("ragged lengths", completion=256, ends=1 / 192),
    "C": Regime("512-token prompt shared by 16", groups=4, chains=16, prompt=512),
    "D": Regime("half of the groups dead", dead=0.5),
    "E": Regime("vocabulary of 32,768", groups=8, vocabulary=32768),
    "F": Regime("training phase alone", training_only=True),
}
WANTED = {"A": 1.3, "B": 3.0, "C": 3.0, "D": 2.5, "E": 2.0, "F": 1.2}


def regimes_of(model: str) -> dict[str, Regime]:
    """The regimes at sizes that suit ``model``: TRL's forwards have about 8,000 tokens where the model is large."""
    if model == "demo":
        return REGIMES
    if model == "qwen3-0.6b":
        base = dict(groups=8, chains=16, prompt=64, completion=256, vocabulary=151936, forward=32)
        sizes = {"B": dict(completion=512, ends=1 / 128, forward=16), "C": dict(prompt=512, forward=8)}
    else:
        base = dict(groups=2, chains=4, prompt=8, completion=16, vocabulary=4096, forward=4)
        sizes = {"B": dict(completion=32, ends=1 / 16), "C": dict(prompt=48)}
    found = {name: replace(regime, **(base | sizes.get(name, {}))) for name, regime in REGIMES.items()}
    return found | {"E": replace(found["A"], title=f"vocabulary of {base['vocabulary']:,} (as A)")}


@dataclass
class Setting:
    """What is asked for on the command line."""

    model: str
    low: bool
    steps: int
    peak: float  # FLOPs a second of a matrix product in the precision of the products


def relative(one: dict[str, Any], other: dict[str, Any]) -> float:
    """|one - other| / |other| over all parameters."""
    gap = sum(float((one[n].float() - other[n].float()).square().sum()) for n in other) ** 0.5
    return gap / sum(float(other[n].float().square().sum()) for n in other) ** 0.5


def gradient_of(learner: Learner, rows: Sequence[Row]) -> dict[str, Any]:
    learner.model.zero_grad(set_to_none=True)
    learner.gradients(rows)
    found = {n: p.grad.detach().clone() for n, p in learner.trained().items() if p.grad is not None}
    learner.model.zero_grad(set_to_none=True)
    return found


def check_agreement(trl: TRL, ours: Ours, batch: Any, setting: Setting, regime: Regime) -> str:
    """What the two gradients of one batch differ by, in words. Raises SystemExit where it is too much."""
    whole = 2 * regime.chains if setting.low else len(batch["prompt_ids"])
    part = {k: v[:whole] for k, v in batch.items() if torch.is_tensor(v) and v.ndim}
    rows = rows_of(part)
    theirs, mine = trl.gradient(part), gradient_of(ours.learner, rows)
    gap = relative(mine, theirs)
    if not setting.low:
        if not gap < 1e-5:
            raise SystemExit(f"The gradients differ by {gap:.2g} of their size: nothing is timed.")
        return f"gradients agree to {gap:.0e}"
    plain, _ = make_model(setting.model, regime)
    exact = gradient_of(
        Learner(plain, ours.goal, lr=0.0, max_new_tokens=regime.completion), rows
    )  # float32 all through
    off, trl_off = relative(mine, exact), relative(theirs, exact)
    if not off <= 1.5 * trl_off:
        raise SystemExit(
            f"In bfloat16 our gradient is {off:.2g} of its size from that in float32, TRL's "
            f"{trl_off:.2g}: nothing is timed."
        )
    return (
        f"gradients differ from float32 by {off:.1e} (TRL's {trl_off:.1e}) and by {gap:.1e} from each other"
    )


@dataclass
class Step:
    """One step of a side. tokens: of the chains, prompts included; new: completion tokens; teaching: share of chains
    with an advantage; flops: of forward and backward without padding (see `work_of`)."""

    drawing: Phase
    training: Phase
    tokens: int
    new: int
    teaching: float
    flops: float

    def seconds(self, cpu: bool = False, drawing: bool = True) -> float:
        phases = (self.drawing, self.training) if drawing else (self.training,)
        return sum(p.cpu if cpu else p.seconds for p in phases)


def run_regime(name: str, setting: Setting) -> None:
    regime = regimes_of(setting.model)[name]
    pairs: list[tuple[Step, Step]] = []
    said = ""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        sides = (setting.model, regime, setting.steps + 1)
        trl, ours = TRL(*sides, one, setting.low), Ours(*sides, two, setting.low)

        def after(drawing: Phase, training: Phase) -> None:
            nonlocal said
            batch = trl.batches.pop()
            rows = rows_of(batch)
            if not said:  # the first step of each warms up and is not timed
                # TRL has stepped already: compare where both began, on weights made anew.
                fresh, _ = make_model(setting.model, regime)
                for net in (trl.trainer.model, ours.learner.model):
                    net.load_state_dict(fresh.state_dict())
                del fresh
                said = check_agreement(trl, ours, batch, setting, regime)
                if regime.training_only:
                    ours.learn(rows)
                else:
                    ours.step()
                return
            theirs = step_of(ours, drawing, training, rows, False)
            if regime.training_only:
                watch = Watch()
                watch.start()
                ours.learn(rows)
                pairs.append((theirs, step_of(ours, Phase(), watch.lap(), rows, True)))
            else:
                phases = ours.step()
                pairs.append((theirs, step_of(ours, *phases, ours.rows, True)))

        trl.after = after
        trl.trainer.train()
        ours.close()
    report(name, regime, setting, pairs, said)


def step_of(ours: Ours, drawing: Phase, training: Phase, rows: Sequence[Row], own: bool) -> Step:
    tokens, new = sum(map(len, rows)), sum(len(row.ids) for row in rows)
    teaching = sum(row.teaches for row in rows) / len(rows)
    if not teaching:
        raise SystemExit("A step had nothing to learn from: its time says nothing.")
    return Step(drawing, training, tokens, new, teaching, work_of(ours.learner, rows, own))


def report(
    name: str, regime: Regime, setting: Setting, pairs: Sequence[tuple[Step, Step]], agreement: str
) -> None:
    alone = regime.training_only

    def ratios(of: Callable[[Step], float]) -> str:
        found = sorted(of(a) / of(b) for a, b in pairs)
        return f"{statistics.median(found):5.2f} ({found[0]:.2f} to {found[-1]:.2f})"

    def middle(side: int, of: Callable[[Step], float]) -> float:
        return statistics.median(of(pair[side]) for pair in pairs)

    whole = statistics.median(a.seconds(drawing=not alone) / b.seconds(drawing=not alone) for a, b in pairs)
    verdict = "reached" if whole >= WANTED[name] else "MISSED"
    chains = regime.groups * regime.chains
    print(
        f"\n{name}  {regime.title}: {regime.groups} groups of {regime.chains}, prompts of {regime.prompt}, up to "
        f"{regime.completion} new tokens (TRL's chains {middle(0, lambda s: s.new / chains):.0f}, ours "
        f"{middle(1, lambda s: s.new / chains):.0f}; to learn from: TRL {middle(0, lambda s: s.teaching):.0%}, ours "
        f"{middle(1, lambda s: s.teaching):.0%} of the chains)\n   {agreement}"
    )
    for side, who in enumerate(("TRL", "ours")):
        flops = middle(side, lambda s: s.flops / s.training.seconds)
        print(
            f"   {who:5s} step {middle(side, lambda s: s.seconds(drawing=not alone)):8.3f} s = "
            f"draw {0 if alone else middle(side, lambda s: s.drawing.seconds):8.3f} + "
            f"train {middle(side, lambda s: s.training.seconds):8.3f}   "
            f"training {middle(side, lambda s: s.tokens / s.training.seconds):9,.0f} tokens/s, "
            f"{flops / 1e12:.3g} TFLOP/s, MFU {flops / setting.peak:.1%}"
            + (
                f", peak {middle(side, lambda s: s.training.peak) / 2**30:.2f} GiB above the phase's start"
                if torch.cuda.is_available()
                else ""
            )
        )
    print(
        f"   TRL / ours: step {ratios(lambda s: s.seconds(drawing=not alone))}, asked {WANTED[name]}: {verdict}"
        + ("" if alone else f"; draw {ratios(lambda s: s.drawing.seconds)}")
        + f"; train {ratios(lambda s: s.training.seconds)}"
        + (
            f"; peak memory of training {ratios(lambda s: s.training.peak)}"
            if torch.cuda.is_available()
            else f"; by CPU time: step {ratios(lambda s: s.seconds(True, not alone))}, "
            f"train {ratios(lambda s: s.training.cpu)}"
        ),
        flush=True,
    )


def peak_memory(name: str, setting: Setting) -> None:
    """Peak resident memory of the training phase alone on a CPU, each side in a process of its own."""
    found = {}
    for side in ("trl", "ours"):
        code = f"from evals.bench_training import alone; alone({name!r}, {side!r}, {setting.model!r}, {setting.low})"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        found[side] = int(out.split()[-1])
    ratio = found["ours"] / found["trl"]
    print(
        f"   peak memory of one training phase above what was there before it: TRL {found['trl']} MiB, ours "
        f"{found['ours']} MiB, {ratio:.2f} of it, asked 0.5: {'reached' if ratio <= 0.5 else 'MISSED'}",
        flush=True,
    )


def alone(name: str, side: str, model: str, low: bool) -> None:
    """One training phase on made-up chains; prints how far resident memory rose at most, in MiB (Linux)."""
    regime = regimes_of(model)[name]
    rows = made_up(regime)
    batch = batch_of(rows)
    with tempfile.TemporaryDirectory() as folder:
        made: Any = (
            TRL(model, regime, 1, folder, low) if side == "trl" else Ours(model, regime, 1, folder, low)
        )
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
        if side == "trl":
            made.gradient(batch)
        else:
            made.learner.gradients(rows)
        print((resident("VmHWM") - before) // 1024)
        if side == "ours":
            made.close()


def resident(which: str) -> int:
    """KiB of memory of this process: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which))


def product_peak(low: bool) -> float:
    """FLOPs a second of a square matrix product here, on random numbers; the best of several."""
    size = 8192 if torch.cuda.is_available() else 1024
    a, b = (
        torch.randn(size, size, device=device(), dtype=torch.bfloat16 if low else torch.float32)
        for _ in range(2)
    )
    best = float("inf")
    for _ in range(8):
        wait()
        began = time.perf_counter()
        torch.mm(a, b)
        wait()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", choices=sorted(MODELS))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--regimes", default="", help="by default all that differ for the model")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each, after one that is not")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's own choice")
    options = parser.parse_args()
    import transformers
    import trl

    if options.threads:
        torch.set_num_threads(options.threads)
    low = options.dtype == "bfloat16"
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{os.cpu_count()} x {platform.processor() or 'CPU'}, {torch.get_num_threads()} threads"
    )
    setting = Setting(options.model, low, options.steps, product_peak(low))
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}, {where}, "
        f"{options.model}, {options.dtype}, matrix product {setting.peak / 1e12:.3g} TFLOP/s, "
        f"{options.steps} steps each",
        flush=True,
    )
    if low:
        shrunken = Setting("qwen3-small", False, 0, setting.peak)
        regime = regimes_of("qwen3-small")["A"]
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            sides = ("qwen3-small", regime, 1)
            theirs, ours = TRL(*sides, one), Ours(*sides, two)
            said = check_agreement(theirs, ours, batch_of(made_up(regime)), shrunken, regime)
            ours.close()
        print(f"qwen3-small, float32: {said}", flush=True)
    every = "A,B,C,D,E,F" if options.model == "demo" else "A,B,C,D,F"
    for name in (options.regimes or every).split(","):
        run_regime(name, setting)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if name == "E" and not torch.cuda.is_available():
            peak_memory(name, setting)


if __name__ == "__main__":
    main()
