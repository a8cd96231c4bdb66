"""Replay of a forward's operators: each kept so that it can be run again alone, with random values.

What a network asks of a device is a list of calls of aten operators with shapes; a device is calibrated by running
such calls, those that the zoo really makes. A call is kept as plain JSON: its name, and its arguments, tensors as
shapes, weights told from activations.

A call repeated on the same tensors is faster than the same call in a network, since its weights stay in the
processor's cache. So before each repeat something else is read that fills the cache, and then the activations are
written, as the operator before would have done.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchbench.core import records as rec
from benchbench.devices import cpu
from benchbench.measure.flops.tracer import Tracer, graph_settings, trace

_TENSOR, _TORCH, _WEIGHT = "tensor", "torch", "weight"
_OTHER_CACHES = 2  # times the last cache's size are read between two calls
_LONG_S = 0.5
_BLOCK = 2**20  # random values, repeated
_MOST_OTHER_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an operator."""

    cost: rec.OperatorCost
    overload: str  # `default`
    namespace: str = "aten"
    arguments: str  # JSON: positional and named, a tensor as {"tensor" or "weight": [shape, strides, dtype]}

    @property
    def key(self) -> str:
        """What makes two calls the same work."""
        return rec.content_hash([self.cost.operator, self.overload, self.arguments])


class _Listener(Tracer):  # type: ignore[no-untyped-call]
    """A tracer that keeps the arguments, too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._weights: set[int] = set()  # storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, nn.Parameter):  # also where only a view of it is taken, as of a matrix turned
                self._weights.add(tensor.untyped_storage()._cdata)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _note(self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor], out: Any) -> None:
        before = len(self.operators)
        super()._note(func, args, kwargs, inputs, outputs, out)
        for cost in self.operators[before:]:
            arguments = rec.canonical_json(_plain([list(args), dict(kwargs)], self._weights))
            self.calls.append(
                Call(cost=cost, overload=func._overloadname, arguments=arguments, namespace=func.namespace)
            )


def calls_of(module: nn.Module, input_shape: Sequence[int], dtype: str = "fp32") -> tuple[list[Call], int]:
    """Every call of one forward in eval mode, in its order, and the most bytes that activations take at once.

    Nothing is computed. Attention is in its products and its softmax.

    Raises:
        UnsupportedError: the forward cannot run without values.
    """
    listener = _Listener()
    with graph_settings():
        trace(module, input_shape, dtype, listener)
    return listener.calls, listener.peak_bytes


def different(calls: Iterable[Call]) -> list[Call]:
    """Each work once, in the order in which it first comes."""
    first: dict[str, Call] = {}
    for call in calls:
        first.setdefault(call.key, call)
    return list(first.values())


def _plain(item: Any, weights: Set[int]) -> Any:
    if isinstance(item, Tensor):
        what = _WEIGHT if item.untyped_storage()._cdata in weights else _TENSOR
        return {what: [list(item.shape), list(item.stride()), str(item.dtype).removeprefix("torch.")]}
    if isinstance(item, (list, tuple)):
        return [_plain(value, weights) for value in item]
    if isinstance(item, dict):
        return {key: _plain(value, weights) for key, value in item.items()}
    if isinstance(item, (torch.dtype, torch.layout, torch.memory_format)):
        return {_TORCH: str(item).removeprefix("torch.")}
    if isinstance(item, torch.device):
        return None  # where it runs is said when it is run
    if isinstance(item, float) and not math.isfinite(item):
        return {_TORCH: str(item)}
    return item


def _real(item: Any, device: str, ones: bool, activations: list[Tensor]) -> Any:
    if isinstance(item, dict) and (_TENSOR in item or _WEIGHT in item):
        shape, strides, name = item.get(_TENSOR) or item[_WEIGHT]
        dtype = getattr(torch, name)
        size = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if math.prod(shape) else 0
        flat = torch.zeros(size, dtype=dtype, device=device)  # an index that is always there
        if dtype.is_floating_point and ones:
            flat.fill_(1.0)
        elif dtype.is_floating_point:
            block = torch.empty(min(size, _BLOCK), dtype=dtype, device=device)
            block.uniform_(0.5, 1.5, generator=torch.Generator(device).manual_seed(0))  # a variance, a divisor as well
            flat = block.repeat(-(-size // _BLOCK))[:size]
        if dtype.is_floating_point and _TENSOR in item:
            activations.append(flat)
        return flat.as_strided(shape, strides)
    if isinstance(item, dict) and _TORCH in item:
        return getattr(torch, item[_TORCH]) if hasattr(torch, item[_TORCH]) else float(item[_TORCH])
    if isinstance(item, list):
        return [_real(value, device, ones, activations) for value in item]
    if isinstance(item, dict):
        return {key: _real(value, device, ones, activations) for key, value in item.items()}
    return item


def ready(call: Call, device: str = "cpu") -> tuple[Callable[[], Any], list[Tensor]]:
    """A call with its tensors, ready to be made again and again, and those of them that are no weights."""
    function = getattr(getattr(getattr(torch.ops, call.namespace), call.cost.operator), call.overload)
    activations: list[Tensor] = []
    in_place = function._schema.is_mutable  # ones, multiplied again and again, stay numbers that are not denormal
    args, kwargs = _real(json.loads(call.arguments), device, in_place, activations)
    if "device" in kwargs:
        kwargs["device"] = torch.device(device)
    return lambda: function(*args, **kwargs), activations


def time_call(call: Call, *, device: str = "cpu", least_s: float = 0.05, most: int = 8) -> float:
    """Seconds of one call: the median, the first one left out; weights from memory, activations just written.

    Of a call that takes more than half a second the first one counts, and is the only one.

    Args:
        least_s: of calls that are timed in all; a longer one is timed twice.
    """
    run, activations = ready(call, device)
    times: list[float] = []
    with torch.inference_mode():
        start = time.perf_counter()
        run()
        _wait(device)
        first = time.perf_counter() - start
        if first > _LONG_S and device == "cpu":  # on a GPU the first call loads its kernel
            return first
        while len(times) < 2 or (sum(times) < least_s and len(times) < most):
            _other(device).sum()  # fills the cache
            for tensor in activations:
                tensor.add_(0)
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


@functools.lru_cache(maxsize=1)
def _other(device: str) -> Tensor:
    """What is read between two calls, as large as needed to push their tensors out of the caches."""
    last = torch.cuda.get_device_properties(device).L2_cache_size if device != "cpu" else cpu.last_cache_bytes()
    return torch.ones(min(_MOST_OTHER_BYTES, _OTHER_CACHES * last) // 4, device=device)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
