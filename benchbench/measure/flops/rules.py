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

Rule = Callable[[Sequence[Any], Any], Any]  # (arguments, result) -> multiply-accumulates of real numbers

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
    rule = flop_registry.get(packet)
    if rule is not None:
        macs = int(rule(*args, **kwargs, out_val=out)) // 2
    elif packet in _RULES:
        macs = int(_RULES[packet](args, out))
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
    rule = flop_registry.get(getattr(func, "_overloadpacket", func))
    return int(rule(*args, **kwargs, out_val=out)) // 2 if rule else 0


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
    *("_fft_", "_linalg_", "linalg_inv", "linalg_solve", "linalg_qr", "linalg_cholesky", "linalg_eig", "linalg_lu"),
    *("linalg_ldl", "linalg_lstsq", "linalg_matrix_exp", "linalg_householder", "linalg_pinv", "cholesky"),
    *("triangular_solve", "lu_solve", "lu_unpack", "geqrf", "ormqr", "orgqr", "_spdiags", "_triton_"),
    *("_cudnn_rnn", "miopen_rnn", "_thnn_differentiable", "quantized_lstm", "quantized_gru", "mkldnn_linear"),
    *("_transformer_encoder_layer_fwd", "_native_multi_head_attention", "_grouped_mm", "_scaled_grouped_mm"),
    *("_weight_int4pack", "_weight_int8pack", "_dyn_quant_matmul", "_mixed_dtypes_linear", "fbgemm_"),
    *("_sparse_semi_structured", "_cslt_sparse_mm", "_sparse_mm_reduce", "sparse_sampled_addmm"),
)


def _trilinear(args: Sequence[Any], out: Any) -> int:
    """Three values for each term of the sums: what `Bilinear` becomes."""
    shapes = [[*t.shape] for t in args[:3]]
    for shape, extra in zip(shapes, args[3:6], strict=True):
        for axis in sorted(extra):
            shape.insert(axis, 1)
    return math.prod(max(sides) for sides in zip(*shapes, strict=True))


def _attention(args: Sequence[Any], out: Any) -> int:
    """(b, h, n, k) queries over (b, h, m, k) keys and (b, h, m, v) values."""
    query, key, value = args[:3]
    return int(query.numel() * key.shape[-2] + math.prod(query.shape[:-1]) * key.shape[-2] * value.shape[-1])


#: Namespace -> names of operators -> their rule. A torch of another version may lack one.
_BY_NAME: Mapping[str, Mapping[tuple[str, ...], Rule]] = {
    "aten": {
        # (n, k) by (k, m), or by (k); distances: one for each coordinate of each pair
        ("_int_mm", "mv", "_euclidean_dist", "_cdist_forward", "_pdist_forward"): (
            lambda args, out: out.numel() * args[0].shape[-1]
        ),
        ("dot", "vdot"): lambda args, out: args[0].numel(),
        # a sum that a product is added to
        ("addmv", "addmv_", "_addmm_activation", "addmm_", "baddbmm_"): (
            lambda args, out: out.numel() * args[1].shape[-1]
        ),
        # products of a batch, (b, n, k) by (b, k, m), added up
        ("addbmm", "addbmm_"): lambda args, out: args[1].numel() * args[2].shape[-1],
        ("_trilinear",): _trilinear,
        # the weight is (kernel, inputs, outputs)
        ("conv_tbc",): lambda args, out: out.numel() * math.prod(args[1].shape[:2]),
        (
            *("mkldnn_convolution", "miopen_convolution", "cudnn_convolution_relu", "cudnn_convolution_add_relu"),
            *("_conv_depthwise2d", "conv_depthwise3d", "slow_conv3d_forward", "slow_conv_dilated2d"),
            "slow_conv_dilated3d",
        ): lambda args, out: out.numel() * args[1][0].numel(),
        # each input voxel is spread over a kernel
        (
            *("cudnn_convolution_transpose", "miopen_convolution_transpose", "slow_conv_transpose2d"),
            "slow_conv_transpose3d",
        ): lambda args, out: args[0].numel() * args[1][0].numel(),
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_fused_attention_overrideable",
        ): _attention,
        # a layer in one direction: each step and each of the batch meet both weights once
        ("mkldnn_rnn_layer",): (lambda args, out: math.prod(args[0].shape[:2]) * (args[1].numel() + args[2].numel())),
    },
    "quantized": {
        ("linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic"): (
            lambda args, out: out.numel() * args[0].shape[-1]
        ),
        tuple(f"conv{n}d{end}" for n in (1, 2, 3) for end in ("", "_relu", "_dynamic")): (
            lambda args, out: out.numel() * args[1].unpack()[0][0].numel()
        ),
    },
}
_RULES: Mapping[Any, Rule] = {
    packet: rule
    for namespace, rules in _BY_NAME.items()
    for names, rule in rules.items()
    for name in names
    if (packet := getattr(getattr(torch.ops, namespace), name, None)) is not None
}


def described(calls: Mapping[str, int]) -> str:
    """`not counted: mine::scan (2 calls), for which there is no rule`."""
    names = ", ".join(f"{name} ({n} call{'s' * (n != 1)})" for name, n in sorted(calls.items()))
    return f"not counted: {names}, for which there is no rule"
