"""Findings of the doctor, from this machine or from another one.

`warn` is for what can be measured all the same, less well or not entirely. Only a `fail` stands in the way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

Backend = Literal["cpu", "cuda"]

INSTALL = "python3 -m venv --system-site-packages .venv && .venv/bin/pip install ."


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str  # `torch`, `cpu fp32 kernels`
    status: Literal["ok", "warn", "fail"]  # warn: measures, but less well or not everything
    text: str  # what was found
    advice: str = ""  # what to do about it; a sound finding has none


def ready(findings: Sequence[Finding]) -> bool:
    """Whether nothing that was found stands in the way of a measurement."""
    return all(finding.status != "fail" for finding in findings)
