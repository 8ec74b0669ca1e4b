"""Programs a second in the sandbox, and what isolation costs over an ordinary process.

python -m evals.verifiers.sandbox [--runs 200] [--workers 2]
"""

from __future__ import annotations

import argparse
import time

from verifiers import Attempt, open_verifier

_PROGRAM = "a, b = map(int, input().split())\nprint(a + b)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    attempts = [
        Attempt(response=_PROGRAM, reference=[{"input": f"{i} 1", "output": str(i + 1)}])
        for i in range(options.runs)
    ]
    rates = {}
    for spec in ("code", "code:unsafe_local=true") * 2:
        verifier = open_verifier(spec, workers=options.workers)
        begun = time.perf_counter()
        verdicts = verifier.verify(attempts)
        spent = time.perf_counter() - begun
        passed = sum(v.correct for v in verdicts)
        rates[spec] = max(rates.get(spec, 0.0), options.runs / spent)
        pace = f"{options.runs / spent:6.1f} runs/s"
        print(f"{spec:24s} {passed}/{options.runs} passed, {pace}, {options.workers} at a time")
    print(f"isolation costs a factor of {rates['code:unsafe_local=true'] / rates['code']:.2f}")


if __name__ == "__main__":
    main()
