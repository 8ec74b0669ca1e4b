"""Selectors: one answer out of many chains, as pure functions of what a pool holds.

Greedy, the oracle ceiling, majority, weighted majority, best-of-n and majority-of-bests never talk to an
engine: 64 chains drawn once give their accuracy at every k up to 64. `groups` turns a pool into arrays, one
`Group` a problem; a `Selector` maps groups and ks to one value per problem and k.

Knows nothing of intervals, curves or pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from reasoning import estimators
from reasoning.budget import Charge
from reasoning.errors import UserError, unknown
from reasoning.flops import ModelShape
from reasoning.records import Chain, Problem, Sampling, digest
from reasoning.spec import parse_spec
from verifiers.base import Verdict

Floats = NDArray[np.float64]


class Records(Protocol):
    """What is read of a pool (`reasoning.pool.Pool` is one)."""

    def problems(self) -> Mapping[str, Problem]: ...
    def models(self) -> Mapping[str, Mapping[str, Any]]: ...
    def verifiers(self) -> Mapping[str, bool]: ...
    def chains(self, model: str | None = None) -> Sequence[Chain]: ...
    def verdicts(self, verifier: str) -> Mapping[str, Verdict]: ...
    def charges(self) -> Sequence[Charge]: ...


class ReadOnce:
    """The same records, each table read from the disk a single time. For one pass over a pool that stands
    still."""

    def __init__(self, records: Records):
        self._records = records
        self._verdicts: dict[str, Mapping[str, Verdict]] = {}
        self.problems = cache(records.problems)
        self.models = cache(records.models)
        self.verifiers = cache(records.verifiers)
        self.charges = cache(records.charges)

    @cached_property
    def _by_model(self) -> dict[str, list[Chain]]:
        found: dict[str, list[Chain]] = {}
        for chain in self._records.chains():
            found.setdefault(chain.model, []).append(chain)
        return found

    def drawn_from(self) -> list[str]:
        """The models that have chains."""
        return list(self._by_model)

    def chains(self, model: str | None = None) -> Sequence[Chain]:
        if model is not None:
            return self._by_model.get(model, [])
        return [chain for some in self._by_model.values() for chain in some]

    def verdicts(self, verifier: str) -> Mapping[str, Verdict]:
        if verifier not in self._verdicts:
            self._verdicts[verifier] = self._records.verdicts(verifier)
        return self._verdicts[verifier]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The chains of one problem by one model under one sampling, as arrays over its n chains (by index).

    correct: 1, 0 or NaN (verdict missing). A truncated chain is wrong once judged, and abstains, whatever it says.
    answers: class number of the answer, -1 where the chain abstains.
    scores, score_flops: of each verifier by name, (n,); NaN where missing.
    output_tokens, decode_flops: of each chain; NaN where the record does not say.
    prefill_flops: the prompt's, paid once for all chains.
    greedy_*: of the one chain at temperature 0; NaN where the pool has none.
    left_out: chains of the problem beyond those that a search which stops early drew for every problem.
    """

    problem_id: str
    correct: Floats
    answers: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    output_tokens: Floats
    decode_flops: Floats
    prompt_tokens: float = float("nan")
    prefill_flops: float = float("nan")
    scores: Mapping[str, Floats] = field(default_factory=dict)
    score_flops: Mapping[str, Floats] = field(default_factory=dict)
    difficulty: Any = None
    sampling: Sampling = Sampling()
    keys: tuple[str, ...] = ()
    greedy_correct: float = float("nan")
    greedy_output_tokens: float = float("nan")
    greedy_decode_flops: float = float("nan")
    left_out: int = 0

    @property
    def n(self) -> int:
        return len(self.correct)


class Values(NamedTuple):
    """Per problem and k, (P, K): the expected accuracy, and its Monte-Carlo error (0 where it is exact)."""

    mean: Floats
    error: Floats


@dataclass(frozen=True, slots=True)
class Selector:
    """A way to choose. ``selector(groups, ks)`` gives its `Values`.

    oracle: it reads the reference, so it is a ceiling and can never be deployed.
    scorer: the verifier whose scores it uses, "" for none; that verifier's work is part of its cost.
    """

    name: str
    label: str
    oracle: bool
    scorer: str
    values: Callable[[Sequence[Group], Sequence[int]], Values]

    def __call__(self, groups: Sequence[Group], ks: Sequence[int]) -> Values:
        """Raises UserError where there are no groups, or where no problem has as many chains as the largest
        k."""
        if not groups:
            raise UserError("There are no chains to choose from.")
        most = max(group.n for group in groups)
        if max(ks) > most and self.name != "greedy":
            raise UserError(
                f"k = {max(ks)} is above the {most} chains per problem in the pool; "
                f"draw more chains, or ask for k up to {most}."
            )
        return self.values(groups, ks)


def _per_problem(
    estimate: Callable[[Group, list[int]], Any], groups: Sequence[Group], ks: Sequence[int]
) -> Values:
    """Apply an estimator problem by problem; a k above a problem's own number of chains is missing there."""
    mean, error = np.full((len(groups), len(ks)), np.nan), np.zeros((len(groups), len(ks)))
    for row, group in enumerate(groups):
        inside = [j for j, k in enumerate(ks) if k <= group.n]
        if inside:
            got = estimate(group, [ks[j] for j in inside])
            if isinstance(got, tuple):
                mean[row, inside], error[row, inside] = got
            else:
                mean[row, inside] = got
    return Values(mean, error)


def _greedy(groups: Sequence[Group], ks: Sequence[int]) -> Values:
    one = np.array([group.greedy_correct for group in groups])
    return Values(np.repeat(one[:, None], len(ks), axis=1), np.zeros((len(groups), len(ks))))


def _pass(groups: Sequence[Group], ks: Sequence[int]) -> Values:
    return _per_problem(lambda g, ks: estimators.pass_at_k(g.correct, ks), groups, ks)


def _majority(groups: Sequence[Group], ks: Sequence[int]) -> Values:
    return _per_problem(lambda g, ks: estimators.maj_at_k(g.correct, g.answers, ks), groups, ks)


def _weighted_majority(scorer: str) -> Callable[[Sequence[Group], Sequence[int]], Values]:
    return lambda groups, ks: _per_problem(
        lambda g, ks: estimators.weighted_majority_at_k(g.correct, g.answers, g.scores[scorer], ks),
        groups,
        ks,
    )


def _best_of_n(scorer: str) -> Callable[[Sequence[Group], Sequence[int]], Values]:
    return lambda groups, ks: _per_problem(
        lambda g, ks: estimators.best_of_k(g.correct, g.scores[scorer], ks), groups, ks
    )


def _majority_of_bests(scorer: str, m: int) -> Callable[[Sequence[Group], Sequence[int]], Values]:
    def values(groups: Sequence[Group], ks: Sequence[int]) -> Values:
        ms = [m] if m else [2**i for i in range(max(ks).bit_length())]
        # Two hundred shuffles of each of hundreds of problems leave an error far below the problems' own.
        means, errors = np.full((2, len(ms), len(groups), len(ks)), np.nan)
        for row, group in enumerate(groups):
            inside = [j for j, k in enumerate(ks) if k <= group.n]
            if inside:
                means[:, row, inside], errors[:, row, inside] = estimators.majority_of_bests_at_k(
                    group.correct,
                    group.answers,
                    group.scores[scorer],
                    ms,
                    [ks[j] for j in inside],
                    shuffles=200,
                )
        mean, error = means[0].copy(), errors[0].copy()
        for half, other in ((0, 1), (1, 0)) if len(ms) > 1 else ():
            mine, held_out = (
                np.array([int(digest(g.problem_id)[:2], 16) % 2 == fold for g in groups])
                for fold in (half, other)
            )
            for j in range(len(ks)):
                totals = np.nansum(means[:, held_out, j], axis=1)
                best = int(np.argmax(np.round(totals, 9)))
                mean[mine, j], error[mine, j] = means[best, mine, j], errors[best, mine, j]
        return Values(mean, error)

    return values


SELECTORS = {
    "greedy": "one chain at temperature 0",
    "pass": "oracle ceiling: right if any of k chains is (pass@k, best-of-n by the reference)",
    "majority": "the most frequent answer (self-consistency, 2203.11171)",
    "weighted_majority": "the answer of the largest summed score; options: scorer",
    "best_of_n": "the chain of the highest score; options: scorer",
    "majority_of_bests": (
        "the answer that best-of-m picks most often (2511.18630); options: scorer, m "
        "(0: chosen on the other half of the problems)"
    ),
}


def open_selector(spec: str, scorers: Mapping[str, bool] | None = None) -> Selector:
    """The selector a spec names: ``majority``, ``best_of_n:scorer=learned``, ...

    scorers: the verifiers that the groups carry scores of, with whether each is an oracle. With a single one
    the scorer may be left out. Raises UserError for an unknown name, option or scorer, with the nearest known
    one.
    """
    parsed, scorers = parse_spec(spec), scorers or {}
    if parsed.name not in SELECTORS:
        raise unknown("strategy", parsed.name, SELECTORS)
    if parsed.name in ("greedy", "pass", "majority"):
        parsed.take({})
        values = {"greedy": _greedy, "pass": _pass, "majority": _majority}[parsed.name]
        return Selector(parsed.name, parsed.name, parsed.name == "pass", "", values)
    defaults = {"scorer": "", "m": 0} if parsed.name == "majority_of_bests" else {"scorer": ""}
    options = parsed.take(defaults)
    scorer = options["scorer"] or (next(iter(scorers)) if len(scorers) == 1 else "")
    if not scorer:
        raise UserError(
            f"{parsed.name!r} needs a scorer: write {parsed.name}:scorer=NAME, "
            f"one of: {', '.join(sorted(scorers)) or 'none yet (run a verifier over the pool first)'}."
        )
    if scorer not in scorers:
        raise unknown("scorer", scorer, scorers)
    if parsed.name == "majority_of_bests":
        if options["m"] < 0:
            raise UserError(f"m in {spec!r} must be 1 or above, or 0 to have it chosen.")
        values = _majority_of_bests(scorer, options["m"])
    else:
        values = {"weighted_majority": _weighted_majority, "best_of_n": _best_of_n}[parsed.name](scorer)
    return Selector(parsed.name, f"{parsed.name} ({scorer})", scorers[scorer], scorer, values)


# --- from a pool to arrays ----------------------------------------------------------------------------------


def groups(
    pool: Records,
    model: str,
    sampling: Sampling | None = None,
    oracle: str = "numeric",
    scorers: Sequence[str] = (),
) -> list[Group]:
    """One `Group` per problem that ``model`` drew chains for, in the pool's order.

    sampling: the one to use; None takes the one with the most chains at a temperature above 0 (or the greedy
    one, where there is nothing else); greedy chains are those of the one greedy sampling that has the most.
    oracle: the verifier whose verdicts say what is correct and what the answer is. scorers: those that judged
    none of the chains are left out of `Group.scores`. Chains that continue another chain are left out. Raises
    UserError for an unknown model or verifier, for a pool without chains, and where the oracle judged none of
    them.
    """
    models, known = pool.models(), pool.verifiers()
    if not models:
        raise UserError("The pool is empty: draw chains first (reasoning sample).")
    if model not in models:
        raise unknown("model", model, models)
    for name in (oracle, *scorers):
        if not known:
            raise UserError("The pool has no verdicts yet: run reasoning verify first.")
        if name not in known:
            raise unknown("verifier", name, known, f"the pool has verdicts of: {', '.join(sorted(known))}")
    sampled: dict[Sampling, list[Chain]] = {}
    for chain in pool.chains(model=model):
        sampled.setdefault(chain.sampling, []).append(chain)
    if not sampled:
        raise UserError(f"The pool has no chains of {model!r}: draw some first (reasoning sample).")
    if sampling is None:
        sampling = max(sampled, key=lambda s: (not s.greedy, len(sampled[s]), digest(s.to_json())))
    elif sampling not in sampled:
        raise UserError(f"The pool has no chains of {model!r} with {sampling}.")
    verdicts = {name: pool.verdicts(name) for name in dict.fromkeys((oracle, *scorers))}
    judging = {n for n, judged in verdicts.items() if any(c.key in judged for c in sampled[sampling])}
    if oracle not in judging:
        raise UserError(f"The pool has no verdicts of {oracle!r} on {model!r}: run reasoning verify first.")
    shape = models[model].get("shape")
    shape = ModelShape.from_json(shape) if shape else None
    # One greedy sampling too: another of, say, fewer tokens, tried on some problems, stays out of the column.
    most_chains = sorted(sampled, key=lambda s: (s.greedy, len(sampled[s]), digest(s.to_json())))[-1]
    greedy = {chain.problem_id: chain for chain in sampled[most_chains] if most_chains.greedy}
    by_problem: dict[str, list[Chain]] = {}
    for chain in sorted(sampled[sampling], key=lambda c: c.index):
        by_problem.setdefault(chain.problem_id, []).append(chain)
    # A search that stops early draws more chains where the first ones disagree: only as many as every problem
    # has are a fair sample. Other pools are uneven for reasons that no answer had a part in.
    most = None
    if any(charge.phase == "search" for charge in pool.charges()):
        most = min(len(chains) for chains in by_problem.values())
    return [
        _group(
            problem,
            by_problem[id][:most],
            greedy.get(id),
            verdicts[oracle],
            {name: verdicts[name] for name in scorers if name in judging},
            shape,
            left_out=len(by_problem[id][most:]) if most else 0,
        )
        for id, problem in pool.problems().items()
        if id in by_problem
    ]


def _group(
    problem: Problem,
    chains: list[Chain],
    greedy: Chain | None,
    judged: Mapping[str, Verdict],
    scorers: Mapping[str, Mapping[str, Verdict]],
    shape: ModelShape | None,
    left_out: int,
) -> Group:
    classes: dict[str, int] = {}
    answers = [-1] * len(chains)
    for i, chain in enumerate(chains):
        verdict = judged.get(chain.key)
        if verdict is not None and verdict.answer is not None and not chain.truncated:
            answers[i] = classes.setdefault(verdict.answer, len(classes))
    prompt = max(
        (len(c.prompt_token_ids) or c.cost.prompt_tokens + c.cost.cached_tokens for c in chains), default=0
    )
    tokens = np.array([_tokens(chain) for chain in (*chains, *([greedy] if greedy else []))])
    if shape is not None and prompt:
        flops, prefill = shape.decode_flops(prompt, tokens), shape.prefill_flops(prompt)
    else:  # what the records were charged, the prefill's share included
        charged = (*chains, *([greedy] if greedy else []))
        flops, prefill = np.array([c.cost.flops or float("nan") for c in charged]), 0.0
    return Group(
        problem_id=problem.id,
        correct=np.array([_correct(chain, judged) for chain in chains]),
        answers=np.array(answers, dtype=np.int64),
        truncated=np.array([chain.truncated for chain in chains]),
        output_tokens=tokens[: len(chains)],
        decode_flops=flops[: len(chains)],
        prompt_tokens=prompt or float("nan"),
        prefill_flops=prefill,
        scores={
            name: np.array([_score(table.get(c.key)) for c in chains]) for name, table in scorers.items()
        },
        score_flops={
            name: np.array([v.flops if (v := table.get(c.key)) else 0.0 for c in chains])
            for name, table in scorers.items()
        },
        difficulty=problem.metadata.get("difficulty"),
        sampling=chains[0].sampling,
        keys=tuple(chain.key for chain in chains),
        greedy_correct=_correct(greedy, judged) if greedy else float("nan"),
        greedy_output_tokens=float(tokens[-1]) if greedy else float("nan"),
        greedy_decode_flops=float(flops[-1]) if greedy else float("nan"),
        left_out=left_out,
    )


def _correct(chain: Chain, judged: Mapping[str, Verdict]) -> float:
    verdict = judged.get(chain.key)
    if verdict is None:  # of a pool judged in part, cut-off chains alone would count, and tilt it to wrong
        return float("nan")
    if chain.truncated:
        return 0.0
    return float("nan") if verdict.missing else float(verdict.correct)


def _score(verdict: Verdict | None) -> float:
    return float("nan") if verdict is None or verdict.score is None else verdict.score


def _tokens(chain: Chain) -> float:
    return float(len(chain.token_ids) or chain.cost.output_tokens or float("nan"))
