"""Draw many chains of thought once, keep them in a pool, judge them, and let training and search spend the
same measured compute on the same pool."""

import verifiers

__version__ = "0.1.0"

if not hasattr(verifiers, "CORRECT_AT"):  # another distribution's package of that name was imported instead
    raise ImportError(
        f"The package 'verifiers' at {getattr(verifiers, '__file__', None) or list(verifiers.__path__)} is not "
        "reasoning-toolkit's: another distribution owns that import name too. Install reasoning-toolkit in an "
        "environment of its own:  python -m venv .venv"
    )
