"""A language model in a Unix pipeline."""

__version__ = "0.1.0"
