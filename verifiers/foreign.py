"""Another distribution on PyPI owns the import name ``verifiers`` too; this finds out whose package is in use."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

OURS = "reasoning-toolkit"


def owner_of_verifiers(owners: Sequence[str] | None = None) -> str:
    """ "" when all is well, else one sentence: which other distribution installs ``verifiers`` here, and what to
    do. owners: the distributions that provide the package (default: those installed)."""
    if owners is None:
        owners = metadata.packages_distributions().get("verifiers", [])
    others = sorted({name for name in owners if name.lower().replace("_", "-") != OURS})
    if not others:
        return ""
    return (
        f"the distribution {' and '.join(repr(o) for o in others)} installs a package of the same name and the two "
        f"overwrite each other: install {OURS} in an environment of its own (python -m venv .venv)"
    )
