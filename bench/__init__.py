"""The benchmarks: ``python -m bench``, which is what ``make bench`` runs."""
