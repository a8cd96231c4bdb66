"""Weights on their way to another host, in pieces, and kept there by their hash."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchbench.core.cache import cache_base
from benchbench.core.errors import CheckpointError
from benchbench.core.results import remove_torn
from benchbench.zoo import checkpoint

CHUNK_BYTES = 1 << 20


def messages(path: Path) -> Iterator[dict[str, Any]]:
    """A file as messages {content}, in base64; the last has None, and an `error` where the file cannot be read."""
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield {"content": base64.b64encode(chunk).decode()}
    except OSError as error:
        yield {"content": None, "error": f"cannot read {path}: {error.strerror or error}"}
        return
    yield {"content": None}


def _path(digest: str) -> Path:
    return cache_base() / "checkpoints" / f"{digest}.safetensors"


def find(digest: str) -> Path | None:
    """A file of that sha256, if it is here and whole."""
    try:
        return _path(digest) if checkpoint.sha256_of(_path(digest)) == digest else None
    except CheckpointError:
        return None


def receive(digest: str, take: Callable[[], dict[str, Any]]) -> Path:
    """Weights that the other side sends, checked by their hash.

    Args:
        digest: their sha256.
        take: returns the next message.

    Raises:
        CheckpointError: they cannot be kept here, or are not the ones that were announced.
    """
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise CheckpointError(f"{digest!r} is no sha256")
    path = _path(digest)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    why = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_torn(path.parent)
        file = open(partial, "wb")  # noqa: SIM115 - what follows has to be read off the line even if this fails
    except OSError as error:
        file, why = None, error.strerror or str(error)
    while (message := take()).get("content") is not None:
        try:
            if file and not why:
                file.write(base64.b64decode(message["content"]))
        except OSError as error:
            why = error.strerror or str(error)
    try:
        if file:
            file.close()
        if not why and checkpoint.sha256_of(partial) == digest:
            os.replace(partial, path)
            return path
    except OSError as error:
        why = error.strerror or str(error)
    finally:
        partial.unlink(missing_ok=True)
    if why:
        raise CheckpointError(f"the weights cannot be kept over there in {path.parent}: {why}; make room there")
    raise CheckpointError(message.get("error") or "the weights' file is not the one that its .json describes")
