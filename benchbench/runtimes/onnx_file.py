"""ONNX file of a network: what every runtime outside of PyTorch is made from.

The exporter traces the module (`torch.onnx.export` with `dynamo=True`), so a network whose control flow depends on the
values of tensors is refused with the exporter's own reason.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchbench.core.errors import UnsupportedError, first_line
from benchbench.runtimes.prepared import INPUT, OUTPUT
from benchbench.zoo import logits as zoo_logits

OPSET = 20
_LARGEST = 1_900_000_000  # bytes of one file; protobuf ends at 2 GiB


class MainOutput(nn.Module):
    """A network with one output: its logits, of a classifier its first tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, K, D, H, W)."""
        return zoo_logits.main(self.network(x), x.shape[2:])


def write_onnx(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write a network as an ONNX file with the input `image` and the output `logits`, both of fixed size.

    Args:
        network: in eval mode.
        example: (B, C, D, H, W) float32.

    Raises:
        UnsupportedError: it cannot be exported; one line with the exporter's reason.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad(), _quiet():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                MainOutput(network).eval(),
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        for node in program.model.graph.all_nodes():  # stack traces with local paths, half of the file
            node.metadata_props.clear()
        size = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
        program.save(str(path), external_data=size > _LARGEST)
    except (MemoryError, KeyboardInterrupt, OSError):
        raise
    except Exception as error:  # the exporter raises many kinds
        raise UnsupportedError(f"it cannot be exported to ONNX: {innermost_line(error)}") from error


def innermost_line(error: BaseException) -> str:
    """The exporter's reason in one line: the innermost error, since the outer ones are advice on the exporter."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", first_line(error))
    return f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporter logs errors alone."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnxscript", "onnx_ir"))}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
