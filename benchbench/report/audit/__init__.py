"""The audit's section of a page: tables and figures of FLOP counters side by side."""
