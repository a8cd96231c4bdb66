"""Records, results folders, units, errors, statistics and configuration: no PyTorch, no device."""
