"""Progress on screen: a live bar with the budget beside the count, or a plain line every ten seconds where
there is no terminal. Written to standard error, so that standard output stays clean for results.

Anything with ``update(**fields)`` and ``close()`` can take its place; `Silent` shows nothing.
"""

from __future__ import annotations

import math
import sys
import time
import unicodedata
from typing import Any, Protocol, TextIO

PLAIN_EVERY_SECONDS = 10.0


class Progress(Protocol):
    """done, total: counted in the unit of the work. The other fields are shown as they come: output_tokens
    (also as a rate), budget (text), correct (a share), note (text)."""

    def update(self, **fields: Any) -> None: ...

    def close(self) -> None: ...


class Silent:
    def update(self, **fields: Any) -> None:
        pass

    def close(self) -> None:
        pass


def human(number: float) -> str:
    """ "950", "1.9k", "71k", "2.0M", "3.1P".

    >>> human(950), human(1900), human(71_000), human(2e6), human(3.1e15)
    ('950', '1.9k', '71k', '2.0M', '3.1P')
    """
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            short = number / size
            return f"{short:.0f}{letter}" if short >= 9.95 else f"{short:.1f}{letter}"
    return f"{number:.0f}"


def with_interval(share: float, low: float, high: float, sign: str = "%") -> str:
    """A share with its interval; the ends themselves where +- would promise less than 0 or more than 100.

    >>> with_interval(0.25, 0.15, 0.35), with_interval(0.0, 0.0, 0.088), with_interval(0.5, math.nan, math.nan)
    ('25.0% ±10.0%', '0.0% [0.0%, 8.8%]', '50.0%')
    """
    text = f"{100 * share:.1f}{sign}"
    if math.isnan(low):
        return text
    half = (high - low) / 2
    if half <= share <= 1 - half:
        return f"{text} ±{100 * half:.1f}{sign}"
    return f"{text} [{100 * low:.1f}{sign}, {100 * high:.1f}{sign}]"


def bytes_text(size: float) -> str:
    """ "412 B", "1.4 MiB", "23.4 GiB": memory as people read it, three digits at most.

    >>> bytes_text(412), bytes_text(1_500_000), bytes_text(25_125_558_681)
    ('412 B', '1.4 MiB', '23.4 GiB')
    """
    power = sum(abs(size) >= 1023.5 * 1024**p for p in range(4))
    size, unit = size / 1024**power, ("B", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{size:.0f} {unit}" if power == 0 or abs(size) >= 99.95 else f"{size:.1f} {unit}"


def clock(seconds: float) -> str:
    """ "0:41", "12:05", "1:02:09"."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def printable(text: str) -> str:
    """``text`` for a terminal. Names of models and verifiers come from files: an escape sequence in one of them
    must not reach the screen, so control and format characters other than newlines and tabs turn into "?".

    >>> printable("a\x1b[31mb")
    'a?[31mb'
    """
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "?" for c in text)


class Line:
    """One line that describes a running job: redrawn in place on a terminal, else printed now and then; at the end,
    also that of a ``with`` that an error or an interrupt leaves, how far it came."""

    def __init__(self, what: str, stream: TextIO | None = None):
        self.what = printable(what)
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.started = time.monotonic()
        self.shown = self.started
        self.fields: dict[str, Any] = {}
        self.first_done: float | None = None
        self.closed = False

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None and self.fields.get("done", 0) == (self.first_done or 0):
            self.fields = {}  # nothing was done yet: the error alone tells it
        self.close()

    def update(self, **fields: Any) -> None:
        self.fields |= fields
        if self.first_done is None and "done" in fields:
            self.first_done = fields["done"]  # what a resumed run found done already tells nothing of speed
        now = time.monotonic()
        if now - self.shown >= (0.1 if self.live else PLAIN_EVERY_SECONDS):
            self.shown = now
            self._write(self.text(now))

    def text(self, now: float) -> str:
        f = self.fields
        seconds = max(now - self.started, 1e-9)
        parts = []
        done, total = f.get("done", 0), f.get("total")
        parts.append(f"{done}/{total}" if total else str(done))
        if f.get("output_tokens"):
            parts.append(f"{human(f['output_tokens'] / seconds)} tok/s")
        if f.get("budget"):
            parts.append(str(f["budget"]))
        if f.get("correct") is not None:
            parts.append(f"correct {f['correct']:.0%}")
        if f.get("note"):
            parts.append(str(f["note"]))
        fresh = done - (self.first_done or 0)
        if total and fresh > 0:
            parts.append(f"eta {clock((total - done) * seconds / fresh)}")
        bar = ""
        if self.live and total:
            filled = int(20 * done / total)
            bar = "█" * filled + "░" * (20 - filled) + " "
        return f"{self.what} {bar}" + "  ".join(parts)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        now = time.monotonic()
        if self.live:
            self.stream.write("\r\x1b[2K")
        if self.fields:
            f = self.fields
            count = f"{f.get('done', 0)}/{f['total']}" if f.get("total") else str(f.get("done", 0))
            rate = f.get("output_tokens", 0) / max(now - self.started, 1e-9)
            speed = f"  {human(rate)} tok/s" if f.get("output_tokens") else ""
            self.stream.write(f"{self.what} {count}{speed}  {clock(now - self.started)}\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        """A line that stays, above the one that is redrawn."""
        self.stream.write(("\r\x1b[2K" if self.live else "") + text + "\n")
        self.stream.flush()

    def _write(self, text: str) -> None:
        self.stream.write(f"\r\x1b[2K{text}" if self.live else text + "\n")
        self.stream.flush()
