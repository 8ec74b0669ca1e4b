"""Bring the chains, verdicts and charges of several pools together in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa

from reasoning.budget import Ledger
from reasoning.errors import UserError
from reasoning.pool.columns import is_key, key_numbers
from reasoning.pool.keyindex import Part, in_order
from reasoning.pool.store import Pool


def merge(sources: Sequence[str | Path], to: str | Path) -> Counter[str]:
    """Add what the pool ``to`` lacks of each source; how many rows of each table were new.

    By key, so that merging twice changes nothing. Where two have a verdict by one verifier on one chain, the first
    one's stays; a verifier that is an oracle in one is an oracle in all. What the sources' pools were charged
    (not the updates of a training run, which its ledger alone has) counts as spent in ``to``, so its ledger is held
    meanwhile: beside others that spend without a budget, never beside one that has to keep to one, whose budget would
    be overshot by what was merged.

    Raises UserError for a source that is no pool, or the target itself, or was charged in another currency; PoolError
    where another process is spending from the target's budget. Nothing is merged then.
    """
    pools = [Pool.open(source, read_only=True) for source in sources]
    added: Counter[str] = Counter()
    with Pool.open(to) as target:
        if any(pool.path.resolve() == target.path.resolve() for pool in pools):
            raise UserError(f"{target.path} is merged into itself: name another folder by --to.")
        with Ledger(path=target.folder.run) as ledger:
            _refuse_two_currencies([target, *pools], ledger)
            for pool in pools:
                added += _add(pool, target)
            ledger.recover(target.charges(), others=True)
    return added


def _refuse_two_currencies(pools: Sequence[Pool], ledger: Ledger) -> None:
    known = {c.currency for charges in (ledger.charges, *(p.charges() for p in pools)) for c in charges}
    if len(known - {""}) > 1:
        raise UserError(
            f"These runs were charged in {', '.join(sorted(known - {''}))}: one ledger has one currency, so they "
            "cannot be merged."
        )


def _add(pool: Pool, target: Pool) -> Counter[str]:
    added: Counter[str] = Counter()
    before = len(target.problems())
    target.add_problems(pool.problems().values())
    added["problems"] = len(target.problems()) - before
    models = target.models()
    for name, info in pool.models().items():
        if info and not models.get(name):
            target.add_model(name, info)
            added["models"] += 1
    known = {charge.id for charge in target.charges()}
    charges = [c for c in pool.charges() if c.id not in known]
    target.append([], charges=charges)
    added["charges"] = len(charges)
    for part in pool.scan("chains"):
        keys = part["key"].to_pylist()
        missing = set(target.missing(keys))
        target.add_tables({"chains": part.filter(pa.array([k in missing for k in keys], pa.bool_()))})
        added["chains"] += len(missing)
    oracles = target.verifiers()
    judged = _judged(target)
    for part in pool.scan("verdicts"):
        names, keys = part["verifier"].to_pylist(), part["key"].to_pylist()
        new = np.ones(len(keys), bool)
        for name in judged.keys() & set(names):
            of = np.array([n == name for n in names])
            new[of] = ~judged[name].contains(
                _digests([k for k, is_of in zip(keys, of, strict=True) if is_of])
            )
        target.add_tables({"verdicts": part.filter(pa.array(new))})
        added["verdicts"] += int(new.sum())
    for name, oracle in pool.verifiers().items():
        if oracles.get(name) != (oracle or oracles.get(name, False)):
            target.add_verdicts(name, {}, oracle=oracle or oracles.get(name, False))
    return added


def _judged(pool: Pool) -> dict[str, Part]:
    """Verifier -> the chains that it has judged, at 16 bytes each."""
    found: dict[str, list[np.ndarray]] = {}
    for part in pool.scan("verdicts", ["verifier", "key"]):
        keys: dict[str, list[str]] = {}
        for name, key in zip(part["verifier"].to_pylist(), part["key"].to_pylist(), strict=True):
            keys.setdefault(name, []).append(key)
        for name, its in keys.items():
            found.setdefault(name, []).append(_digests(its))
    parts = {name: in_order(np.concatenate(numbers, axis=1)) for name, numbers in found.items()}
    return {name: Part(None, frozenset(), *numbers) for name, numbers in parts.items()}


def _digests(keys: Sequence[str]) -> np.ndarray:
    """As `key_numbers`; also of what is no chain's key, which a verdict may name."""
    try:
        return key_numbers(keys)
    except ValueError:
        odd = [blake2b(k.encode(), digest_size=16).hexdigest() for k in keys]
        return key_numbers([k if is_key(k) else o for k, o in zip(keys, odd, strict=True)])
