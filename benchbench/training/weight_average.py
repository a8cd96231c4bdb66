"""Moving average of a network's weights, which a training saves in the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from benchbench.zoo.checkpoint import unique_tensors


class WeightAverage:
    """Average of all parameters and buffers over a share of the steps so far; integer buffers are copied.

    The weights after step n of N count in proportion to (n / N)^(1 / share - 1), so at a share of 0.1 the average
    covers about the last tenth of a training, however long it is.

    Source: Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", section 3.1 (the
    average with a power function as its profile).
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        """Begin with the present weights.

        Args:
            share: of the steps so far that the average covers, 0 to below 1; 0: the present weights alone.
        """
        self.model, self.share = model, share
        self.tensors: Mapping[str, Tensor] = self._copy()

    def weights(self) -> dict[str, Tensor]:
        """The present weights of the network, shared ones once."""
        return unique_tensors(self.model.state_dict())

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights into the network."""
        for key, value in self.weights().items():
            value.copy_(weights[key])

    def decay(self, n: int) -> float:
        """What remains of the average in its update number `n`, counted from 1."""
        return (1 - 1 / n) ** (1 / self.share) if self.share else 0.0

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Add the present weights; `n` is the number of updates since the average began anew, this one included."""
        averages: list[Tensor] = []
        present: list[Tensor] = []
        for key, value in self.weights().items():
            if value.is_floating_point():
                averages.append(self.tensors[key])
                present.append(value)
            else:
                self.tensors[key].copy_(value)
        if averages:
            get_ema_multi_avg_fn(self.decay(n))(averages, present, n)  # type: ignore[no-untyped-call]

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
