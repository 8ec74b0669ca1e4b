"""Files appear under their names only when they are whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from reasoning.durable import cannot_write


def write_whole(path: Path, content: str | bytes) -> None:
    """Write ``content`` beside ``path`` and rename it; a missing folder is made. Raises PoolError where the disk
    refuses."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    except OSError as e:
        with suppress(OSError):  # what stands in the way of writing may stand in the way of tidying up
            partial.unlink(missing_ok=True)
        raise cannot_write(path, e) from None
