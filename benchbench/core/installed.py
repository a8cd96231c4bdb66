"""Versions of installed packages, without importing them."""

from __future__ import annotations

import importlib.metadata


def installed(package: str) -> str | None:
    """The version of a package; None where it is not installed, or came without metadata."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
