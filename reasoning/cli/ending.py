"""How a process ends: SIGTERM, as batch systems and containers send it, ends a command as Ctrl-C does; one of several
ranks goes without taking Python down first."""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses: 128 and the number of the signal."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextlib.contextmanager
def terminable() -> Iterator[list[int]]:
    """Inside, SIGTERM raises `Terminated`; yields a list that has the signal's number once it has come (whoever adds
    up what is kept raises a KeyboardInterrupt of its own).

    Not where somebody else looks after the signal, nor in one of several ranks: torchrun ends those, and a rank that
    waits for the others in a collective would not hear of it.
    """
    came: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        came.append(number)
        raise Terminated

    mine = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and not one_of_several()
    )
    if not mine:
        yield came
        return
    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def how_to_go_on(arguments: Sequence[str], came: Sequence[int]) -> str:
    """What is said when the command ``arguments`` was stopped; "" where another rank says it."""
    if one_of_several():
        again = "the same torchrun command again" if os.environ.get("RANK") == "0" else ""
    else:
        again = shlex.join(["reasoning", *arguments])
    what = "Terminated" if came else "Interrupted"
    return f"\n{what}. Everything acknowledged so far is kept; to go on:  {again}" if again else ""


def one_of_several() -> bool:
    """Whether torchrun started this process beside others."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


def end(status: int) -> None:
    """End this process with ``status`` at once: what was registered with atexit runs, Python is not taken down.

    For ranks. PyTorch's caches keep gloo's threads alive after the group is destroyed, wherever a model was cut among
    ranks, and one of them that lets go of a tensor while Python goes down ends the process by SIGABRT, its work done
    and saved (pytorch issue 190489): torchrun would report a run that failed.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
