"""What commands say. Results go to standard output, everything about the work to standard error."""

from __future__ import annotations

import sys

from reasoning.progress import printable


def note(text: str) -> None:
    if text:
        print(printable(text), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A result: names out of files may hold anything, what reaches the terminal may not."""
    print(printable(text))
