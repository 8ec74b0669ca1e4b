"""What commands say. Results go to standard output, everything about the work to standard error."""

from __future__ import annotations

import sys


def note(text: str) -> None:
    if text:
        print(text, file=sys.stderr, flush=True)
