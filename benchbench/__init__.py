"""benchbench: which 3D medical segmentation network fits my device, and how good is it there?

The public names load on first use, so that `import benchbench` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "AuditResult": "benchbench.measure.audit",
    "BenchError": "benchbench.errors",
    "audit": "benchbench.measure.audit",
    "build_model": "benchbench.zoo",
    "list_models": "benchbench.zoo",
    "load_records": "benchbench.store",
    "measure_module": "benchbench.api",
}

__all__ = [
    "AuditResult",
    "BenchError",
    "__version__",
    "audit",
    "build_model",
    "list_models",
    "load_records",
    "measure_module",
]

if TYPE_CHECKING:
    from benchbench.api import measure_module
    from benchbench.errors import BenchError
    from benchbench.measure.audit import AuditResult, audit
    from benchbench.store import load_records
    from benchbench.zoo import build_model, list_models


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'benchbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
