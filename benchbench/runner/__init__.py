"""From the cells of a run to its records: planning, worker processes, repetition, other hosts."""
