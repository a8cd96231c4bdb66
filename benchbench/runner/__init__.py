"""Runner: from the cells of a run to its records, by worker processes, here and on other hosts."""
