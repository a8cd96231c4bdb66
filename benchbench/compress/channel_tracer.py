"""Tracer of channels: the number of its channel on every value of a forward, operator by operator.

What an operator does with the numbers is in `operator_rules`. For speed, numbers that do not vary along an axis (mostly
space) are stored once, as views with stride 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NONE = -1  # a value that belongs to no channel: the input image, zeros of a padding
Numbers = Tensor  # int64, of the shape of their value
Channels = npt.NDArray[np.int64]  # one number for each index of an axis
_GROUP_NORM = torch.ops.aten.native_group_norm.default
_BATCH_NORM = torch.ops.aten.native_batch_norm.default

#: (tracer, operator, arguments, keywords, result): says where the numbers go.
Rule = Callable[["ChannelTracer", Any, Sequence[Any], Mapping[str, Any], Any], None]


class UnionFind:
    """Channels, which of them are coupled (union-find), and their properties."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.frozen: set[int] = set()
        self.mixed: set[int] = set()
        self.multiplied: set[int] = set()

    def new(self, count: int) -> Channels:
        """A number of new channels."""
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def find(self, member: int) -> int:
        """The representative of the channels that are coupled with one."""
        root = member
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[member] != root:
            self.parent[member], member = root, self.parent[member]
        return root

    def join(self, a: Channels, b: Channels) -> None:
        """Couple each channel of `a` with that of `b` at the same place; `NONE` is skipped."""
        first, second = a.ravel(), b.ravel()
        apart = (first >= 0) & (second >= 0) & (first != second)
        size = max(1, len(self.parent))
        pairs = np.unique(first[apart] * size + second[apart])  # one number each, since rows are sorted much slower
        for x, y in zip((pairs // size).tolist(), (pairs % size).tolist(), strict=True):
            self.unite(x, y)

    def unite(self, x: int, y: int) -> None:
        """Couple two channels."""
        self.parent[self.find(x)] = self.find(y)

    def freeze(self, numbers: Channels) -> None:
        """These may not be removed."""
        self.frozen.update(n for n in np.unique(numbers).tolist() if n >= 0)

    def mix(self, numbers: Channels) -> None:
        """A norm or sum combines these."""
        self.mixed.update(n for n in np.unique(numbers).tolist() if n >= 0)

    def multiply(self, numbers: Channels) -> None:
        """These are multiplied with each other and summed, as queries and keys are, so no weight reads them."""
        self.multiplied.update(n for n in np.unique(numbers).tolist() if n >= 0)


class FastNorms(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, norms on `meta`, which PyTorch computes slowly in Python, only get the shapes of their outputs.

    PyTorch has checked the widths of input and weights before.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _GROUP_NORM and args[0].device.type == "meta":
            x, groups = args[0], args[6]
            return torch.empty_like(x), x.new_empty((x.shape[0], groups)), x.new_empty((x.shape[0], groups))
        if func is _BATCH_NORM and args[0].device.type == "meta":
            x, width = args[0], args[0].shape[1] if args[5] else 0
            return torch.empty_like(x), x.new_empty((width,)), x.new_empty((width,))
        return func(*args, **(kwargs or {}))


class ChannelTracer(FastNorms):
    """Inside, the channels of every value are traced; afterwards `places` has those of each axis of each weight.

    `held` are the network's parameters and buffers.
    """

    def __init__(self, held: Mapping[str, Tensor], rules: Mapping[Any, Rule]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rules = rules
        self.forest = UnionFind()
        self.places: dict[tuple[str, int], Channels] = {}  # (name, axis) -> channel of each index
        self.reads: set[tuple[str, int]] = set()  # axes of weights that sum over channels
        self.makes: set[tuple[str, int]] = set()  # axes of weights along which channels begin
        self.unknown: set[str] = set()
        self._numbers: dict[int, Numbers] = {}
        self._weights: dict[int, tuple[str, Tensor | None]] = {}  # name, and the element of each value; None: all
        self._orders: dict[int, tuple[Tensor, tuple[int, ...] | None]] = {}  # axes of views of weights
        self._alive: list[Any] = list(held.values())  # so that no object's id is used twice
        self._shapes = {name: tuple(value.shape) for name, value in held.items()}
        for name, value in held.items():
            self._weights[id(value)] = name, None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self._alive.append(out)
        rule = self.rules.get(func.overloadpacket)
        if rule is not None:
            rule(self, func, args, kwargs, out)
        else:
            for value in tree_leaves((args, kwargs)):
                if (numbers := self.of(value)) is not None:
                    self.unknown.add(str(func.overloadpacket))
                    self.forest.freeze(numbers.numpy())
        return out

    # -- what is known of a value

    def of(self, value: Any) -> Numbers | None:
        """The numbers of an activation."""
        return self._numbers.get(id(value)) if isinstance(value, Tensor) else None

    def put(self, value: Any, numbers: Numbers | None) -> None:
        """Set the numbers of an activation."""
        if numbers is not None:
            self._alive.append(value)
            self._numbers[id(value)] = numbers

    def is_weight(self, value: Any) -> bool:
        """Whether it is one, or a view of one."""
        return isinstance(value, Tensor) and id(value) in self._weights

    def move(self, source: Any, moved: Callable[[Tensor], Any], out: Any) -> None:
        """`out` has the values of `source` at other places; `moved` does the same with numbers."""
        if (numbers := self.of(source)) is not None:
            for value, numbering in zip(as_list(out), as_list(moved(numbers)), strict=True):
                self.put(value, numbering)
        elif self.is_weight(source):
            name, elements = self._weights[id(source)]
            if elements is None:
                elements = torch.arange(source.numel()).reshape(source.shape)
            for value, numbering in zip(as_list(out), as_list(moved(elements)), strict=True):
                self._alive.append(value)
                self._weights[id(value)] = name, numbering

    def channels(self, numbers: Numbers, axis: int) -> Channels:
        """The channel of each index of an axis; if an index has several, they are coupled."""
        flat = thin(numbers, but=axis).movedim(axis, 0).reshape(numbers.shape[axis], -1).numpy()
        chosen: Channels = flat.max(1)
        if flat.shape[1] > 1:
            mixed = (flat != chosen[:, None]) & (flat >= 0)
            if mixed.any():
                self.forest.join(flat[mixed], np.broadcast_to(chosen[:, None], flat.shape)[mixed])
        return chosen

    # -- weights

    def bind(self, value: Any, along: int, channels: Channels, role: set[tuple[str, int]] | None = None) -> None:
        """Dimension `along` of a weight, or of a view of one, has these channels; other values are skipped.

        Args:
            channels: one for each index of the dimension.
            role: `reads` or `makes`, if the weight sums over the channels or makes them.
        """
        if not self.is_weight(value):
            return
        name, elements = self._weights[id(value)]
        axis_of: tuple[int, Channels] | None = (along % value.ndim, np.arange(len(channels)))
        if value.shape[along] != len(channels):
            axis_of = None
        elif elements is not None:
            axis_of = self._axis_of(name, elements, along)
        if axis_of is None:
            self.forest.freeze(channels)
            return
        self._bind(name, *axis_of, channels)
        if role is not None:
            role.add((name, axis_of[0]))

    def bind_elements(self, value: Tensor, numbers: Numbers) -> None:
        """A weight is combined value by value with an activation of these numbers, as an added embedding is."""
        name, elements = self._weights[id(value)]
        if elements is None:
            elements = torch.arange(value.numel()).reshape(value.shape)
        full, seen = both(elements.expand(numbers.shape), numbers)
        index = np.unravel_index(full.reshape(-1).numpy(), self._shapes[name])
        channels = seen.reshape(-1).numpy()
        for axis, size in enumerate(self._shapes[name]):
            if size < 2:
                continue
            order = np.argsort(index[axis], kind="stable")
            along, met = index[axis][order], channels[order]
            starts = np.flatnonzero(np.r_[True, along[1:] != along[:-1]])
            high, low = np.maximum.reduceat(met, starts), np.minimum.reduceat(met, starts)
            if (high == low).all() and len(set(high.tolist())) > 1:
                self._bind(name, axis, along[starts], high)
                return

    def _bind(self, name: str, axis: int, indices: Channels, channels: Channels) -> None:
        numbering = self.places.setdefault((name, axis), np.full(self._shapes[name][axis], NONE, np.int64))
        self.forest.join(numbering[indices], channels)
        numbering[indices] = np.where(channels >= 0, channels, numbering[indices])

    def _axis_of(self, name: str, elements: Tensor, along: int) -> tuple[int, Channels] | None:
        """The axis of a weight along a dimension of a view of it, and its indices."""
        shape = self._shapes[name]
        if (order := self._order(name, elements)) is not None and elements.shape[along] > 1:
            return order[along % elements.ndim], np.arange(elements.shape[along])
        moved = elements.movedim(along, 0).reshape(elements.shape[along], -1).numpy()
        for axis, index in enumerate(np.unravel_index(moved, shape)):
            first = index[:, 0]
            if shape[axis] > 1 and (index == index[:, :1]).all() and (len(first) == 1 or (first != first[0]).any()):
                return axis, np.asarray(first, np.int64)
        return None

    def _order(self, name: str, elements: Tensor) -> tuple[int, ...] | None:
        """The axis of a weight for each dimension of a view of it; None: the view is not a permutation of axes."""
        cached = self._orders.get(id(elements))
        if cached is None:
            sides = self._shapes[name]
            strides = torch.empty(sides, device="meta").stride()
            axes = {(size, stride): axis for axis, (size, stride) in enumerate(zip(sides, strides, strict=True))}
            order = tuple(axes.get(side, -1) for side in zip(elements.shape, elements.stride(), strict=True))
            permuted = sorted(order) == list(range(len(sides)))
            if permuted:
                plain = torch.arange(elements.numel()).as_strided(elements.shape, elements.stride())
                permuted = torch.equal(elements, plain)
            cached = self._orders[id(elements)] = (elements, order if permuted else None)
        return cached[1]


def as_list(item: Any) -> list[Any]:
    """The results of an operator as a list."""
    return list(item) if isinstance(item, (list, tuple)) else [item]


def thin(numbers: Numbers, *, but: int | None = None) -> Numbers:
    """Numbers without the repetitions along axes of stride 0, except one axis."""
    but = None if but is None else but % numbers.ndim
    for axis in range(numbers.ndim):
        if axis != but and numbers.shape[axis] > 1 and numbers.stride(axis) == 0:
            numbers = numbers.narrow(axis, 0, 1)
    return numbers


def reshaped(numbers: Tensor, shape: Sequence[int]) -> Tensor:
    """Numbers in another shape, in which unchanged first and last axes keep a stride of 0.

    PyTorch's `reshape` would copy all repetitions, which is a gigabyte for the scores of a window attention.
    """
    before, after = list(numbers.shape), list(shape)
    fewer = min(len(before), len(after))
    first = next((i for i in range(fewer) if before[i] != after[i]), fewer)
    last = next((i for i in range(fewer - first) if before[-1 - i] != after[-1 - i]), fewer - first)
    small = numbers
    for axis in [*range(first), *range(-last, 0)]:
        if small.shape[axis] > 1 and small.stride(axis) == 0:
            small = small.narrow(axis, 0, 1)
            after[axis] = 1
    return small.reshape(after).expand(tuple(shape))


def both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape without the repetitions along axes on which both have stride 0."""
    for axis in range(a.ndim):
        if a.shape[axis] > 1 and a.stride(axis) == 0 and b.stride(axis) == 0:
            a, b = a.narrow(axis, 0, 1), b.narrow(axis, 0, 1)
    return a, b


def spread(channels: Channels, shape: Iterable[int], axis: int) -> Numbers:
    """Numbers of a value of this shape with its channels along one axis."""
    full = tuple(shape)
    view = [1] * len(full)
    view[axis] = full[axis]
    return torch.from_numpy(np.ascontiguousarray(channels)).reshape(view).expand(full)


def varies(numbers: Numbers, axis: int) -> bool:
    """Whether the channels differ along an axis."""
    moved = thin(numbers, but=axis).movedim(axis, 0)
    return bool((moved != moved[:1]).any())
