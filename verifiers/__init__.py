"""Verifiers: text in, verdict out. Usable alone; imports no torch and nothing of `reasoning`.

>>> from verifiers import Attempt, open_verifier
>>> open_verifier("numeric").verify([Attempt(response="So the answer is $1,234.", reference="1234")])[0].score
1.0
"""

from verifiers.base import CORRECT_AT, Attempt, Verdict, Verifier
from verifiers.classes import equivalence_classes
from verifiers.errors import VerifierError
from verifiers.functions import reward_function
from verifiers.pool import Pooled
from verifiers.registry import open_verifier, verifier_names
from verifiers.rows import verify_rows

__all__ = [
    "CORRECT_AT",
    "Attempt",
    "Pooled",
    "Verdict",
    "Verifier",
    "VerifierError",
    "equivalence_classes",
    "open_verifier",
    "reward_function",
    "verifier_names",
    "verify_rows",
]
