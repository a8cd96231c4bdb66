"""The search for smaller networks: a budget, a space, and a front of what is good for its cost."""
