"""``run.toml``: what a run folder was made with. A run resumed with other settings is refused.

Holds one table per verb: the resolved options, beside versions and the source revision.
"""

from __future__ import annotations

import platform
import subprocess
import tomllib
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from reasoning import __version__
from reasoning.durable import rewriting
from reasoning.errors import UserError
from reasoning.options import flag, to_toml


def versions() -> dict[str, str]:
    """Versions of what results depend on; packages that are not installed are left out."""
    found = {"reasoning-toolkit": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "numpy", "vllm"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str:
    """Short revision of the source tree this package runs from, "" outside one."""
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def read_run(folder: Path) -> dict[str, Any]:
    """Content of ``folder/run.toml``, or {}. Raises UserError when it is not TOML."""
    path = folder / "run.toml"
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a TOML file ({e}). Choose another run folder.") from None


def check_same(folder: Path, verb: str, options: Mapping[str, Any], same: Collection[str]) -> None:
    """Raise UserError when the folder was begun by ``verb`` with another value of one of ``same``."""
    before = read_run(folder).get(verb, {})
    for name in sorted(same):
        if name in before and before[name] != options.get(name):
            now = options.get(name)
            given = f", not {now}" if now not in (None, "", (), []) else ", which is not given now"
            raise UserError(
                f"{folder} was begun with {flag(name)} {before[name]}{given}. Give the same "
                "value to go on with it, or another folder to start anew."
            )


def write_run(folder: Path, verb: str, options: Mapping[str, Any]) -> None:
    """Store ``options`` of ``verb`` in ``folder/run.toml``, beside the tables of other verbs. Called once
    everything the options name was found, so that a mistyped command leaves no trace."""
    here = versions() | {"revision": git_revision()}
    folder.mkdir(parents=True, exist_ok=True)
    with rewriting(folder / "run.toml") as partial:
        partial.write_text(
            to_toml(read_run(folder) | {"versions": here, verb: dict(options)}), encoding="utf-8"
        )
