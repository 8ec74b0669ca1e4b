"""Judges a program by tests that are Python themselves: the ``check(candidate)`` of HumanEval (arXiv 2107.03374) and
the asserts of MBPP (arXiv 2108.07732).

Tests and program never share a process. The tests run in one sandbox, which holds the expected results and not the
program; each call they make is carried out in a fresh sandbox that holds the program and that one input. What passes
between them is plain data, so a program can neither read what is expected nor answer with an object that equals
everything. Tests that hand over objects of their own classes cannot be judged this way, and are reported as unusable.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifiers.judging import BadReference
from verifiers.sandbox import Limits, Run, _bubblewrap, _kill, _rlimits

CHILD = Path(__file__).with_name("checker_child.py")
MOST_TESTS = 1_000
MOST_CALLS = 1_000
_MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One piece of tests. source: Python text. names: functions of the program that it calls; the first one is what
    ``check`` is given, where ``check`` says that the source defines such a function."""

    source: str
    names: tuple[str, ...]
    check: bool = False


@dataclass(frozen=True, slots=True)
class Checks:
    """prefix: text that a program may build on (imports, a signature, helpers). entry: the function asked for."""

    checks: tuple[Check, ...]
    prefix: str = ""
    entry: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """status: "pass", "wrong", what went wrong in a call ("runtime_error", "timeout", ...), "unusable" (the tests
    themselves cannot be run) or "infrastructure". calls: how many runs of the program it took."""

    status: str
    reason: str = ""
    calls: int = 0


def is_checks(reference: Any) -> bool:
    return isinstance(reference, Mapping) and ("check" in reference or "asserts" in reference)


def read_checks(reference: Mapping[str, Any]) -> Checks:
    """The tests of ``{"check": source, "function": name, "prefix": text}`` (source defines ``check(candidate)``) or
    ``{"asserts": [text, ...], "setup": text}``. Raises BadReference."""
    texts = {key: reference.get(key) or "" for key in ("check", "function", "prefix", "setup")}
    asserts = reference.get("asserts")
    if not all(isinstance(t, str) and len(t) <= _MOST_CHARACTERS for t in texts.values()):
        raise BadReference('"check", "function", "prefix" and "setup" must be text')
    if texts["check"]:
        if not texts["function"]:
            raise BadReference('"check" needs the name of the function: "function"')
        source = f"{stub(texts['prefix'])}\n\n{texts['check']}"
        if not any(isinstance(n, ast.FunctionDef) and n.name == "check" for n in _parsed(source).body):
            raise BadReference('"check" does not define a function check(candidate)')
        return Checks((Check(source, (texts["function"],), True),), texts["prefix"], texts["function"])
    if not isinstance(asserts, list) or not 0 < len(asserts) <= MOST_TESTS:
        raise BadReference(f'"asserts" must be a list of 1 to {MOST_TESTS} tests')
    checks = []
    for number, text in enumerate(asserts, 1):
        if not isinstance(text, str) or len(text) > _MOST_CHARACTERS:
            raise BadReference(f"test {number} is not text")
        names = called_names(text, texts["setup"])
        if not names:
            raise BadReference(f"test {number} calls no function of the program")
        checks.append(Check(f"{texts['setup']}\n\n{text}", names))
    return Checks(tuple(checks), texts["prefix"], texts["function"])


def called_names(test: str, setup: str = "") -> tuple[str, ...]:
    """The functions that ``test`` calls and that neither Python nor ``setup`` nor the test itself defines."""
    known = set(vars(builtins))
    called: dict[str, None] = {}
    for tree in (_parsed(setup), _parsed(test)):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                known.update((a.asname or a.name).partition(".")[0] for a in node.names)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                known.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                known.add(node.id)
    for node in ast.walk(_parsed(test)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in known:
            called[node.func.id] = None
    return tuple(called)


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise BadReference(f"the tests are not Python: {error}") from None


def stub(prefix: str) -> str:
    """A signature with a docstring as a whole function: what follows may build on it or define it anew."""
    return f"{prefix.rstrip()}\n    pass\n" if prefix.rstrip() and not _is_python(prefix) else prefix


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def assembled(program: str, checks: Checks) -> str:
    """The program as it is run. One that defines the function stands after the prefix (and so has its imports and
    helpers); a bare body continues the prefix and ends where its indentation does."""
    if not checks.prefix or not checks.entry:
        return program
    first = next((line for line in program.splitlines() if line.strip()), "")
    if first[:1].isspace() and f"def {checks.entry}(" not in program:
        body = []
        for line in program.splitlines():
            if line.strip() and not line[:1].isspace():
                break
            body.append(line)
        return checks.prefix.rstrip() + "\n" + "\n".join(body) + "\n"
    lines = program.splitlines()
    future = [line for line in lines if line.startswith("from __future__ import")]
    return (
        "\n".join([*future, stub(checks.prefix), "", *(line for line in lines if line not in future)]) + "\n"
    )


def run_check(
    check: Check, call: Callable[[Mapping[str, Any]], Run], limits: Limits, *, unsafe_local: bool = False
) -> Finding:
    """Runs the tests of ``check``; ``call`` carries out one call of the program ({"function", "args", "kwargs"}).

    limits.seconds bounds what the tests take by themselves, and ten times as much all calls together.
    """
    folder = tempfile.TemporaryDirectory(prefix="tests-") if unsafe_local else None
    received, lines = os.pipe()
    handles = [lines]
    with tempfile.TemporaryFile() as errors:
        given: dict[str, Any] = {"limits": _rlimits(limits), "results": lines, "names": check.names}
        given["check"] = check.check
        source = check.source.encode("utf-8", "surrogatepass")
        try:
            if folder is not None:
                given["program"] = os.path.join(folder.name, "tests.py")
                Path(given["program"]).write_bytes(source)
                command = [sys.executable, "-I", "-S", "-B", str(CHILD)]
            else:
                given["program"] = "/program.py"
                command, more = _bubblewrap(source, limits, CHILD)
                handles += more
            process = subprocess.Popen(
                [*command, json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder.name if folder is not None else "/",
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                pass_fds=handles,
                start_new_session=True,
            )
        except OSError as error:
            os.close(received)
            return Finding("infrastructure", str(error))
        finally:
            for handle in handles:
                os.close(handle)
        try:
            finding = _converse(process, received, call, limits)
        finally:
            os.close(received)
            _kill(process)
            if folder is not None:
                folder.cleanup()
        if finding is None:
            errors.seek(0)
            return Finding("infrastructure", errors.read(100_000).decode(errors="replace").strip()[-300:])
        return finding


def _converse(
    process: subprocess.Popen[bytes], received: int, call: Callable[[Mapping[str, Any]], Run], limits: Limits
) -> Finding | None:
    """None where the tests never started."""
    assert process.stdin is not None
    writer = process.stdin.fileno()
    os.set_blocking(writer, False)
    clock = _Clock(limits.seconds + 1.0)
    calls, trouble, started = 0, ("", ""), False
    for line in _lines(received, limits.output_bytes, clock):
        if (
            line is None
        ):  # with the program's results at hand it may be their size; without, it is the tests' fault
            reason = f"the tests took more than {limits.seconds:g} s by themselves"
            return Finding("timeout" if calls else "unusable", reason, calls)
        if not started:
            started = line == b"started"
            if not started:
                return None
            continue
        message = json.loads(line)
        if "end" in message:
            if message["end"] == "fail":
                return Finding(trouble[0] or "wrong", trouble[1] or message["why"], calls)
            return Finding(message["end"], message["why"], calls)
        calls += 1
        if calls > MOST_CALLS:
            return Finding("unusable", f"the tests make more than {MOST_CALLS} calls", calls)
        if clock.elsewhere > 10 * limits.seconds:
            return Finding("timeout", f"{calls - 1} calls took {clock.elsewhere:.0f} s", calls)
        since = time.monotonic()
        run = call({"function": message["call"], "args": message["args"], "kwargs": message["kwargs"]})
        clock.elsewhere += time.monotonic() - since
        if run.status == "infrastructure":
            return Finding(run.status, run.error, calls)
        if run.status != "ok":
            trouble = run.status, run.error.strip().rsplit("\n", 1)[-1]
        reply = {"result": run.result} if run.status == "ok" else {"error": run.status}
        if not _send(writer, json.dumps(reply).encode() + b"\n", clock):
            break
    if not started:
        return None
    return Finding("memory" if calls else "unusable", "the tests ended without a word", calls)


class _Clock:
    """How long the tests may go on by themselves. elsewhere: seconds spent on the program's calls."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds
        self.elsewhere = 0.0

    @property
    def left(self) -> float:
        return self.end + self.elsewhere - time.monotonic()


def _send(writer: int, data: bytes, clock: _Clock) -> bool:
    """Writes all of ``data``; False where nobody reads it in time."""
    while data:
        if clock.left <= 0 or not select.select([], [writer], [], clock.left)[1]:
            return False
        try:
            data = data[os.write(writer, data) :]
        except OSError:
            return False
    return True


def _lines(handle: int, most_bytes: int, clock: _Clock) -> Iterator[bytes | None]:
    """Lines from a pipe as they come; None, and no more, once the time is over or one is too long."""
    kept = b""
    while True:
        if clock.left <= 0 or len(kept) > most_bytes or not select.select([handle], [], [], clock.left)[0]:
            yield None
            return
        chunk = os.read(handle, 1 << 16)
        if not chunk:
            return
        *whole, kept = (kept + chunk).split(b"\n")
        yield from whole
