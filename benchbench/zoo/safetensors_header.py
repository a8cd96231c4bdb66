"""Header of a safetensors file, in which weights describe themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

METADATA = "__metadata__"  # the safetensors format's own name
KEY = "benchbench"  # of the description in it
_LONGEST = 100_000_000  # bytes, as safetensors reads them


def read_header(file: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file as JSON, and all that was read for it.

    It is eight bytes, which are the length of the rest, little-endian, and the rest. Of another file, it is empty.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > _LONGEST:
        return {}, start
    raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        return {}, start + raw
    return (header if isinstance(header, dict) else {}), start + raw


def own_description(header: Mapping[str, Any]) -> str | None:
    """What `save` has put into a header; None: it is another program's."""
    metadata = header.get(METADATA)
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    return text if isinstance(text, str) else None
