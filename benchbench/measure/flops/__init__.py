"""FLOP counts of a network, by several counters, and on what they differ."""
