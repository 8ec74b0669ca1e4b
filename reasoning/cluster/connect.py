"""Find or start a Ray cluster, quietly: no usage statistics, no dashboard, no logs in the terminal. Knows of no
actor.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from reasoning.errors import EngineError, MissingExtra, UserError, unknown
from reasoning.spec import convert, is_user_code, parse_spec

REACH_SECONDS = 5.0
OBJECT_STORE_BYTES = 100 << 20
"""Of a cluster that is started here: results are small and stay in the processes' own memory."""

CLUSTER = (
    "auto (a running Ray cluster, else one on this machine), HOST:PORT or ray://HOST:PORT, with :actors=8,..."
)


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Where the cluster is, and what its actors are like.

    address: "auto", HOST:PORT or ray://HOST:PORT. actors: how many, 0 for as many as the cluster has room for.
    cpus_per_actor, gpus_per_actor: what Ray sets aside for each; -1 GPUs: one where the cluster has any and the
    work may use one, else none. start_seconds: how long to wait while there is not a single actor. deaf_seconds:
    after so long without a sign of life an actor is given up for dead. batch_seconds: the work handed to an actor
    at a time should take about so long. backoff_seconds: before an actor is started again, doubled from failure to
    failure. most_failures: in a row, without a result in between, before all is given up; 0 for four per actor.
    """

    address: str = "auto"
    actors: int = 0
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = -1.0
    start_seconds: float = 600.0
    deaf_seconds: float = 120.0
    batch_seconds: float = 2.0
    backoff_seconds: float = 0.5
    most_failures: int = 0

    def __post_init__(self) -> None:
        for name in ("actors", "cpus_per_actor", "most_failures"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} of a cluster must be 0 or above, not {getattr(self, name)}.")
        for name in ("start_seconds", "deaf_seconds", "batch_seconds", "backoff_seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} of a cluster must be above 0, not {getattr(self, name)}.")
        ray_client, _, rest = self.address.rpartition("ray://")
        host, colon, port = rest.rpartition(":")
        if self.address != "auto" and (ray_client or not (host and colon and port.isdecimal())):
            raise UserError(
                f"{self.address!r} is no address of a cluster: write auto, HOST:PORT or ray://HOST:PORT."
            )


def parse_cluster(text: str) -> ClusterSpec:
    """``address[:key=value,...]`` as on the command line. Raises UserError.

    >>> parse_cluster("10.0.0.1:6379:actors=8,gpus_per_actor=1").actors
    8
    """
    head, colon, tail = text.strip().rpartition(":")
    address, options = (head, tail) if colon and re.match(r"[A-Za-z_]\w*=", tail) else (text.strip(), "")
    known: dict[str, Any] = {f.name: f.default for f in fields(ClusterSpec) if f.name != "address"}
    given: dict[str, Any] = {}
    for part in filter(None, options.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"Malformed option {part!r} in {text!r}: write key=value, separated by commas.")
        if key not in known:
            raise unknown("cluster option", key, known)
        given[key] = convert(value, known[key], f"{key} in {text!r}")
    return ClusterSpec(address or "auto", **given)


def connect(address: str = "auto") -> Any:
    """The ``ray`` module, connected. "auto" takes the cluster that RAY_ADDRESS names or that runs on this machine,
    and else starts one here, which ends with this process and listens on the loopback address.

    A connection that this process has already is kept. Raises MissingExtra, EngineError.
    """
    if address != "auto":
        _refuse_silent(address)
    running = os.environ.get("RAY_ADDRESS") or _runs_here()
    quiet_environment(alone=_on_loopback_alone(address) if address != "auto" else not running)
    try:
        ray = import_module("ray")
    except ImportError:
        raise MissingExtra("Ray", "ray", "a cluster") from None
    with _quiet(), _sigterm_kept():
        if ray.is_initialized():
            return ray
        started = False
        options: dict[str, Any] = dict(log_to_driver=False, logging_level=logging.ERROR)
        try:
            if address != "auto":
                ray.init(address=address, **options)
            elif running:
                try:
                    ray.init(address=os.environ.get("RAY_ADDRESS") or "auto", **options)
                except ConnectionError:
                    if os.environ.get("RAY_ADDRESS"):
                        raise
                    _start(ray, options)
                    started = True
            else:
                _start(ray, options)
                started = True
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as e:
            where = address if address != "auto" else os.environ.get("RAY_ADDRESS") or "this machine"
            said = " ".join(str(e).split())[:300]
            raise _unreachable(where, said) from None
    if not started:
        _tell(f"Joined the cluster at {_where(ray, address)}.")
    return ray


def _where(ray: Any, address: str) -> str:
    return address if address != "auto" else ray.get_runtime_context().gcs_address


def _tell(text: str) -> None:
    """Starting takes up to half a minute, in which nothing else is heard."""
    print(text, file=sys.stderr, flush=True)


def quiet_environment(alone: bool) -> None:
    """Settings that Ray reads when it is imported. alone: the cluster will be on this machine only, so it listens
    on 127.0.0.1 (Ray's own default on the systems that the variable is named after)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_PROMPT_ENABLED", "0")
    # Ray prints what its daemons say of every dead process to the driver's standard output, which is for results;
    # the reason comes with the error, too.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    if alone:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def absolute(spec: str) -> str:
    """``spec`` with the path of a file or folder that is here made absolute: actors run in folders of their own
    (and on other machines, which need the same path)."""
    if is_user_code(spec):
        path, _, name = spec.rpartition(":")
        return f"{Path(path).resolve()}:{name}" if Path(path).is_file() else spec
    if Path(spec).is_dir():
        return f"transformers:{Path(spec).resolve()}"
    argument = parse_spec(spec).argument
    if argument and Path(argument).exists():
        return spec.replace(f":{argument}", f":{Path(argument).resolve()}", 1)
    return spec


def _refuse_silent(address: str) -> None:
    """Raise EngineError where nothing listens: Ray itself tries for minutes, and prints."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as e:
        raise _unreachable(address, str(e)) from None


def _on_loopback_alone(address: str) -> bool:
    """Whether a cluster at a loopback address is not to be had at this machine's own address, which Ray would put in
    its place and try for ever."""
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in ("127.0.0.1", "localhost", "::1"):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 1))  # sends nothing: asks which address of ours leads out
            socket.create_connection((probe.getsockname()[0], int(port)), timeout=REACH_SECONDS).close()
        except OSError:
            return True
    return False


def _unreachable(where: str, said: str) -> EngineError:
    return EngineError(
        f"No Ray cluster could be reached at {where}: {said}\n"
        "  Start one with:  ray start --head --port=6379   and name it:  --cluster HOST:6379"
    )


def _start(ray: Any, options: dict[str, Any]) -> None:
    _tell("Starting Ray on this machine ...")
    ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **options)


def _runs_here() -> bool:
    """Whether ``ray start`` has left the note of a cluster on this machine, as it does."""
    return (
        Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    ).is_file()


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray answers SIGTERM by ending the process at once: whoever looked after it before does so again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before):
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Ray's hints about its own future, which come as warnings and log lines."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
