"""Analytic cost of a Slim UNETR of the search space: parameters and MACs exactly, memory as a lower bound.

Counting the built network takes a second, and a search has milliseconds for each of thousands of proposals. The tests
compare these sums with that count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchbench.search.search_space import FLOAT
from benchbench.search.slim_unetr_configs import Config

_KERNEL = 27  # of the depthwise convolutions


def keeps(width: int, ratio: float) -> int:
    """Channels of a layer that remain after a share is pruned."""
    return max(1, width - round(ratio * width))


def _kept_of_the_last(width: int, tokens: int, ratio: float) -> int:
    """Remaining width of the published network's last stage, which reads tokens as channels, so they are coupled.

    If the tokens do not divide the width, all channels are coupled.
    """
    return width if width % tokens else tokens * keeps(width // tokens, ratio if width > tokens else 0.0)


def count(config: Config, in_channels: int, out_channels: int, spatial: Sequence[int]) -> dict[str, float]:
    """`params`, `macs`, `file_bytes`, and `tensor_bytes`: a lower bound of the tensors of one forward.

    Pruned layer by layer, the first three are exact; pruned across layers (`global`), they are lower bounds, for which
    every layer keeps a tenth.

    Args:
        spatial: (D, H, W) of the patch, voxels; of a network that does not take it, all is of the next that it takes.
    """
    fixed = config.variant == "slim_unetr_fixed"
    stem = config.stem
    voxels = [math.prod(sides) for sides in config.maps(spatial)]
    sizes = list(zip(voxels, config.tokens(spatial), strict=True))
    ratio = 0.9 if config.prune and config.scope == "global" else config.prune
    widths = [keeps(width, ratio) for width in config.widths]
    if not fixed:
        widths[3] = _kept_of_the_last(config.widths[3], voxels[3], ratio)
    params = macs = buffers = 0
    before = (in_channels, *widths[:3])
    outer = (out_channels, *widths[:3])
    for stage in range(4):
        c, kernel = widths[stage], (stem if stage == 0 else 2) ** 3
        params += before[stage] * c * kernel + c + 2 * c
        macs += voxels[stage] * before[stage] * c * kernel
        params += outer[stage] * c * kernel + outer[stage] + (0 if fixed and stage == 0 else 2 * outer[stage])
        macs += voxels[stage] * outer[stage] * c * kernel
        block_params, block_macs, block_buffers = _block(config, stage, widths[stage], sizes[stage], ratio)
        params += 2 * config.depths[stage] * block_params
        macs += 2 * config.depths[stage] * block_macs
        buffers += 2 * config.depths[stage] * block_buffers
    params += voxels[3] * widths[3]
    weights = FLOAT * params + buffers
    return {
        "params": params,
        "macs": macs,
        "file_bytes": weights,
        "tensor_bytes": weights
        + FLOAT
        * _most_alive(config, widths, ratio, (in_channels, out_channels), sizes, math.prod(config.computed(spatial))),
    }


def _block(config: Config, stage: int, c: int, sizes: tuple[int, int], ratio: float) -> tuple[int, int, int]:
    """Parameters, MACs and bytes of buffers of one block, `c` channels wide, of voxels and of cells of its map."""
    voxels, tokens = sizes
    heads, r = config.heads[stage], config.sampling[stage]
    a = heads * keeps(config.attention[stage] // heads, ratio)
    local = keeps(config.widths[stage], ratio)
    hidden = keeps(config.expansion[stage] * config.widths[stage], ratio)
    pointwise = 2 * c * local + 4 * hidden * c
    depthwise = _KERNEL * (2 * c + local)
    params = depthwise + 2 * c + 2 * local + pointwise + 3 * a * c + a * r**3 + a + 2 * a + a * c
    macs = voxels * (depthwise + pointwise + a * c) + tokens * (3 * a * c + r**3 * a) + 2 * tokens**2 * a
    return params, macs, 2 * ((c + local) * FLOAT + 8)  # running mean and variance, and a count in int64


def _most_alive(
    config: Config,
    widths: Sequence[int],
    ratio: float,
    channels: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    whole: int,
) -> int:
    """Lower bound of the numbers in memory at once: at the head, or in a stage's widest MLP or the attention's norm.

    Args:
        sizes: voxels of each stage's map, and cells of its attention.
        whole: voxels of the patch.
    """
    in_channels, out_channels = channels
    logits = out_channels * sizes[0][0] * config.stem**3
    head = widths[0] * sizes[0][0] + (1 if config.variant == "slim_unetr_fixed" else 2) * logits
    skips, most = 0, head
    for stage, (voxels, tokens) in enumerate(sizes):
        hidden = keeps(config.expansion[stage] * config.widths[stage], ratio) * voxels
        heads = config.heads[stage]
        spread = heads * keeps(config.attention[stage] // heads, ratio) * tokens * config.sampling[stage] ** 3
        most = max(most, skips + widths[stage] * voxels + 2 * max(hidden, spread))
        skips += widths[stage] * voxels
    return in_channels * whole + most
