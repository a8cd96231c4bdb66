"""Five FLOP counters on one forward, each on its own copy of the network and none of them computing it.

`torch` is the headline recipe of `graph.py`; fvcore, thop and torch-pruning are what tables in papers
are made with; `thop_fixed` is thop with its rule for transposed convolutions put right. All of them
run on tensors without memory, so a full-size count costs about a second.

A counter that looks plain can depend on how the network is put together. thop hooks a module once for every path that
leads to it and adds its sum up as often: n paths count n squared.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchbench.core.audit_result import Counted
from benchbench.core.errors import named_line
from benchbench.core.version import installed
from benchbench.measure.flops import rules
from benchbench.measure.flops.graph import COUNT_METHOD, count_macs
from benchbench.measure.flops.meta_device import copied, trace_without_memory
from benchbench.measure.flops.tracer import graph_settings, operator_kind, run_forward
from benchbench.zoo import logits as zoo_logits

Family = Literal["conv", "transposed_conv", "matmul", "elementwise"]

_FAMILIES: Mapping[str, Family] = {
    "conv": "conv",
    "depthwise_conv": "conv",
    "transposed_conv": "transposed_conv",
    "matmul": "matmul",
    "attention": "matmul",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CountedPart:
    """What was counted in one module for one operator, as if the module were reached by one path."""

    module: str
    family: Family
    operator: str  # aten name or layer class
    macs: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A shared module that a counter adds up more than once."""

    module: str
    once: int  # MACs of one path
    times: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one counter says of a network, and where."""

    counter: str
    version: str | None
    macs: int | None = None
    params: int | None = None
    parts: tuple[CountedPart, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    batch: int = 1  # the count was divided by this
    unknown: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # module: operators without a rule
    held: frozenset[str] | None = None  # modules whose parameters are counted; None: all are
    reason: str | None = None  # why there is no count
    how: str = ""
    uncounted: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of the headline: operator -> its calls

    def counted(self, true_macs: int | None) -> Counted:
        """What it says, without where, beside the true count."""
        return Counted(
            counter=self.counter,
            version=self.version,
            macs=self.macs,
            params=self.params,
            factor=self.macs / true_macs if self.macs is not None and true_macs else None,
            reason=self.reason,
            how=f"{self.how}; {rules.described(self.uncounted)}" if self.uncounted else self.how,
            uncounted=tuple(sorted(self.uncounted)),
        )


def count(name: str, module: nn.Module, x: Tensor) -> Tally:
    """What the counter of that name says; whatever it raises becomes the reason why it says nothing."""
    package, function = _OTHERS[name]
    version = installed(package)
    how = f"{_HOW[name]}, on {'tensors without memory' if x.is_meta else 'real tensors'}, full size"
    try:
        with _silence():
            tally = function(copied(module), x)
    except ImportError as error:
        hint = "; setuptools brings distutils back" if "distutils" in str(error) else ""
        why = f"{package} cannot be imported: {error}{hint}" if version else f"{package} is not installed"
        return Tally(counter=name, version=version, reason=why, how=how)
    except Exception as error:  # a counter may raise anything; it becomes this counter's cell
        return Tally(counter=name, version=version, reason=named_line(error), how=how)
    return dataclasses.replace(tally, version=version, how=how)


def count_torch(module: nn.Module, x: Tensor) -> tuple[Tally, Facts]:
    """The headline, and what explains the others' differences; all on `meta`.

    Raises:
        UnsupportedError: the forward cannot run without values.
        Exception: whatever the network raises on this input.
    """
    ghost = copied(module)
    facts = Facts(ghost)
    with graph_settings():
        macs, left_out = count_macs(module, tuple(x.shape))
        with facts:
            run_forward(ghost, x)
    tally = Tally(
        counter="torch",
        version=str(torch.__version__),
        macs=macs,
        params=sum(p.numel() for p in module.parameters()),
        parts=tuple(CountedPart(module=m, family=f, operator=o, macs=n) for (m, f, o), n in facts.parts.items()),
        how=COUNT_METHOD,
        uncounted=left_out,
    )
    return tally, facts


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Counters print, warn, and log through the root logger, which configures it; none of that is ours to show."""
    root = logging.getLogger()
    handler = logging.NullHandler()
    disabled = root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)


class Facts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What the graph says of each module of a forward that runs inside, to explain a counter's difference with."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parts: dict[tuple[str, Family, str], int] = {}  # (module, family, operator) -> MACs
        self.classes = {name: type(part) for name, part in module.named_modules()}
        self.elements: collections.Counter[str] = collections.Counter()  # of outputs, all calls; of those called
        self.biases: collections.Counter[str] = collections.Counter()  # elements of the module's bias, once a call
        self.volumes: dict[str, tuple[int, int]] = {}  # (input, output) voxels of its transposed convolutions
        self.used: set[str] = set()  # parameters that enter an operator
        self.attending: set[str] = set()  # modules that take a softmax themselves or through a child
        self._names = {id(part): name for name, part in module.named_modules()}
        self._parameters = {id(p): name for name, p in module.named_parameters()}
        self._inside = [""]
        for part in module.modules():
            part.register_forward_pre_hook(self._enter)
            part.register_forward_hook(self._leave)

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._inside.append(self._names[id(module)])

    def _leave(self, module: nn.Module, _: Any, out: Any) -> None:
        name = self._inside.pop()
        self.elements[name] += sum(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))
        bias = getattr(module, "bias", None)
        self.biases[name] += bias.numel() if isinstance(bias, Tensor) else 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        for leaf in tree_leaves((args, kwargs)):
            if id(leaf) in self._parameters:
                self.used.add(self._parameters[id(leaf)])
        name, module = func._overloadpacket.__name__, self._inside[-1]
        if "softmax" in name:
            self.attending |= {module, module.rpartition(".")[0]} if module else {""}
        macs = rules.macs_of(func, args, kwargs, out)
        if macs:
            kind = operator_kind(name, args)
            key = (module, _FAMILIES.get(kind, "matmul"), name)
            self.parts[key] = self.parts.get(key, 0) + macs
            if kind == "transposed_conv":
                before = self.volumes.get(module, (0, 0))
                self.volumes[module] = (before[0] + _voxels(args[0]), before[1] + _voxels(out))
        return out


def _voxels(x: Tensor) -> int:
    return x.shape[0] * math.prod(x.shape[2:])


def family_of(layer: type[nn.Module]) -> Family:
    """What a layer class computes."""
    name = layer.__name__
    if "ConvTranspose" in name:
        return "transposed_conv"
    if "Conv" in name:
        return "conv"
    if any(sign in name for sign in ("Linear", "Attention", "RNN", "LSTM", "GRU")):
        return "matmul"
    return "elementwise"


def _thop(module: nn.Module, x: Tensor, rules: Mapping[type[nn.Module], Any] | None = None) -> Tally:
    import thop
    from thop.profile import register_hooks

    with_rule = set(register_hooks) | set(rules or {})
    names = {id(m): name for name, m in module.named_modules()}
    hooked: collections.Counter[int] = collections.Counter()
    module.apply(lambda part: hooked.update([id(part)]))  # of two paths to it, it gets two hooks: its calls count twice
    macs, params, tree = thop.profile(module, (x,), custom_ops=dict(rules or {}), verbose=False, ret_layer_info=True)
    sums_of: dict[int, list[float]] = {}
    layers: dict[int, nn.Module] = {}

    def walk(part: nn.Module, branch: Mapping[str, Any]) -> None:
        for name, child in part.named_children():
            ops, held, below = branch[name]
            if type(child) in with_rule and not isinstance(child, (nn.Sequential, nn.ModuleList)):
                sums = sums_of.setdefault(id(child), [0.0, 0.0, 0.0])
                sums[:] = [sums[0] + ops, sums[1] + held, sums[2] + 1]
                layers[id(child)] = child
            else:
                walk(child, below)

    walk(module, tree)
    rest = macs - sum(ops for ops, _, _ in sums_of.values())  # of a network that is itself one layer
    parts = [_part("", module, round(rest))] if rest else []
    repeats = []
    for key, (ops, _, reached) in sums_of.items():
        times = round(reached) * hooked[key]
        once = round(ops / times)
        if once:
            parts.append(_part(names[key], layers[key], once))
        if times > 1 and once:
            repeats.append(Repeat(module=names[key], once=once, times=times))
    return Tally(
        counter="thop",
        version=None,
        macs=round(macs),
        params=round(params),
        parts=tuple(parts),
        repeats=tuple(repeats),
        held=frozenset(names[key] for key, sums in sums_of.items() if sums[1]),
    )


def _part(name: str, layer: nn.Module, macs: int) -> CountedPart:
    return CountedPart(module=name, family=family_of(type(layer)), operator=type(layer).__name__, macs=macs)


def _thop_fixed(module: nn.Module, x: Tensor) -> Tally:
    def over_the_input(layer: Any, x: tuple[Tensor, ...], _: Tensor) -> None:
        layer.total_ops += x[0].numel() * layer.out_channels // layer.groups * math.prod(layer.kernel_size)

    layers: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return dataclasses.replace(_thop(module, x, dict.fromkeys(layers, over_the_input)), counter="thop_fixed")


def _torch_pruning(module: nn.Module, x: Tensor) -> Tally:
    from torch_pruning.utils import count_ops_and_params
    from torch_pruning.utils.op_counter import MODULES_MAPPING

    macs, params, by_layer, _ = count_ops_and_params(module, x, layer_wise=True)
    names = {id(m): name for name, m in module.named_modules()}
    reached: collections.Counter[int] = collections.Counter()
    layers: dict[int, nn.Module] = {}

    def walk(part: nn.Module) -> None:
        if type(part) in MODULES_MAPPING:
            reached[id(part)] += 1
            layers[id(part)] = part
            return
        for child in part.children():
            walk(child)

    walk(module)
    parts, repeats = [], []
    for key, times in reached.items():
        once = int(by_layer[layers[key]] or 0)
        if once:
            parts.append(_part(names[key], layers[key], once))
            if times > 1:
                repeats.append(Repeat(module=names[key], once=once, times=times))
    return Tally(
        counter="torch_pruning",
        version=None,
        macs=round(macs),
        params=int(params),
        parts=tuple(parts),
        repeats=tuple(repeats),
        batch=x.shape[0],
    )


def _fvcore(module: nn.Module, x: Tensor) -> Tally:
    from fvcore.nn import FlopCountAnalysis, parameter_count

    module.register_forward_hook(lambda _, __, out: tuple(zoo_logits.tensors(out)))  # the trace takes no dict or list
    analysis = FlopCountAnalysis(module, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    with graph_settings(), trace_without_memory() if x.is_meta else contextlib.nullcontext():
        macs = analysis.total()
        by_module = analysis.by_module_and_operator()
        unknown = {name: analysis.unsupported_ops(name) for name in by_module}
    exclusive, strange = _own(by_module), _own(unknown)
    parts = [
        CountedPart(module=name, family=_FVCORE_FAMILIES.get(operator, "elementwise"), operator=operator, macs=round(n))
        for name, operators in exclusive.items()
        for operator, n in operators.items()
        if n
    ]
    return Tally(
        counter="fvcore",
        version=None,
        macs=round(macs),
        params=parameter_count(module)[""],
        parts=tuple(parts),
        unknown={name: tuple(o.partition("::")[2] for o in operators) for name, operators in strange.items()},
    )


_FVCORE_FAMILIES: Mapping[str, Family] = {
    "conv": "conv",
    **dict.fromkeys(("linear", "addmm", "mm", "bmm", "matmul", "einsum"), "matmul"),
}


def _own(by_module: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Of sums over modules and all below them, each module's own share."""
    exclusive = {name: dict(counts) for name, counts in by_module.items()}
    for name, counts in by_module.items():
        above = name
        while above:  # the nearest ancestor that is in the table
            above = above.rpartition(".")[0]
            if above in exclusive:
                for operator, n in counts.items():
                    exclusive[above][operator] = exclusive[above].get(operator, 0) - n
                break
    return {name: {o: n for o, n in counts.items() if n} for name, counts in exclusive.items()}


_OTHERS: Mapping[str, tuple[str, Callable[[nn.Module, Tensor], Tally]]] = {
    "fvcore": ("fvcore", _fvcore),
    "thop": ("thop", _thop),
    "thop_fixed": ("thop", _thop_fixed),
    "torch_pruning": ("torch-pruning", _torch_pruning),
}
_HOW = {
    "fvcore": "FlopCountAnalysis over a trace",
    "thop": "thop.profile",
    "thop_fixed": "thop.profile, transposed convolutions over their input volume",
    "torch_pruning": "tp.utils.count_ops_and_params",
}

COUNTERS = ("torch", *_OTHERS)
