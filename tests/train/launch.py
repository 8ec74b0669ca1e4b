"""`reasoning train` in several processes, as a user starts it: by torchrun."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def torchrun(ranks, arguments, folder, seconds=240):
    """(exit status, what all of them said). ranks: 1 goes without torchrun."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(port)]
    made = subprocess.run(
        [sys.executable, *(launcher if ranks > 1 else []), "-m", "reasoning", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return made.returncode, made.stdout + made.stderr
