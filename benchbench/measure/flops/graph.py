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
import contextlib
import copy
import dataclasses
import logging
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from benchbench.core.errors import BenchError, UnsupportedError, first_line, is_out_of_memory, named_line
from benchbench.core.records import Measurement, OperatorCost
from benchbench.measure.flops import rules
from benchbench.measure.flops.first_layer import channels_refused
from benchbench.measure.memory import weights_bytes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PEAK_METHOD = "peak of live tensors on fake tensors"
COUNT_METHOD = "FlopCounterMode / 2 on meta tensors, math attention, eager fp32"
FAKE_METHOD = "sum over operators on fake CPU tensors, math attention, since it cannot run on meta tensors"
RUN_METHOD = "sum over operators of one forward on random values, math attention, since it cannot run without values"
MOST_RUN = 2**20  # values of an input up to which a network is run to count it: some seconds, and at most a few GB
UNITS = {"macs": "MAC", "flops": "FLOP", "tensor_memory_bytes": "B", "moved_bytes": "B"}

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

        def exact(metric: str, unit: str, value: int, method: str) -> Measurement:
            return Measurement(metric=metric, unit=unit, value=value, origin="analytic", method=method)

        return [
            params_measurement(self.params, self.packed),
            dataclasses.replace(exact("macs", "MAC", self.macs, self.method), bound=self.bound),
            dataclasses.replace(exact("flops", "FLOP", self.flops, "2 x macs"), bound=self.bound),
            dataclasses.replace(
                exact("tensor_memory_bytes", "B", self.tensor_memory_bytes, f"{PEAK_METHOD}, at {self.peak_at}"),
                bound="at_least",
            ),
            exact(
                "moved_bytes",
                "B",
                sum(o.read_bytes + o.written_bytes for o in self.operators),
                "what every operator reads and writes, weights included, as if nothing were cached",
            ),
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
        *(
            Measurement(metric=metric, unit=unit, value=None, origin="analytic", method="none", reason=why)
            for metric, unit in UNITS.items()
        ),
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
    return Measurement(
        metric="params",
        unit="parameters",
        value=count,
        origin="analytic",
        method=method,
        bound="at_least" if packed and count is not None else None,
        reason="lazy layers have no parameters before a forward" if count is None else None,
    )


def _packed(module: nn.Module) -> int:
    """Quantized layers: a convolution packs its weights itself, a linear and a recurrent layer in a module within."""
    return sum(
        "_packed_params" in part._modules or "_all_weight_values" in part._modules or "_packed_params" in vars(part)
        for part in module.modules()
        if not type(part).__name__.endswith("PackedParams")
    )


def is_lazy(value: Any) -> bool:
    """Whether it is a parameter or buffer of a lazy layer that has seen no input yet."""
    return isinstance(value, (UninitializedParameter, UninitializedBuffer))


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
    autocast = torch.autocast("cpu", DTYPES[dtype]) if dtype != "fp32" else contextlib.nullcontext()
    try:
        with graph_settings(), autocast, tracer.modules, _Outside(tracer.uncounted), tracer:
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
            module=n or "(the network itself)", kind=kinds.get(n, "-"), params=params.get(n, 0), macs=macs.get(n, 0)
        )
        for n in names
    ]


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


def count_macs(module: nn.Module, input_shape: Sequence[int]) -> tuple[int, dict[str, int]]:
    """MACs of one forward, under `graph_settings`; nothing is computed.

    Args:
        input_shape: (B, C, D, H, W).

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


def trace(module: nn.Module, input_shape: Sequence[int], dtype: str, tracer: Tracer) -> None:
    """One forward in eval mode without values, under `graph_settings`, for a tracer to see.

    Args:
        input_shape: (B, C, D, H, W).
        dtype: `fp32`, or `bf16` / `fp16` for autocast.

    Raises:
        UnsupportedError: the forward cannot run without values.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        ghost = without_memory(module, "cpu")
        x = torch.empty(*input_shape)
    tracer.hold(x)
    autocast = torch.autocast("cpu", DTYPES[dtype]) if dtype != "fp32" else contextlib.nullcontext()
    with fake, autocast, tracer.modules, tracer:
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


def without_memory(module: nn.Module, device: str) -> nn.Module:
    """A copy whose tensors have shapes but no memory; shared tensors stay shared. In eval mode."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in tree_leaves(vars(part)):  # parameters, buffers, and tensors in plain attributes and lists
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                if is_lazy(tensor):
                    memo[id(tensor)] = type(tensor)(tensor.requires_grad, device=device)
                    continue
                empty = torch.empty_like(tensor, device=device)
                trained = tensor.requires_grad
                memo[id(tensor)] = nn.Parameter(empty, trained) if isinstance(tensor, nn.Parameter) else empty
    return copied(module, memo).eval()


def copied(module: nn.Module, memo: Mapping[int, Any] | None = None) -> nn.Module:
    """A deep copy; what cannot be copied, such as a lock, is shared with the original.

    Args:
        memo: id of a value -> what stands in its place.
    """
    known = dict(memo or {})
    try:
        return copy.deepcopy(module, dict(known))
    except Exception as error:  # an attribute may refuse it with anything
        log.debug("copied without what cannot be: %s", error)
    for part in module.modules():
        for key, value in vars(part).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                copy.deepcopy(value, dict(known))
            except Exception:
                known[id(value)] = value
    return copy.deepcopy(module, known)


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
        known = {t.untyped_storage()._cdata for t in inputs}
        for tensor in outputs:
            if tensor.untyped_storage()._cdata not in known:
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
