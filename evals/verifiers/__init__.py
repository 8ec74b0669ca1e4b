"""`math` and the sandbox measured against peers and against hostile input: one module and one command each.

    python -m evals.verifiers.accuracy    verdicts beside math-verify's on every corpus, and every disagreement
    python -m evals.verifiers.speed       one interleaved run against math-verify (extra: bench), a quiet machine
    python -m evals.verifiers.fuzz        a million hostile answers: no exception, no hang, no growth
    python -m evals.verifiers.sandbox     programs a second, and the price of isolation

The corpora are in the data folder: --data FOLDER or the environment variable REASONING_DATA.
"""
