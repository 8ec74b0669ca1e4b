"""A disk that refuses, while weights and the records beside them are written, is one line that says what to do."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from reasoning.durable import cannot_write


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, ``path`` is written. Raises PoolError where the disk refuses; safetensors has its own class for it."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
    except SafetensorError as error:
        if "I/O error" not in str(error):
            raise
        raise cannot_write(path, OSError(str(error))) from error


def readable_as(beside: Path) -> None:
    """Let whoever may read ``beside`` read the weights in its folder: safetensors 0.8 keeps them to their owner."""
    for path in beside.parent.rglob("*.safetensors"):
        shutil.copymode(beside, path)
