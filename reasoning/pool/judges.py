"""Which of a pool's verifiers a name means."""

from __future__ import annotations

from collections.abc import Iterable

from reasoning.errors import UserError


def verifier_named(name: str, known: Iterable[str]) -> str:
    """The one of ``known`` that ``name`` means: a learned one may be given without its version. ``name`` itself
    where there is none; raises UserError where there are several."""
    found = [n for n in known if n == name or n.startswith(f"{name}:version=")]
    if len(found) > 1:
        raise UserError(f"{name!r} was fitted several times; name one of: {', '.join(found)}.")
    return found[0] if found else name
