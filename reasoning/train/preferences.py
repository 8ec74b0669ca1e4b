"""Pairs of a chosen and a rejected response to one prompt: from a file of comparisons, or from the judged chains of a
pool. A preference model is fitted on them, and DPO trains on them. Knows no model and no loss.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.pool.judges import verifier_in
from reasoning.records import Chain, Problem, digest
from reasoning.tasks.conversation import check_messages, messages_of, with_messages
from reasoning.train.rows import Row
from reasoning.train.sources import StepData, choose

POOL = "pool:"
FORM = 'a row is {"prompt": ..., "chosen": ..., "rejected": ...}, each text or a list of messages'


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one problem, the chosen one preferred. chains: those they were taken from (chosen, rejected),
    where they were sampled."""

    problem: Problem
    chosen: str
    rejected: str
    chains: tuple[Chain, Chain] | None = None


def load_preferences(
    spec: str, verifier: str, *, per_problem: int = 4, margin: float = 0.25, seed: int = 0
) -> list[Pair]:
    """The pairs that ``spec`` names: a JSONL file, or ``pool:RUN`` for pairs of the chains of a run that ``verifier``
    has judged (see `pairs_of_pool`). Raises UserError."""
    if spec.startswith(POOL):
        return pairs_of_pool(
            [spec.removeprefix(POOL)], verifier, per_problem=per_problem, margin=margin, seed=seed
        )
    return read_preferences(Path(spec))


def read_preferences(path: Path) -> list[Pair]:
    """JSONL rows of {"prompt", "chosen", "rejected"}, read in the forms that published sets have: all three as text;
    prompt as a list of messages; chosen and rejected as messages that end with the assistant's, with the prompt's
    turns before or without. Raises UserError that names a malformed line, and for a file without rows."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of preferences ({FORM}; or name a run by {POOL}RUN).")
    pairs = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                pairs.append(_read_row(line, f"{path}, line {number}"))
    if not pairs:
        raise UserError(f"{path}: holds no preference ({FORM}).")
    return pairs


def _read_row(line: str, where: str) -> Pair:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not JSON; {FORM}.") from None
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: not an object; {FORM}.")
    missing = [name for name in ("chosen", "rejected") if row.get(name) in (None, "", [])]
    if missing:
        raise UserError(f"{where}: {' and '.join(missing)} missing or empty; {FORM}.")
    before, chosen = _turns(row, "chosen", where)
    other, rejected = _turns(row, "rejected", where)
    if before != other:
        raise UserError(f"{where}: chosen and rejected answer different prompts.")
    if chosen == rejected:
        raise UserError(f"{where}: chosen and rejected are equal, so nothing is preferred.")
    if not chosen.strip() or not rejected.strip():
        raise UserError(f"{where}: chosen or rejected is empty.")
    if isinstance(before, str):
        return Pair(Problem.make(before, None, "preference"), chosen, rejected)
    turns = check_messages(before, where)
    if turns[-1]["role"] != "user":
        raise UserError(f"{where}: the turns before the response must end with the user's.")
    if len(turns) == 1:
        return Pair(Problem.make(turns[0]["content"], None, "preference"), chosen, rejected)
    asked = Problem.make(turns[-1]["content"], None, "preference")
    return Pair(with_messages(asked, turns), chosen, rejected)


def _turns(row: Mapping[str, Any], name: str, where: str) -> tuple[Any, str]:
    """(prompt as text or messages, response) of one side of a row."""
    prompt, side = row.get("prompt"), row[name]
    if isinstance(side, str):
        if not isinstance(prompt, str | list) or not prompt:
            raise UserError(f"{where}: prompt missing; {FORM}.")
        return prompt, side
    if not (isinstance(side, list) and all(isinstance(m, Mapping) for m in side)):
        raise UserError(f"{where}: {name} is neither text nor a list of messages.")
    last = side[-1]
    if last.get("role") != "assistant" or not isinstance(last.get("content"), str):
        raise UserError(f"{where}: {name} must end with a message of the assistant.")
    before = list(side[:-1])
    if before:
        return before, last["content"]  # the whole conversation, prompt included
    if isinstance(prompt, str) and prompt:
        return prompt, last["content"]
    if isinstance(prompt, list) and prompt:
        return prompt, last["content"]
    raise UserError(f"{where}: prompt missing; {FORM}.")


def pairs_of_pool(
    folders: Sequence[str],
    verifier: str,
    *,
    per_problem: int = 4,
    margin: float = 0.25,
    seed: int = 0,
    allowed: Callable[[Problem], bool] = lambda problem: True,
) -> list[Pair]:
    """Pairs of finished chains of a problem whose scores by ``verifier`` differ by ``margin`` at least: right against
    wrong ones, or what a judge likes better against what it likes less. At most ``per_problem`` of each problem, a
    seeded choice in which every chain comes once before any comes again.

    verifier: a name, by the rule of `pool.judges`. Raises UserError where no problem has such chains.
    """
    verifier = verifier_in(folders, verifier)
    found: dict[str, dict[str, tuple[Chain, float]]] = {}
    problems: dict[str, Problem] = {}
    for folder in folders:
        with Pool.open(folder, create=False, read_only=True) as pool:
            verdicts = pool.verdicts(verifier)
            known = pool.problems()
            for chain in pool.chains():
                verdict = verdicts.get(chain.key)
                if verdict is None or verdict.score is None or chain.truncated or not chain.text.strip():
                    continue
                if allowed(known[chain.problem_id]):
                    problems[chain.problem_id] = known[chain.problem_id]
                    texts = found.setdefault(chain.problem_id, {})
                    texts.setdefault(chain.text, (chain, verdict.score))
    if not found:
        raise UserError(
            f"No chain with a verdict of {verifier!r} in {', '.join(folders)}: run 'reasoning verify' there first, "
            "or name the verifier that has judged them by --verifier."
        )
    pairs = []
    for problem_id in sorted(found):
        chosen = _choose(list(found[problem_id].values()), per_problem, margin, seed)
        for better, worse in chosen:
            pairs.append(Pair(problems[problem_id], better.text, worse.text, (better, worse)))
    if not pairs:
        raise UserError(
            f"No problem of {', '.join(folders)} has two chains whose scores by {verifier!r} differ by {margin:g}: "
            "nothing is preferred. Draw more chains, or lower --margin."
        )
    return pairs


def _choose(
    judged: Sequence[tuple[Chain, float]], count: int, margin: float, seed: int
) -> list[tuple[Chain, Chain]]:
    """At most ``count`` (better, worse), those of the chains that were used least first."""
    every = [
        (i, j)
        for i, (_, a) in enumerate(judged)
        for j, (_, b) in enumerate(judged)
        if a > b and a - b >= margin - 1e-12
    ]
    if not every:
        return []
    random.Random(digest("pairs", seed, judged[0][0].problem_id, length=32)).shuffle(every)
    used = [0] * len(judged)
    picked = []
    for _ in range(min(count, len(every))):
        best = min(every, key=lambda pair: used[pair[0]] + used[pair[1]])
        every.remove(best)
        used[best[0]] += 1
        used[best[1]] += 1
        picked.append((judged[best[0]][0], judged[best[1]][0]))
    return picked


class PreferenceSource:
    """Pairs as rows, ``count`` a step, each read once before any is read again."""

    def __init__(self, pairs: Sequence[Pair], engine: Any, count: int, seed: int):
        self.pairs = pairs
        self.engine = engine
        self.count = count
        self.seed = seed
        self.state: dict[str, int] = {}

    def draw(self, step: int) -> StepData:
        chosen = choose(len(self.pairs), step * self.count, self.count, self.seed)
        groups = [pair_rows(self.pairs[i], self.engine) for i in chosen]
        lengths = [len(row.ids) for group in groups for row in group]
        return StepData(groups, {"completions/mean_length": float(np.mean(lengths))})


def pair_rows(pair: Pair, engine: Any) -> list[Row]:
    """[chosen, rejected] as rows, rewards 1 and 0. Ids that were sampled are taken as they were where the model's
    tokenizer reads them as the same text; otherwise the text is encoded, with an end token."""
    prompt = tuple(engine.ask(pair.problem))
    end = (engine.tokenizer.eos_token_id,)
    rows = []
    for which, text in enumerate((pair.chosen, pair.rejected)):
        chain = pair.chains[which] if pair.chains else None
        if (
            chain is not None
            and chain.token_ids
            and chain.prompt_token_ids == prompt
            and engine.decode(chain.token_ids) == chain.text
        ):
            ids = chain.token_ids
        else:
            ids = tuple(engine.tokenizer(text, add_special_tokens=False)["input_ids"]) + end
        rows.append(Row(prompt, ids, reward=float(which == 0)))
    return rows


def signed(rows: Sequence[Row]) -> list[Row]:
    """Rows of pairs with the sign that each has in its pair's margin."""
    return [dataclasses.replace(row, advantage=2 * row.reward - 1) for row in rows]


def say_pairs(pairs: Sequence[Pair]) -> str:
    """ "120 pairs of 60 prompts", and how many are others once more (which count as often as they are given)."""
    asked = [tuple(m["content"] for m in messages_of(p.problem)) for p in pairs]
    again = len(pairs) - len({(a, p.chosen, p.rejected) for a, p in zip(asked, pairs, strict=True)})
    repeated = f", {again} of them others once more" if again else ""
    return f"{len(pairs)} pairs of {len(set(asked))} prompts{repeated}"
