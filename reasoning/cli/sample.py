"""Draw chains of thought into RUN/pool. Only what is missing is drawn, so the same command resumes a killed run.

reasoning sample runs/x --task word:test --engine transformers:runs/demo/base/model -n 64
reasoning sample runs/x --task gsm8k:test --engine vllm:Qwen/Qwen2.5-1.5B-Instruct -n 16 --budget tokens=2e6
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reasoning.budget import Ledger
from reasoning.cli.asking import Asking, problems_of, warnings
from reasoning.cli.purse import BUDGET, PRICES, in_money, money, open_ledger, terms
from reasoning.cli.show import note, say
from reasoning.cluster import CLUSTER
from reasoning.engines.ray import engine_on
from reasoning.errors import BudgetError, UserError
from reasoning.limits import LIMITS
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.progress import Line, human
from reasoning.records import Sampling
from reasoning.runfile import write_run
from reasoning.sampling import sample
from reasoning.spec import parse_spec
from reasoning.tasks import parse_task, verifier_of
from verifiers.registry import refuse_unknown

MOST_CHAINS = 20_000_000
"""Chains that one command may ask for: their keys take about 150 bytes each, 3 GB, before the first is drawn."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Asking):
    run: str = option(..., "folder of the run", metavar="RUN")
    task: str = option(..., "problems, task:split[:key=value,...]")
    engine: str = option(..., "engine:model, such as transformers:FOLDER or vllm:HUB_ID")
    cluster: str = option("", CLUSTER)
    n: int = option(16, "chains per problem", low=1)
    temperature: float = option(1.0, "0 is greedy", low=0, high=100)
    top_p: float = option(1.0, "nucleus sampling")
    top_k: int = option(0, "0 is off", low=0, high=2**31)
    max_new_tokens: int = option(0, "longest chain in tokens; 0 takes the task's own (or 1024)", low=0)
    stop: list[str] = option([], "string that ends a chain (repeat the flag)")
    seed: int = option(0, "base seed")
    budget: str = option("", BUDGET)
    prices: str = option("", PRICES)


def run(options: SampleOptions) -> int:
    folder = Path(options.run)
    if folder.is_file():  # said before the model is loaded
        raise UserError(f"{folder} is a file; RUN is a folder (to read recorded outputs: reasoning import).")
    problems = problems_of(options)
    refuse_unknown(verifier_of(options.task))
    sampling = sampling_from(options)
    refuse_too_many(len(problems), options.n)
    if sampling.greedy and options.n > 1:
        note(
            f"Temperature 0 gives the same chain again: -n {options.n} draws it {options.n} times. Give -n 1."
        )
    budget, prices = terms(folder, options.budget, options.prices)
    engine = engine_on(options.cluster, options.engine)
    for text in warnings(options, getattr(engine, "tokenizer", None), problems, sampling):
        note(text)
    line = Line(f"sample {engine.model.partition('@')[0]}")
    with line, Pool.open(folder) as pool, open_ledger(folder, budget, prices, pool) as ledger:
        noted = len(pool.notes)
        for text in pool.notes:
            note(text)
        write_run(folder, "sample", asdict(options))
        pool.add_problems(problems)
        register_model(pool, engine, options.engine)
        refuse_spent(ledger, folder)
        before = len(ledger.charges)
        report = sample(
            problems, engine, pool, ledger, options.n, sampling, progress=line, strategy=engine.model
        )
        line.close()
        paid = money(ledger, before)
        for text in pool.notes[noted:]:
            note(text)
    engine.close()
    for text in [*getattr(engine, "notes", ()), *report.warnings]:
        note(text)
    flops = f"{human(report.cost.flops)} FLOPs" if engine.shape is not None else ""
    told = [f"{human(report.cost.tokens)} tokens", flops, paid, f"{report.cost.seconds:.1f} s"]
    say(
        f"{folder}  {engine.model}  {report.present + report.drawn}/{report.wanted} chains ({report.present} were "
        f"there)  {'  '.join(filter(None, told))}"
    )
    note(f"Next:  reasoning verify {options.run} --verifier {verifier_of(options.task)}")
    return 0


def sampling_from(options: Any) -> Sampling:
    """`Sampling` of options that have its fields and ``task``; the task's own settings fill what was not given.

    Raises UserError for a value out of range.
    """
    task, _, _ = parse_task(options.task)
    try:
        return Sampling(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            max_new_tokens=options.max_new_tokens or int(task.sampling.get("max_new_tokens", 1024)),
            stop=tuple(options.stop or task.sampling.get("stop", ())),
            seed=options.seed,
        )
    except ValueError as e:
        raise UserError(f"{e}.") from None


def refuse_too_many(problems: int, n: int) -> None:
    """Raise UserError for more chains than one command can keep the keys of in memory."""
    if problems * n > MOST_CHAINS:
        raise UserError(
            f"-n {n} of {problems} problems is {problems * n:,} chains; one command draws at most {MOST_CHAINS:,}. "
            "Lower -n, or draw the problems in parts, by a filter of the task."
        )


def refuse_spent(ledger: Ledger, folder: Path) -> None:
    """Raise BudgetError when the budget, which is the whole run's, was spent before this command."""
    left = ledger.left()
    gone = [name for name in LIMITS if getattr(left, name) <= 0]
    if gone:
        spent = ledger.used()[gone[0]]
        if gone[0] == "price" and ledger.prices is not None:
            said = f"{in_money(spent)} {ledger.prices.currency}"
        else:
            said = f"{human(spent)} {gone[0]}"
        raise BudgetError(
            f"The budget {ledger.budget} is that of the whole run, and {folder} has spent {said} before. Raise it, "
            "or use another run folder."
        )


def register_model(pool: Pool, engine: Any, spec: str) -> None:
    """Store what reports need to know of a model: its shape, and what its training cost."""
    info: dict[str, Any] = {}
    if engine.shape is not None:
        info["shape"] = engine.shape.to_json()
    training = Path(parse_spec(spec).argument or spec) / "training.json"
    if training.is_file():
        try:
            info["training"] = json.loads(training.read_text(encoding="utf-8"))
        except ValueError as e:
            raise UserError(
                f"{training}: not JSON ({e}). It says what the model's training cost: mend it, or delete it "
                "where reports may do without."
            ) from None
        if not isinstance(info["training"], dict):
            raise UserError(f"{training}: not a JSON object. Delete it where reports may do without.")
    pool.add_model(engine.model, info)
