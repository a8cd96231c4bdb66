"""Comparison of two sets of records: verdicts, and their page."""
