"""Search for smaller networks: from a cost budget to a Pareto front."""
