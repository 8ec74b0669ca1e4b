"""`math` and the sandbox measured against peers and against hostile input: one module and one command each.

    python -m evals.verifiers.accuracy    verdicts beside math-verify's on every corpus, and every disagreement
    python -m evals.verifiers.speed       one interleaved run against math-verify (extra: bench), a quiet machine
    python -m evals.verifiers.fuzz        a million hostile answers: no exception, no hang, no growth
    python -m evals.verifiers.sandbox     programs a second, and the price of isolation

The corpora are in the data folder: --data FOLDER or the environment variable REASONING_DATA.
"""

import sys
from pathlib import Path

if __name__ == "verifiers":
    # `python evals/x.py` puts this folder's parent first on the path, and this package before the project's own.
    sys.exit(f"Run it as a module, from the repository's root:  python -m evals.{Path(sys.argv[0]).stem}")
