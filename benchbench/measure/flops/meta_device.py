"""Networks without memory: built on the `meta` device, copied to it, and traced there.

`with torch.device("meta")` alone fails for constructors that read a value back, such as MONAI's Swin
UNETR with its drop rates from `torch.linspace(...).item()`. So only the functions that weights are
made with are sent to `meta`; a constructor that fails even so is run as it is, with memory.

`torch.jit.trace`, which fvcore needs, fails on such tensors, because PyTorch's shape rules are Python
and would see traced sizes. Here the shapes are computed in a thread that is not traced, and the graph
comes out as it does from real tensors.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

log = logging.getLogger(__name__)

#: What `nn.Parameter`s are made with; `arange`, `linspace` and `tensor` make tables and stay as they are.
_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full})
#: What weights are initialised with, in place; without values there is nothing to do.
_FILLS = frozenset(
    {
        Tensor.uniform_,
        Tensor.normal_,
        Tensor.erfinv_,
        Tensor.mul_,
        Tensor.add_,
        Tensor.clamp_,
        Tensor.fill_,
        Tensor.zero_,
    }
)


class _OnMeta(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FILLS and args and args[0].is_meta:
            return args[0]
        if func in _FACTORIES and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build_without_memory(make: Callable[[], nn.Module]) -> tuple[nn.Module, bool]:
    """The network that `make` builds, without memory for its weights where that can be done.

    Args:
        make: builds and returns the network; called a second time if the first one fails.

    Returns:
        The network, and whether its weights have no memory.

    Raises:
        Exception: whatever `make` raises when it is called plainly.
    """
    try:
        with _OnMeta():
            return make(), True
    except Exception as error:  # a constructor may do anything with its weights
        log.debug("built with memory, since its constructor reads weights: %s", error)
        return make(), False


def is_lazy(value: Any) -> bool:
    """Whether it is a parameter or buffer of a lazy layer that has seen no input yet."""
    return isinstance(value, (UninitializedParameter, UninitializedBuffer))


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
    copies = dict(memo or {})
    try:
        return copy.deepcopy(module, dict(copies))
    except Exception as error:  # an attribute may refuse it with anything
        log.debug("copied without what cannot be: %s", error)
    for part in module.modules():
        for key, value in vars(part).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                copy.deepcopy(value, dict(copies))
            except Exception:
                copies[id(value)] = value
    return copy.deepcopy(module, copies)


@contextlib.contextmanager
def trace_without_memory() -> Iterator[None]:
    """Inside, `torch.jit` traces a network on `meta` as it would on real tensors."""
    with ThreadPoolExecutor(1, initializer=_below_autograd) as untraced, _Shapes(untraced), _NoMemoryTrace():
        yield


def _below_autograd() -> None:
    for key in ("ADInplaceOrView", "AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        torch._C._dispatch_tls_set_dispatch_key_excluded(getattr(torch._C.DispatchKey, key), True)


class _Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operator runs in another thread, where sizes are numbers: tracing is a thread's own state."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._thread = thread

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._thread.submit(_without_grad, func, args, kwargs or {}).result()


def _without_grad(func: Any, args: Any, kwargs: Any) -> Any:
    with torch.no_grad():
        return func(*args, **kwargs)


class _NoMemoryTrace(TorchFunctionMode):
    """Sizes that the network reads are numbers, and convolutions enter the graph as on real tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        state: Any = torch._C._get_tracing_state()
        if state is None:
            return func(*args, **kwargs)
        if func in _CONVOLUTIONS:
            return _convolution(*_CONVOLUTIONS[func], *args, **kwargs)
        if func not in _SIZES:
            return func(*args, **kwargs)
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            return func(*args, **kwargs)
        finally:
            torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


_SIZES = frozenset(
    {Tensor.shape.__get__, Tensor.size, Tensor.numel, Tensor.nelement, Tensor.dim}  # type: ignore[attr-defined]
)
_CONVOLUTIONS: Mapping[Any, tuple[int, bool]] = {
    getattr(torch, f"conv{'_transpose' * transposed}{n}d"): (n, transposed)
    for n in (1, 2, 3)
    for transposed in (False, True)
}


def _convolution(
    dims: int,
    transposed: bool,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    *rest: Any,
    **named: Any,
) -> Tensor:
    """The operator that all convolutions become, called by its own name, since on `meta` none of them calls it."""
    order = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
    more = {"output_padding": 0, "groups": 1, "dilation": 1} | dict(zip(order, rest, strict=False)) | named

    def sides(value: Any) -> list[int]:
        values = [value] if isinstance(value, int) else list(value)
        return values * dims if len(values) == 1 else values

    dilation = sides(more["dilation"])
    if padding == "valid":
        padding = 0
    elif padding == "same":
        needed = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        input = nn.functional.pad(input, [p for n in reversed(needed) for p in (n // 2, n - n // 2)])
        padding = 0
    batched = input if input.dim() == dims + 2 else input.unsqueeze(0)
    out = torch._convolution(
        batched,
        weight,
        bias,
        sides(stride),
        sides(padding),
        dilation,
        transposed,
        sides(more["output_padding"]),
        more["groups"],
        False,
        False,
        True,
        True,
    )
    return out if batched is input else out.squeeze(0)
