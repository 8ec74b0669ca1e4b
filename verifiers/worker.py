"""The child process of `verifiers.pool`: ``python -m verifiers.worker SPEC MEMORY_BYTES``.

Reads one JSON attempt a line from standard input and answers with one JSON verdict a line. It limits its own
memory, keeps the protocol's output away from whatever a verifier may print, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import resource
import sys

from verifiers.base import Attempt
from verifiers.registry import open_verifier
from verifiers.rows import as_json


def main(spec: str, memory_bytes: int) -> None:
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    verifier = open_verifier(spec)
    answers.write(json.dumps({"name": verifier.name, "oracle": verifier.oracle}) + "\n")
    answers.flush()
    for line in sys.stdin.buffer:
        fields = json.loads(line)
        (verdict,) = verifier.verify([Attempt(**fields)])
        answers.write(json.dumps(as_json(verdict)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
