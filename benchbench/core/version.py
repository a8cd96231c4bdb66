"""Versions: of this package, and of installed ones without importing them."""

from __future__ import annotations

__version__ = "0.1.0"


def installed(package: str) -> str | None:
    """The version of a package; None where it is not installed, or came without metadata."""
    import importlib.metadata  # here, since `import benchbench` needs the version alone

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
