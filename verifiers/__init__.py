"""Verifiers: text in, verdict out. Usable alone; imports no torch and nothing of `reasoning`."""

from verifiers.base import CORRECT_AT, Attempt, Verdict, Verifier
from verifiers.errors import VerifierError

__all__ = ["CORRECT_AT", "Attempt", "Verdict", "Verifier", "VerifierError"]
