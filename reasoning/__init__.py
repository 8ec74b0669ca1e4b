"""Draw many chains of thought once, keep them in a pool, judge them, and let training and search spend the
same measured compute on the same pool."""

__version__ = "0.1.0"
