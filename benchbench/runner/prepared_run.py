"""Run of a prepared network in a child process without PyTorch: what a deployment takes, and no more.

Whoever deploys a network as a file has no PyTorch beside it, so neither has the process in which its memory, its start
and whole volumes are measured. PyTorch comes in at the end, when all that is timed is over, and for Dice alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchbench.core import records as rec
from benchbench.measure import memory, output_check
from benchbench.measure.volume import Inference
from benchbench.runner.job import Job
from benchbench.runner.model_run import Emit, ModelRun, end_with, ended
from benchbench.runner.output_comparison import compare
from benchbench.runner.prepare import as_module, prepared_for, read_reference
from benchbench.zoo.mirrored import mirrored_arrays

if TYPE_CHECKING:
    from torch import nn

    from benchbench.measure.volume import Array, Plan


class PreparedRun(ModelRun):
    """A prepared network in this process, under the conditions that its job states."""

    def __init__(self, job: Job, emit: Emit) -> None:
        """Nothing happens yet."""
        super().__init__(job, emit)
        self.stage = "preparing the network"

    def _build(self) -> None:
        work = self.work
        self.prepared = prepared_for(self.job, lambda text: self._tick(text, 0))
        self.prepared.of.load().library()
        self.limit = self._limit()
        self.base_bytes = memory.resident_bytes()
        start = time.perf_counter()
        self.forward = self.prepared.load(threads=work.threads, gpu=self.job.gpu)
        self.loaded_s = time.perf_counter() - start
        self.input = np.random.default_rng(0).standard_normal(self.job.input_shape, np.float32)
        self.emit({"event": "ready"})

    def _forward(self) -> Callable[[], object]:
        forward = mirrored_arrays(self.forward, self.mirror)
        return lambda: forward(self.input)

    def _infer(self) -> dict[str, Any]:
        prepared, work = self.prepared, self.work
        check = output_check.OutputCheck(work.dtype)
        last: list[Any] = []
        forward = mirrored_arrays(self.forward, self.mirror)

        def call() -> None:
            out = forward(self.input)
            last.clear()
            last.append(out)

        timed = self._time(call, after_each=lambda: check.look(last.pop()))
        self._send_times(timed, prepared.how)
        self._send(*timed.peak.measurements(self.base_bytes), *timed.watched())
        warned = f"; {'; '.join(prepared.warnings)}" if prepared.warnings else ""
        how = f"{prepared.how}: export to ONNX, conversion" + (", quantization" if work.dtype == "int8" else "")
        self._send(
            rec.Measurement.of("prepare_s", prepared.seconds, f"{how}{warned}; made once, then kept"),
            rec.Measurement.of("artefact_bytes", prepared.bytes, f"files: {', '.join(sorted(prepared.files))}"),
            rec.Measurement.of("rewritten_for_inference", int(prepared.rewritten), "its class's own form", "analytic"),
        )
        if check.bad_share:
            return ended("failed", f"{check.bad_share:.2%} of its output is not finite: these latencies do not count")
        return end_with([check.unstable, *timed.doubts])

    def _compare_outputs(self) -> None:
        reference = read_reference(self.prepared)
        now = self.forward(reference.x)
        trained = self.job.checkpoint_path is not None
        self._send(*compare(now, reference.y, reference.case, reference.exclusive, trained=trained))

    def _inference(self, image: Array, plan: Plan) -> Inference:
        return Inference(mirrored_arrays(self.forward, self.mirror), image, plan)

    def _segmenting(self) -> nn.Module:
        def whole(x: Array) -> Array:
            """The cases of a data set go through window by window, and the file takes a whole batch."""
            missing = np.zeros((self.work.batch - len(x), *x.shape[1:]), np.float32)
            return self.forward(np.concatenate([x, missing]) if len(missing) else x)[: len(x)]

        network: nn.Module = as_module(whole)
        return network
