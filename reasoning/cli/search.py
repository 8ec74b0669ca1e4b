"""Spend a budget at run time: draw, vote, score, stop when it is enough.

  reasoning search runs/s --task word:test:n=50 --engine transformers:runs/demo/base/model --strategy majority:n=16
  reasoning search runs/s --task word:test:n=50 --engine transformers:runs/demo/base/model --strategy adaptive
  reasoning search runs/s ... --strategy best_of_n:n=16 --scorer learned:runs/demo/verifier --budget tokens=2e5

Every strategy draws from the same pool, so a second one pays only for what the first did not draw. Answers are
chosen without the reference; it is read afterwards, to measure. One line per problem goes to RUN/solutions.jsonl.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasoning.budget import Ledger
from reasoning.charges import Charge
from reasoning.cli.asking import Asking, problems_of, warnings
from reasoning.cli.purse import BUDGET, PRICES, money, open_ledger, terms
from reasoning.cli.sample import refuse_spent, register_model, sampling_from
from reasoning.cli.show import note, say
from reasoning.cluster import CLUSTER
from reasoning.cluster.verifier import on_cluster
from reasoning.durable import rewriting
from reasoning.engines.ray import engine_on
from reasoning.errors import BudgetError, UserError
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.progress import Line, human
from reasoning.records import Problem
from reasoning.runfile import write_run
from reasoning.sampling import attempt
from reasoning.search import list_searches, open_search
from reasoning.solve import Solution, solve
from reasoning.statistics import wilson
from reasoning.tasks import verifier_of
from verifiers import Attempt, Verifier, open_verifier


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Asking):
    run: str = option("", "folder of the run", metavar="RUN")
    task: str = option("", "problems, task:split[:key=value,...]")
    engine: str = option("", "engine:model")
    cluster: str = option("", CLUSTER)
    strategy: str = option("majority:n=16", "strategy:key=value,... (--list names them)")
    scorer: str = option("", "verifier that scores chains, for strategies that need one")
    verifier: str = option("", "verifier that says what is right, to measure (default: the task's own)")
    temperature: float = option(1.0, "0 is greedy", low=0, high=100)
    top_p: float = option(1.0, "nucleus sampling")
    top_k: int = option(0, "0 is off", low=0, high=2**31)
    max_new_tokens: int = option(0, "longest chain in tokens; 0 takes the task's own (or 1024)", low=0)
    stop: builtins.list[str] = option([], "string that ends a chain (repeat the flag)")
    seed: int = option(0, "base seed")
    budget: str = option("", BUDGET)
    prices: str = option("", PRICES)
    list: bool = option(False, "list the strategies and stop")


def run(options: SearchOptions) -> int:
    if options.list:
        for spec, about in list_searches().items():
            say(f"{spec}\n    {about}")
        return 0
    for name in ("run", "task", "engine"):
        if not getattr(options, name):
            raise UserError(f"reasoning search needs {'RUN' if name == 'run' else '--' + name}.")
    search = open_search(options.strategy)
    scorer = on_cluster(options.scorer, options.cluster, beside=True) if options.scorer else None
    judge = open_verifier(options.verifier or verifier_of(options.task))
    problems = problems_of(options)
    sampling = sampling_from(options)
    folder = Path(options.run)
    budget, prices = terms(folder, options.budget, options.prices)
    stored(folder / "solutions.jsonl")  # a damaged one is said before anything is spent
    engine = engine_on(options.cluster, options.engine)
    for text in warnings(options, getattr(engine, "tokenizer", None), problems, sampling):
        note(text)
    line = Line(f"search {search.name}")
    with line, Pool.open(folder) as pool, open_ledger(folder, budget, prices, pool) as ledger:
        register_model(pool, engine, options.engine)
        write_run(folder, "search", asdict(options))
        before, charges = ledger.spent, len(ledger.charges)
        refuse_spent(ledger, folder)
        solutions = solve(problems, search, engine, ledger, pool, scorer, judge, sampling, progress=line)
        paid = [text for text in (flops_of(engine, ledger, before), money(ledger, charges)) if text]
    engine.close()
    for text in getattr(engine, "notes", ()):
        note(text)
    if not any(s.samples for s in solutions):
        raise BudgetError(
            f"What is left of the budget {options.budget} cannot pay for the first round of {search.name} in the "
            "worst case. Raise it, or lower --max-new-tokens."
        )
    right = grade(judge, problems, solutions)
    store(folder / "solutions.jsonl", search.name, engine.model, problems, solutions, right)
    show(search.name, solutions, right, paid)
    if scorer is not None and scorer.oracle:
        note("The scorer reads the reference: this is a ceiling, not something that could be deployed.")
    note(f"Next:  another --strategy on {folder} draws only what is not there yet  (reasoning search --list)")
    return 0


def grade(judge: Verifier, problems: Sequence[Problem], solutions: Sequence[Solution]) -> list[bool]:
    """Whether each answer is right: the chain that was shown for it, judged against the reference. A chain that was
    cut off is wrong, as in every curve."""
    shown = [
        attempt(s.answer.chain, p, oracle=True)
        if s.answer.chain
        else Attempt(p.prompt, "", p.reference, p.metadata)
        for p, s in zip(problems, solutions, strict=True)
    ]
    cut = [s.answer.chain is not None and s.answer.chain.truncated for s in solutions]
    return [v.correct and not c for v, c in zip(judge.verify(shown), cut, strict=True)]


def store(
    path: Path,
    strategy: str,
    model: str,
    problems: Sequence[Problem],
    solutions: Sequence[Solution],
    right: Sequence[bool],
) -> None:
    """Write this strategy's answers into ``path``, in the place of its earlier ones; others' rows stay."""
    new = [_row(strategy, model, *one) for one in zip(problems, solutions, right, strict=True)]
    with rewriting(path) as partial:
        kept = [row for row in stored(path) if row["strategy"] != strategy]
        partial.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *new]))


def _row(strategy: str, model: str, problem: Problem, solution: Solution, correct: bool) -> dict[str, Any]:
    chain = solution.answer.chain
    return {
        "strategy": strategy,
        "model": model,
        "problem_id": problem.id,
        "question": problem.question,
        "reference": problem.reference,
        "answer": solution.answer.answer,
        "correct": correct,
        "samples": solution.samples,
        "output_tokens": solution.cost.output_tokens,
        "flops": solution.cost.flops,
        "short": solution.short,
        "chain": chain.key if chain else None,
    }


def stored(path: Path) -> list[dict[str, Any]]:
    """The rows of solutions.jsonl. Raises UserError where a line is none."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "strategy" not in row:
            raise UserError(
                f"{path}, line {number}: not a row of this file. Move the file away and search again: what was "
                "drawn is in the pool."
            )
        rows.append(row)
    return rows


def flops_of(engine: Any, ledger: Ledger, before: Charge) -> str:
    """ "24G FLOPs" that were spent since ``before``; "" of a server's model, whose FLOPs are not known."""
    flops = ledger.spent.cost.flops - before.cost.flops
    return f"{human(flops)} FLOPs" if flops or engine.shape is not None else ""


def show(strategy: str, solutions: Sequence[Solution], right: Sequence[bool], paid: Sequence[str]) -> None:
    """One line on ``solutions``. paid: what was drawn and scored now, in FLOPs and money, where that is known."""
    interval = wilson(sum(right), len(right))
    samples = np.mean([s.samples for s in solutions])
    tokens = np.mean([s.cost.output_tokens for s in solutions])
    flops = float(np.mean([s.cost.flops for s in solutions]))
    each = f", {human(flops)} FLOPs" if any(text.endswith("FLOPs") for text in paid) else ""
    now = f"  (drawn and scored now: {', '.join(paid)})" if paid else ""
    say(
        f"{strategy}  accuracy {np.mean(right):.1%} [{interval.low:.1%}, {interval.high:.1%}]  "
        f"{len(right)} problems  {samples:.1f} samples, {human(float(tokens))} tokens{each} a problem{now}"
    )
    short = sum(s.short for s in solutions)
    if short:
        note(
            f"The budget was spent: {short} of {len(solutions)} problems got fewer chains than they asked for."
        )
