"""Smaller networks from trained ones: which channels hang together, which matter, and the network without the rest."""
