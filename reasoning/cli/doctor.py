"""What this machine and this installation can do: versions, devices, engines, extras and what to install."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from importlib import metadata

from reasoning.runfile import git_revision, versions
from verifiers.foreign import owner_of_verifiers

EXTRAS = {
    "vllm": "vllm",
    "openai": "openai",
    "ray": "ray",
    "datasets": "hub",
    "reasoning-gym": "gym",
    "duckdb": "query",
    "peft": "lora",
}
"""Distribution -> the extra that installs it."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    pass


def run(options: DoctorOptions) -> int:
    """Print a line per finding; exit status 1 when something stops the main job from working."""
    problems = 0
    for name, version in versions().items():
        print(f"{name:<18}{version}")
    if git_revision():
        print(f"{'revision':<18}{git_revision()}")
    print(f"{'cores':<18}{os.cpu_count()}")
    print(f"{'device':<18}{device()}")
    for package, extra in EXTRAS.items():
        there = importlib.util.find_spec(package.replace("-", "_")) is not None
        found = (
            metadata.version(package)
            if there
            else f"not installed:  pip install 'reasoning-toolkit[{extra}]'"
        )
        print(f"{package:<18}{found}")
    bubblewrap = shutil.which("bwrap") or "not installed (Debian: apt-get install bubblewrap)"
    print(f"{'bubblewrap':<18}{bubblewrap}")
    foreign = owner_of_verifiers()
    if foreign:
        problems += 1
        print(f"{'verifiers':<18}{foreign}")
    free = shutil.disk_usage(".").free
    print(f"{'free disk':<18}{free / 2**30:.1f} GiB")
    if free < 2**30:
        problems += 1
        print(f"{'':<18}less than 1 GiB: runs may stop with a full disk")
    print("ok" if not problems else f"{problems} problem(s) to mend")
    return 1 if problems else 0


def device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)} x {torch.cuda.device_count()}"
    return f"cpu, {torch.get_num_threads()} threads"
