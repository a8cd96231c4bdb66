"""Networks by name, card or class, and their weights."""
