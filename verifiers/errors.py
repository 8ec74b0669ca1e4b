"""Errors of the verifiers. All are a caller's mistake or a missing piece; none is raised out of `verify`."""


class VerifierError(ValueError):
    """Cannot open or configure a verifier. The message says what to do, in one line."""
