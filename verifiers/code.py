"""`code`: a Python answer passes its tests, run in the sandbox of `verifiers.sandbox`, one run per test.

The program sees one input and answers with bytes; the expected output never enters the sandbox, and the comparison
happens here. An exit status alone passes nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from verifiers.base import Attempt, Verdict
from verifiers.checking import Checks, Finding, assembled, is_checks, read_checks, run_check
from verifiers.errors import VerifierError
from verifiers.extract import MAX_CHARACTERS, final_part
from verifiers.judging import BadReference, RuleVerifier, no_answer, shown
from verifiers.sandbox import Limits, Run, check_isolation, run_program, same_output, same_result

_FENCE = re.compile(r"```[ \t]*(?:python3?|py|Python)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)
_MOST_TESTS = 1_000


@dataclass(frozen=True, slots=True)
class Case:
    """One test: standard input and the expected output, or a call and the expected result."""

    expected: Any
    stdin: str = ""
    call: Mapping[str, Any] | None = None


class Code(RuleVerifier):
    """The last fenced block of the response (or, without a fence, all of it) against the tests of the reference:

        [{"input": "3 4", "output": "7"}, ...]                      standard input and output
        [{"function": "add", "args": [3, 4], "output": 7}, ...]     a function call ("Solution.add": a method)
        {"fn_name": "add", "inputs": [[3, 4]], "outputs": [7]}      the same in columns (without fn_name: text)
        {"check": "def check(candidate): ...", "function": "add", "prefix": "def add(a, b):\n    ..."}    HumanEval's
        {"asserts": ["assert add(3, 4) == 7"], "setup": ""}         MBPP's

    as JSON values or text; the last two are Python themselves (see `verifiers.checking`). It stops at the first test
    that fails. The status names the failure: "wrong", "runtime_error", "timeout", "memory", "output_limit",
    "protocol"; "infrastructure" has no score.

    seconds, memory_mb, output_kb: limits of one run. tolerance: relative, for numbers in the output. partial: the
    score is the share of tests passed (all are run). processes: the program may start processes. workers: runs
    at a time (0: one per processor). unsafe_local: run without isolation.
    """

    def __init__(
        self,
        seconds: float = 5.0,
        memory_mb: int = 512,
        output_kb: int = 1024,
        tolerance: float = 0.0,
        partial: bool = False,
        processes: bool = False,
        workers: int = 0,
        unsafe_local: bool = False,
    ):
        if not 0 < seconds <= 3_600 or memory_mb < 32 or output_kb < 1:
            raise VerifierError(
                "code: seconds must lie in (0, 3600], memory_mb be 32 or more, output_kb 1 or more"
            )
        self.limits = Limits(seconds, memory_mb << 20, output_kb << 10, processes=processes)
        self.tolerance, self.partial, self.unsafe_local = tolerance, partial, unsafe_local
        self.workers = workers or os.cpu_count() or 1
        if not unsafe_local:
            check_isolation()
        given = {
            "seconds": (seconds, 5.0),
            "memory_mb": (memory_mb, 512),
            "output_kb": (output_kb, 1024),
            "tolerance": (tolerance, 0.0),
            "partial": (partial, False),
            "processes": (processes, False),
            "unsafe_local": (unsafe_local, False),
        }
        options = [f"{k}={str(v).lower()}" for k, (v, default) in given.items() if v != default]
        self.name = "code" + (":" + ",".join(options) if options else "")

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        if len(attempts) < 2 or self.workers < 2:
            return super().verify(attempts)
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(self._safely, attempts))

    def judge(self, attempt: Attempt) -> Verdict:
        reference = _value(attempt.reference)
        checks = read_checks(reference) if is_checks(reference) else None
        cases = [] if checks else _cases(reference)
        program = program_in(attempt.response)
        if program is None:
            return no_answer("the response holds no program")
        if checks is not None:
            return self._checked(program, checks)
        passed = 0
        trouble: Verdict | None = None
        for number, case in enumerate(cases, 1):
            run = run_program(
                program,
                stdin=case.stdin.encode("utf-8", "replace"),
                call=case.call,
                limits=self.limits,
                unsafe_local=self.unsafe_local,
            )
            status = self._status(run, case)
            if status == "infrastructure":
                return Verdict(None, status=status, reason=f"test {number}: {shown(run.error)}")
            if status == "pass":
                passed += 1
                continue
            last = run.error.strip().rsplit("\n", 1)[-1]
            reason = f"test {number} of {len(cases)}: {status}" + (f" ({shown(last, 120)})" if last else "")
            trouble = trouble or Verdict(0.0, status=status, rule="tests", reason=reason)
            if not self.partial:
                return trouble
        if trouble is None:
            return Verdict(1.0, rule="tests", reason=f"passed {passed} of {len(cases)}")
        return Verdict(passed / len(cases), status=trouble.status, rule="tests", reason=trouble.reason)

    def _checked(self, program: str, checks: Checks) -> Verdict:
        """Tests that are Python: each piece in a sandbox of its own, each call of the program in another."""
        source = assembled(program, checks)

        def call(given: Mapping[str, Any]) -> Run:
            return run_program(
                source, call={**given, "typed": True}, limits=self.limits, unsafe_local=self.unsafe_local
            )

        count = len(checks.checks)
        passed = 0
        trouble: Finding | None = None
        for number, check in enumerate(checks.checks, 1):
            found = run_check(check, call, self.limits, unsafe_local=self.unsafe_local)
            if found.status == "pass":
                passed += 1
                continue
            reason = f"test {number} of {count}: {found.status} ({shown(found.reason, 120)})"
            if found.status == "infrastructure":
                return Verdict(None, status="infrastructure", reason=reason)
            if found.status == "unusable":
                raise BadReference(reason)
            trouble = trouble or Finding(found.status, reason)
            if not self.partial:
                break
        if trouble is None:
            return Verdict(1.0, rule="tests", reason=f"passed {passed} of {count}")
        score = passed / count if self.partial else 0.0
        return Verdict(score, status=trouble.status, rule="tests", reason=trouble.reason)

    def _status(self, run: Run, case: Case) -> str:
        if run.status != "ok":
            return run.status
        if case.call is not None:
            same = same_result(run.result, case.expected, self.tolerance or 1e-9)
        else:
            same = same_output(run.output, case.expected, self.tolerance)
        return "pass" if same else "wrong"


def program_in(response: str) -> str | None:
    """The last fenced block; without a fence the whole response."""
    text = final_part(response)[-MAX_CHARACTERS:]
    blocks = _FENCE.findall(text) if "```" in text else [text]
    return next((block for block in reversed(blocks) if block.strip()), None)


def _value(reference: Any) -> Any:
    if isinstance(reference, str):
        try:
            return json.loads(reference)
        except (ValueError, RecursionError):
            raise BadReference("the tests are not JSON") from None
    return reference


def _cases(reference: Any) -> list[Case]:
    if isinstance(reference, Mapping) and "inputs" in reference and "outputs" in reference:
        inputs, outputs, name = reference["inputs"], reference["outputs"], reference.get("fn_name")
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
            raise BadReference("inputs and outputs must be lists of one length")
        if name:
            reference = [
                {"function": name, "args": a, "output": b} for a, b in zip(inputs, outputs, strict=True)
            ]
        else:
            reference = [{"input": a, "output": b} for a, b in zip(inputs, outputs, strict=True)]
    if isinstance(reference, Mapping):
        reference = reference.get("tests", [reference])
    if not isinstance(reference, list) or not 0 < len(reference) <= _MOST_TESTS:
        raise BadReference(f"code needs a list of 1 to {_MOST_TESTS} tests")
    return [_case(test, number) for number, test in enumerate(reference, 1)]


def _case(test: Any, number: int) -> Case:
    if not isinstance(test, Mapping) or not ("output" in test or "expected" in test):
        raise BadReference(f'test {number} needs "output" and "input", or "output", "function" and "args"')
    expected = test["output"] if "output" in test else test["expected"]
    if "function" in test:
        args, kwargs = test.get("args", []), test.get("kwargs", {})
        if (
            not isinstance(test["function"], str)
            or not isinstance(args, list)
            or not isinstance(kwargs, Mapping)
        ):
            raise BadReference(f'test {number}: "function" is text, "args" a list, "kwargs" an object')
        return Case(expected, call={"function": test["function"], "args": args, "kwargs": dict(kwargs)})
    given = test.get("input", "")
    lines = ["\n".join(map(str, value)) if isinstance(value, list) else value for value in (given, expected)]
    if not all(isinstance(value, str) for value in lines):
        raise BadReference(f"test {number}: input and output must be text")
    if not lines[1].strip():
        raise BadReference(f"test {number} expects no output, which any program gives")
    return Case(lines[1], stdin=lines[0])
