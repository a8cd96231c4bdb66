"""Rules for the MACs of an operator: PyTorch's own, those that it lacks, and the operators without a rule.

A rule of PyTorch's registry comes first; `torch.utils.flop_counter.register_flop_formula` adds one for an operator of
one's own. An operator without a rule may mean several things. Most of PyTorch's multiply and accumulate nothing, so
for those none is right. But one that a user has made may do anything, and some of PyTorch's (transforms,
decompositions) have no count that is agreed upon: these are named, and a total with them is told as "at least".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

#: (arguments, keywords, result) -> multiply-accumulates of real numbers.
Rule = Callable[[Sequence[Any], Mapping[str, Any], Any], int]

COMPLEX = 4  # real multiply-accumulates in a complex one


def name_of(func: Any) -> str:
    """`mine::scan` of an operator's overload; its plain name for one of PyTorch's."""
    namespace, name = _names(func)
    return name if namespace in _PYTORCH else f"{namespace}::{name}"


def _names(func: Any) -> tuple[str, str]:
    """Namespace and name of an operator, without its overload."""
    packet = getattr(func, "_overloadpacket", func)
    return str(getattr(func, "namespace", "higher_order")), str(getattr(packet, "__name__", packet))


def macs_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int | None:
    """Multiply-accumulates of one call of an operator; None: nobody has a rule, and it may have some."""
    packet = getattr(func, "_overloadpacket", func)
    known = flop_registry.get(packet)
    if known is not None:
        macs = int(known(*args, **kwargs, out_val=out)) // 2
    elif packet in _RULES:
        macs = int(_RULES[packet](args, kwargs, out))
    else:
        return None if _may_multiply(func) else 0
    is_complex = any(isinstance(t, Tensor) and t.is_complex() for t in tree_leaves((args, kwargs)))
    return COMPLEX * macs if is_complex else macs


def is_known(func: Any) -> bool:
    """Whether an operator has a rule."""
    packet = getattr(func, "_overloadpacket", func)
    return packet in flop_registry or packet in _RULES


def counted_by_pytorch(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """What PyTorch's own counter says of one call, halved."""
    known = flop_registry.get(getattr(func, "_overloadpacket", func))
    return int(known(*args, **kwargs, out_val=out)) // 2 if known else 0


def _may_multiply(func: Any) -> bool:
    namespace, name = _names(func)
    if namespace == "quantized":
        return not name.startswith(_QUANTIZED_PLAIN)
    return namespace not in _PYTORCH or (name.startswith(_UNAGREED) and name != "_linalg_check_errors")


_PYTORCH = frozenset({"aten", "prim", "prims", "profiler", "_c10d_functional", "c10d", "rngprims", "debugprims"})
_QUANTIZED_PLAIN = (
    *("add", "mul", "cat", "relu", "clamp", "hardswish", "sigmoid", "batch_norm", "group_norm", "instance_norm"),
    *("layer_norm", "leaky_relu", "elu", "celu", "max_pool", "dropout", "softmax"),
)
#: How names of PyTorch's operators begin that do more than combine values one by one, and have no count agreed upon.
_UNAGREED = (
    "_fft_",
    "_linalg_",
    "linalg_inv",
    "linalg_solve",
    "linalg_qr",
    "linalg_cholesky",
    "linalg_eig",
    "linalg_lu",
    "linalg_ldl",
    "linalg_lstsq",
    "linalg_matrix_exp",
    "linalg_householder",
    "linalg_pinv",
    "cholesky",
    "triangular_solve",
    "lu_solve",
    "lu_unpack",
    "geqrf",
    "ormqr",
    "orgqr",
    "_cudnn_rnn",
    "miopen_rnn",
    "_thnn_differentiable",
    "quantized_lstm",
    "quantized_gru",
    "_transformer_encoder_layer_fwd",
    "_native_multi_head_attention",
    "_triton_",
    "_grouped_mm",
    "_scaled_grouped_mm",
    "_weight_int4pack",
    "_weight_int8pack",
    "_dyn_quant_matmul",
    "_mixed_dtypes_linear",
    "_sparse_semi_structured",
    "_cslt_sparse_mm",
    "_spdiags",
    "_sparse_mm_reduce",
    "sparse_sampled_addmm",
    "fbgemm_",
    "mkldnn_linear",
)

_RULES: dict[Any, Rule] = {}


def _rule(*names: str, namespace: str = "aten") -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        for name in names:  # a torch of another version may lack one
            packet = getattr(getattr(torch.ops, namespace), name, None)
            if packet is not None:
                _RULES[packet] = rule
        return rule

    return add


@_rule("_int_mm", "mv")
def _product(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """(n, k) by (k, m), or by (k)."""
    return int(out.numel() * args[0].shape[-1])


@_rule("dot", "vdot")
def _dot(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(args[0].numel())


@_rule("addmv", "addmv_", "_addmm_activation", "addmm_", "baddbmm_")
def _added_product(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """A sum that a product is added to."""
    return int(out.numel() * args[1].shape[-1])


@_rule("addbmm", "addbmm_")
def _summed_products(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Products of a batch, (b, n, k) by (b, k, m), added up."""
    return int(args[1].numel() * args[2].shape[-1])


@_rule("_trilinear")
def _trilinear(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Three values for each term of the sums: what `Bilinear` becomes."""
    first, second, third = ([*t.shape] for t in args[:3])
    for shape, extra in zip((first, second, third), args[3:6], strict=True):
        for axis in sorted(extra):
            shape.insert(axis, 1)
    return math.prod(max(sides) for sides in zip(first, second, third, strict=True))


@_rule("_euclidean_dist", "_cdist_forward")
def _distances(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """One for each coordinate of each pair."""
    return int(out.numel() * args[0].shape[-1])


@_rule("_pdist_forward")
def _pair_distances(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(out.numel() * args[0].shape[-1])


@_rule("conv_tbc")
def _conv_tbc(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """The weight is (kernel, inputs, outputs)."""
    return int(out.numel() * math.prod(args[1].shape[:2]))


@_rule(
    "mkldnn_convolution",
    "miopen_convolution",
    "cudnn_convolution_relu",
    "cudnn_convolution_add_relu",
    "_conv_depthwise2d",
    "conv_depthwise3d",
    "slow_conv3d_forward",
    "slow_conv_dilated2d",
    "slow_conv_dilated3d",
)
def _convolution(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(out.numel() * args[1][0].numel())


@_rule("cudnn_convolution_transpose", "miopen_convolution_transpose", "slow_conv_transpose2d", "slow_conv_transpose3d")
def _transposed_convolution(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Each input voxel is spread over a kernel."""
    return int(args[0].numel() * args[1][0].numel())


@_rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable")
def _attention(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """(b, h, n, k) queries over (b, h, m, k) keys and (b, h, m, v) values."""
    query, key, value = args[:3]
    return int(query.numel() * key.shape[-2] + math.prod(query.shape[:-1]) * key.shape[-2] * value.shape[-1])


@_rule("mkldnn_rnn_layer")
def _rnn_layer(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """A layer in one direction: each step and each of the batch meet both weights once."""
    return int(math.prod(args[0].shape[:2]) * (args[1].numel() + args[2].numel()))


@_rule("linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic", namespace="quantized")
def _quantized_linear(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(out.numel() * args[0].shape[-1])


@_rule(*(f"conv{n}d{end}" for n in (1, 2, 3) for end in ("", "_relu", "_dynamic")), namespace="quantized")
def _quantized_convolution(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    weight = args[1].unpack()[0]
    return int(out.numel() * weight[0].numel())


def described(calls: Mapping[str, int]) -> str:
    """`not counted: mine::scan (2 calls), for which there is no rule`."""
    names = ", ".join(f"{name} ({n} call{'s' * (n != 1)})" for name, n in sorted(calls.items()))
    return f"not counted: {names}, for which there is no rule"
