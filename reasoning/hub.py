"""Is the Hugging Face hub there, and does it give what is wanted? Its own client finds out by trying for a minute,
each file anew, and longer where the hub names a time to wait. Knows neither models nor data sets.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

NAME = "HF_HUB_OFFLINE"
"""The client's own switch."""
SECONDS = 6.0
"""How long the hub is waited for."""
PAUSE = 1.0
"""After so many seconds one that is busy is asked again, then after twice as many."""
REMEMBERED = 60.0
"""For so many seconds it is not asked again."""

Kind = Literal["model", "dataset"]
FIRST: dict[Kind, str] = {
    "model": "{}/{}/resolve/{}/config.json",
    "dataset": "{}/datasets/{}/resolve/{}/README.md",
}
"""What the libraries ask for first: address, name and revision."""

BUSY = (408, 429)
"""Answers that may be another one soon, beside those from 500 on."""


@dataclass(frozen=True, slots=True)
class Absence:
    """why: what is in the way, as part of a sentence. do: what mends it, in the imperative. everywhere: whether it
    holds for whatever would be asked of the hub."""

    why: str
    do: str
    everywhere: bool = False

    def advice(self, instead: str = "give a folder") -> str:
        """A sentence. instead: what would do without the hub."""
        return f"{self.do[0].upper()}{self.do[1:]}, or {instead}."


_known: dict[str, tuple[float, Absence | None]] = {}
"""Address of the hub or of a file there -> (when it was asked, what came of it)."""


@contextlib.contextmanager
def hub_or_cache(
    wanted: bool, source: str, kind: Kind = "model", revision: str | None = None
) -> Iterator[Absence | None]:
    """Inside, Hugging Face's libraries ask the hub where it would give ``source``, and else only what they fetched
    before, at once. Yields what is in the way, None where nothing is. wanted: False where the hub will not be asked
    for anything."""
    if not wanted:
        yield None
        return
    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        yield Absence("the hub is not asked (HF_HUB_OFFLINE is set)", "unset it")
        return
    away = _in_the_way(constants.ENDPOINT, source, kind, revision or "main")
    if away is None:
        yield None
        return
    switches: list[Any] = [constants]
    if "datasets.config" in sys.modules:
        switches.append(sys.modules["datasets.config"])
    before = [switch.HF_HUB_OFFLINE for switch in switches], os.environ.get(NAME)
    try:
        os.environ[NAME] = "1"  # for processes that are started inside
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
        yield away
    finally:
        os.environ.pop(NAME)
        if before[1] is not None:
            os.environ[NAME] = before[1]
        for switch, value in zip(switches, before[0], strict=True):
            switch.HF_HUB_OFFLINE = value


def reason(what: str, away: Absence | None, error: Exception) -> str:
    """The end of a message about ``what`` that could not be loaded: what `hub_or_cache` found in the way, or what the
    hub answered later, or the first line of ``error``."""
    if away is not None:
        here = f"there is no folder {what!r} here, {away.why}, and what was fetched from it before does not hold it"
        return f"{here}. {away.advice()}"
    if later := refusal(what, error):
        return f"{later.why}. {later.advice()}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def commit_of(source: str, revision: str | None = None) -> str:
    """The commit that ``revision`` of a model stood for when its files were fetched, in 12 hex digits: it names the
    weights. The revision itself where the cache does not say."""
    found = importlib.import_module("huggingface_hub").try_to_load_from_cache(
        source, "config.json", revision=revision
    )
    return (Path(found).parent.name if isinstance(found, str) else revision or "main")[:12]


def refusal(what: str, error: BaseException) -> Absence | None:
    """What the hub answered, where that is what ``error`` or anything that led to it says."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        response = getattr(at, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return _refused(what, status, response)
        if type(at).__name__ == "FileMetadataError":  # the client's word for an answer that no hub gives
            return _no_hub(importlib.import_module("huggingface_hub.constants").ENDPOINT)
        at = at.__cause__ or at.__context__
    return None


# ---- what its answers mean


def _refused(what: str, status: int, response: Any) -> Absence:
    """An answer of 400 or more."""
    code = response.headers.get("X-Error-Code", "")
    token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
    if code == "GatedRepo":
        return Absence(
            f"the hub gives {what!r} only to those it has let in ({status}, {token})",
            "ask for access on its page there and set HF_TOKEN to a token of that account",
        )
    if code == "RevisionNotFound":
        return Absence(f"the hub has no such revision of {what!r} ({status})", "check the revision")
    if code == "RepoNotFound" or status == 404:
        return Absence(
            f"the hub has no {what!r}, or shows it to others only ({status}, {token})",
            "check the name; for a private one set HF_TOKEN",
        )
    if status in (401, 403):
        return Absence(
            f"the hub refuses {what!r} ({status}, {token})", "set HF_TOKEN to a token that may read it"
        )
    if status in BUSY or status >= 500:
        after = response.headers.get("Retry-After", "")
        wait = f"in {after} s" if after.isdigit() else "in some minutes"
        state = "has had too many requests" if status == 429 else "has trouble"
        return Absence(f"the hub {state} ({status})", f"try again {wait}")
    return Absence(f"the hub answers {status} for {what!r}", "check the name and HF_ENDPOINT")


def _no_hub(address: str) -> Absence:
    return Absence(
        f"what answers at {address} is no hub",
        "check HF_ENDPOINT, and whether the network wants a login first",
        everywhere=True,
    )


def _unreachable(why: str) -> Absence:
    also = " and HF_ENDPOINT" if os.environ.get("HF_ENDPOINT") else ""
    return Absence(f"the hub cannot be asked ({why})", f"check the network{also}", everywhere=True)


# ---- asking


def _in_the_way(address: str, source: str, kind: Kind, revision: str) -> Absence | None:
    """None where the hub at ``address`` gives the file that is asked for first, or says that it has none like it."""
    url = FIRST[kind].format(address, source, revision)
    now = time.monotonic()
    for place in (address, url):
        if place in _known and now - _known[place][0] <= REMEMBERED:
            return _known[place][1]
    found = _asked(url, address, source)
    _known[address if found is not None and found.everywhere else url] = time.monotonic(), found
    return found


def _asked(url: str, address: str, source: str) -> Absence | None:
    """By the hub's own client, which knows of proxies and certificates; in a thread, since a name may be looked up
    for longer than the client's limit."""
    hub = importlib.import_module("huggingface_hub")
    utils = importlib.import_module("huggingface_hub.utils")
    until = time.monotonic() + SECONDS
    found: list[Absence | None] = [_unreachable(f"no answer from {address} in {SECONDS:g} s")]

    def ask() -> None:
        pause = PAUSE
        while True:
            try:
                headers = utils.build_hf_headers()  # the client may ask the hub for these, too
                left = max(0.05, until - time.monotonic())
                answer = hub.get_session().head(url, headers=headers, timeout=left, follow_redirects=False)
                found[0] = _read(answer, address, source)
                again = answer.status_code in BUSY or answer.status_code >= 500
            except Exception as error:  # the client raises many kinds; to the user they mean the same
                said = " ".join(str(error).split())[:200]
                found[0], again = _unreachable(f"{address}: {said or type(error).__name__}"), False
            if not again or time.monotonic() + pause >= until - 1 or "Retry-After" in answer.headers:
                return
            time.sleep(pause)
            pause *= 2

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return found[0]


def _read(answer: Any, address: str, source: str) -> Absence | None:
    """answer: to a HEAD, redirections not followed."""
    status, code = answer.status_code, answer.headers.get("X-Error-Code", "")
    if status >= 400:
        # Without the hub's own code a mirror may just lack this one file: the libraries find out, without waiting.
        missing = code == "EntryNotFound" or (status == 404 and not code)
        return None if missing else _refused(source, status, answer)
    moved = 300 <= status < 400 and answer.headers.get("Location", "").startswith("/")
    return None if moved or answer.headers.get("X-Repo-Commit") else _no_hub(address)
