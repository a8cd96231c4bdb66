"""Paired measurement: two sides in strict alternation, each in persistent processes."""
