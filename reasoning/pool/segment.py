"""What one segment of the pool holds, in memory: the rows of a write-ahead file.

A segment is the unit of writing and of sealing. Within it the last row of a key wins. This module knows
nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reasoning.budget import Charge
from reasoning.pool.rows import chain_from_row, problem_from_row, sampling_json, verdict_from_row
from reasoning.records import Chain, Problem
from verifiers.base import Verdict

Group = tuple[str, str]
"""(model, sampling as JSON): what `Pool.samplings` and `Pool.summary` count by."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which chains are wanted; None is all. samplings are JSON texts."""

    model: str | None = None
    sampling: str | None = None
    problem_ids: Collection[str] | None = None
    continuations: bool = False

    def __call__(self, chain: Chain) -> bool:
        return (
            (self.continuations or not chain.parent)
            and (self.model is None or chain.model == self.model)
            and (self.sampling is None or sampling_json(chain.sampling) == self.sampling)
            and (self.problem_ids is None or chain.problem_id in self.problem_ids)
        )


@dataclass(slots=True)
class Segment:
    """Rows of a write-ahead file that is not sealed yet.

    problems: id -> (order, problem). verdicts: verifier -> chain key -> verdict. oracles: verifier -> oracle.
    """

    name: str
    problems: dict[str, tuple[int, Problem]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    verdicts: dict[str, dict[str, Verdict]] = field(default_factory=dict)
    oracles: dict[str, bool] = field(default_factory=dict)
    charges: dict[str, Charge] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, name: str, rows: Iterable[Mapping[str, Any]]) -> Segment:
        segment = cls(name)
        for row in rows:
            ((kind, content),) = row.items()
            if kind == "chain":
                segment.chains[content["key"]] = chain_from_row(content)
            elif kind == "verdict":
                table = segment.verdicts.setdefault(content["verifier"], {})
                table[content["key"]] = verdict_from_row(content)
            elif kind == "problem":
                segment.problems[content["id"]] = (content["order"], problem_from_row(content))
            elif kind == "model":
                segment.models[content["id"]] = content["info"]
            elif kind == "verifier":
                segment.oracles[content["name"]] = content["oracle"]
            elif kind == "charge":
                segment.charges[content["id"]] = Charge.from_json(content)
            else:
                raise ValueError(f"unknown kind of row {kind!r}")
        return segment

    @property
    def empty(self) -> bool:
        return not (
            self.problems or self.models or self.chains or self.verdicts or self.oracles or self.charges
        )

    def find_chains(self, wanted: Filter) -> dict[str, Chain]:
        return {key: chain for key, chain in self.chains.items() if wanted(chain)}

    def find_verdicts(self, verifier: str) -> dict[str, Verdict]:
        return self.verdicts.get(verifier, {})

    def groups(self) -> Counter[Group]:
        """How many chains of each group, continuations left out."""
        return Counter((c.model, sampling_json(c.sampling)) for c in self.chains.values() if not c.parent)
