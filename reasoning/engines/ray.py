"""Many machines as one engine: a pool of Ray actors, each with an engine of its own kind (extra "ray").

A chain is a function of its key, whatever machine it comes from, so the pool of a run does not show where it was
drawn: the engine has the model id of the engines inside it, and refuses any that holds other weights. How work is
shared out, and what happens when an actor dies, is in reasoning/cluster.

What an actor had computed when it died cannot be known. It is charged, as "failed", with what is known: the
tokens of the prompts that it had begun, unless a chain that arrived had paid for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from reasoning.cluster.actors import ActorPool
from reasoning.cluster.connect import ClusterSpec, absolute, parse_cluster
from reasoning.cluster.dispatch import MOST_DEATHS, Dispatch, Event
from reasoning.engines import open_engine
from reasoning.engines.base import WHOLE, Engine, unfinished
from reasoning.errors import EngineError, UserError
from reasoning.flops import ModelShape
from reasoning.records import Chain, Cost, Draw, chain_key

CHAINS_TOGETHER = 8
_USES_GPUS = ("transformers", "vllm")
_MOST_REMEMBERED = 100_000


class EngineWorker:
    """The engine inside an actor. A unit is a draw; its results are chains."""

    def __init__(self, spec: str):
        self.engine = open_engine(spec)

    def about(self) -> dict[str, Any]:
        engine = self.engine
        return {
            "identity": engine.model,
            "shape": engine.shape,
            "sampling": getattr(engine, "sampling", None),
        }

    def work(
        self, units: Sequence[tuple[int, Draw]], stopped: Callable[[], bool]
    ) -> Iterator[tuple[int, Chain]]:
        numbers = {key: number for number, draw in units for key in keys_of(draw, self.engine.model)}
        error: Exception | None = None
        chains: Any = iter(self.engine.generate([draw for _, draw in units]))
        try:
            for chain in chains:
                yield numbers[chain.key], chain
                if stopped():
                    break
        except Exception as e:  # raised again below, after what was computed in vain is told
            error = e
        if hasattr(chains, "close"):
            chains.close()
        yield from ((numbers[c.key], c) for c in unfinished(self.engine) if c.key in numbers)
        if error is not None:
            raise error

    def worst_cases(self, draw: Draw, most: int) -> list[Cost]:
        """Of 1, 2, ..., ``most`` chains."""
        return [
            self.engine.worst_case(replace(draw, indices=tuple(range(count)))) for count in range(1, most + 1)
        ]


def keys_of(draw: Draw, model: str) -> list[str]:
    problem = draw.problem
    return [chain_key(model, draw.sampling, problem.id, problem.prompt, i, draw.parent) for i in draw.indices]


class ChainUnit:
    """Some chains of one draw. missing: key -> index of those that have not arrived. deaths: of actors on it.
    paid: a chain of the present attempt paid for the prompt."""

    def __init__(self, draw: Draw, keys: Sequence[str], deaths: int = 0):
        self.draw = draw
        self.keys = frozenset(keys)
        self.missing = dict(zip(keys, draw.indices, strict=True))
        self.deaths = deaths
        self.paid = False

    @property
    def size(self) -> int:
        return len(self.missing)

    def payload(self) -> Draw:
        return replace(self.draw, indices=tuple(self.missing.values()))

    def take(self, chain: Chain) -> bool:
        if chain.finish_reason in WHOLE:
            if self.missing.pop(chain.key, None) is None:
                return False
        elif chain.key not in self.keys:
            return False
        self.paid = self.paid or chain.cost.prompt_tokens > 0
        return True


class RayEngine:
    """Engines on many machines.

    given_up: problem id -> reason, of chains on which several actors died. notes: lines that a person should
    see. One `generate` at a time.
    """

    def __init__(self, spec: str, cluster: ClusterSpec | None = None, chains_together: int = CHAINS_TOGETHER):
        """spec: of the engine that each actor opens. chains_together: chains of a problem that one actor draws
        together, so that it reads the prompt once for them. Raises UserError, MissingExtra, EngineError."""
        if chains_together < 1:
            raise UserError(f"chains_together must be 1 or above, not {chains_together}.")
        name = spec.partition(":")[0]
        if name in ("ray", "replay"):
            raise UserError(f"{spec!r} is nothing for a cluster; open it as it is.")
        self.chains_together = chains_together
        self.pool = ActorPool(cluster or ClusterSpec(), EngineWorker, (absolute(spec),), name in _USES_GPUS)
        self.model: str = self.pool.about["identity"]
        self.shape: ModelShape | None = self.pool.about["shape"]
        if self.pool.about["sampling"] is not None:
            self.sampling = self.pool.about["sampling"]
        self.given_up: dict[str, str] = {}
        self._suspicion: dict[str, int] = {}
        self._worst: dict[tuple[Any, ...], list[Cost]] = {}
        self._unfinished: list[Chain] = []
        self._busy = False

    @classmethod
    def open(
        cls,
        source: str,
        *,
        address: str = "auto",
        actors: int = 0,
        cpus_per_actor: float = 1.0,
        gpus_per_actor: float = -1.0,
        chains_together: int = CHAINS_TOGETHER,
        start_seconds: float = 600.0,
        deaf_seconds: float = 120.0,
        batch_seconds: float = 2.0,
        backoff_seconds: float = 0.5,
        most_failures: int = 0,
    ) -> RayEngine:
        """``source`` (an engine spec, options and all) on the actors of a cluster: see `ClusterSpec`."""
        cluster = ClusterSpec(
            address,
            actors,
            cpus_per_actor,
            gpus_per_actor,
            start_seconds,
            deaf_seconds,
            batch_seconds,
            backoff_seconds,
            most_failures,
        )
        return cls(source, cluster, chains_together)

    @property
    def notes(self) -> list[str]:
        return self.pool.notes

    def generate(self, draws: Sequence[Draw]) -> Iterator[Chain]:
        """Chains as they arrive from the actors. Where actors died, "failed" chains beside them: of an attempt
        that is repeated here, and of chains that are given up."""
        if self._busy:
            raise EngineError("This engine is generating already: close that call first.")
        self._busy = True
        dispatch = Dispatch(self.pool, [u for draw in draws for u in self._units(draw)])
        try:
            for event in dispatch.run():
                yield from self._chains(event)
        finally:
            for event in dispatch.stop():
                self._unfinished += [
                    replace(c, finish_reason="cancelled") if c.finish_reason in WHOLE else c
                    for c in self._chains(event, "cancelled")
                ]
            self._busy = False

    def unfinished(self) -> Sequence[Chain]:
        """What was under way when `generate` was closed, with what is known of its cost."""
        told, self._unfinished = self._unfinished, []
        return told

    def worst_case(self, draw: Draw) -> Cost:
        """Of the parts that the chains are drawn in, each with its own prompt, and the prompt once more for
        every actor that may die on it. The first draw of a problem asks an actor (about a millisecond)."""
        count = len(draw.indices)
        if not count:
            return Cost()
        worst = self._worst_cases(draw)
        parts, rest = divmod(count, self.chains_together)
        total = worst[rest - 1] if rest else Cost()
        for _ in range(parts):
            total += worst[-1]
        again = self._prompt_cost(worst[0])
        for _ in range((MOST_DEATHS - 1) * (parts + bool(rest))):
            total += again
        return total

    def wait_for_actors(self, seconds: float, actors: int = 0) -> int:
        """Wait until so many actors (0: all) are ready; how many are. Work begins with the first anyway."""
        return self.pool.wait(seconds, actors)

    def close(self) -> None:
        self.pool.close()

    def _units(self, draw: Draw) -> Iterator[ChainUnit]:
        for start in range(0, len(draw.indices), self.chains_together):
            part = replace(draw, indices=draw.indices[start : start + self.chains_together])
            keys = keys_of(part, self.model)
            yield ChainUnit(part, keys, max(self._suspicion.get(key, 0) for key in keys))

    def _chains(self, event: Event, ended: str = "failed") -> Iterator[Chain]:
        unit = event.unit
        if event.kind == "result":
            yield event.result
        elif event.kind == "lost":
            if unit.missing and not unit.paid:
                key = next(iter(unit.missing))
                yield self._nothing(unit, key, ended, self._begun(unit.draw))
            unit.paid = False
        elif event.kind in ("given_up", "failed"):
            for key in unit.missing:
                deaths = self._suspicion.get(key) or unit.deaths
                self._suspicion[key] = min(deaths + 1, MOST_DEATHS - 1)
                yield self._nothing(unit, key, ended, Cost())
            problem = unit.draw.problem
            if event.kind == "given_up" and problem.id not in self.given_up:
                self.given_up[problem.id] = event.reason
                self.notes.append(
                    f"Problem {problem.id}: given up after {unit.deaths} actors died on it ({event.reason})."
                )

    def _nothing(self, unit: ChainUnit, key: str, ended: str, cost: Cost) -> Chain:
        """A chain that came to nothing."""
        draw = unit.draw
        return Chain(
            problem_id=draw.problem.id,
            index=unit.missing[key],
            text="",
            finish_reason=ended,
            model=self.model,
            sampling=draw.sampling,
            key=key,
            parent=draw.parent,
            cost=cost,
        )

    def _begun(self, draw: Draw) -> Cost:
        """What is known of the cost of a draw that was begun; nothing where no actor is left to tell."""
        try:
            return self._prompt_cost(self._worst_cases(draw, seconds=5.0)[0])
        except EngineError:
            return Cost()

    def _prompt_cost(self, worst_of_one: Cost) -> Cost:
        tokens = worst_of_one.prompt_tokens
        flops = self.shape.decode_flops(0, tokens) if self.shape is not None else 0.0
        return Cost(prompt_tokens=tokens, flops=flops)

    def _worst_cases(self, draw: Draw, seconds: float | None = None) -> list[Cost]:
        key = draw.problem.id, draw.prefix, draw.sampling
        if key not in self._worst:
            if len(self._worst) >= _MOST_REMEMBERED:
                self._worst.clear()
            self._worst[key] = self.pool.call("worst_cases", draw, self.chains_together, seconds=seconds)
        return self._worst[key]


def engine_on(cluster: str, spec: str) -> Engine:
    """The engine that ``spec`` names, on each actor of ``cluster`` ("auto", "10.0.0.1:6379:actors=8"); without a
    cluster (""), `open_engine`."""
    return RayEngine(spec, parse_cluster(cluster)) if cluster else open_engine(spec)
