"""Versions: of this package, and of installed ones without importing them."""

from __future__ import annotations

import importlib.metadata

__version__ = "0.1.0"


def installed(package: str) -> str | None:
    """The version of a package; None where it is not installed, or came without metadata."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
