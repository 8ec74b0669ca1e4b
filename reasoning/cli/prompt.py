"""Show a prompt as the model will be shown it, with its special tokens, and say what is wrong with it.

  reasoning prompt gsm8k:test --engine transformers:Qwen/Qwen3-0.6B
  reasoning prompt gsm8k:test --engine vllm:FOLDER --few-shot 4 --system "Be brief." --index 3
  reasoning prompt word:test                               (without a tokenizer: the text, or the messages)

Loads the tokenizer, not the model. The exit status is 1 where no chain could be drawn.
"""

from __future__ import annotations

import builtins
import json
from dataclasses import dataclass

from reasoning.cli.asking import Asking, problems_of
from reasoning.cli.sample import sampling_from
from reasoning.cli.show import note, say
from reasoning.engines.preflight import look, open_tokens, visible
from reasoning.errors import UserError
from reasoning.options import option
from reasoning.tasks import verifier_of
from reasoning.tasks.conversation import messages_of


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Asking):
    task: str = option(..., "problems, task:split[:key=value,...]", metavar="TASK")
    engine: str = option("", "engine:model, whose tokenizer is used")
    index: int = option(0, "which problem is shown, from 0", low=0)
    max_new_tokens: int = option(0, "longest chain in tokens; 0 takes the task's own (or 1024)", low=0)
    stop: builtins.list[str] = option([], "string that ends a chain (repeat the flag)")
    temperature: float = option(1.0, "0 is greedy", low=0, high=100)
    top_p: float = option(1.0, "nucleus sampling")
    top_k: int = option(0, "0 is off", low=0, high=2**31)
    seed: int = option(0, "base seed")


def run(options: PromptOptions) -> int:
    problems = problems_of(options)
    if options.index >= len(problems):
        raise UserError(f"--index {options.index}: {options.task} holds {len(problems)} problems.")
    problem = problems[options.index]
    sampling = sampling_from(options)
    tokens = open_tokens(options.engine) if options.engine else None
    note(f"{options.task}  problem {options.index} of {len(problems)}, {problem.id}")
    if tokens is None:
        messages = messages_of(problem)
        if len(messages) > 1:
            say("\n".join(f"[{m['role']}]\n{m['content']}" for m in messages))
        else:
            say(problem.prompt)
        if options.engine.startswith("openai:"):
            note(
                "The server makes its own prompt of this: name its model's tokenizer (tokenizer=FOLDER) to see it."
            )
        elif not options.engine:
            note("--engine says which model's tokenizer and chat template to show it with.")
        found = []
    else:
        found = look(tokens, problems, sampling)
        if not any(f.level == "error" for f in found):
            ids = tokens.ask(problem)
            say(visible(tokens, ids))
            form = "by the chat template" if tokens.chat else "as plain text"
            note(f"{len(ids)} tokens, {form}; special tokens stand in ⟦ ⟧, and the model goes on at the end.")
    reference = problem.reference if isinstance(problem.reference, str) else json.dumps(problem.reference)
    short = reference if len(reference) <= 100 else reference[:97] + "..."
    stop = f"  stop {list(sampling.stop)}" if sampling.stop else ""
    note(
        f"reference {short!r}  verifier {verifier_of(options.task)}  max_new_tokens {sampling.max_new_tokens}{stop}"
    )
    for finding in found:
        note(f"{finding.level}: {finding.text}")
    return 1 if any(f.level == "error" for f in found) else 0
