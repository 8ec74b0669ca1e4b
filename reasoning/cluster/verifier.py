"""Any verifier, judged by the actors of a cluster: `on_cluster`. Same name, same verdicts, so a run does not show
where it was judged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from reasoning.cluster.actors import ActorPool
from reasoning.cluster.connect import ClusterSpec, absolute, connect, parse_cluster
from reasoning.cluster.dispatch import Dispatch
from verifiers import open_verifier
from verifiers.base import Attempt, Verdict, Verifier

ATTEMPTS_TOGETHER = 16
_USES_GPUS = ("learned", "judge")


class VerifierWorker:
    def __init__(self, spec: str):
        self.verifier = open_verifier(spec)

    def about(self) -> dict[str, Any]:
        verifier = self.verifier
        return {
            "identity": verifier.name,
            "oracle": verifier.oracle,
            "tells_worst": hasattr(verifier, "worst_case"),
        }

    def work(
        self, units: Sequence[tuple[int, Any]], stopped: Callable[[], bool]
    ) -> Iterator[tuple[int, list[Verdict]]]:
        for number, attempts in units:
            if stopped():
                return
            verdicts = list(self.verifier.verify(attempts))
            if len(verdicts) != len(attempts):
                raise ValueError(f"{len(verdicts)} verdicts on {len(attempts)} attempts")
            yield number, verdicts

    def worst_case(self, groups: Sequence[Sequence[Attempt]]) -> tuple[int, float]:
        tell: Any = getattr(self.verifier, "worst_case", None)
        each = [tell(group) for group in groups]
        return sum(tokens for tokens, _ in each), sum(flops for _, flops in each)


class _Group:
    """Attempts judged together."""

    def __init__(self, attempts: Sequence[Attempt]):
        self.attempts = attempts
        self.deaths = 0
        self.verdicts: list[Verdict] | None = None

    @property
    def size(self) -> int:
        return len(self.attempts) if self.verdicts is None else 0

    def payload(self) -> Sequence[Attempt]:
        return self.attempts

    def take(self, result: list[Verdict]) -> bool:
        if self.verdicts is not None:
            return False
        self.verdicts = result
        return True


class RayVerifier:
    """Judges by a pool of actors, each with the verifier that ``spec`` names. Thread safe.

    An attempt on which several actors died has a missing verdict with the status "died"; one on which the
    verifier raised, "error". What a model-based verifier had read in an actor that died is not known, so not
    charged.
    """

    def __init__(self, spec: str, cluster: ClusterSpec | None = None):
        uses_gpus = spec.partition(":")[0] in _USES_GPUS
        self.pool = ActorPool(cluster or ClusterSpec(), VerifierWorker, (_absolute(spec),), uses_gpus)
        self.name: str = self.pool.about["identity"]
        self.oracle: bool = self.pool.about["oracle"]
        self._lock = threading.Lock()
        if self.pool.about["tells_worst"]:
            self.worst_case = self._worst_case

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        """Verdicts in the order of ``attempts``. Raises EngineError when the cluster has nobody left to judge."""
        groups = [_Group(group) for group in together(attempts)]
        with self._lock:
            dispatch = Dispatch(self.pool, groups)
            try:
                for event in dispatch.run():
                    if event.kind in ("given_up", "failed"):
                        status = "died" if event.kind == "given_up" else "error"
                        missing = Verdict(None, status=status, reason=event.reason[:300])
                        event.unit.verdicts = [missing] * len(event.unit.attempts)
            finally:
                dispatch.stop()
        return [v for g in groups for v in g.verdicts or ()]

    def close(self) -> None:
        self.pool.close()

    def _worst_case(self, attempts: Sequence[Attempt]) -> tuple[int, float]:
        return self.pool.call("worst_case", together(attempts))


def on_cluster(spec: str, cluster: str | ClusterSpec = "auto", beside: bool = False) -> Verifier:
    """The verifier that ``spec`` names, on the actors of a cluster ("auto:actors=4"); without a cluster (""),
    `open_verifier`. beside: an engine has the cluster's CPUs and GPUs and pauses while there is judging, so that
    these actors, one for each CPU, set none aside."""
    if not cluster:
        return open_verifier(spec)
    where = parse_cluster(cluster) if isinstance(cluster, str) else cluster
    if beside:
        count = where.actors or int(connect(where.address).cluster_resources().get("CPU", 1))
        where = replace(where, actors=max(1, count), cpus_per_actor=0.0, gpus_per_actor=0.0)
    return RayVerifier(spec, where)


def together(attempts: Sequence[Attempt]) -> list[Sequence[Attempt]]:
    """Groups of some attempts each; those of one prompt stay in one as far as they fit."""
    groups: list[Sequence[Attempt]] = []
    start = 0
    while start < len(attempts):
        end = min(start + ATTEMPTS_TOGETHER, len(attempts))
        if end < len(attempts):
            whole = end
            while whole > start and attempts[whole].prompt == attempts[whole - 1].prompt:
                whole -= 1
            end = whole if whole > start else end
        groups.append(list(attempts[start:end]))
        start = end
    return groups


def _absolute(spec: str) -> str:
    """Of a composition or an unusual spec the paths stay as they are."""
    plain = not any(mark in spec for mark in "+*")
    return absolute(spec) if plain and not spec.startswith("pooled:") else spec
