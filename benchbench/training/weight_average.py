"""Moving average of a network's weights, which a training saves in the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchbench.zoo.checkpoint import unique_tensors


class WeightAverage:
    """Exponential moving average of all parameters and buffers; integer buffers are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors: Mapping[str, Tensor] = self._copy()

    def weights(self) -> dict[str, Tensor]:
        """The present weights of the network, shared ones once."""
        return unique_tensors(self.model.state_dict())

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights into the network."""
        for key, value in self.weights().items():
            value.copy_(weights[key])

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Add the present weights; `n` is the number of updates since the average began anew, this one included."""
        decay = min(self.decay, n / (n + 9))
        for key, value in self.weights().items():
            if value.is_floating_point():
                self.tensors[key].lerp_(value, 1 - decay)
            else:
                self.tensors[key].copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the network has the averaged weights."""
        present = self._copy()
        self.load(self.tensors)
        try:
            yield
        finally:
            self.load(present)

    def _copy(self) -> dict[str, Tensor]:
        return {key: value.detach().clone() for key, value in self.weights().items()}
