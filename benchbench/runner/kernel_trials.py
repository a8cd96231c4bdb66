"""Kernel trials: one kernel of each kind that a network launches, against float64 on the CPU.

A wheel can be imported and still lack the processor's instructions or the GPU's architecture; the first forward then
ends the process. So the trials run in a child, and each is announced before it is launched. Where nothing follows an
announcement, the announcement is the finding.

torch is imported when something is launched, so that the names of the trials can be had without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from benchbench.core.errors import DeviceError, first_line
from benchbench.devices import cuda

if TYPE_CHECKING:
    from torch import Tensor, nn

Emit = Callable[[dict[str, Any]], None]
Trial = tuple[str, str, str]  # backend, kind, dtype

#: Relative L2 distance to float64 up to which a result is right: some roundings of the type, many for fp32,
#: whose order of summation is the library's own.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 4e-3}


def _convolution(**keywords: Any) -> Callable[[], tuple[nn.Module, Tensor]]:
    def make() -> tuple[nn.Module, Tensor]:
        import torch

        return torch.nn.Conv3d(8, 8, **keywords), torch.randn(1, 8, 6, 8, 10)

    return make


def _transposed() -> tuple[nn.Module, Tensor]:
    import torch

    return torch.nn.ConvTranspose3d(8, 4, kernel_size=2, stride=2), torch.randn(1, 8, 4, 5, 6)


def _norm(name: str, *arguments: int) -> Callable[[], tuple[nn.Module, Tensor]]:
    def make() -> tuple[nn.Module, Tensor]:
        import torch

        # A mean that is far from zero shows a variance that is computed in too few bits.
        shape = (2, 30, 32) if name == "LayerNorm" else (2, 8, 6, 8, 10)
        return getattr(torch.nn, name)(*arguments).eval(), torch.randn(*shape) + 1

    return make


def _linear() -> tuple[nn.Module, Tensor]:
    import torch

    return torch.nn.Linear(32, 48), torch.randn(2, 30, 32)


def _function(call: Callable[[Any], Tensor], *shape: int) -> Callable[[], tuple[nn.Module, Tensor]]:
    def make() -> tuple[nn.Module, Tensor]:
        import torch

        class Function(torch.nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return call(x)

        return Function(), torch.randn(*shape)

    return make


def _product(x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2)


def _attention(x: Tensor) -> Tensor:
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention(x, x, x)


def _interpolate(x: Tensor) -> Tensor:
    from torch.nn.functional import interpolate

    return interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)


#: Kind of kernel -> makes the smallest thing that launches it, and its input.
MAKERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "conv3d 1x1x1": _convolution(kernel_size=1),
    "conv3d 3x3x3": _convolution(kernel_size=3, padding=1),
    "strided conv3d": _convolution(kernel_size=3, padding=1, stride=2),
    "transposed conv3d": _transposed,
    "depthwise conv3d": _convolution(kernel_size=3, padding=1, groups=8),
    "linear": _linear,
    "matrix product": _function(_product, 4, 30, 32),
    "attention": _function(_attention, 1, 4, 32, 16),
    "group norm": _norm("GroupNorm", 4, 8),
    "instance norm": _norm("InstanceNorm3d", 8),
    "batch norm": _norm("BatchNorm3d", 8),
    "layer norm": _norm("LayerNorm", 32),
    "interpolation": _function(_interpolate, 1, 4, 4, 5, 6),
}


def run(trials: Iterable[Trial], emit: Emit) -> None:
    """Survey torch and its GPU, then launch what is asked.

    Args:
        trials: (backend, kind, dtype) each; those for a GPU that is not there are passed over.
        emit: gets `torch` {version, cuda}, `begin` {what}, `gpu` {why, ...} if any trial is for it, and
            for each trial `begin` {trial}, then `result` {trial, error} or `raised` {trial, error}. After an error
            that leaves the GPU unusable nothing more comes: the rest needs a new process.
    """
    import torch

    emit({"event": "torch", "version": torch.__version__, "cuda": torch.version.cuda})
    todo = list(trials)
    torch.set_num_threads(1)
    gpu = False
    if any(backend == "cuda" for backend, _, _ in todo):
        emit({"event": "begin", "what": "gpu"})
        facts = survey_gpu()
        gpu = facts["why"] is None
        emit({"event": "gpu"} | facts)
        torch.backends.cudnn.allow_tf32 = False  # as a measurement has it
    for backend, kind, dtype in todo:
        if backend == "cuda" and not gpu:
            continue
        trial = [backend, kind, dtype]
        emit({"event": "begin", "trial": trial})
        try:
            emit({"event": "result", "trial": trial, "error": relative_error(backend, kind, dtype)})
        except Exception as error:  # a broken library may raise anything; it becomes this kernel's finding
            emit({"event": "raised", "trial": trial, "error": first_line(error)})
            if backend == "cuda" and not _alive():
                return


def survey_gpu() -> dict[str, Any]:
    """What torch sees of the first GPU: `why` it cannot be used, or None and its facts."""
    try:
        name = cuda.probe(0).name
        free, total = cuda.memory_bytes(0)
    except (DeviceError, RuntimeError) as error:
        return {"why": first_line(error)}
    import torch

    capability = list(torch.cuda.get_device_capability(0))
    facts: dict[str, Any] = {
        "why": None,
        "name": name,
        "capability": capability,
        "free_bytes": free,
        "total_bytes": total,
        "arches": torch.cuda.get_arch_list(),
    }
    return facts | {"energy": _energy()}


def _energy() -> dict[str, Any]:
    """{what} the GPU's energy will be taken from, or {why} there is none; empty on a Jetson, whose board tells."""
    from benchbench.measure import energy

    gpu = energy.find_gpu("cuda", 0)
    if gpu is None:
        return {}
    meter = energy.open_meter("cuda", gpu)
    if meter is None or isinstance(meter, str):
        return {"why": meter}
    meter.close()
    return {"what": getattr(meter, "what", "a sensor")}


def relative_error(backend: str, kind: str, dtype: str) -> float | None:
    """Distance of a kernel's result from that in float64 on the CPU.

    Returns:
        The L2 norm of the difference over that of the reference; None where it is not finite.
    """
    import torch

    from benchbench.measure.flops.graph import DTYPES
    from benchbench.measure.latency import forward_function

    torch.manual_seed(0)
    module, x = MAKERS[kind]()
    # Inside a network the input comes from the layer before, so under autocast in the reduced type.
    x = x.to(DTYPES[dtype])
    with torch.inference_mode():
        exact = copy.deepcopy(module).double()(x.double())
    found = forward_function(module.to(backend), x.to(backend), backend=backend, dtype=dtype)().cpu().double()
    error = float((found - exact).norm() / exact.norm())
    return error if error < float("inf") else None


def _alive() -> bool:
    """Whether the GPU still computes after an error; most errors of a kernel end that for the whole process."""
    import torch

    try:
        return bool((torch.ones(2, device="cuda") * 2).sum().item() == 4)
    except Exception:  # whichever class this version of torch raises for it
        return False
