"""Runs one untrusted Python program on one input, isolated, and reports what came out. It judges nothing.

bubblewrap with every namespace unshared (no network), a cleared environment, a read-only root that holds only the
system libraries and Python, a small temporary folder, a seccomp filter, and limits that are set inside. Where any of
it is missing nothing runs, unless ``unsafe_local`` was asked for: then the program runs as an ordinary process
with limits, which keeps accidents in, not attackers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from verifiers.errors import VerifierError
from verifiers.sandbox_child import OUT_OF_MEMORY
from verifiers.seccomp import filter_for

_CHILD = Path(__file__).with_name("sandbox_child.py")
_SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/lib32", "/lib", "/lib64", "/lib32")
_INSIDE = "/python"
_TAIL = 2_000


@dataclass(frozen=True, slots=True)
class Limits:
    """seconds: wall-clock for one run (processor time: one second more). memory_bytes: address space.
    output_bytes: standard output, and the same again for a result. files_bytes: the temporary folder."""

    seconds: float = 5.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20
    files_bytes: int = 16 << 20
    processes: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """status: "ok" (it ended by itself with exit status 0), "runtime_error", "timeout", "memory", "output_limit",
    "protocol" (a call without a result) or "infrastructure" (the sandbox did not start it).
    output: standard output. result: the JSON value a called function returned. error: the end of standard error."""

    status: str
    output: bytes = b""
    result: Any = None
    error: str = ""
    seconds: float = 0.0


def run_program(
    program: str,
    *,
    stdin: bytes = b"",
    call: Mapping[str, Any] | None = None,
    limits: Limits = Limits(),
    unsafe_local: bool = False,
) -> Run:
    """Runs ``program`` with ``stdin``, or calls one of its functions ({"function", "args", "kwargs"}).
    Never raises for what the program is or does."""
    try:
        source = program.encode("utf-8", "surrogatepass")
    except UnicodeError as error:
        return Run("runtime_error", error=str(error))
    begun = time.monotonic()
    folder = tempfile.TemporaryDirectory(prefix="sandbox-") if unsafe_local else None
    received, results = os.pipe()
    handles: list[int] = [results]
    try:
        given: dict[str, Any] = {"limits": _rlimits(limits), "results": results}
        asked = json.dumps(call).encode() if call else b""
        if folder is not None:
            given["program"] = os.path.join(folder.name, "program.py")
            Path(given["program"]).write_bytes(source)
            if asked:
                given["call"] = os.path.join(folder.name, "call.json")
                Path(given["call"]).write_bytes(asked)
            command = [sys.executable, "-I", "-S", "-B", str(_CHILD)]
        else:
            given |= {"program": "/program.py"} | ({"call": "/call.json"} if asked else {})
            command, more = _bubblewrap(source, limits, call=asked)
            handles += more
        process = subprocess.Popen(
            [*command, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder.name if folder is not None else "/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            pass_fds=handles,
            start_new_session=True,
        )
    except OSError as error:
        os.close(received)
        return Run("infrastructure", error=str(error))
    finally:
        for handle in handles:
            os.close(handle)
    try:
        return _watched(process, received, stdin, call is not None, limits, begun)
    finally:
        os.close(received)
        _kill(process)
        if folder is not None:
            folder.cleanup()


def _watched(
    process: subprocess.Popen[bytes], received: int, stdin: bytes, called: bool, limits: Limits, begun: float
) -> Run:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    out, err, box = process.stdout.fileno(), process.stderr.fileno(), received
    kept: dict[int, bytearray] = {out: bytearray(), err: bytearray(), box: bytearray()}
    open_ = set(kept)
    to_write = memoryview(stdin)
    writer = process.stdin.fileno()
    os.set_blocking(writer, False)
    deadline = begun + limits.seconds
    status = ""
    while open_ and not status:
        left = deadline - time.monotonic()
        if left <= 0:
            status = "timeout"
            break
        if not to_write and not process.stdin.closed:
            process.stdin.close()
        ready, writable, _ = select.select(list(open_), [] if process.stdin.closed else [writer], [], left)
        if writable:
            try:
                to_write = to_write[os.write(writer, to_write[: 1 << 16]) :]
            except BlockingIOError:
                continue
            except OSError:
                to_write = to_write[:0]
        for handle in ready:
            chunk = os.read(handle, 1 << 16)
            if not chunk:
                open_.discard(handle)
            elif handle == err:
                kept[err] = (kept[err] + chunk)[-_TAIL:]
            else:
                kept[handle] += chunk
                if len(kept[handle]) > limits.output_bytes:
                    status = "output_limit"
    if not status:
        try:
            process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            status = "timeout"
    _kill(process)
    return _told(
        status, process.returncode, kept[out], kept[err], kept[box], called, time.monotonic() - begun
    )


def _told(
    status: str, code: int, output: bytearray, error: bytearray, box: bytearray, called: bool, seconds: float
) -> Run:
    text = error.decode(errors="replace")
    result: Any = None
    started = box.startswith(b"started\n")
    if not status:
        if not started:
            status = "infrastructure"
        elif code == OUT_OF_MEMORY or "MemoryError" in text.strip().rsplit("\n", 1)[-1]:
            status = "memory"
        elif code in (128 + signal.SIGXCPU, -signal.SIGXCPU):
            status = "timeout"
        elif code in (128 + signal.SIGKILL, -signal.SIGKILL):
            status = "memory"
        elif code != 0:
            status = "runtime_error"
        elif called:
            try:
                result = json.loads(bytes(box[len(b"started\n") :]))
                status = "ok"
            except (ValueError, RecursionError):
                status = "protocol"
        else:
            status = "ok"
    return Run(status, bytes(output), result, text, seconds)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group; the process namespace ends with its first process, so nothing outlives it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.close()
            except OSError:
                continue


def _rlimits(limits: Limits) -> dict[str, int]:
    return {
        "AS": limits.memory_bytes,
        "CPU": int(limits.seconds) + 1,
        "FSIZE": limits.files_bytes,
        "NOFILE": 64,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        **({"NPROC": 16} if limits.processes else {}),
    }


def _bubblewrap(
    source: bytes, limits: Limits, child: Path = _CHILD, call: bytes = b""
) -> tuple[list[str], list[int]]:
    """call: JSON of the function and its arguments, in a file of its own (a command line holds 128 KiB)."""
    program_filter = filter_for(platform.machine(), processes=limits.processes)
    if program_filter is None:
        raise OSError(f"no seccomp filter for {platform.machine()}")
    files = []
    for data in (source, program_filter, *([call] if call else [])):
        handle = os.memfd_create("sandbox")
        os.write(handle, data) if len(data) < 1 << 20 else _write_all(handle, data)
        os.lseek(handle, 0, os.SEEK_SET)
        files.append(handle)
    return [
        *_base_command(child),
        *("--size", str(limits.files_bytes), "--tmpfs", "/tmp"),
        *("--ro-bind-data", str(files[0]), "/program.py"),
        *(("--ro-bind-data", str(files[2]), "/call.json") if call else ()),
        *("--remount-ro", "/", "--chdir", "/tmp", "--seccomp", str(files[1])),
        *(_python_inside(), "-I", "-S", "-B", "/child.py"),
    ], files


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


@lru_cache(maxsize=2)
def _base_command(child: Path) -> tuple[str, ...]:
    """No /proc and no /sys: where the caller is root, the files there belong to the program as well (its user is the
    caller's, under another number), and some of them steer the host. For the same reason the devices are mounted
    read-only, which keeps their permissions from being changed and still lets them be written."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise OSError("bubblewrap is not installed")
    parts = [bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]
    parts += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--cap-drop", "ALL"]
    for path in _SYSTEM:
        if os.path.islink(path):
            parts += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            parts += ["--ro-bind", path, path]
    prefix = os.path.realpath(sys.base_prefix)
    if prefix == "/usr":
        parts += ["--ro-bind", os.path.realpath(sys.executable), _INSIDE + "/bin/python"]
    else:
        parts += ["--ro-bind", prefix, _INSIDE, "--setenv", "LD_LIBRARY_PATH", _INSIDE + "/lib"]
    parts += ["--ro-bind", str(child), "/child.py", "--dir", "/dev"]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        parts += ["--dev-bind", device, device, "--remount-ro", device]
    parts += ["--setenv", "LANG", "C.UTF-8", "--setenv", "HOME", "/tmp", "--setenv", "PATH", "/usr/bin:/bin"]
    return tuple(parts)


def _python_inside() -> str:
    if os.path.realpath(sys.base_prefix) == "/usr":
        return os.path.realpath(sys.executable)
    return f"{_INSIDE}/bin/python{sys.version_info.major}.{sys.version_info.minor}"


@lru_cache(maxsize=1)
def check_isolation() -> None:
    """Raises VerifierError, with what to do, where programs cannot be isolated on this machine."""
    mend = (
        "install it (Debian, Ubuntu: apt install bubblewrap) or accept no isolation: code:unsafe_local=true"
    )
    if shutil.which("bwrap") is None:
        raise VerifierError(f"code needs bubblewrap (bwrap), which is not installed; {mend}")
    if filter_for(platform.machine()) is None:
        raise VerifierError(
            f"code has no seccomp filter for {platform.machine()}; code:unsafe_local=true runs without"
        )
    run = run_program("print(7)", limits=Limits(seconds=20.0))
    if run.status != "ok" or run.output.strip() != b"7":
        last = run.error.strip().rsplit("\n", 1)[-1][:200] or run.status
        raise VerifierError(f"bubblewrap cannot isolate programs here ({last}); {mend}")


def same_output(found: bytes, expected: str, tolerance: float = 0.0) -> bool:
    """Equal line by line, trailing spaces and blank lines aside; numbers within a relative ``tolerance``."""
    try:
        text = found.decode("utf-8")
    except UnicodeDecodeError:
        return False
    left, right = (t.replace("\r\n", "\n").rstrip().split("\n") for t in (text, expected))
    left, right = [line.rstrip() for line in left], [line.rstrip() for line in right]
    if left == right:
        return True
    if not tolerance or len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        words, wanted = a.split(), b.split()
        if len(words) != len(wanted):
            return False
        if any(x != y and not _near(x, y, tolerance) for x, y in zip(words, wanted, strict=True)):
            return False
    return True


def _near(found: str, wanted: str, tolerance: float) -> bool:
    try:
        x, y = float(found), float(wanted)
    except ValueError:
        return False
    return x == y or (math.isfinite(x - y) and abs(x - y) <= tolerance * max(1.0, abs(y)))


def same_result(found: Any, expected: Any, tolerance: float = 1e-9) -> bool:
    """A returned value (written by `sandbox_child.plain`) against the expected one. Tuples are lists; True is
    not 1."""
    if isinstance(found, Mapping):
        if isinstance(items := found.get("set"), list):
            given = isinstance(expected, set | frozenset | Sequence) and not isinstance(expected, str)
            return given and _same_set(items, list(expected), tolerance)
        return isinstance(expected, Mapping) and _same_pairs(found.get("pairs"), expected, tolerance)
    if isinstance(found, list):
        return (
            isinstance(expected, list | tuple)
            and len(found) == len(expected)
            and all(same_result(a, b, tolerance) for a, b in zip(found, expected, strict=True))
        )
    if isinstance(found, bool) or isinstance(expected, bool) or found is None or expected is None:
        return found is expected
    if isinstance(found, int | float) and isinstance(expected, int | float):
        if isinstance(found, int) and isinstance(expected, int):
            return found == expected
        try:
            apart = abs(found - expected)
        except OverflowError:  # a whole number beyond every float
            return False
        return found == expected or (math.isfinite(apart) and apart <= tolerance * max(1.0, abs(expected)))
    return type(found) is type(expected) and found == expected


def _same_pairs(pairs: Any, expected: Mapping[Any, Any], tolerance: float) -> bool:
    """Each key and its value once: keys 1 and "1" are two keys of a program's result, and one in JSON."""
    if not isinstance(pairs, list) or len(pairs) != len(expected):
        return False
    rest = list(expected.items())
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            return False
        for i, (key, value) in enumerate(rest):
            if same_result(pair[0], key, 0.0) or pair[0] == str(key) or str(pair[0]) == key:
                if not same_result(pair[1], value, tolerance):
                    return False
                del rest[i]
                break
        else:
            return False
    return True


def _same_set(found: list[Any], expected: list[Any], tolerance: float) -> bool:
    rest = list(expected)
    for item in found:
        for i, other in enumerate(rest):
            if same_result(item, other, tolerance):
                del rest[i]
                break
        else:
            return False
    return not rest
