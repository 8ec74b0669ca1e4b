"""Train a model. Run the same command again after a kill and it goes on from its last checkpoint, to the bit.

  reasoning train runs/base --objective sft --model new:tiny --task word:train --eval-task word:dev
  reasoning train runs/grpo --objective grpo --model runs/base/model --task word:train:n=4096
  reasoning train runs/mine --objective sft --model FOLDER_OR_HUB_ID --demonstrations rows.jsonl --steps 200

Several tasks by weight, problems of middling difficulty first, within a budget, the best evaluation kept:

  reasoning train runs/mix --model runs/base/model --task word:train*2+countdown:train*1 --curriculum 0.1-0.9 \\
      --eval-task word:dev --patience 5 --keep best --budget flops=1e15

Learn from what was solved at run time: chains that a verifier accepted in other runs, each round only the new ones
(RUN/model remembers what it has learned from). Search again with RUN/model, then run the next round from it:

  reasoning sample runs/day1 --task mine.jsonl --engine transformers:runs/base/model -n 8
  reasoning verify runs/day1 --verifier math
  reasoning train runs/learn1 --objective expert_iteration --model runs/base/model --source pool:runs/day1
  reasoning train runs/learn2 --objective expert_iteration --model runs/learn1/model --source pool:runs/day2

The trained model is an ordinary Hugging Face folder, RUN/model; figures of every step are in RUN/metrics.jsonl.
"""

from __future__ import annotations

from pathlib import Path

from reasoning.cli.purse import look_at_ledger
from reasoning.cli.show import note
from reasoning.progress import Line, human
from reasoning.train.distributed import read_environment
from reasoning.train.loop import train
from reasoning.train.options import TrainOptions

__all__ = ["TrainOptions", "run"]


def run(options: TrainOptions) -> int:
    line = Line(f"train {options.objective}")
    look_at_ledger(Path(options.run))
    with line:
        result = train(options, line, log=line.say)
    if not read_environment()[0].first:
        return 0  # one of several processes says how it ended
    if result.finished_before and result.summary.get("stopped") == "budget":
        note(
            f"{result.folder}: the budget was spent; a larger --budget goes on from step {result.summary['steps']}."
        )
    elif result.finished_before:
        note(
            f"{result.folder} is finished already; nothing to do. To train on from it: another folder, with "
            f"--model {result.folder}"
        )
    flops = result.summary["flops"]
    apart = " without its evaluations" if options.eval_task else ""
    print(
        f"{result.folder}  {options.objective}  {result.summary['steps']} steps  {human(flops)} FLOPs{apart}"
    )
    if best := result.summary.get("best"):
        note(
            f"Best evaluation: {best['figure']:.1%} at step {best['step']} (of equal ones the earliest), kept in "
            f"{options.run}/best."
        )
    task = options.eval_task or options.task or "TASK"
    note(f"Curves:  reasoning show {options.run} --training")
    note(
        f"Next:  reasoning sample {options.run}/eval --task {task} --engine transformers:{result.folder} -n 16"
    )
    return 0
