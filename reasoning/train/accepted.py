"""Chains that other runs left in their pools and that a verifier accepted, as rows to learn from: what a model solved
at run time flows back into its training (online expert iteration).

Which chains a round learns from is settled when it begins, and kept in RUN/accepted.txt, so that a resumed round
learns from the same ones though the pools have grown. Those that the model has learned from before are left out.
Knows nothing of objectives or optimizers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasoning.errors import PoolError, UserError
from reasoning.pool import Pool
from reasoning.pool.judges import short_name, verifier_named
from reasoning.records import Chain, Problem
from reasoning.spec import convert, parse_spec
from reasoning.train.rows import Row
from reasoning.train.sources import StepData, choose
from reasoning.train.writing import writing
from verifiers import CORRECT_AT

POOL = "pool:"
_SOURCE = re.compile(r"^pool:(?P<run>.+?):(?P<options>(?:verifier|at_least)=.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A whole, finished chain that a verifier gave at least the wanted score."""

    problem: Problem
    chain: Chain
    score: float


def read_accepted(
    specs: Sequence[str], without: Collection[str] = (), only: Collection[str] | None = None
) -> list[Accepted]:
    """The accepted chains of ``pool:RUN[:verifier=NAME,at_least=SCORE]``, each text of a problem once,
    without those whose keys are in ``without``, or of ``only`` those.

    verifier: whose judgement counts; may be left out where the pool has only one. at_least: the least score.
    Chains that a stop string ended and those that continue others are pieces, as beam searches draw them, and are
    left out. Raises UserError for a spec or a verifier that is not there.
    """
    found: dict[tuple[str, str], Accepted] = {}
    for spec in specs:
        run, verifier, at_least = parse_source(spec)
        with Pool.open(run, create=False, read_only=True) as pool:
            for one in _of_pool(pool, verifier, at_least, run, spec):
                if one.chain.key in only if only is not None else one.chain.key not in without:
                    found.setdefault((one.problem.id, one.chain.text), one)
    return list(found.values())


def parse_source(spec: str) -> tuple[str, str, float]:
    """(run, verifier or "", least score) of ``pool:RUN[:verifier=NAME,at_least=SCORE]``. A verifier's name may hold
    colons, commas and equals signs (``learned:FOLDER:version=..``): it goes on to the next option. Raises UserError.
    """
    if not spec.startswith(POOL):
        raise UserError(f"--source {spec!r}: write pool:RUN, the folder of a run that sampled or searched.")
    wanted: dict[str, Any] = {"verifier": "", "at_least": CORRECT_AT}
    if not (found := _SOURCE.match(spec)):
        parsed = parse_spec(spec)
        parsed.take(wanted)  # refuses a mistyped option
        return parsed.argument, "", CORRECT_AT
    given = re.split(r",(?=(?:verifier|at_least)=)", found["options"])
    for part in given:
        key, _, value = part.partition("=")
        wanted[key] = convert(value, wanted[key], f"{key} in {spec!r}")
    return found["run"], wanted["verifier"], wanted["at_least"]


def _of_pool(pool: Pool, verifier: str, at_least: float, run: str, spec: str) -> list[Accepted]:
    known = pool.verifiers()
    if not known:
        raise UserError(
            f"{spec}: no chain was judged there yet. Run:  reasoning verify {run} --verifier NAME"
        )
    if not verifier and len(known) > 1:
        names = [short_name(name, known) for name in known]
        raise UserError(
            f"{spec}: several verifiers judged there ({', '.join(names)}); say whose word counts:  "
            f"{spec}{',' if _SOURCE.match(spec) else ':'}verifier={names[0]}"
        )
    verifier = verifier_named(verifier, known, run) if verifier else next(iter(known))
    problems, verdicts = pool.problems(), pool.verdicts(verifier)
    found = []
    for chain in pool.chains():
        verdict = verdicts.get(chain.key)
        if verdict is None or verdict.score is None or verdict.score < at_least:
            continue
        if chain.problem_id in problems and not (
            chain.truncated or chain.sampling.stop or not chain.text.strip()
        ):
            found.append(Accepted(problems[chain.problem_id], chain, verdict.score))
    return found


def settle(run: Path, specs: Sequence[str], before: Collection[str]) -> list[Accepted]:
    """The chains that the round in ``run`` learns from: those that it began with, else all not in ``before``. Raises
    PoolError where one of a round that has begun is gone from its pool."""
    known = begun(run)
    if known is None:
        return read_accepted(specs, before)
    found = read_accepted(specs, only=set(known))
    if len(found) < len(known):
        raise PoolError(
            f"{len(known) - len(found)} of the {len(known)} chains that {run} began to learn from are not in their "
            "pools any more: bring them back, or begin in another folder."
        )
    return found


def note_down(run: Path, found: Sequence[Accepted]) -> None:
    """Write the keys of the round's chains into RUN/accepted.txt."""
    partial = run / ".accepted.partial"
    with writing(run / "accepted.txt"):
        partial.write_text("".join(f"{one.chain.key}\n" for one in found))
        os.replace(partial, run / "accepted.txt")


def begun(run: Path) -> list[str] | None:
    """The keys of the round that was begun in ``run``; None where none was."""
    path = run / "accepted.txt"
    return path.read_text().split() if path.is_file() else None


def as_row(one: Accepted, engine: Any) -> Row:
    """Ids as they were sampled, where this model's tokenizer shows the same prompt and reads them as the same text;
    otherwise the text is encoded, with an end token."""
    prompt = tuple(engine.ask(one.problem))
    ids = one.chain.token_ids
    if not ids or one.chain.prompt_token_ids != prompt or engine.decode(ids) != one.chain.text:
        ids = tuple(engine.tokenizer(one.chain.text, add_special_tokens=False)["input_ids"])
        ids += (engine.tokenizer.eos_token_id,)
    return Row(prompt, ids, reward=1.0)


class AcceptedSource:
    """Accepted chains as groups by problem, ``count`` problems a step, each read once before any is read again."""

    def __init__(self, accepted: Sequence[Accepted], engine: Any, count: int, seed: int):
        self.groups: dict[str, list[Accepted]] = {}
        for one in accepted:
            self.groups.setdefault(one.problem.id, []).append(one)
        self.ids = sorted(self.groups)
        self.engine, self.count, self.seed = engine, count, seed
        self.state: dict[str, Any] = {}

    def draw(self, step: int) -> StepData:
        chosen = dict.fromkeys(choose(len(self.ids), step * self.count, self.count, self.seed))
        groups = [[as_row(one, self.engine) for one in self.groups[self.ids[i]]] for i in chosen]
        lengths = [len(row.ids) for group in groups for row in group]
        return StepData(groups, {"completions/mean_length": float(np.mean(lengths))})
