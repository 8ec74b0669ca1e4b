"""What is in a run; with --cost what it spent, on what, by phase and strategy; with --training its curves, as
a page and a picture in the run's folder (also while it goes on). Several runs are compared by what they spent.

  reasoning show runs/demo/eval
  reasoning show runs/demo/eval --cost
  reasoning show runs/demo/grpo --training --watch 30
  reasoning show runs/demo/grpo runs/demo/expert_iteration --training
  reasoning show runs/demo/eval --cost --prices prices.toml --json | jq .total
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from reasoning.budget import Budget, Charge, Ledger
from reasoning.cli.purse import PRICES, in_money, look_at_ledger
from reasoning.cli.show import note, say
from reasoning.cli.training import compare_training, show_training
from reasoning.errors import UserError
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.pool.folder import Folder
from reasoning.prices import Prices, find_prices
from reasoning.progress import clock, human
from reasoning.records import Cost
from reasoning.runfile import read_run

WIDTH = (80, 100)
"""Least and greatest width of what is printed, in characters."""


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    run: list[str] = option(..., "folder of the run; with --training several, to compare them", metavar="RUN")
    cost: bool = option(False, "what was spent, by phase and strategy, and what is left of the budget")
    prices: str = option("", PRICES)
    training: bool = option(
        False, "training curves: RUN/training.html and .png, and the evaluations as a table"
    )
    watch: int = option(
        0, "with training: draw anew every so many seconds until the run ends; the page follows", low=0
    )
    target: float | None = option(
        None,
        "with training of several runs: the accuracy (0 to 1) to whose cost they are compared (default: midway "
        "between start and best evaluation)",
        low=0,
        high=1,
    )
    each: bool = option(
        False,
        "with training of several runs: a line for every run, also for runs that differ in their seed alone",
    )
    out: str = option(
        "", "with training: folder for page and pictures (default: RUN; of several the folder they lie in)"
    )
    json: bool = option(False, "for machines: one JSON object")


def run(options: ShowOptions) -> int:
    folders = [Path(run) for run in options.run]
    if not folders[0].is_dir() and len(folders) == 1:
        raise UserError(f"{folders[0]}: no such run folder.")
    for name in ("watch", "target", "each", "out"):
        if getattr(options, name) not in (0, None, "") and not options.training:
            raise UserError(f"--{name} goes with --training.")
    out = Path(options.out) if options.out else None
    if len(folders) > 1:
        if not options.training or options.cost:
            raise UserError(
                "Several runs are compared with --training; without it (and with --cost) give one RUN."
            )
        return compare_training(folders, options.watch, options.json, options.target, out, options.each)
    folder = folders[0]
    if options.target is not None:
        raise UserError("--target compares what several runs took to an accuracy: give two runs or more.")
    if options.each:
        raise UserError("--each gives every one of several runs a line: give two runs or more.")
    if options.training:
        return show_training(folder, options.watch, options.json, out)
    shown = costs(folder, find_prices(folder, options.prices)) if options.cost else contents(folder)
    if options.json:
        print(json.dumps(shown, indent=1))
    elif options.cost:
        print_costs(shown)
    else:
        print_contents(shown)
        note(f"Next:  reasoning show {folder} --cost")
    return 0


# ---- what is in a run


def contents(folder: Path) -> dict[str, Any]:
    """The pool's counts, the settings of each command that ran, and the files beside the pool."""
    shown: dict[str, Any] = {"run": str(folder), "pool": None}
    with contextlib.ExitStack() as stack:
        pool = None
        if holds_pool(folder):
            pool = stack.enter_context(Pool.open(folder, create=False, read_only=True))
            shown["pool"] = pool.summary() | {
                "oracles": [n for n, oracle in pool.verifiers().items() if oracle]
            }
            for text in pool.notes:
                note(text)
        ledger = look_at_ledger(folder, pool=pool)
    config = read_run(folder)
    shown["config"] = config
    shown["files"] = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _internal(path.relative_to(folder))
    }
    shown["spent"] = row_of(ledger.spent) if ledger is not None else None
    if shown["pool"] is None and ledger is None and not config:
        raise UserError(f"{folder} holds no pool, no ledger and no run.toml: it is not a run's folder.")
    return shown


def _internal(path: Path) -> bool:
    """Whether a file of a run is one of its pool's, or hidden, as locks are."""
    return "pool" in path.parts[:-1] or path.name.startswith(".")


def holds_pool(folder: Path) -> bool:
    return any(Folder(place).exists() for place in (folder, folder / "pool"))


def print_contents(shown: dict[str, Any]) -> None:
    say(shown["run"])
    if pool := shown["pool"]:
        say(
            f"  pool       {pool['chains']} chains of {pool['problems']} problems, {human_bytes(pool['bytes'])}"
        )
        for model in pool["models"]:
            say(f"    model    {model}")
        for name, count in pool["verdicts"].items():
            kind = "oracle" if name in pool["oracles"] else "deployable"
            say(f"    verdicts {count} by {name} ({kind})")
    for verb, options in shown["config"].items():
        if verb != "versions":
            given = [f"{key}={value}" for key, value in options.items() if value not in ("", 0, [], False)]
            say(wrapped(f"  {verb:<10} ", given))
    if spent := shown["spent"]:
        say(
            f"  spent      {human(spent['tokens'])} tokens  {human(spent['flops'])} FLOPs  {length(spent['seconds'])}"
        )
    for name, size in shown["files"].items():
        say(f"  file       {name}  {human_bytes(size)}")


def wrapped(head: str, parts: Sequence[str]) -> str:
    """``head`` and behind it ``parts``, in lines of the terminal's width."""
    lines = [head]
    for part in parts:
        if len(lines[-1]) + len(part) + 2 > terminal_width() and lines[-1].strip():
            lines.append(" " * len(head))
        lines[-1] += part + "  "
    return "\n".join(line.rstrip() for line in lines)


# ---- what a run spent


def costs(folder: Path, prices: Prices | None) -> dict[str, Any]:
    """The ledger's sums by phase and strategy (with the pool's charges that it lacks), their total, and what each
    budget of the run has left."""
    with contextlib.ExitStack() as stack:
        pool = None
        if holds_pool(folder):
            pool = stack.enter_context(Pool.open(folder, create=False, read_only=True))
        ledger = look_at_ledger(folder, prices, pool)
    if ledger is None:
        raise UserError(f"{folder} has no ledger, and its pool no charges: nothing was spent there yet.")
    rows = [row_of(charge) for charge in ledger.totals(("phase", "strategy")).values()]
    unpriced = [c.model or c.strategy for c in ledger.charges if c.price is None and not c.empty]
    return {
        "run": str(folder),
        "rows": rows,
        "total": row_of(ledger.spent),
        "currency": ledger.spent.currency,
        "unpriced_rows": len(unpriced),
        "unpriced_models": sorted({m.partition("@")[0] for m in unpriced}) if prices is not None else [],
        "budgets": budgets(folder, ledger, prices),
    }


def row_of(charge: Charge) -> dict[str, Any]:
    """Every column of a sum by name; "tokens" is what a model computed (prompt + output + scored)."""
    row: dict[str, Any] = {"phase": charge.phase, "strategy": charge.strategy, "samples": charge.samples}
    row |= {f.name: getattr(charge.cost, f.name) for f in fields(Cost)}
    row |= {name: getattr(charge, name) for name in ("discarded_tokens", "cancelled_tokens", "failed_tokens")}
    return row | {"tokens": charge.cost.tokens, "price": charge.price}


def budgets(folder: Path, ledger: Ledger, prices: Prices | None) -> list[dict[str, Any]]:
    """For each command that had one: its budget, and what is left of it by what the whole run has spent."""
    found = []
    for verb, options in read_run(folder).items():
        text = options.get("budget", "") if isinstance(options, dict) else ""
        if text:
            budget, used = Budget.parse(text), ledger.used()
            limits = {n: v for n, v in ((n, getattr(budget, n)) for n in used) if v is not None}
            left = {n: max(0, v - used[n]) for n, v in limits.items()}
            found.append({"command": verb, "budget": str(budget), "limits": limits, "left": left})
    return found


COLUMNS = (
    ("samples", "chains"),
    ("prompt_tokens", "prompt"),
    ("cached_tokens", "cached"),
    ("output_tokens", "output"),
    ("scored_tokens", "scored"),
    ("discarded_tokens", "discard"),
    ("cancelled_tokens", "cancel"),
    ("failed_tokens", "failed"),
    ("flops", "FLOPs"),
    ("seconds", "time"),
    ("price", "price"),
)


def print_costs(shown: dict[str, Any]) -> None:
    rows, total = shown["rows"], shown["total"]
    empty = [title for key, title in COLUMNS if not total[key] and key != "price"]
    columns = [(key, title) for key, title in COLUMNS if total[key] or (key == "price" and shown["currency"])]
    if shown["currency"]:
        columns[-1] = ("price", shown["currency"])
    numbers = [[title for _, title in columns]]
    numbers += [[cell(row, key) for key, _ in columns] for row in [*rows, total]]
    widths = [max(len(line[i]) for line in numbers) for i in range(len(columns))]
    gap = "  " if sum(widths) + 2 * len(widths) <= terminal_width() else " "
    body = [gap.join(f"{n:>{w}}" for n, w in zip(line, widths, strict=True)) for line in numbers]
    names = [("phase", "strategy"), *((row["phase"], row["strategy"]) for row in rows), ("total", "")]
    phase, name = (max(len(pair[i]) for pair in names) for i in (0, 1))
    if phase + name + 4 + len(body[0]) <= terminal_width():
        lines = [f"{a:<{phase}}  {b:<{name}}  {line}" for (a, b), line in zip(names, body, strict=True)]
    else:  # names on lines of their own, figures below
        lines = [f"{a}  {b}".rstrip() + f"\n{line}" for (a, b), line in zip(names, body, strict=True)]
    rule = "-" * max(len(line) for line in "\n".join(lines).split("\n"))
    say("\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]]))
    if empty:
        say(f"None: {', '.join(empty)}.")
    wasted = [name for name in ("discarded", "cancelled", "failed") if total[f"{name}_tokens"]]
    if wasted:
        say(f"Counted in prompt, output or scored, too: {', '.join(wasted)}.")
    if shown["unpriced_rows"] and (shown["currency"] or shown["unpriced_models"]):
        models = ", ".join(shown["unpriced_models"])
        say(
            f"Charges without a price, since the table lacks their model{f' ({models})' if models else ''}: "
            f"{shown['unpriced_rows']}."
        )
    for budget in shown["budgets"]:
        left = ", ".join(
            f"{amount(n, budget['left'][n])} of {amount(n, limit)} {shown['currency'] if n == 'price' else n}"
            for n, limit in budget["limits"].items()
        )
        say(f"Left of the budget of {budget['command']}: {left}")


def cell(row: dict[str, Any], key: str) -> str:
    return "-" if row[key] is None else amount(key, row[key])


def amount(key: str, value: float) -> str:
    if key == "seconds":
        return length(value)
    if key == "price":
        return in_money(value)
    return human(value)


def length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def human_bytes(size: int) -> str:
    return f"{human(size)}B"


def terminal_width() -> int:
    return min(max(shutil.get_terminal_size((WIDTH[1], 24)).columns, WIDTH[0]), WIDTH[1])
