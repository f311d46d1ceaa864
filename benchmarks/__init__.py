"""Didact beside its peers, on identical batches: ``make bench`` or ``python -m benchmarks [names] [--quick]``."""
