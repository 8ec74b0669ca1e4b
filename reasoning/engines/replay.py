"""Recorded chains served as an engine: any strategy runs again on a pool, without a model and to the byte.

It keeps the engine contract with one difference: a draw past what was recorded yields nothing and is listed
in `misses`, so a strategy sees a short read, as it does when a budget ends. It knows nothing of how the
chains were made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from reasoning.errors import UserError, unknown
from reasoning.flops import ModelShape
from reasoning.pool import Pool
from reasoning.records import Chain, Cost, Draw, Sampling, chain_key


class ReplayEngine:
    """Serves draw index i of a problem as the recorded chain i of that problem, under the model id and the
    sampling parameters that it was recorded with, at the cost that was recorded.

    sampling: the parameters that most chains were recorded with: draw with these.
    misses: (problem id, index) of every draw that had no recorded chain.
    """

    def __init__(self, chains: Sequence[Chain], shape: ModelShape | None = None):
        if not chains:
            raise UserError("There are no chains to replay.")
        if len(models := {c.model for c in chains}) > 1:
            raise UserError(f"Chains of several models cannot be one engine: {', '.join(sorted(models))}.")
        self.model = chains[0].model
        self.shape = shape
        self.misses: list[tuple[str, int]] = []
        self._chains = {c.key: c for c in chains}
        self._recorded: dict[str, int] = {}
        counts: dict[Sampling, int] = {}
        for chain in chains:
            counts[chain.sampling] = counts.get(chain.sampling, 0) + 1
        self.sampling = max(counts, key=lambda s: (not s.greedy, counts[s]))
        self._samplings = counts
        for chain in chains:
            if chain.sampling == self.sampling and not chain.parent:
                self._recorded[chain.problem_id] = self._recorded.get(chain.problem_id, 0) + 1

    @classmethod
    def open(cls, path: str | Path, *, model: str = "") -> ReplayEngine:
        """The chains of the pool (or run folder) at ``path``; ``model`` names one where it holds several.

        Raises UserError for a pool that is not there or empty, and for an unknown or ambiguous model.
        """
        with Pool.open(path, create=False, read_only=True) as pool:
            models = pool.models()
            if not model:
                with_chains = [m for m in models if pool.samplings(m)]
                if len(with_chains) > 1:
                    raise UserError(
                        f"{path} holds chains of several models; name one:  replay:{path}:model=NAME  "
                        f"(NAME: {', '.join(with_chains)})"
                    )
                model = with_chains[0] if with_chains else ""
            elif model not in models:
                raise unknown(f"model in {path}", model, models)
            chains = pool.chains(model, continuations=True) if model else []
            shape = models.get(model, {}).get("shape")
        if not chains:
            raise UserError(f"{path} holds no chains to replay. Fill it first:  reasoning sample or import")
        return cls(chains, ModelShape.from_json(shape) if shape else None)

    def available(self, problem_id: str) -> int:
        """How many chains of the problem were recorded with `sampling`."""
        return self._recorded.get(problem_id, 0)

    def generate(self, draws: Sequence[Draw]) -> Iterator[Chain]:
        """Recorded chains, in the order of the draws. Raises UserError for sampling parameters that nothing
        was recorded with: chains of others would not be what was asked for."""
        for draw in draws:
            if draw.sampling not in self._samplings:
                known = "; ".join(str(s) for s in self._samplings)
                raise UserError(f"Nothing was recorded with {draw.sampling}. Recorded: {known}")
            for index in draw.indices:
                chain = self._find(draw, index)
                if chain is None:
                    self.misses.append((draw.problem.id, index))
                else:
                    yield chain

    def worst_case(self, draw: Draw) -> Cost:
        """What the recorded chains cost: known to the token."""
        found = (self._find(draw, index) for index in draw.indices)
        return sum((c.cost for c in found if c is not None), Cost())

    def close(self) -> None:
        """There is nothing to free."""

    def _find(self, draw: Draw, index: int) -> Chain | None:
        problem = draw.problem
        key = chain_key(self.model, draw.sampling, problem.id, problem.prompt, index, draw.parent)
        return self._chains.get(key)
