"""Tokens per second of the engines side by side: `transformers`, Hugging Face `generate`, and vLLM.

    python -m evals.bench_engines [--vllm .venv-vllm/bin/python] [--rounds 5] [--threads 2] [--dtype float32]
                                  [--cases small,ragged,...] [--quick]
    python -m evals.bench_engines --device cuda --dtype bfloat16 --cases gpu-fixed,gpu-ragged --rounds 2 [--vllm ...]

Every engine draws the same number of chains of the same prompts from the same checkpoint (random weights), at the
same number of rows, temperature 1, no truncation, and counts tokens up to and with the end of a chain. Each runs in
a process of its own (vLLM in its own environment, left out where --vllm names none), and only one works at a time:
the rounds are interleaved, round 0 is not counted. The engines return log-probabilities, `generate` is not asked to.
A ratio is taken within each round; figures are medians (lowest-highest). The share is the model's FLOPs a second over
what torch.matmul reaches with the same type and threads (2048 cubed, 8192 on a GPU, best of 5). The cases of a GPU
have the shape of Qwen3-0.6B.

OMP_WAIT_POLICY is left as it is found, and printed: PASSIVE makes every engine slower here, `generate` most (an idle
process stops spinning after some milliseconds). With anything else at work on the processor, two spinning threads are
a multiple slower, and no ratio means anything: the load before and after is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
import transformers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from evals.bench_sampling import (
    Case,
    build_prompts,
    build_tokenizer,
    processor,
    product_flops_per_second,
    run_engine,
    run_peer,
    spread,
)

# The demo's model, 0.6 M parameters, one of 100 M, and Qwen3-0.6B's.
SHAPES: dict[str, dict[str, int]] = {
    "demo": dict(
        vocab_size=184,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
    ),
    "100M": dict(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=64,
    ),
    "0.6B": dict(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
    ),
}
END_IDS = (1, 2, 3, 4)  # of 184 flat probabilities: one in 46 steps ends a chain
MANY_ENDS = tuple(range(1, 1583))  # of 151,936: one in 96


@dataclass(frozen=True)
class Work:
    shape: str
    case: Case


WORKS = {
    "small": Work("demo", Case("ragged, groups of 8, 64 rows", 24, 8, 64, 128, END_IDS)),
    "ragged8": Work("demo", Case("ragged, groups of 8, 512 rows", 192, 8, 512, 128, END_IDS)),
    "ragged16": Work("demo", Case("ragged, groups of 16, 512 rows", 96, 16, 512, 128, END_IDS)),
    "ragged64": Work("demo", Case("ragged, groups of 64, 512 rows", 24, 64, 512, 128, END_IDS)),
    "fixed8": Work("demo", Case("fixed, groups of 8, 512 rows", 64, 8, 512, 50, ())),
    "large": Work("100M", Case("100 M, fixed, groups of 8, 64 rows", 8, 8, 64, 32, ())),
    "gpu-fixed": Work("0.6B", Case("0.6 B, fixed 128 tokens, groups of 16, 256 rows", 16, 16, 256, 128, ())),
    "gpu-ragged": Work("0.6B", Case("0.6 B, ragged, groups of 16, 256 rows", 32, 16, 256, 256, MANY_ENDS)),
}


def save_checkpoint(work: Work, dtype: str, folder: Path) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        **cast(Any, SHAPES[work.shape]), tie_word_embeddings=True, max_position_embeddings=512
    )
    config.eos_token_id = list(work.case.end_ids) or None
    model = Qwen3ForCausalLM(config).to(getattr(torch, dtype)).eval()
    pad = config.vocab_size - 1
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=pad)
    model.save_pretrained(folder)
    build_tokenizer(config.vocab_size).save_pretrained(folder)


def worker(engine: str, folder: str, work: Work, arguments: argparse.Namespace) -> None:
    """Answer seeds on standard input with [tokens, seconds, FLOPs] on standard output, one JSON line each."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print must not come between
    run = open_runner(engine, folder, work.case, arguments)
    product = product_flops_per_second(getattr(torch, arguments.dtype), arguments.device)
    print(json.dumps(product), file=answers)
    for line in sys.stdin:
        print(json.dumps(run(int(line))), file=answers)


def open_runner(engine: str, folder: str, case: Case, arguments: argparse.Namespace) -> Any:
    dtype, device = arguments.dtype, arguments.device
    torch.set_num_threads(arguments.threads)
    prompts = build_prompts(case.prompts)
    if engine == "generate":
        model = cast(Any, Qwen3ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)))
        model = model.to(device).eval()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
        return lambda seed: (*run_peer(model, tokenizer, prompts, case, seed), 0.0)
    if engine == "vllm":
        from reasoning.engines.vllm import VLLMEngine

        room = 2.0 if device == "cpu" else 40.0
        ours: Any = VLLMEngine.open(folder, dtype=dtype, max_rows=case.rows, memory_gb=room, parity="off")
    else:
        from reasoning.engines.transformers import TransformersEngine

        ours = TransformersEngine.open(folder, device=device, dtype=dtype, max_rows=case.rows)

    def run(seed: int) -> tuple[int, float, float]:
        tokens, seconds, cost = run_engine(ours, prompts, case, seed)
        return tokens, seconds, cost.flops

    return run


class Runner:
    """A worker process, told to work one seed at a time."""

    def __init__(self, python: str, engine: str, folder: Path, name: str, arguments: argparse.Namespace):
        threads = arguments.threads
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}" if threads > 1 else "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        command = [*shlex.split(python), "-m", "evals.bench_engines", "--worker", engine, "--cases", name]
        command += ["--folder", str(folder), "--dtype", arguments.dtype, "--threads", str(threads)]
        command += ["--device", arguments.device]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.engine = engine
        self.product = float(self._read())

    def run(self, seed: int) -> tuple[int, float, float]:
        stdin = cast(IO[str], self.process.stdin)
        print(seed, file=stdin, flush=True)
        return tuple(self._read())

    def _read(self) -> Any:
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            self._log.seek(0)
            sys.exit(f"The worker of {self.engine} failed:\n{self._log.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        cast(IO[str], self.process.stdin).close()
        self.process.wait(60)
        self._log.close()


def compare(name: str, pythons: dict[str, str], arguments: argparse.Namespace) -> None:
    work = WORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(work, arguments.dtype, Path(folder))
        runners = {
            engine: Runner(python, engine, Path(folder), name, arguments)
            for engine, python in pythons.items()
        }
        try:
            rounds = [
                {engine: runner.run(seed) for engine, runner in runners.items()}
                for seed in range(arguments.rounds + 1)
            ]
        finally:
            for runner in runners.values():
                runner.close()
    del rounds[0]
    limit = runners["transformers"].product
    print(f"\n{work.case.name}  (matrix product {limit / 1e9:.0f} GFLOP/s)")
    for engine in pythons:
        speeds = [done[engine][0] / done[engine][1] for done in rounds]
        ratios = [
            done["transformers"][0] / done["transformers"][1] / s
            for done, s in zip(rounds, speeds, strict=True)
        ]
        # One count of FLOPs a token for all: that of the embedded engine, which reads each prompt once.
        each = [done["transformers"][2] / done["transformers"][0] for done in rounds]
        share = statistics.median(100 * s * f / limit for s, f in zip(speeds, each, strict=True))
        versus = "" if engine == "transformers" else f"transformers / {engine} = {spread(ratios, '.2f')}"
        print(f"  {engine:13}{spread(speeds, ',.0f'):28} tok/s  {share:5.1f}% of the product  {versus}")


def version_of(python: str, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([*shlex.split(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    usual = ",".join(name for name in WORKS if not name.startswith("gpu"))
    parser.add_argument("--cases", default=usual, help=f"some of {', '.join(WORKS)}")
    parser.add_argument(
        "--vllm",
        default="",
        metavar="PYTHON",
        help="the command of an interpreter that has vLLM (or vllm-cpu)",
    )
    parser.add_argument("--quick", action="store_true", help="the first case only, one round")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    transformers.logging.disable_progress_bar()
    names = arguments.cases.split(",")
    if unknown := set(names) - WORKS.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(WORKS)}")
    if arguments.worker:
        worker(arguments.worker, arguments.folder, WORKS[names[0]], arguments)
        return
    if arguments.quick:
        names, arguments.rounds = names[:1], 1
    pythons = {"transformers": sys.executable, "generate": sys.executable}
    peer = ""
    if arguments.vllm:
        found = next(
            (f"{name} {v}" for name in ("vllm", "vllm-cpu") if (v := version_of(arguments.vllm, name))), ""
        )
        if not found:
            parser.error(f"{arguments.vllm} has neither vllm nor vllm-cpu (make .venv-vllm/.installed)")
        pythons["vllm"] = arguments.vllm
        peer = f", {found} with transformers {version_of(arguments.vllm, 'transformers')}"
    print(
        f"{torch.cuda.get_device_name() + ', ' if arguments.device == 'cuda' else ''}{processor()}, "
        f"{os.cpu_count()} cores, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'not set')}\n"
        f"torch {torch.__version__}, transformers {transformers.__version__}{peer}, {arguments.dtype}, "
        f"{arguments.rounds} rounds"
    )
    for name in names:
        compare(name, pythons, arguments)
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
