"""Precision of a training: fp32 or bf16 autocast, whichever is faster for the network, found by its first steps.

That a processor has bf16 says little: nnU-Net's step takes half as long in it, and that of a network of depthwise
convolutions can take longer. So the first steps of a training alternate between the two; they count as steps, too.
"""

from __future__ import annotations

_UNTIMED, _TIMED = 1, 3  # steps in each precision; the first one chooses kernels
_WORTH = 0.95  # bf16 has to take at most this share of the time in fp32, since fp32 is exact


class PrecisionChoice:
    """Which precision each step runs in."""

    def __init__(self, bf16: bool | None) -> None:
        """Begin.

        Args:
            bf16: decided already; None: by timing.
        """
        self.bf16 = bf16
        self._seconds: dict[bool, list[float]] = {False: [], True: []}

    @property
    def is_decided(self) -> bool:
        """Whether all further steps run in `bf16`, or in fp32."""
        return self.bf16 is not None

    def next(self) -> bool:
        """Whether the next step runs in bf16."""
        if self.bf16 is not None:
            return self.bf16
        return len(self._seconds[True]) < len(self._seconds[False])

    def add(self, seconds: float) -> bool:
        """Count a step that ran as `next` said; returns whether there are enough to decide by."""
        self._seconds[self.next()].append(seconds)
        return min(map(len, self._seconds.values())) >= _UNTIMED + _TIMED

    def is_bf16_faster(self) -> bool:
        """What the timed steps say."""
        return min(self._seconds[True][_UNTIMED:]) <= _WORTH * min(self._seconds[False][_UNTIMED:])

    def shortest_s(self) -> dict[str, float]:
        """Precision -> seconds of its shortest step; empty if none was timed.

        Other work on the machine only adds to a step, so of a few the shortest says most.
        """
        named = {"fp32": self._seconds[False][_UNTIMED:], "bf16": self._seconds[True][_UNTIMED:]}
        return {name: round(min(times), 4) for name, times in named.items() if times}
