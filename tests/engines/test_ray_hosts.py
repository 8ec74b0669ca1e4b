"""The engine of many machines on several hosts: network namespaces, each with an address and a wire of its own, which
is cut while chains are drawn. Needs root and iproute2; Ray's files are each host's own, too."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import ScriptedEngine

from reasoning.budget import Ledger
from reasoning.pool import Pool
from reasoning.records import Draw, Sampling
from reasoning.tasks import load_problems

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TASK, CHAINS, MILLISECONDS = "word:test:n=24", 8, 100
PREFIX = f"rt{os.getpid()}"
SWITCH = f"{PREFIX}-switch"


def _why_not() -> str:
    if importlib.util.find_spec("ray") is None:
        return "needs Ray"
    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("ip"):
        return "needs root and iproute2 for network namespaces"
    tried = subprocess.run(["ip", "netns", "add", f"{PREFIX}-try"], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    _ip("netns", "delete", f"{PREFIX}-try")
    return ""


def _ip(*words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True).stdout


class Host:
    """A namespace with the address 10.77.0.NUMBER, wired to the switch, and a /tmp/ray of its own."""

    def __init__(self, number: int, folder: Path):
        self.name, self.address, self._port = f"{PREFIX}-{number}", f"10.77.0.{number}", f"port{number}"
        self._files = folder / self.name
        self._files.mkdir()
        self._started: list[subprocess.Popen[bytes]] = []
        _ip("netns", "add", self.name)
        wire = ("link", "add", "eth0", "netns", self.name, "type", "veth", "peer", "name", self._port)
        _ip(*wire, "netns", SWITCH)
        _ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.name, "link", "set", device, "up")
        _ip("-n", SWITCH, "link", "set", self._port, "master", "bridge", "up")

    def start(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        os.makedirs("/tmp/ray", exist_ok=True)
        own = f'mount --bind "{self._files}" /tmp/ray && exec "$@"'  # a mount that only this command sees
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE.parent}",
            "HOME": str(self._files.parent),  # the hosts share the cluster's token, as its users have to
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_initial_delay_ms": "1000",  # a host that has gone is noticed within 12 s, not 60
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "3",
        }
        environment.pop("RAY_ADDRESS", None)
        with log.open("ab") as out:
            inside = ["ip", "netns", "exec", self.name, "sh", "-c", own, "sh", *command]
            self._started.append(subprocess.Popen(inside, stdout=out, stderr=out, env=environment, cwd=ROOT))
        return self._started[-1]

    def ray(self, *options: str, log: Path) -> subprocess.Popen[bytes]:
        common = (
            "--node-ip-address",
            self.address,
            "--num-cpus=1",
            "--object-store-memory=80000000",
            "--block",
        )
        return self.start(sys.executable, "-m", "ray.scripts.scripts", "start", *common, *options, log=log)

    def lose(self) -> None:
        """Pull its wire, so that not even the end of a connection is heard, and then its plug."""
        _ip("-n", SWITCH, "link", "set", self._port, "down")
        self.stop()

    def stop(self) -> None:
        for _ in range(20):  # those that are started while others are stopped
            pids = _ip("netns", "pids", self.name, check=False).split()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.1)
        for process in self._started:
            process.wait(30)


@pytest.fixture
def hosts(tmp_path) -> Iterator[list[Host]]:
    if why := _why_not():
        pytest.skip(why)
    made: list[Host] = []
    try:
        _ip("netns", "add", SWITCH)
        _ip("-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        _ip("-n", SWITCH, "link", "set", "bridge", "up")
        made.extend(Host(number, tmp_path) for number in (1, 2, 3))
        yield made
    finally:
        for host in made:
            host.stop()
        for name in _ip("netns", "list", check=False).split():
            if name.startswith(f"{PREFIX}-"):
                _ip("netns", "delete", name)  # its wires go with it


def _chains_stored(run: Path) -> int:
    if not (run / "pool").is_dir():
        return 0
    with Pool.open(run, read_only=True) as pool:
        return len(pool)


def _wait(what: str, seconds: float, done, log: Path) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"{what} took over {seconds:g} s\n{log.read_text()[-3000:]}"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_host_that_is_lost_midway_costs_no_chain(hosts, tmp_path):
    log = tmp_path / "log"
    head, second, lost = hosts
    head.ray("--head", "--port=6379", "--include-dashboard=false", log=log)
    _wait("the head", 120, lambda: b"Ray runtime started" in log.read_bytes(), log)
    for host in (second, lost):
        host.ray(f"--address={head.address}:6379", log=log)
    _wait("the others", 120, lambda: log.read_bytes().count(b"Ray runtime started") == 3, log)

    run, said = tmp_path / "run", tmp_path / "said"
    driver = head.start(
        *(sys.executable, "-m", "reasoning", "sample", str(run), "--task", TASK, "-n", str(CHAINS)),
        *("--engine", f"{HERE / 'ray_engines.py'}:scripted", "--seed", str(MILLISECONDS)),
        *("--max-new-tokens", "32", "--budget", "tokens=1000000"),
        *("--cluster", f"{head.address}:6379:actors=3,deaf_seconds=20"),
        log=said,
    )
    total = len(load_problems(TASK)) * CHAINS
    _wait("the first chains", 120, lambda: _chains_stored(run) > total / 4 or driver.poll() is not None, said)
    lost.lose()
    assert driver.poll() is None, said.read_text()
    assert _chains_stored(run) < total, "all was drawn before the host was lost"
    assert driver.wait(180) == 0, said.read_text()

    asked = [
        Draw(p, Sampling(max_new_tokens=32, seed=MILLISECONDS), tuple(range(CHAINS)))
        for p in load_problems(TASK)
    ]
    with Pool.open(run, read_only=True) as pool:
        assert {c.key: c.token_ids for c in pool.chains()} == {
            c.key: c.token_ids for c in ScriptedEngine().generate(asked)
        }
    with Ledger(path=run) as ledger:
        assert ledger.spent.failed_tokens > 0, "nothing was under way on the host that was lost"
        assert ledger.spent.samples == total
