"""Kernel check: a convolution, a matrix product and a normalisation in each type, against float64 on the CPU.

A wheel can be imported and still lack the processor's instructions or the GPU's architecture; the first forward then
ends the process. So the kernels are launched in a child, which announces each before it is launched. Where nothing
follows an announcement, that kernel is the fault, and a new child goes on behind it.

torch is imported by the child alone.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchbench.core.errors import DeviceError, first_line
from benchbench.devices import cuda
from benchbench.runner import child_process

if TYPE_CHECKING:
    from torch import Tensor, nn

Trial = tuple[str, str, str]  # backend, kernel, dtype

#: Kernel -> the smallest module that launches it, and its input, made with torch.
KERNELS: dict[str, Callable[[Any], tuple[nn.Module, Tensor]]] = {
    "conv3d": lambda torch: (torch.nn.Conv3d(8, 8, 3, padding=1), torch.randn(1, 8, 6, 8, 10)),
    "matrix product": lambda torch: (torch.nn.Linear(32, 48), torch.randn(2, 30, 32)),
    # A mean that is far from zero shows a variance that is computed in too few bits.
    "instance norm": lambda torch: (torch.nn.InstanceNorm3d(8), torch.randn(2, 8, 6, 8, 10) + 1),
}

#: Relative L2 distance to float64 up to which a result is right: some roundings of the type, many for fp32,
#: whose order of summation is the library's own.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 4e-3}

_LIMIT_S = 240.0  # of one child; a small board takes half a minute to import torch, and cuDNN starts slowly
_GIVE_UP = 3  # children lost before the kernels that are left are not tried


@dataclasses.dataclass(slots=True)
class KernelCheck:
    """What the children have said."""

    torch: Mapping[str, Any] | None = None  # version, cuda
    gpu: Mapping[str, Any] | None = None  # as `survey_gpu` gives it
    sound: dict[Trial, float] = dataclasses.field(default_factory=dict)  # distance to float64
    faults: dict[Trial, str] = dataclasses.field(default_factory=dict)  # wrong, raised, or took its process along
    end: str | None = None  # why torch could not be started, or the GPU not be looked at

    @property
    def has_gpu(self) -> bool:
        """Whether there is one that can be used."""
        return self.gpu is not None and self.gpu["why"] is None


def check_kernels(trials: Sequence[Trial], *, limit_s: float = _LIMIT_S) -> KernelCheck:
    """Launch each kernel in a child process, in a new one after each that ends early.

    Args:
        trials: those for a GPU that is not there are passed over.
        limit_s: for one child; the kernel that it was at then counts as broken.
    """
    check = KernelCheck()
    left = list(trials)
    for _ in range(_GIVE_UP + 1):
        begun, failure = _listen(check, left, limit_s)
        why = "its process ended without a word" if failure is None else failure_line(failure, limit_s)
        if begun == "gpu":  # whoever asks for it again loses that process, too
            check.end = why
        elif begun is not None:
            check.faults[begun] = why
        elif failure and check.torch is None:
            check.end = why
            return check
        done = check.sound.keys() | check.faults.keys()
        left = [trial for trial in left if trial not in done and (trial[0] != "cuda" or check.has_gpu)]
        if not left:
            return check
    check.faults |= dict.fromkeys(left, f"not tried after {_GIVE_UP + 1} processes were lost")
    return check


def _listen(
    check: KernelCheck, trials: Sequence[Trial], limit_s: float
) -> tuple[Any, child_process.WorkerFailure | None]:
    """Add what one child says; what it was at when it ended (a trial, `gpu` or None), and how it ended."""
    begun: Trial | str | None = None
    for event in child_process.run_worker({"task": "kernels", "trials": trials}, limit_s=limit_s):
        if isinstance(event, child_process.WorkerFailure):
            return begun, event
        match event["event"]:
            case "torch":
                check.torch = event
            case "begin":
                begun = tuple(event["trial"]) if "trial" in event else "gpu"
            case "gpu":
                check.gpu, begun = event, None
            case "sound":
                check.sound[tuple(event["trial"])], begun = event["error"], None
            case "fault":
                check.faults[tuple(event["trial"])], begun = event["why"], None
    return begun, None


def failure_line(failure: child_process.WorkerFailure, limit_s: float) -> str:
    """Why a child ended early."""
    return f"it was not done after {limit_s:.0f} s" if failure.status == "timeout" else failure.error


# -- in the child ------------------------------------------------------------------------------------


def run(trials: Iterable[Trial], emit: Callable[[dict[str, Any]], None]) -> None:
    """Survey torch and its GPU, then launch the kernels.

    Args:
        emit: gets `torch` {version, cuda}, `begin` {} and `gpu` {why, ...} if any trial is for it, and for each trial
            `begin` {trial}, then `sound` {trial, error} or `fault` {trial, why}. After an error that leaves the GPU
            unusable nothing more comes: the rest needs a new process.
    """
    import torch

    emit({"event": "torch", "version": torch.__version__, "cuda": torch.version.cuda})
    todo = list(trials)
    torch.set_num_threads(1)
    has_gpu = False
    if any(backend == "cuda" for backend, _, _ in todo):
        emit({"event": "begin"})
        facts = survey_gpu()
        has_gpu = facts["why"] is None
        emit({"event": "gpu"} | facts)
        torch.backends.cudnn.allow_tf32 = False  # as a measurement has it
    for backend, kernel, dtype in todo:
        if backend == "cuda" and not has_gpu:
            continue
        trial = [backend, kernel, dtype]
        emit({"event": "begin", "trial": trial})
        try:
            error = relative_error(backend, kernel, dtype)
        except Exception as raised:  # a broken library may raise anything; it becomes this kernel's fault
            emit({"event": "fault", "trial": trial, "why": first_line(raised)})
            if backend == "cuda" and not _gpu_computes():
                return
            continue
        if error <= TOLERANCE[dtype]:
            emit({"event": "sound", "trial": trial, "error": error})
        else:
            off = f"off the float64 one by {error:.1e} (limit {TOLERANCE[dtype]:.0e})"
            why = f"its result is {off if math.isfinite(error) else 'not finite'}"
            emit({"event": "fault", "trial": trial, "why": why})


def survey_gpu() -> dict[str, Any]:
    """What torch sees of the first GPU: `why` it cannot be used, or None and its facts."""
    try:
        name = cuda.probe(0).name
        free, total = cuda.memory_bytes(0)
    except (DeviceError, RuntimeError) as error:
        return {"why": first_line(error)}
    import torch

    return {
        "why": None,
        "name": name,
        "capability": list(torch.cuda.get_device_capability(0)),
        "free_bytes": free,
        "total_bytes": total,
        "arches": torch.cuda.get_arch_list(),
        "energy": _energy(),
    }


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


def relative_error(backend: str, kernel: str, dtype: str) -> float:
    """Relative L2 distance of a kernel's result to that in float64 on the CPU; NaN or infinite where the result is."""
    import torch

    from benchbench.measure.flops.tracer import DTYPES
    from benchbench.measure.latency import forward_function

    torch.manual_seed(0)
    module, x = KERNELS[kernel](torch)
    # Inside a network the input comes from the layer before, so under autocast in the reduced type.
    x = x.to(DTYPES[dtype])
    with torch.inference_mode():
        exact = copy.deepcopy(module).double()(x.double())
    result = forward_function(module.to(backend), x.to(backend), backend=backend, dtype=dtype)().cpu().double()
    return float((result - exact).norm() / exact.norm())


def _gpu_computes() -> bool:
    """Whether the GPU still computes after an error; most errors of a kernel end that for the whole process."""
    import torch

    try:
        return bool((torch.ones(2, device="cuda") * 2).sum().item() == 4)
    except Exception:  # whichever class this version of torch raises for it
        return False
