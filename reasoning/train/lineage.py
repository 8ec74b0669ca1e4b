"""The name of a run's weights: a digest of what they started from and of the settings that change what is learned.
The chains of a step are drawn under it, so the same command in another folder draws the same chains.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from reasoning.records import digest
from reasoning.train.checks import HARMLESS
from reasoning.train.options import TrainOptions

_WORD = re.compile(r"[^\s:*+,=]+")


def first_lineage(options: TrainOptions, version: str) -> str:
    """Of a run that starts from weights of that ``version``. Defaults are left out, so that a new option does not
    rename the chains of old runs; a file counts by its name and content, wherever it lies."""
    inherited = {name: value for name, value in asdict(options).items() if name not in HARMLESS}
    for f in fields(options):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if f.name in inherited and inherited[f.name] == default:
            del inherited[f.name]
    return digest("train", version, {name: by_content(value) for name, value in inherited.items()})


def by_content(value: Any) -> Any:
    """Text with the path of each file in it replaced by the file's name and a digest of what is in it."""
    if isinstance(value, list):
        return [by_content(one) for one in value]
    return _WORD.sub(_named, value) if isinstance(value, str) else value


def _named(found: re.Match[str]) -> str:
    path = Path(found[0])
    if not path.suffix or not path.is_file():
        return found[0]
    with path.open("rb") as file:
        return f"{path.name}@{hashlib.file_digest(file, 'blake2b').hexdigest()[:16]}"
