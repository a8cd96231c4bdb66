"""Run of one network in a child process: everything that it measures before it ends.

Inference or training, and then a whole volume if one is asked for. Everything is sent the moment it is there. Order
matters: the peak of memory is read, and outputs and state are judged, only when the last forward has been timed, so
that nothing of it is in a sample.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core import records as rec
from benchbench.core.errors import DataError
from benchbench.core.protocol import get_protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchbench.measure.memory_limit import MemoryLimit
    from benchbench.measure.timed import Timed
    from benchbench.runner.job import Job

Emit = Callable[[dict[str, Any]], None]

OUTPUT_TOLERANCE = 0.05  # relative L2 distance to the fp32 output up to which a reduced dtype counts


class ModelRun:
    """A network in this process, under the conditions that its job states."""

    module: nn.Module
    x: Tensor

    def __init__(self, job: Job, emit: Emit) -> None:
        """Nothing happens yet.

        Args:
            job: what to do.
            emit: gets what happens.
        """
        self.job, self.work, self.emit = job, job.workload, emit
        self.stage = "building the network"  # what is going on, for an error
        self.device = f"cuda:{job.gpu}" if job.backend == "cuda" else "cpu"
        self.limit: MemoryLimit | None = None
        self.base_bytes: int | None = None  # resident before the network was built, on a CPU
        self.available: int | None = None  # of a board whose CPU and GPU have one memory

    def run(self) -> dict[str, Any]:
        """Build and measure; the status and error that the row gets.

        Raises:
            LimitError: the memory limit is below the framework's own need.
            UnsupportedError: what is asked cannot be had from this network, or here.
            BenchError: the network cannot be built.
        """
        job, work = self.job, self.work
        self._build()
        if work.phase == "train":
            self._enter("a training step")
            return self._train()
        self._enter("a forward")
        end = self._infer()
        if (work.volume or work.crop_foreground) and end["status"] in ("ok", "unstable"):
            self._enter("the whole volume")
            end = _end_with([end["error"], self._volume()])
        finite = end["status"] != "failed" or work.dtype != "fp32"
        if job.first and job.data_where and job.checkpoint_path and finite:
            self._enter("the evaluation of Dice")
            self._dice()
        return end

    def _build(self) -> None:
        import torch

        from benchbench.devices import jetson
        from benchbench.measure import memory, output_check, timed  # noqa: F401  now, and not into the limit
        from benchbench.zoo import build as zoo_build

        job, work = self.job, self.work
        shared = job.backend == "cuda" and jetson.detect() is not None
        self.available = memory.system_available_bytes() if shared else None
        if job.backend == "cuda":
            torch.cuda.set_device(job.gpu)
            torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32; PyTorch's default for convolutions is TF32
        if work.threads:
            torch.set_num_threads(work.threads)
        zoo_build.find_class(job.model.arch)
        if work.phase == "train":
            from benchbench.measure import training_step  # noqa: F401
        elif work.crop_foreground:
            from benchbench.measure.volume import check_channels

            check_channels(job.model.in_channels)
        torch.manual_seed(0)
        self.limit = _limit(job)
        self.base_bytes = memory.resident_bytes() if job.backend == "cpu" else None
        module = zoo_build.build(job.model, work.spatial)
        if job.checkpoint_path:
            from benchbench.zoo import checkpoint

            checkpoint.load_weights(module, Path(job.checkpoint_path))
        self.module = module.eval().to(self.device)
        self.x = torch.randn(*job.input_shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        self.emit({"event": "ready"})

    def _enter(self, stage: str) -> None:
        self.stage = stage
        if self.limit:
            self.limit.settle()

    def once(self) -> dict[str, Any]:
        """One forward, or two training steps (the second has AdamW's moments), and nothing else.

        Raises:
            LimitError: the memory limit is below the framework's own need.
            BenchError: the network cannot be built, or trained.
        """
        self._build()
        self._enter("a training step" if self.work.phase == "train" else "a forward")
        if self.work.phase == "train":
            from benchbench.measure.training_step import TrainingStep

            step = TrainingStep(self.module, self.x, backend=self.job.backend, dtype=self.work.dtype)
            with step.ready() as one:
                one()
                one()
        else:
            from benchbench.measure.latency import forward_function

            forward_function(self.module, self.x, backend=self.job.backend, dtype=self.work.dtype)()
        return {"status": "ok", "error": None}

    # -- inference

    def _infer(self) -> dict[str, Any]:
        from benchbench.measure import latency, memory, output_check

        job, work = self.job, self.work
        forward = latency.forward_function(self.module, self.x, backend=job.backend, dtype=work.dtype)
        check = output_check.OutputCheck(work.dtype)
        last: list[Any] = []
        before: list[output_check.TensorChecksums] = []

        def kept() -> None:
            out = forward()
            last.clear()
            last.append(out)

        timed = self._time(
            kept,
            after_warmup=lambda: before.append(output_check.TensorChecksums.of(self.module)),
            after_each=lambda: check.look(last.pop()),
        )
        parts = memory.Parts(
            weights_bytes=memory.weights_bytes(self.module),
            input_bytes=memory.storage_bytes([self.x]),
            output_bytes=check.output_bytes,
        )
        self._send(*timed.latency.measurements(), *timed.peak.measurements(self.base_bytes, parts))
        self._send(*timed.watched())
        if check.bad_share and work.dtype == "fp32":
            return _end(
                "failed", f"{check.bad_share:.2%} of its output is NaN or infinite: these latencies do not count"
            )
        if work.dtype != "fp32" and job.first:
            error = self._output_error(forward())
            if not error <= OUTPUT_TOLERANCE:  # also when it is NaN
                why = f"its output in {work.dtype} is off the fp32 output by {error:.1%} (limit {OUTPUT_TOLERANCE:.0%})"
                return _end("failed", f"{why}: these latencies do not count; use --dtype fp32")
        state = output_check.changed_state(before[0].changed(self.module))
        return _end_with([state, check.unstable, *timed.doubts])

    def _time(
        self,
        call: Callable[[], object],
        *,
        after_warmup: Callable[[], None] | None = None,
        after_each: Callable[[], None] | None = None,
    ) -> Timed:
        """Time a forward or a training step, with the device watched over those that count."""
        from benchbench.measure.timed import time_calls

        def tick(phase: str, count: int) -> None:
            if after_each:
                after_each()
            self._tick(phase, count)

        timed = time_calls(
            call,
            get_protocol(self.work.protocol),
            backend=self.job.backend,
            gpu=self.job.gpu,
            batch=self.work.batch,
            available_before=self.available,
            watched=True,
            after_warmup=after_warmup,
            tick=tick,
        )
        self.emit({"event": "forwards", "seconds": timed.latency.spent_s})
        return timed

    def _output_error(self, out: Any) -> float:
        """Relative L2 distance of a reduced dtype's output to the fp32 one; sent as a measurement."""
        from benchbench.measure.latency import forward_function
        from benchbench.zoo import logits as zoo_logits

        sides = self.x.shape[2:]
        reduced = zoo_logits.main(out, sides).float()
        exact = zoo_logits.main(forward_function(self.module, self.x, backend=self.job.backend)(), sides).float()
        error = float((reduced - exact).norm() / exact.norm())
        finite = error == error and error != float("inf")
        self._send(
            rec.Measurement.of(
                "output_rel_error",
                error if finite else None,
                "L2 distance to the fp32 eager output over its norm, same random input",
                reason=None if finite else "the output is not finite",
            )
        )
        return error

    # -- training

    def _train(self) -> dict[str, Any]:
        from benchbench.measure.training_step import TrainingStep, of_steps, train_memory, train_time

        work = self.work
        step = TrainingStep(self.module, self.x, backend=self.job.backend, dtype=work.dtype)
        with step.ready() as one:
            timed = self._time(one)
        self._send(*train_time(timed.latency, work.dtype), *train_memory(timed.peak, self.base_bytes))
        self._send(*of_steps(timed.watched()))
        if not step.is_finite():
            return _end("failed", f"the loss is NaN or infinite in {work.dtype}: these steps do not count")
        return _end_with(timed.doubts)

    # -- a whole volume, and Dice

    def _volume(self) -> str | None:
        """Time it; why its time is unstable."""
        from benchbench.measure import volume

        job, work = self.job, self.work
        channels = job.model.in_channels
        if work.crop_foreground:
            x = volume.phantom_volume(channels, work.volume)
        else:
            assert work.volume is not None
            x = volume.random_volume(channels, work.volume)
        timed = volume.measure_volume(
            self.module,
            x.to(self.device),
            volume.Plan(
                patch=work.spatial, batch=work.batch, overlap=job.overlap, crop_foreground=work.crop_foreground
            ),
            get_protocol(work.protocol),
            backend=job.backend,
            dtype=work.dtype,
            gpu=job.gpu,
            tick=lambda phase, count: self._tick(f"volume, {phase}", count),
        )
        self.emit({"event": "forwards", "seconds": timed.spent_s})
        self._send(*timed.measurements)
        return f"whole volume: {timed.unstable}" if timed.unstable else None

    def _dice(self) -> None:
        from benchbench.training.evaluate import measure_dice

        job, work, emit = self.job, self.work, self.emit
        start = time.perf_counter()
        try:
            result = measure_dice(
                self.module,
                data=job.data_where or "",
                split=work.split or "test",
                spatial=work.spatial,
                dtype=work.dtype,
                overlap=job.overlap,
                device=self.device,
                progress=lambda done, total: self._tick(f"Dice, case {done} of {total}", done),
            )
        except DataError as error:  # of the data alone: what was timed is right
            self._send(rec.Measurement.missing("dice", str(error), "measured"))
            return
        self._send(*result.measurements)
        for picture in result.pictures:
            content = base64.b64encode(picture.png).decode()
            emit({"event": "picture", "name": picture.name, "title": picture.title, "content": content})
        emit({"event": "cases", "cases": result.cases})
        emit({"event": "accuracy", "seconds": time.perf_counter() - start})

    def _tick(self, phase: str, count: int) -> None:
        self.emit({"event": "tick", "phase": phase, "count": count})

    def _send(self, *measurements: rec.Measurement) -> None:
        for m in measurements:
            self.emit({"event": "measurement", "measurement": rec.to_json(m)})


def _limit(job: Job) -> MemoryLimit | None:
    if job.workload.memory_limit_bytes is None:
        return None
    from benchbench.measure.memory_limit import MemoryLimit

    mapped = Path(job.checkpoint_path).stat().st_size if job.checkpoint_path else 0
    return MemoryLimit(job.workload.memory_limit_bytes, backend=job.backend, gpu=job.gpu, file_bytes=mapped)


def _end(status: str, error: str | None = None) -> dict[str, Any]:
    return {"status": status, "error": error}


def _end_with(doubts: Sequence[str | None]) -> dict[str, Any]:
    """`unstable` where there is a doubt."""
    why = "; ".join(doubt for doubt in doubts if doubt)
    return _end("unstable", why) if why else _end("ok")
