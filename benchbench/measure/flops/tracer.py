"""Tracer of a forward without values: its operators in their order, and the storages that live at once."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker

from benchbench.core.errors import UnsupportedError, first_line
from benchbench.core.records import OperatorCost
from benchbench.measure.flops import rules
from benchbench.measure.flops.meta_device import without_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(backend: str, dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast to a dtype; nothing for fp32."""
    return torch.autocast(backend, DTYPES[dtype]) if dtype != "fp32" else contextlib.nullcontext()


@contextlib.contextmanager
def graph_settings() -> Iterator[None]:
    """The settings under which a graph is counted: no fused attention, no gradients."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def trace(module: nn.Module, input_shape: Sequence[int], dtype: str, tracer: Tracer) -> None:
    """One forward in eval mode without values, under `graph_settings`, for a tracer to see.

    Raises:
        UnsupportedError: the forward cannot run without values.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        ghost = without_memory(module, "cpu")
        x = torch.empty(*input_shape)
    tracer.hold(x)
    with fake, autocast("cpu", dtype), tracer.modules, tracer:
        run_forward(ghost, x)


def run_forward(module: nn.Module, x: Tensor) -> None:
    """Run a network without memory.

    Raises:
        UnsupportedError: its control flow depends on values.
    """
    try:
        module(x)
    except (RuntimeError, NotImplementedError) as error:
        if not is_of_values(error):
            raise
        raise UnsupportedError(
            f"MACs cannot be counted without running it: the forward depends on values ({first_line(error)})"
        ) from error


def is_of_values(error: BaseException) -> bool:
    """Whether a network failed because it asked a tensor without memory for its values."""
    text = f"{type(error).__name__} {error}"
    return any(sign in text for sign in ("meta tensor", "data-dependent", "item()", "DataDependent", "Meta"))


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists operators and follows live storages; `peak_bytes` leaves weights out.

    `peak_at` names the operator that was running when the most storages lived, and the module that called it.
    """

    def __init__(self, outside: str = "the network itself") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outside = outside
        self.modules = ModuleTracker()
        self.operators: list[OperatorCost] = []
        self.uncounted: dict[str, int] = {}  # operator without a rule -> its calls
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_at = "the input"
        self._held: set[int] = set()

    def hold(self, tensor: Tensor, operator: str | None = None) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        size = storage.nbytes()
        self._held.add(key)
        self.live_bytes += size
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
            if operator:
                inside = len(self.modules.parents) > 1  # besides `Global`
                self.peak_at = f"{operator} in {self._module() or ('the network itself' if inside else self.outside)}"
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.live_bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is torch.ops.aten.view.default:
            out = _with_real_strides(args[0], out)
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        storages = {t.untyped_storage()._cdata for t in inputs}
        for tensor in outputs:
            if tensor.untyped_storage()._cdata not in storages:
                self.hold(tensor, func._overloadpacket.__name__)
        if outputs and not func.is_view:
            self._note(func, args, kwargs, inputs, outputs, out)
        return out

    def _note(self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor], out: Any) -> None:
        name = func._overloadpacket.__name__
        if name in _FREE:
            return
        macs = rules.macs_of(func, args, kwargs, out)
        if macs is None:
            named = rules.name_of(func)
            self.uncounted[named] = self.uncounted.get(named, 0) + 1
        self.operators.append(
            OperatorCost(
                operator=name if macs is not None else rules.name_of(func),
                kind=operator_kind(name, args) if macs is not None else "other",
                module=self._module(),
                macs=macs or 0,
                read_bytes=sum(t.numel() * t.element_size() for t in inputs),
                written_bytes=sum(t.numel() * t.element_size() for t in outputs),
                output_shape=tuple(outputs[0].shape),
                kernel=math.prod(args[1].shape[2:]) if name == "convolution" else 1,
                strided=bool(inputs) and not inputs[0].is_contiguous(),
            )
        )

    def _module(self) -> str:
        """The innermost module that is running, by its name in the network."""
        inside = max(self.modules.parents, key=lambda name: name.count(".") if name != "Global" else -1)
        return inside.partition(".")[2] if inside != "Global" else ""


def _with_real_strides(before: Tensor, after: Tensor) -> Tensor:
    """A fake view with a real one's strides: those of a side of 1 differ, and decide what counts as channels last."""
    with unset_fake_temporarily():
        real = torch.empty_strided(before.shape, before.stride(), device="meta").view(after.shape)
    return after if real.stride() == after.stride() else after.as_strided(after.shape, real.stride())


_FREE = frozenset({"empty", "empty_like", "detach", "_unsafe_view", "lift_fresh", "is_same_size", "empty_strided"})
_MATMUL = frozenset(
    {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "mv", "dot", "vdot", "addmv", "addbmm", "_trilinear"}
    | {"_scaled_mm", "_int_mm", "_addmm_activation", "linear_dynamic", "mkldnn_rnn_layer"}
)
_COPY = frozenset(
    {"clone", "copy", "copy_", "cat", "stack", "constant_pad_nd", "roll", "_to_copy", "index", "slice_scatter"}
)


def operator_kind(name: str, args: Any) -> str:
    """What an aten operator is in the field's words: `conv`, `matmul`, `norm`, `copy`."""
    if name == "conv_tbc":
        return "conv"
    if name == "convolution":
        weight, transposed, groups = args[1], args[6], args[8]
        if transposed:
            return "transposed_conv"
        return "depthwise_conv" if groups > 1 and groups == weight.shape[0] else "conv"
    if name in _MATMUL:
        return "matmul"
    if "attention" in name:
        return "attention"
    if "norm" in name and name != "linalg_vector_norm":
        return "norm"
    return "copy" if name in _COPY else "elementwise"
