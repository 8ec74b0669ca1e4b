"""Which of a pool's verifiers a name means: one rule wherever verdicts are asked for by a verifier's name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reasoning.errors import UserError, unknown
from reasoning.pool.store import Pool


def verifier_named(name: str, known: Iterable[str], where: str = "the pool", flag: str = "") -> str:
    """The one of ``known`` that ``name`` means: the very name, or its beginning up to a colon where only one begins
    so (``learned:FOLDER`` without the version, ``judge``). where, flag: what holds the verdicts, and what names one
    of them, for a message.

    Raises UserError where several begin so, each of which is listed, and where none does.
    """
    known = list(known)
    if name in known:
        return name
    found = _meant(name, known)
    if len(found) > 1:
        raise UserError(
            f"{name!r} may be any of {len(found)} verifiers of {where}; name one of: {', '.join(found)}."
        )
    if not known:
        raise UserError(
            f"No chain of {where} was judged yet. Run:  reasoning verify RUN --verifier {name or 'NAME'}"
        )
    if not found:
        told = f"; {flag} names one, reasoning verify lets another judge" if flag else ""
        raise unknown("verifier", name, known, f"{where} has verdicts of: {', '.join(known)}{told}")
    return found[0]


def verifier_in(folders: Sequence[str], name: str) -> str:
    """As `verifier_named`, of those that judged in the runs ``folders``: one of them need not have judged in each."""
    known: dict[str, bool] = {}
    for folder in folders:
        with Pool.open(folder, create=False, read_only=True) as pool:
            known |= pool.verifiers()
    return verifier_named(name, known, ", ".join(folders), "--verifier")


def short_name(name: str, known: Iterable[str]) -> str:
    """``name`` without its version, where that is enough to tell it from the other ``known`` ones."""
    short = name.partition(":version=")[0]
    known = list(known)
    return short if short not in known and _meant(short, known) == [name] else name


def _meant(name: str, known: Iterable[str]) -> list[str]:
    return [n for n in known if n.startswith(f"{name}:")]
