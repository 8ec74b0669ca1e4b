"""Attacks on the sandbox: none passes its test, none harms a neighbour, each is named by its status."""
# ruff: noqa: E501

import gc
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from verifiers import Attempt, VerifierError, open_verifier
from verifiers.sandbox import Limits, run_program, same_output, same_result
from verifiers.seccomp import filter_for

isolated = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap (bwrap) is not installed")
SECRET = "s3cret-42"
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
CALL = (
    LIBC
    + "r = libc.syscall({}, {})\nprint(r, ctypes.get_errno())\nassert r == -1 and ctypes.get_errno() == 1\n"
)

ATTACKS = {
    # name: (program, statuses it may end with)
    "fork bomb": ("import os\nwhile True: os.fork()", "runtime_error"),
    "fork bomb that catches": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "timeout"),
    "thread bomb": ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()", "runtime_error memory timeout"),
    "daemon": ("import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass", "runtime_error"),
    "child process": ("import subprocess\nprint(subprocess.run(['/bin/sh', '-c', 'echo s3cret-42'], capture_output=True).stdout)", "runtime_error"),
    "shell": ("import os\nos.system('echo s3cret-42')", "wrong"),
    "multiprocessing": ("import multiprocessing\nmultiprocessing.Pool(64)", "runtime_error timeout"),
    "memory bomb of lists": ("a = []\nwhile True: a.append([0] * 100000)", "memory"),
    "memory bomb of bytes": ("x = bytearray(64 << 30)", "memory"),
    "memory bomb of strings": ("x = 'a'\nwhile True: x += x", "memory"),
    "memory bomb caught": ("a = []\nwhile True:\n    try: a.append(bytearray(1 << 24))\n    except MemoryError: a = a[:1]", "timeout memory"),
    "compressed bomb": ("import zlib\nd = zlib.compress(bytes(1 << 26))\nx = [zlib.decompress(d) for _ in range(100)]", "memory timeout"),
    "memory outside the limit": (CALL.format(319, "b'x', 0"), "wrong"),
    "shared memory": (CALL.format(29, "0, 1 << 30, 0o1777"), "wrong"),
    "big file": ("f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(1 << 20))", "runtime_error"),
    "many files": ("i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'w').write('x' * 5000)", "runtime_error timeout"),
    "empty files": ("i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'w').close()", "runtime_error timeout"),
    "files in /dev/shm": ("open('/dev/shm/x', 'wb').write(b'x')", "runtime_error"),
    "files in the root": ("open('/x', 'wb').write(b'x')", "runtime_error"),
    "files in the library": ("import os\nopen(os.__file__, 'ab').write(b'x')", "runtime_error"),
    "many open files": ("a = [open('/program.py') for _ in range(1000)]", "runtime_error"),
    "output flood": ("while True: print('x' * 1000)", "output_limit"),
    "error flood": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "timeout"),
    "network out": ("import socket\ns = socket.create_connection(('1.1.1.1', 53), 1)\nprint('s3cret-42')", "runtime_error"),
    "network loopback": ("import socket\ns = socket.socket(); s.bind(('127.0.0.1', 0)); print('s3cret-42')", "runtime_error"),
    "name look-up": ("import socket\nprint(socket.gethostbyname('localhost'))", "runtime_error"),
    "unix socket": ("import socket\nsocket.socket(socket.AF_UNIX)", "runtime_error"),
    "reading home": ("import os\nprint(os.listdir('/root') + os.listdir('/home'))", "runtime_error"),
    "reading accounts": ("print(open('/etc/passwd').read(), open('/etc/shadow').read())", "runtime_error"),
    "link out": ("import os\nos.symlink('/etc/passwd', '/tmp/l')\nprint(open('/tmp/l').read())", "runtime_error"),
    "environment": ("import os\nprint(os.environ.get('SANDBOX_TEST_SECRET') or 1 / 0)", "runtime_error"),
    "the parent's environment": ("print(1 / (b'SANDBOX_TEST_SECRET' in open('/proc/1/environ', 'rb').read()))", "runtime_error"),
    "searching for the expected output": (
        "import os\nfor folder, within, files in os.walk('/'):\n    within[:] = [d for d in within if d not in ('lib', 'lib64', 'usr', 'python', 'dev')]\n"
        "    for f in files:\n        p = os.path.join(folder, f)\n        t = open(p, errors='replace').read()\n        i = t.find('s3cr' + 'et-')\n        if i >= 0: print(t[i:i+9])",
        "wrong",
    ),
    "searching the command line": ("import glob\nfor p in glob.glob('/proc/*/cmdline') + ['/child.py']:\n    t = open(p).read()\n    i = t.find('s3cr' + 'et-')\n    if i >= 0: print(t[i:i+9])", "wrong"),
    "searching memory": ("import gc, sys\nfor o in gc.get_objects():\n    if type(o) is dict:\n        for v in list(o.values()):\n            if type(v) is str and v.startswith('s3cr' + 'et-') and len(v) < 20: print(v)", "wrong"),
    "frame walking": ("import sys\nf = sys._getframe()\nwhile f:\n    for v in list(f.f_locals.values()): print(v)\n    f = f.f_back", "wrong"),
    "os._exit(0)": ("import os\nos._exit(0)", "wrong"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", "wrong"),
    "exit message": ("raise SystemExit('s3cret-42')", "runtime_error"),
    "right output, failing exit": ("print('s3cret' + '-42')\nraise SystemExit(1)", "runtime_error"),
    "patched builtins": ("import builtins, json, os\nbuiltins.len = lambda x: 0\nbuiltins.all = builtins.any = lambda x: True\njson.dumps = lambda *a, **k: 'true'\nos.write = lambda *a: 1\nprint('PASS')", "wrong"),
    "forged report": ("print('PASSED all tests')\nprint('OK')", "wrong"),
    "forged start": ("import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'started\\n\"s3cret-42\"')\n    except OSError: pass", "wrong"),
    "closed standard output": ("import os\nos.close(1)", "wrong runtime_error"),
    "closed everything": ("import os\nos.closerange(0, 64)", "wrong runtime_error"),
    "invalid UTF-8": ("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe s3cret-42')", "wrong"),
    "signals ignored": ("import signal\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass", "timeout"),
    "sleep": ("import time\ntime.sleep(3600)", "timeout"),
    "waiting for more input": ("import sys\nsys.stdin.read(); sys.stdin.read()\nimport time\nwhile True: time.sleep(0.01)", "timeout"),
    "killing the first process": ("import os\nos.kill(1, 9)\nos.kill(-1, 9)", "wrong memory runtime_error infrastructure"),
    "killing the group": ("import os\nos.killpg(0, 9)", "memory runtime_error wrong"),
    "ptrace": (CALL.format(101, "16, 1, 0, 0"), "wrong"),
    "unshare": (CALL.format(272, "0x10000000"), "wrong"),
    "clone with a namespace": (CALL.format(56, "0x10000000 | 17, 0, 0, 0, 0"), "wrong"),
    "setns": (CALL.format(308, "3, 0"), "wrong"),
    "mount": (CALL.format(165, "b'x', b'/tmp', b'tmpfs', 0, 0"), "wrong"),
    "chroot": (CALL.format(161, "b'/tmp'"), "wrong"),
    "bpf": (CALL.format(321, "0, 0, 0"), "wrong"),
    "keyring": (CALL.format(250, "0, 0, 0"), "wrong"),
    "io_uring": (CALL.format(425, "1, 0"), "wrong"),
    "kernel module": (CALL.format(175, "0, 0, 0"), "wrong"),
    "userfaultfd": (CALL.format(323, "0"), "wrong"),
    "reading another's memory": (CALL.format(310, "1, 0, 0, 0, 0, 0"), "wrong"),
    "memory of the first process": ("open('/proc/1/mem', 'rb').read(1)", "runtime_error"),
    "changing a device": ("import os\nos.chmod('/dev/null', 0o600)", "runtime_error"),
    "removing a device": ("import os\nos.unlink('/dev/null')", "runtime_error"),
    "owner of a device": ("import os\nos.chown('/dev/zero', 1, 1)", "runtime_error"),
    "changing the library's rights": ("import os\nos.chmod(os.__file__, 0o666)", "runtime_error"),
    "processes seen": ("import os\nprint(os.listdir('/proc'))", "runtime_error"),
    "kernel objects": ("import os\nprint(os.listdir('/sys'))", "runtime_error"),
    "kernel settings": ("open('/proc/sys/kernel/core_pattern', 'w').write('x')", "runtime_error"),
    "kernel trigger": ("open('/proc/sysrq-trigger', 'w').write('h')", "runtime_error"),
    "raising the limits": ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "runtime_error"),
    "becoming root": ("import os\nos.setuid(0)", "runtime_error"),
    "another interpreter": ("import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'x = bytearray(8 << 30)'])", "memory"),
    "endless recursion": ("def f(): f()\nf()", "runtime_error"),
    "crash": ("import ctypes\nctypes.string_at(0)", "runtime_error"),
    "huge power": ("print(9 ** 9 ** 9)", "timeout memory"),
    "slow pattern": ("import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')", "timeout"),
    "null bytes": ("print(1)\x00", "runtime_error"),
    "lone surrogate": ("print('\ud800')", "runtime_error"),
    "not Python": ("#include <stdio.h>\nint main() {}", "runtime_error"),
    "device": ("open('/dev/mem', 'rb').read(1)", "runtime_error"),
}  # fmt: skip
CALLS = {
    "object with __eq__": ("class E:\n    def __eq__(self, o): return True\ndef f(x): return E()", "runtime_error"),
    "int with __eq__": ("class E(int):\n    def __eq__(self, o): return True\ndef f(x): return E(3)", "runtime_error"),
    "str with __eq__": ("class E(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef f(x): return [E('a')]", "runtime_error"),
    "no result": ("import os\ndef f(x): os._exit(0)", "protocol"),
    "forged result": ("import os\ndef f(x):\n    for fd in range(3, 64):\n        try: os.write(fd, b'0')\n        except OSError: pass\n    os._exit(0)", "wrong protocol"),
    "patched encoder": ("import json\njson.dumps = lambda *a, **k: 'NaN'\ndef f(x): return 1", "wrong"),
    "endless result": ("def f(x): return 'x' * (3 << 20)", "output_limit"),
    "deep result": ("def f(x):\n    a = []\n    for _ in range(100000): a = [a]\n    return a", "runtime_error"),
    "circular result": ("def f(x):\n    a = []\n    a.append(a)\n    return a", "runtime_error"),
    "missing function": ("def g(x): return 1", "runtime_error"),
    "truth for one": ("def f(x): return True", "wrong"),
}  # fmt: skip


@pytest.fixture
def neighbour():
    """A program that computes beside the attack, and must be none the worse for it."""
    runs = []
    limits = Limits(seconds=30)
    thread = threading.Thread(
        target=lambda: runs.append(run_program("print(sum(range(10**6)))", limits=limits))
    )
    thread.start()
    yield
    thread.join()
    assert [(run.status, run.output) for run in runs] == [("ok", b"499999500000\n")]


@isolated
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.usefixtures("neighbour")
def test_attack(name, monkeypatch):
    monkeypatch.setenv("SANDBOX_TEST_SECRET", "yes")
    program, statuses = ATTACKS[name]
    verifier = open_verifier("code:seconds=1.0,memory_mb=256")
    attempt = Attempt(response=f"```python\n{program}\n```", reference=[{"input": "1\n", "output": SECRET}])
    begun = time.monotonic()
    (verdict,) = verifier.verify([attempt])
    assert time.monotonic() - begun < 1.0 + 3.0, "the limit, and room for a busy machine"
    assert verdict.status in statuses.split(), verdict
    assert not verdict.correct


@isolated
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("neighbour")
def test_attack_on_a_call(name):
    program, statuses = CALLS[name]
    verifier = open_verifier("code:seconds=2")
    attempt = Attempt(response=program, reference=[{"function": "f", "args": [1], "output": 1}])
    (verdict,) = verifier.verify([attempt])
    assert verdict.status in statuses.split(), verdict
    assert not verdict.correct


@isolated
def test_honest_programs_pass():
    verifier = open_verifier("code")
    add = "Here:\n```python\na, b = map(int, input().split())\nprint(a + b)\n```\nIt adds."
    tests = [{"input": "3 4\n", "output": "7"}, {"input": "-1 1", "output": "0\n"}]
    assert verifier.verify([Attempt(response=add, reference=tests)])[0].score == 1
    columns = {"inputs": ["3 4"], "outputs": ["7"]}
    assert verifier.verify([Attempt(response=add, reference=columns)])[0].score == 1
    method = "class Solution:\n    def two(self, xs, k=1):\n        return {'a': (sum(xs), k), 'b': None}"
    call = '[{"function": "Solution.two", "args": [[1, 2.5]], "kwargs": {"k": 2}, "output": {"a": [3.5, 2], "b": null}}]'
    assert verifier.verify([Attempt(response=method, reference=call)])[0].score == 1
    unicode = "print('é∑', end='')"
    assert verifier.verify([Attempt(response=unicode, reference=[{"output": "é∑"}])])[0].score == 1
    threads = "import threading\nt = threading.Thread(target=print, args=('x',))\nt.start(); t.join()"
    assert verifier.verify([Attempt(response=threads, reference=[{"output": "x"}])])[0].score == 1
    files = "open('/tmp/a', 'w').write('x')\nprint(open('/tmp/a').read())"
    assert verifier.verify([Attempt(response=files, reference=[{"output": "x"}])])[0].score == 1
    large = "import sys\nprint(len(sys.stdin.read()))"
    big = [{"input": "x" * 3_000_000, "output": "3000000"}]
    assert verifier.verify([Attempt(response=large, reference=big)])[0].score == 1


HUMANEVAL = {
    "prefix": 'from typing import List\n\n\ndef turn(xs: List[int], by: int = 1) -> List[int]:\n    """ Rotate. """\n',
    "function": "turn",
    "check": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2, 3]) == [2, 3, 1]\n"
    "    assert candidate([], 2) == []\n    for i in range(3):\n"
    "        assert abs(candidate([1, 2], by=i)[0] - (1 + i % 2)) < 1e-6\n",
}
BODY = "    if not xs:\n        return xs\n    by %= len(xs)\n    return xs[by:] + xs[:by]\n"
MBPP = {
    "setup": "import math",
    "asserts": [
        "assert flip((1, 2)) == (2, 1)",
        "assert math.isclose(flip(xs=(3.5, 4.5))[0], 4.5)",
        "assert set(flip((1, 1))) == {1}",
    ],
}


@isolated
@pytest.mark.parametrize(
    ("response", "status"),
    [
        (f"```python\ndef turn(xs: List[int], by=1):\n{BODY}```", "ok"),
        (f"from __future__ import annotations\ndef turn(xs: Unknown, by=1):\n{BODY}", "ok"),
        (f"{BODY}\nprint('said after the body')\nnot Python", "ok"),
        ("def turn(xs, by=1): return xs", "wrong"),
        ("def other(xs): return xs", "wrong"),
        ("def turn(xs, by=1): 1 / 0", "runtime_error"),
        ("class Equal:\n    def __eq__(self, other): return True\ndef turn(xs, by=1): return Equal()", "runtime_error"),
        ("class Like(list):\n    def __eq__(self, other): return True\ndef turn(xs, by=1): return Like(xs)", "runtime_error"),
        ("import os\ndef turn(xs, by=1): os._exit(0)", "protocol"),
        ("import builtins\nbuiltins.abs = lambda x: 0\ndef turn(xs, by=1): return xs", "wrong"),
        ("import gc, sys\ndef turn(xs, by=1):\n    found = [o for o in gc.get_objects() if 'check' in repr(type(o))]\n    f = sys._getframe()\n    while f:\n        if 'candidate' in f.f_locals: return [2, 3, 1]\n        f = f.f_back\n    return xs", "wrong"),
        ("def check(candidate): pass\ndef turn(xs, by=1): return xs", "wrong"),
        ("def turn(xs, by=1):\n    while True: pass", "timeout"),
        ("def turn(xs, by=1): return bytearray(64 << 30)", "memory"),
    ],
)  # fmt: skip
def test_tests_that_define_check(response, status):
    (verdict,) = open_verifier("code:seconds=2").verify([Attempt(response=response, reference=HUMANEVAL)])
    assert verdict.status == status, verdict
    assert verdict.score == float(status == "ok")


@isolated
def test_asserts_see_python_values_and_give_partial_credit():
    verifier = open_verifier("code:partial=true")
    for response, score in [
        ("def flip(xs): return xs[1], xs[0]", 1.0),
        ("def flip(xs): return tuple(reversed(xs)) + ()", 1.0),
        ("def flip(xs): return [xs[1], xs[0]]", 2 / 3),  # a list is no tuple
        ("from collections import deque\ndef flip(xs): return deque(xs)", 1 / 3),
    ]:
        (verdict,) = verifier.verify([Attempt(response=response, reference=MBPP)])
        assert verdict.score == pytest.approx(score), (response, verdict)
    typed = {"asserts": ["assert f(1j, {2}, {(1, 2): None}) == (1j, {2}, {(1, 2): None})"]}
    assert verifier.verify([Attempt(response="def f(*a): return a", reference=typed)])[0].correct
    counted = {"asserts": ["assert f('aab') == {'a': 2, 'b': 1}"]}
    counter = "from collections import Counter\ndef f(s): return Counter(s)"
    assert verifier.verify([Attempt(response=counter, reference=counted)])[0].correct


@isolated
def test_the_program_never_sees_what_asserts_expect(tmp_path):
    """Whatever the program can read of its process holds the argument and not the expected result."""
    program = (
        "import gc, sys\ndef f(x):\n    seen = [sys.argv, open('/child.py').read(), open('/program.py').read()]\n"
        "    frame = sys._getframe()\n    while frame:\n        seen += [repr(frame.f_locals), repr(frame.f_globals)]\n"
        "        frame = frame.f_back\n    seen += [o for o in gc.get_objects() if type(o) in (str, dict, list)]\n"
        "    return 's3cr' + 'et-42' in repr(seen).replace(\"'s3cr' + 'et-42'\", '')"
    )
    reference = {
        "asserts": ["assert f('s3cret-42') is True", f"assert (f('x') is False) == bool({SECRET!r})"]
    }
    (verdict,) = open_verifier("code").verify([Attempt(response=program, reference=reference)])
    assert verdict.correct, verdict  # it does find what it was given, and nothing else


@isolated
@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ({"asserts": []}, "a list of 1 to"),
        ({"asserts": ["assert True"]}, "calls no function"),
        ({"asserts": ["assert f(1"]}, "not Python"),
        ({"asserts": ["assert f(1) == unknown_name"]}, "NameError"),
        ({"asserts": ["assert f(Node(1)) == 1"], "setup": "class Node:\n    def __init__(self, x): self.x = x"}, "of type Node"),
        ({"asserts": ["while True: f"], "setup": ""}, "calls no function"),
        ({"asserts": ["while True: 0 and f(1)"]}, "by themselves"),
        ({"check": "def check(candidate): pass"}, "needs the name"),
        ({"check": "x = 1", "function": "f"}, "does not define"),
        ({"check": 5, "function": "f"}, "must be text"),
    ],
)  # fmt: skip
def test_tests_that_cannot_be_run_are_missing(reference, words):
    (verdict,) = open_verifier("code:seconds=1").verify(
        [Attempt(response="def f(x): return 1", reference=reference)]
    )
    assert (verdict.score, verdict.status) == (None, "bad_reference")
    assert words in verdict.reason


def test_tests_in_python_without_isolation():
    verifier = open_verifier("code:unsafe_local=true")
    good = Attempt(response="def flip(xs): return xs[1], xs[0]", reference=MBPP)
    assert verifier.verify([good])[0].score == 1
    assert verifier.verify([Attempt(response="def flip(xs): return xs", reference=MBPP)])[0].status == "wrong"


@isolated
def test_partial_credit_and_tolerance():
    tests = [{"input": "1", "output": "1.0"}, {"input": "2", "output": "9"}]
    program = "print(float(input()) + 1e-7)"
    verdict = open_verifier("code:partial=true,tolerance=1e-6").verify(
        [Attempt(response=program, reference=tests)]
    )[0]
    assert (verdict.score, verdict.status) == (0.5, "wrong")
    assert open_verifier("code").verify([Attempt(response=program, reference=tests)])[0].score == 0


@isolated
@pytest.mark.parametrize(
    "reference",
    [
        None,
        "",
        "x",
        [],
        {},
        [{}],
        [{"output": ""}],
        [{"output": 3, "input": []}],
        {"inputs": [1], "outputs": []},
        5,
    ],
)
def test_unusable_tests_are_missing(reference):
    (verdict,) = open_verifier("code").verify([Attempt(response="print(1)", reference=reference)])
    assert (verdict.score, verdict.status) == (None, "bad_reference")


@isolated
def test_nothing_is_left_behind():
    run_program("print(1)")
    gc.collect()
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        run_program("open('/tmp/left-behind', 'w').write('x')")
        run_program("while True: pass", limits=Limits(seconds=0.3))
    assert not Path("/tmp/left-behind").exists()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_fails_closed_without_bubblewrap(monkeypatch):
    from verifiers import sandbox

    sandbox.check_isolation.cache_clear()
    sandbox._base_command.cache_clear()
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(VerifierError, match="apt install bubblewrap"):
        open_verifier("code")
    assert run_program("print(1)").status == "infrastructure"
    sandbox.check_isolation.cache_clear()
    sandbox._base_command.cache_clear()


def test_unsafe_local_has_limits_only():
    verifier = open_verifier("code:unsafe_local=true,seconds=2")
    assert verifier.name == "code:seconds=2.0,unsafe_local=true"
    ask = [{"input": "2", "output": "4"}]
    assert verifier.verify([Attempt(response="print(int(input()) ** 2)", reference=ask)])[0].score == 1
    assert verifier.verify([Attempt(response="while True: pass", reference=ask)])[0].status == "timeout"
    assert verifier.verify([Attempt(response="x = bytearray(8 << 30)", reference=ask)])[0].status == "memory"


def test_filters_are_well_formed():
    for machine in ("x86_64", "aarch64"):
        for processes in (False, True):
            code = filter_for(machine, processes=processes)
            assert code is not None
            assert len(code) % 8 == 0
            assert len(code) // 8 < 4096
    assert filter_for("vax") is None


@isolated
@pytest.mark.parametrize(
    ("response", "status"),
    [(None, "bad_response"), (b"x", "bad_response"), ("", "no_answer"), ("```python\n\n```", "no_answer"),
     ("a" * 10_000_000, "runtime_error"), ("(" * 100_000, "runtime_error memory"), ("\x00\xff", "runtime_error")],
)  # fmt: skip
def test_any_response_gets_a_verdict(response, status):
    attempt = Attempt(response=response, reference=[{"output": "1"}])
    verdicts = open_verifier("code").verify(
        [attempt, Attempt(response="print(1)", reference=[{"output": "1"}])]
    )
    assert verdicts[0].status in status.split(), verdicts[0]
    assert (verdicts[0].score is None) == (verdicts[0].status == "bad_response")
    assert verdicts[1].correct


_FORGED = (
    "import os\ndef f(*a):\n    for fd in range(3, 64):\n        try: os.write(fd, {!r})\n"
    "        except OSError: pass\n    os._exit(0)"
)


@isolated
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def f(): return {1: 5, '1': 5}", {"1": 5, "2": 7}),
        (_FORGED.format(b'{"pairs": [["a", 1], ["a", 1]]}'), {"a": 1, "b": 2}),
        (_FORGED.format(b'{"pairs": 5}'), {"a": 1}),
        (_FORGED.format(b'{"pairs": [1]}'), {"a": 1}),
        (_FORGED.format(b'{"set": 5}'), [1]),
        ("def f(): return 10 ** 400", 1.5),
        ("def f(): return 1.5", 10**400),
        ("def f(): return 5", float("inf")),
        ("def f(): return float('nan')", 1.5),
    ],
)
def test_odd_results_are_wrong_and_never_missing(program, expected):
    tests = [{"function": "f", "args": [], "output": expected}]
    (verdict,) = open_verifier("code:seconds=2").verify([Attempt(response=program, reference=tests)])
    assert (verdict.score, verdict.status) == (0.0, "wrong"), verdict


def test_an_infinite_number_is_near_nothing_else():
    assert not same_output(b"5", "inf", 1e-6)
    assert not same_output(b"inf", "5", 1e-6)
    assert same_output(b"inf", "Infinity", 1e-6)
    assert same_result(float("inf"), float("inf"))
    assert same_result({"pairs": [[1, [2.0]], ["b", None]]}, {"b": None, "1": [2]})


@isolated
@pytest.mark.parametrize("spec", ["code", "code:unsafe_local=true"])
def test_arguments_longer_than_a_command_line(spec):
    text = "x" * 300_000
    call = [{"function": "f", "args": [text], "output": 300_000}]
    asserts = {"asserts": ["assert f('x' * 300_000) == 300_000"]}
    program = Attempt(response="def f(x): return len(x)", reference=call)
    verifier = open_verifier(spec)
    assert verifier.verify([program])[0].correct
    assert verifier.verify([Attempt(response=program.response, reference=asserts)])[0].correct
