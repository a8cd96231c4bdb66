"""Latency of single operators: traces replayed, and microbenchmarks."""
