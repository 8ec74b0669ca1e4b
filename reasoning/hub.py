"""Is the Hugging Face hub there? Its own client finds out by trying for a minute, each file anew. Knows neither
models nor data sets.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

NAME = "HF_HUB_OFFLINE"
"""The client's own switch."""
SECONDS = 6.0
"""How long the hub is waited for."""
REMEMBERED = 60.0
"""For so many seconds it is not asked again."""

_last: tuple[float, str] | None = None


@contextlib.contextmanager
def hub_or_cache(wanted: bool = True) -> Iterator[str]:
    """Inside, Hugging Face's libraries ask the hub where it answers, and else only what they fetched before, at once.
    Yields "" or why the hub cannot be asked. wanted: False where the hub will not be asked for anything."""
    if not wanted:
        yield ""
        return
    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        yield "HF_HUB_OFFLINE is set"
        return
    if not (why := _why_not(constants.ENDPOINT)):
        yield ""
        return
    switches: list[Any] = [constants]
    if "datasets.config" in sys.modules:
        switches.append(sys.modules["datasets.config"])
    before = [switch.HF_HUB_OFFLINE for switch in switches], os.environ.get(NAME)
    try:
        os.environ[NAME] = "1"  # for processes that are started inside
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
        yield why
    finally:
        os.environ.pop(NAME)
        if before[1] is not None:
            os.environ[NAME] = before[1]
        for switch, value in zip(switches, before[0], strict=True):
            switch.HF_HUB_OFFLINE = value


def reason(what: str, why: str, error: Exception) -> str:
    """The end of a message about ``what`` that could not be loaded: the hub could not be asked, for the reason that
    `hub_or_cache` gave; or the first line of ``error``."""
    if not why:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"there is no folder {what!r} here, the hub cannot be asked ({why}), and what was fetched from it before "
        "does not hold it. Check the name and the network, or give a folder."
    )


def _why_not(address: str) -> str:
    """ "" where something answers at ``address``, whatever it says."""
    global _last
    if _last is None or time.monotonic() - _last[0] > REMEMBERED:
        _last = time.monotonic(), _asked(address)
    return _last[1]


def _asked(address: str) -> str:
    """By the hub's own client, which knows of proxies and certificates; in a thread, since a name may be looked up
    for longer than the client's limit."""
    get_session = importlib.import_module("huggingface_hub").get_session
    said = [f"no answer from {address} in {SECONDS:g} s"]

    def ask() -> None:
        try:
            get_session().head(address, timeout=SECONDS)
            said[0] = ""
        except Exception as error:  # the client raises many kinds; to the user they mean the same
            said[0] = f"{address}: {' '.join(str(error).split())[:200] or type(error).__name__}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return said[0]
