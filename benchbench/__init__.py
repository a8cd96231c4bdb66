"""benchbench: which 3D medical segmentation network fits my device, and how good is it there?

The public names load on first use, so that `import benchbench` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchbench.core.version import __version__

_PUBLIC = {
    "AuditResult": "benchbench.core.audit_result",
    "BenchError": "benchbench.core.errors",
    "audit": "benchbench.measure.flops.audit",
    "build_model": "benchbench.zoo.build",
    "list_models": "benchbench.zoo.cards",
    "export": "benchbench.runner.export",
    "load_records": "benchbench.core.results",
    "load_runtime": "benchbench.runtimes.prepared",
    "measure_module": "benchbench.runner.in_process",
}

__all__ = [
    "AuditResult",
    "BenchError",
    "__version__",
    "audit",
    "build_model",
    "export",
    "list_models",
    "load_records",
    "load_runtime",
    "measure_module",
]

if TYPE_CHECKING:
    from benchbench.core.audit_result import AuditResult
    from benchbench.core.errors import BenchError
    from benchbench.core.results import load_records
    from benchbench.measure.flops.audit import audit
    from benchbench.runner.export import export
    from benchbench.runner.in_process import measure_module
    from benchbench.runtimes.prepared import load_runtime
    from benchbench.zoo.build import build_model
    from benchbench.zoo.cards import list_models


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'benchbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
