"""Any verifier in killable worker processes: `Pooled`, or the spec ``pooled:<spec>``.

Workers are started once and kept; attempts are spread over them, repeated ones are answered from a cache, and an
attempt that takes longer than its limit costs its worker's life, not its neighbours' time. Children are started
afresh (never forked), so it works from threads, asyncio and inside other pools.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verifiers.base import Attempt, Verdict
from verifiers.errors import VerifierError

_START_SECONDS = 120.0
_MOST_REPLY_BYTES = 1 << 20


class WorkerDied(Exception):
    """The worker ended or was killed while it held an attempt; the message is the status."""


class Worker:
    """One child process. `ask` sends a line and waits for the answer until a deadline."""

    def __init__(self, spec: str, memory_bytes: int):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "verifiers.worker", spec, str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": _python_path(), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.rest = b""
        try:
            self.about = json.loads(self._line(time.monotonic() + _START_SECONDS))
        except WorkerDied:
            error = (self.process.stderr.read() if self.process.stderr else b"").decode(errors="replace")
            self.kill()
            last = error.strip().rsplit("\n", 1)[-1]
            raise VerifierError(last.removeprefix("verifiers.errors.VerifierError: ")) from None
        assert self.process.stderr is not None
        self.drain = threading.Thread(target=_drain, args=(self.process.stderr,), daemon=True)
        self.drain.start()

    def ask(self, line: bytes, seconds: float) -> Any:
        """Raises WorkerDied("timeout") or WorkerDied("memory")."""
        assert self.process.stdin is not None
        deadline = time.monotonic() + seconds
        try:
            self._send(line, deadline)
            return json.loads(self._line(deadline))
        except (OSError, ValueError):
            raise WorkerDied("memory" if self.process.poll() is None else "died") from None

    def _send(self, line: bytes, deadline: float) -> None:
        assert self.process.stdin is not None
        descriptor = self.process.stdin.fileno()
        os.set_blocking(descriptor, False)
        view = memoryview(line)
        while view:
            if not select.select([], [descriptor], [], max(deadline - time.monotonic(), 0))[1]:
                raise WorkerDied("timeout")
            view = view[os.write(descriptor, view[: 1 << 16]) :]

    def _line(self, deadline: float) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.rest:
            if not select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise WorkerDied("timeout")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk or len(self.rest) > _MOST_REPLY_BYTES:
                raise WorkerDied("died")
            self.rest += chunk
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not (stream is self.process.stderr and hasattr(self, "drain")):
                try:
                    stream.close()
                except OSError:
                    continue


class Pooled:
    """``spec`` judged by ``workers`` processes.

    seconds: the most wall-clock time for one attempt; beyond it the verdict is missing, status "timeout".
    memory_bytes: address space of a worker; 0 for no limit. cache: verdicts kept by content; 0 for none.
    """

    def __init__(
        self,
        spec: str,
        *,
        workers: int = 0,
        seconds: float = 5.0,
        memory_bytes: int = 4 << 30,
        cache: int = 100_000,
    ):
        self.spec = spec
        self.count = workers or os.cpu_count() or 1
        self.seconds = seconds
        self.memory_bytes = memory_bytes
        self.most_cached = cache
        self._cache: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lock = threading.Lock()
        self._idle: list[Worker] = [Worker(spec, memory_bytes)]
        self.oracle: bool = self._idle[0].about["oracle"]
        self.name = f"pooled:{self._idle[0].about['name']}"
        _close_at_exit(self)

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        verdicts: list[Verdict | None] = [None] * len(attempts)
        wanted: OrderedDict[bytes, list[int]] = OrderedDict()
        with self._lock:
            for i, attempt in enumerate(attempts):
                line = _encoded(attempt)
                if isinstance(line, Verdict):
                    verdicts[i] = line
                elif line in self._cache:
                    self._cache.move_to_end(line)
                    verdicts[i] = self._cache[line]
                else:
                    wanted.setdefault(line, []).append(i)
        queue = deque(wanted)
        found: dict[bytes, Verdict] = {}
        threads = [
            threading.Thread(target=self._work, args=(queue, found), daemon=True)
            for _ in range(min(self.count, len(queue)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for line, places in wanted.items():
            for i in places:
                verdicts[i] = found.get(line) or Verdict(
                    None, status="error", reason="the worker could not be started"
                )
        with self._lock:
            for line, verdict in found.items():
                if self.most_cached and verdict.status not in ("timeout", "died", "memory"):
                    self._cache[line] = verdict
            while len(self._cache) > self.most_cached:
                self._cache.popitem(last=False)
        return [v for v in verdicts if v is not None]

    def _work(self, queue: deque[bytes], found: dict[bytes, Verdict]) -> None:
        worker: Worker | None = None
        try:
            while True:
                try:
                    line = queue.popleft()
                except IndexError:
                    return
                try:
                    worker = worker or self._take()
                    reply = worker.ask(line + b"\n", self.seconds)
                    if reply.get("steps") is not None:
                        reply["steps"] = tuple(reply["steps"])
                    found[line] = Verdict(**reply)
                except WorkerDied as death:
                    status = str(death)
                    reason = (
                        f"no verdict within {self.seconds:g} s" if status == "timeout" else "the worker died"
                    )
                    found[line] = Verdict(None, status=status, reason=reason)
                    if worker is not None:
                        worker.kill()
                    worker = None
                except VerifierError as error:
                    found[line] = Verdict(None, status="error", reason=str(error)[:300])
        finally:
            if worker is not None:
                with self._lock:
                    self._idle.append(worker)

    def _take(self) -> Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return Worker(self.spec, self.memory_bytes)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def __enter__(self) -> Pooled:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _encoded(attempt: Attempt) -> bytes | Verdict:
    if not isinstance(attempt.response, str):
        kind = type(attempt.response).__name__
        return Verdict(None, status="bad_response", reason=f"the response is {kind}, not text")
    try:
        metadata = dict(attempt.metadata)
        fields = [attempt.prompt, attempt.response, attempt.reference, metadata]
        names = ("prompt", "response", "reference", "metadata")
        return json.dumps(dict(zip(names, fields, strict=True)), sort_keys=True).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        return Verdict(None, status="bad_reference", reason=f"the attempt is not JSON: {str(error)[:200]}")


def _python_path() -> str:
    here = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH", "")
    return here + (os.pathsep + inherited if inherited else "")


def _drain(stream: Any) -> None:
    with stream:
        for _ in iter(lambda: stream.read(1 << 16), b""):
            pass


def _close_at_exit(pool: Pooled) -> None:
    """Workers end with their input anyway; this ends them sooner, and without keeping the pool alive."""
    reference = weakref.ref(pool)

    def close() -> None:
        found = reference()
        if found is not None:
            found.close()

    atexit.register(close)
    weakref.finalize(pool, _kill_all, pool._idle)


def _kill_all(workers: list[Worker]) -> None:
    for worker in workers:
        worker.kill()
