"""Train a model. Run the same command again after a kill and it goes on from its last checkpoint, to the bit.

  reasoning train runs/base --objective sft --model new:tiny --task word:train --eval-task word:dev
  reasoning train runs/grpo --objective grpo --model runs/base/model --task word:train:n=4096
  reasoning train runs/mine --objective sft --model FOLDER_OR_HUB_ID --demonstrations rows.jsonl --steps 200

The trained model is an ordinary Hugging Face folder, RUN/model; figures of every step are in RUN/metrics.jsonl.
"""

from __future__ import annotations

from pathlib import Path

from reasoning.cli.purse import look_at_ledger
from reasoning.cli.show import note
from reasoning.progress import Line, human
from reasoning.train.loop import train
from reasoning.train.options import TrainOptions

__all__ = ["TrainOptions", "run"]


def run(options: TrainOptions) -> int:
    line = Line(f"train {options.objective}")
    look_at_ledger(Path(options.run))
    result = train(options, line, log=line.say)
    line.close()
    if result.finished_before:
        note(f"{result.folder} is finished already; nothing to do.")
    elif result.resumed_at is not None:
        note(f"Resumed after step {result.resumed_at}.")
    flops = result.summary["flops"]
    print(f"{result.folder}  {options.objective}  {result.summary['steps']} steps  {human(flops)} FLOPs")
    task = options.eval_task or options.task or "TASK"
    note(
        f"Next:  reasoning sample {options.run}/eval --task {task} --engine transformers:{result.folder} -n 16"
    )
    return 0
