"""Parameters, MACs, moved bytes and tensor memory of a forward, exact, from the graph, with nothing computed.

The headline follows one recipe: a copy of the network on the `meta` device, the attention fast path
off, scaled-dot-product attention in its MATH form, PyTorch's FlopCounterMode, halved. No weight and
no activation is allocated. A second pass, on fake CPU tensors so that autocast acts as it will, lists
each operator with the bytes that it reads and writes, and follows the life of every storage.

The tensor peak is a lower bound of what the process will need, since kernels take scratch memory of their own (on a
CPU 2 to 280 % more was seen). It may refuse, never promise.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchbench.core.errors import BenchError, UnsupportedError, is_out_of_memory, named_line
from benchbench.core.records import Measurement, OperatorCost
from benchbench.measure.flops import rules
from benchbench.measure.flops.first_layer import channels_refused
from benchbench.measure.flops.meta_device import copied, is_lazy, without_memory
from benchbench.measure.flops.tracer import Tracer, autocast, graph_settings, run_forward, trace
from benchbench.measure.memory import weights_bytes

PEAK_METHOD = "peak of live tensors on fake tensors"
COUNT_METHOD = "FlopCounterMode / 2 on meta tensors, math attention, eager fp32"
FAKE_METHOD = "sum over operators on fake CPU tensors, math attention, since it cannot run on meta tensors"
RUN_METHOD = "sum over operators of one forward on random values, math attention, since it cannot run without values"
MOST_RUN = 2**20  # values of an input up to which a network is run to count it: some seconds, and at most a few GB
_COUNTED = ("macs", "flops", "tensor_memory_bytes", "moved_bytes")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """What one module holds and does itself, its children left out."""

    module: str
    kind: str
    params: int
    macs: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForwardCost:
    """The exact cost of one forward."""

    params: int  # every Parameter once, trained or not
    buffer_elements: int  # running statistics and the like, not in `params`
    macs: int
    tensor_memory_bytes: int  # weights, input, and the most that activations take at once
    peak_at: str  # the operator at which that is so, `convolution in encoder.block1`
    operators: tuple[OperatorCost, ...]  # in the order in which they run
    uncounted: Mapping[str, int] = dataclasses.field(default_factory=dict)  # operator without a rule -> its calls
    packed: int = 0  # quantized layers, whose packed weights are no parameters and are not in `params`
    how: str = COUNT_METHOD

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate."""
        return 2 * self.macs

    @property
    def bound(self) -> Literal["at_least"] | None:
        """Whether `macs` are a lower bound, since there are operators without a rule."""
        return "at_least" if self.uncounted else None

    @property
    def method(self) -> str:
        """How `macs` were obtained, and what they leave out."""
        return f"{self.how}; {rules.described(self.uncounted)}" if self.uncounted else self.how

    def measurements(self) -> list[Measurement]:
        """`params`, `macs`, `flops`, `tensor_memory_bytes` and `moved_bytes`, all of origin `analytic`."""
        moved = sum(o.moved_bytes for o in self.operators)
        how_moved = "what every operator reads and writes, weights included, as if nothing were cached"
        peak = f"{PEAK_METHOD}, at {self.peak_at}"
        return [
            params_measurement(self.params, self.packed),
            Measurement.of("macs", self.macs, self.method, "analytic", bound=self.bound),
            Measurement.of("flops", self.flops, "2 x macs", "analytic", bound=self.bound),
            Measurement.of("tensor_memory_bytes", self.tensor_memory_bytes, peak, "analytic", bound="at_least"),
            Measurement.of("moved_bytes", moved, how_moved, "analytic"),
        ]


def measure_cost(
    module: nn.Module,
    input_shape: Sequence[int],
    dtype: str = "fp32",
    *,
    make: Callable[[], nn.Module] | None = None,
    run: bool = True,
) -> ForwardCost:
    """Count one forward of a network in eval mode, without computing it where that can be done.

    What fails on `meta` is counted on fake CPU tensors, and what fails there too by one forward on random values,
    for inputs of at most 2^20 values.

    Args:
        module: left as it is; a copy without memory is counted.
        input_shape: (B, C, D, H, W).
        dtype: `fp32`, or `bf16` / `fp16` for autocast; changes bytes, not MACs.
        make: builds the network with values, for one that has none and must be run.
        run: count it by running it, where it cannot be counted otherwise.

    Raises:
        UnsupportedError: the forward cannot run without values, and is too large to be run.
        ShapeError: its first layer takes other channels.
        Exception: whatever the network raises on this input.
    """
    module = materialised(module, input_shape, make)
    why: Exception
    try:
        return _count_without_values(module, input_shape, dtype)
    except UnsupportedError as error:
        why = error
    except BenchError:
        raise
    except Exception as error:  # a network may raise anything on tensors without values
        why = error
    if refused := channels_refused(module, input_shape):
        raise refused from why
    if not run or (make is None and any(t.is_meta for t in [*module.parameters(), *module.buffers()])):
        raise why
    log.debug("counted by running it: %s", why)
    size = math.prod(input_shape)
    if size > MOST_RUN:
        raise UnsupportedError(
            f"{_why_not(why)}, and its input of {size:,} values is too large to run it for that (limit {MOST_RUN:,}): "
            "a smaller size has a count"
        ) from why
    try:
        return _count_by_running(module, input_shape, dtype, make)
    except Exception as error:
        if isinstance(error, MemoryError) or is_out_of_memory(error, limited=False):
            raise UnsupportedError(f"{_why_not(why)}, and there is too little memory to run it for that") from error
        raise


def _why_not(error: Exception) -> str:
    text = str(error) if isinstance(error, BenchError) else named_line(error)
    return text if text.startswith("MACs ") else f"MACs cannot be counted without running it ({text})"


def uncounted(module: nn.Module, why: str) -> list[Measurement]:
    """What stands in place of a cost that could not be had: `params`, and the others without a value."""
    lazy = any(is_lazy(p) for p in module.parameters())
    count = None if lazy else sum(p.numel() for p in module.parameters())
    return [
        params_measurement(count, _packed(module)),
        *(Measurement.of(metric, None, "none", "analytic", reason=why) for metric in _COUNTED),
    ]


def params_measurement(count: int | None, packed: int) -> Measurement:
    """`params`, and whether it leaves something out.

    Args:
        count: None: there are lazy layers.
        packed: quantized layers, whose weights are no parameters.
    """
    method = "every nn.Parameter once; buffers not counted"
    if packed:
        method += f"; without the packed weights of {packed} quantized layer{'s' * (packed != 1)}"
    if count is None:
        why = "lazy layers have no parameters before a forward"
        return Measurement.of("params", None, method, "analytic", reason=why)
    return Measurement.of("params", count, method, "analytic", bound="at_least" if packed else None)


def _packed(module: nn.Module) -> int:
    """Quantized layers: a convolution packs its weights itself, a linear and a recurrent layer in a module within."""
    return sum(
        "_packed_params" in part._modules or "_all_weight_values" in part._modules or "_packed_params" in vars(part)
        for part in module.modules()
        if not type(part).__name__.endswith("PackedParams")
    )


def materialised(
    module: nn.Module, input_shape: Sequence[int], make: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """The network itself; one with lazy layers as a copy in which they have their shapes.

    Args:
        input_shape: (B, C, D, H, W) of what the lazy layers see.
        make: builds the network with values.
    """
    if not any(is_lazy(v) for v in [*module.parameters(), *module.buffers()]):
        return module
    with graph_settings():
        try:
            ghost = without_memory(module, "meta")
            ghost(torch.empty(*input_shape, device="meta"))
            return ghost
        except Exception as error:  # what fails on meta may run on values
            log.debug("lazy layers are given their shapes by a forward: %s", error)
        if math.prod(input_shape) > MOST_RUN:
            raise UnsupportedError("MACs cannot be counted: its lazy layers need a forward, and the input is too large")
        real = make() if make else copied(module)
        real.eval()(torch.randn(*input_shape, generator=torch.Generator().manual_seed(0)))
        return real


def _count_without_values(module: nn.Module, input_shape: Sequence[int], dtype: str) -> ForwardCost:
    """On `meta`, and the operators on fake tensors; on these alone where the network makes CPU tensors."""
    macs, left_out, failed = 0, dict[str, int](), None
    with graph_settings():
        try:
            macs, left_out = count_macs(module, input_shape)
        except UnsupportedError:
            raise
        except Exception as error:  # a tensor on the CPU beside those on meta, say
            failed = error
        tracer = Tracer()
        try:
            trace(module, input_shape, dtype, tracer)
        except Exception as error:
            raise failed or error from None
    if failed is not None:
        return _cost_of(module, tracer, FAKE_METHOD)
    # A fused operator of the CPU, such as an LSTM's, may have other unknowns than what runs on meta.
    return dataclasses.replace(_cost_of(module, tracer, COUNT_METHOD), macs=macs, uncounted=left_out)


def _cost_of(module: nn.Module, tracer: Tracer, how: str) -> ForwardCost:
    return ForwardCost(
        params=sum(p.numel() for p in module.parameters()),  # shared ones once
        buffer_elements=sum(b.numel() for b in module.buffers()),
        macs=sum(o.macs for o in tracer.operators),
        tensor_memory_bytes=tracer.peak_bytes + weights_bytes(module),
        peak_at=tracer.peak_at,
        operators=tuple(tracer.operators),
        uncounted=dict(tracer.uncounted),
        packed=_packed(module),
        how=how,
    )


def _count_by_running(
    module: nn.Module, input_shape: Sequence[int], dtype: str, make: Callable[[], nn.Module] | None
) -> ForwardCost:
    if any(t.is_meta for t in [*module.parameters(), *module.buffers()]):
        assert make is not None
        real = make()
    else:
        try:
            real = copied(module)
        except Exception as error:  # it may hold what cannot be copied
            log.debug("run itself, since it cannot be copied: %s", error)
            real = module
    training = {part: part.training for part in real.modules()}
    before = {name: value.clone() for name, value in real.named_buffers() if not is_lazy(value)}
    x = torch.randn(*input_shape, generator=torch.Generator().manual_seed(0))
    tracer = Tracer()
    tracer.hold(x)
    try:
        with graph_settings(), autocast("cpu", dtype), tracer.modules, _Outside(tracer.uncounted), tracer:
            real.eval()(x)
    finally:
        for part, mode in training.items():
            part.training = mode
        with torch.no_grad():
            for name, value in real.named_buffers():
                if name in before and before[name].shape == value.shape:
                    value.copy_(before[name])
    return _cost_of(real, tracer, RUN_METHOD)


class _Outside(TorchFunctionMode):
    """Notes what leaves PyTorch for NumPy: what is computed there is seen by nobody."""

    def __init__(self, seen: dict[str, int]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.__array__):
            self.seen["numpy"] = self.seen.get("numpy", 0) + 1
        return func(*args, **(kwargs or {}))


def layers(cost: ForwardCost, module: nn.Module) -> list[LayerCost]:
    """Parameters and MACs of each module that has any of its own, in the network's order."""
    macs: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for operator in cost.operators:
        macs[operator.module] = macs.get(operator.module, 0) + operator.macs
        if operator.macs or operator.module not in kinds:
            kinds[operator.module] = operator.kind
    params: dict[str, int] = {}
    counted: set[int] = set()
    for name, part in module.named_modules():
        for parameter in part.parameters(recurse=False):
            if id(parameter) not in counted:
                counted.add(id(parameter))
                params[name] = params.get(name, 0) + parameter.numel()
    order = {name: i for i, (name, _) in enumerate(module.named_modules(remove_duplicate=False))}
    names = sorted({*params, *(n for n, m in macs.items() if m)}, key=lambda n: order.get(n, len(order)))
    return [
        LayerCost(
            module=name or "(the network itself)",
            kind=kinds.get(name, "-"),
            params=params.get(name, 0),
            macs=macs.get(name, 0),
        )
        for name in names
    ]


def count_macs(module: nn.Module, input_shape: Sequence[int]) -> tuple[int, dict[str, int]]:
    """MACs of one forward, under `graph_settings`; nothing is computed.

    Returns:
        The MACs; and the operators that may have some and have no rule, with their calls.
    """
    ghost = without_memory(module, "meta")
    counter, more = FlopCounterMode(display=False), _More()
    with counter, more:
        run_forward(ghost, torch.empty(*input_shape, device="meta"))
    return counter.get_total_flops() // 2 + more.macs, dict(more.uncounted)


class _More(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What PyTorch's counter leaves out: operators that it has no rule for, and three parts in four of complex ones."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.uncounted: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not rules.is_known(func) and isinstance(func, torch._ops.OpOverload):
            with self:
                inside = func.decompose(*args, **kwargs)
            if inside is not NotImplemented:
                return inside
        out = func(*args, **kwargs)
        macs = rules.macs_of(func, args, kwargs, out)
        if macs is None:
            self.uncounted[rules.name_of(func)] += 1
        else:
            self.macs += macs - rules.counted_by_pytorch(func, args, kwargs, out)
        return out
