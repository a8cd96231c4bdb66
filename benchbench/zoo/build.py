"""Networks of cards and specs, with random weights or those of a checkpoint.

The class gets the keywords `in_channels`, `out_channels` and `spatial` if its signature has them, then the card's own.
torch is imported when a network is built.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core.errors import (
    BenchError,
    CardError,
    CheckpointError,
    ShapeError,
    UnsupportedError,
    UsageError,
    named_line,
)
from benchbench.core.records import ModelSpec
from benchbench.core.units import format_value
from benchbench.zoo import checkpoint, classes
from benchbench.zoo.cards import find_cards

if TYPE_CHECKING:
    from torch import nn

PRUNED_SHAPES = "pruned_shapes"  # a keyword of specs that `pruned` takes, and no class sees


def find_class(arch: str) -> type[nn.Module]:
    """Import `pkg.module:Class`.

    Raises:
        CardError: nobody has named it but a file that came along, the module or the class is not there, importing it
            fails, or it is no subclass of `torch.nn.Module`.
    """
    return classes.find(arch, "class")  # type: ignore[no-any-return]


def build(spec: ModelSpec, spatial: Sequence[int]) -> nn.Module:
    """The network of a spec for inputs of (D, H, W) voxels, with random weights.

    Raises:
        CardError: its class may not or cannot be imported, or refuses the keywords.
        ShapeError: it cannot take this size, these channels or these keywords' values.
        UnsupportedError: its constructor ends the process.
    """
    make = find_class(spec.arch)
    offered = {"in_channels": spec.in_channels, "out_channels": spec.out_channels, "spatial": tuple(spatial)}
    try:
        names = inspect.signature(make).parameters
    except (TypeError, ValueError):
        names = {}  # type: ignore[assignment]
    keywords = {key: value for key, value in spec.kwargs.items() if key != PRUNED_SHAPES}
    kwargs = {key: value for key, value in offered.items() if key in names} | keywords
    try:
        inspect.signature(make).bind(**kwargs)
    except TypeError as error:
        raise CardError(
            f"{spec.arch} cannot be built with {', '.join(kwargs) or 'no arguments'}: {error}; "
            "give its arguments in a card's [kwargs], see docs/add_a_model.md"
        ) from error
    try:
        module = make(**kwargs)
    except SystemExit as error:
        raise UnsupportedError(f"{spec.name}: the constructor of {spec.arch} ends the process ({error!r})") from error
    except (ValueError, AssertionError) as error:
        raise ShapeError(f"{spec.name}: {str(error) or 'an assertion of its constructor failed'}") from error
    except TypeError as error:
        raise CardError(f"{spec.name}: {spec.arch} does not take these arguments: {error}") from error
    if spec.kwargs.get(PRUNED_SHAPES):
        from benchbench.zoo.pruned import resize

        resize(module, spec.kwargs[PRUNED_SHAPES])
    return module


def build_here(spec: ModelSpec, spatial: Sequence[int]) -> nn.Module:
    """As `build`, for a network that is used in this process: whatever its constructor raises is one line.

    Raises:
        CardError: its class may not or cannot be imported, or its constructor fails.
        ShapeError: it cannot take this size, these channels or these keywords' values; or its weights alone take more
            memory than is free.
    """
    if spec.arch.startswith("benchbench."):
        _check_room(spec, spatial)
    try:
        return build(spec, spatial)
    except (BenchError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a constructor may raise anything, and may call sys.exit()
        raise CardError(f"{spec.name}: {spec.arch} cannot be built: {named_line(error)}") from error


def _check_room(spec: ModelSpec, spatial: Sequence[int]) -> None:
    """Refuse keywords that ask for more weights than fit, as those of a sidecar may, before they are made."""
    import psutil
    import torch

    whole = dataclasses.replace(spec, kwargs={key: v for key, v in spec.kwargs.items() if key != PRUNED_SHAPES})
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            module = build(whole, spatial)
    except Exception:  # said by the one that is built in earnest
        return
    needed = sum(value.numel() * value.element_size() for value in (*module.parameters(), *module.buffers()))
    if needed > (free := psutil.virtual_memory().available):
        raise ShapeError(
            f"{spec.name}: its weights alone take {format_value(needed, 'B')}, and {format_value(free, 'B')} of memory "
            "are free: its keywords ask for too large a network"
        )


def fitting_sides(spec: ModelSpec, sides: Sequence[int]) -> tuple[int, ...]:
    """The smallest patch of at least some sides (D, H, W) that a network takes; a volume is padded to it.

    This is the one place where a data set's patch becomes a network's.

    Raises:
        ShapeError: none near takes it; the message is that of the first one.
        CardError: its class cannot be imported or built at all.
    """
    import torch

    tried: list[tuple[int, ...]] = [tuple(sides)]
    tried += [tuple(-(-side // m) * m for side in sides) for m in (8, 16, 32, 64)]
    tried += [(max(patch),) * 3 for patch in tried]  # some take cubes only
    first: ShapeError | None = None
    for candidate in dict.fromkeys(sorted(tried, key=math.prod)):
        try:
            try:
                with torch.device("meta"):
                    build(spec, candidate)
            except (BenchError, KeyboardInterrupt):
                raise
            except BaseException:  # its constructor reads the values of tensors, or fails anyhow
                build_here(spec, candidate)
            return candidate
        except ShapeError as error:
            first = first or error
    assert first is not None
    raise first


def build_model(name: str, *, trust: bool = False, **overrides: Any) -> nn.Module:
    """Build a network of the zoo, or of a card, with random weights; or that of a checkpoint, with its weights.

    Args:
        name: a name of `list_models()`, a card's path, `pkg.module:Class`, or a `.safetensors` file.
        trust: import the class that a checkpoint names even if it is not of benchbench; to import is to run it.
        overrides: `in_channels`, `out_channels`, `spatial` (D, H, W), and the architecture's own keywords.

    Returns:
        The module; (B, in_channels, D, H, W) -> (B, out_channels, D, H, W).

    Raises:
        UsageError: an unknown name, or a size, width or keyword that the network cannot take.
        CardError: its class cannot be imported or built, or a checkpoint names one that is not of benchbench.
        CheckpointError: weights that cannot be read, or with overrides.
    """
    cards = find_cards(name, trust=trust)
    if len(cards) != 1:
        raise UsageError(f"{name!r} names {len(cards)} networks; give one name")
    card = cards[0]
    if card.checkpoint:
        if overrides:
            raise CheckpointError(
                f"{name} is of one network with its size and channels: {', '.join(overrides)} cannot be set"
            )
        module = build_here(card.spec(), card.spatial)
        checkpoint.load_weights(module, Path(card.checkpoint))
        return module
    spatial = overrides.pop("spatial", card.spatial)
    spec = card.spec(in_channels=overrides.pop("in_channels", None), out_channels=overrides.pop("out_channels", None))
    return build_here(dataclasses.replace(spec, kwargs={**spec.kwargs, **overrides}), spatial)
