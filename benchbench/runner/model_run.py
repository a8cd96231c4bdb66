"""Run of one network in a child process, in PyTorch: everything that it measures before it ends.

Inference or training, and then a whole volume if one is asked for. Everything is sent the moment it is there. Order
matters: the peak of memory is read, and outputs and state are judged, only when the last forward has been timed, so
that nothing of it is in a sample.
"""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core import qualification
from benchbench.core import records as rec
from benchbench.core.errors import DataError, UnsupportedError, named_line
from benchbench.core.protocol import get_protocol
from benchbench.runner.output_comparison import compare
from benchbench.runtimes.catalogue import get_runtime
from benchbench.zoo.mirrored import mirroring_text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchbench.measure.memory_limit import MemoryLimit
    from benchbench.measure.timed import Timed
    from benchbench.measure.volume import Array, Inference, Plan
    from benchbench.runner.job import Job

Emit = Callable[[dict[str, Any]], None]

OUTPUT_TOLERANCE = 0.05  # relative L2 distance to the fp32 output up to which a reduced dtype counts


class ModelRun:
    """A network in this process, under the conditions that its job states."""

    module: nn.Module
    network: nn.Module  # what is called: the module, or what the runtime has made of it
    timed: nn.Module  # the network, or its mean over mirror images
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
        self.loaded_s = 0.0  # from the start of building or loading the network until it could be called
        self.sent: dict[str, rec.Measurement] = {}

    def run(self) -> dict[str, Any]:
        """Build and measure; the status and error that the row gets.

        Raises:
            LimitError: the memory limit is below the framework's own need.
            UnsupportedError: what is asked cannot be had from this network, or here.
            BenchError: the network cannot be built.
        """
        job, work = self.job, self.work
        if work.crop_foreground and work.phase != "train":
            from benchbench.runner.volume_input import make_case

            make_case(job, lambda text: self._tick(text, 0))
        self._build()
        if work.phase == "train":
            self._enter("a training step")
            return self._train()
        self._enter("a forward")
        end = self._infer()
        if (work.volume or work.crop_foreground) and end["status"] in ("ok", "unstable"):
            self._enter("the whole volume")
            end = end_with([end["error"], self._volume()])
        return self.judged(end)

    def judged(self, end: dict[str, Any]) -> dict[str, Any]:
        """How the run ends, once its output and its Dice are known; after all that is timed, since both take memory.

        Args:
            end: as the forwards left it.
        """
        job = self.job
        if job.first and not self.is_reference and end["status"] in ("ok", "unstable"):
            self._enter("the comparison of outputs")
            self._compare_outputs()
        finite = end["status"] != "failed" or self.work.dtype != "fp32"
        if job.first and job.data_where and job.checkpoint_path and finite:
            self._enter("the evaluation of Dice")
            self._dice()
        return self._qualified(end)

    @property
    def is_reference(self) -> bool:
        """Whether this is what others are compared with: eager PyTorch in fp32."""
        return qualification.is_eager_fp32(self.work)

    @property
    def mirror(self) -> tuple[int, ...]:
        """Axes along which inputs are mirrored."""
        return self.work.test_time_mirroring or ()

    def _with_mirroring(self, m: rec.Measurement) -> rec.Measurement:
        """A time whose method says that it is of several forwards, where it is."""
        if not self.mirror or m.unit != "s":
            return m
        return dataclasses.replace(m, method=f"{m.method}; {mirroring_text(self.mirror)}")

    @property
    def _autocast(self) -> str:
        """The precision that PyTorch casts to around each forward; a file has its own."""
        return self.work.dtype if get_runtime(self.work.runtime).in_pytorch else "fp32"

    def _qualified(self, end: dict[str, Any]) -> dict[str, Any]:
        """How the run ends, once its output and its Dice have been compared with those of eager PyTorch in fp32."""
        if self.is_reference or not self.job.first or end["status"] not in ("ok", "unstable"):
            return end
        error, changed, loss = (self.sent.get(name) for name in ("output_max_error", "mask_changed_share", "lost_dice"))
        why = qualification.failure(error, changed, loss, exact=self.work.dtype == "fp32")
        relative = self.sent["output_rel_error"].value
        if not why and loss is None and self.work.dtype != "fp32" and not _is_near(relative):
            off = f"off the fp32 output by {relative:.1%} (limit {OUTPUT_TOLERANCE:.0%})" if relative else "not finite"
            return ended(
                "failed", f"its output in {self.work.dtype} is {off}: these latencies do not count; use --dtype fp32"
            )
        return ended("failed", f"{why}: these latencies do not count") if why else end

    def _build(self) -> None:
        import torch

        from benchbench.devices import jetson
        from benchbench.measure import memory, output_check, timed  # noqa: F401  now, and not into the limit
        from benchbench.runtimes import pytorch
        from benchbench.zoo import build as zoo_build
        from benchbench.zoo.mirrored import mirrored_module

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
        torch.manual_seed(0)
        self.limit = self._limit()
        self.base_bytes = memory.resident_bytes() if job.backend == "cpu" else None
        start = time.perf_counter()
        module = zoo_build.build(job.model, work.spatial)
        if job.checkpoint_path:
            from benchbench.zoo import checkpoint

            checkpoint.load_weights(module, Path(job.checkpoint_path))
        self.module = module.eval().to(self.device)
        self.network = pytorch.in_runtime(self.module, work.runtime)
        self.timed = mirrored_module(self.network, self.mirror)
        self.loaded_s = time.perf_counter() - start
        self.x = torch.randn(*job.input_shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        if work.runtime == "compile":
            self._compile()
        self.emit({"event": "ready"})

    def _compile(self) -> None:
        """Have Inductor compile the network, which it does in the first forward."""
        from benchbench.measure.latency import forward_function

        self._tick("compiling", 0)
        start = time.perf_counter()
        try:
            forward_function(self.network, self.x, backend=self.job.backend, dtype=self.work.dtype)()
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever the compiler or what it calls raises
            raise UnsupportedError(f"torch.compile cannot compile it: {named_line(error)}") from error
        seconds = time.perf_counter() - start
        self.loaded_s += seconds
        how = "torch.compile: the first forward, which compiles; what Inductor has cached on this machine is used"
        self._send(rec.Measurement.of("prepare_s", seconds, how))

    def _enter(self, stage: str) -> None:
        self.stage = stage
        if self.limit:
            self.limit.settle()

    def _limit(self) -> MemoryLimit | None:
        job = self.job
        if job.workload.memory_limit_bytes is None:
            return None
        from benchbench.measure.memory_limit import MemoryLimit

        mapped = Path(job.checkpoint_path).stat().st_size if job.checkpoint_path else 0
        return MemoryLimit(job.workload.memory_limit_bytes, backend=job.backend, gpu=job.gpu, file_bytes=mapped)

    def once(self) -> dict[str, Any]:
        """One forward, or two training steps (the second has AdamW's moments), and nothing else.

        Raises:
            LimitError: the memory limit is below the framework's own need.
            BenchError: the network cannot be built, or trained.
        """
        if self.work.phase == "train":
            self._build()
            self._enter("a training step")
            from benchbench.measure.training_step import TrainingStep

            step = TrainingStep(self.module, self.x, backend=self.job.backend, dtype=self.work.dtype)
            with step.ready() as one:
                one()
                one()
        else:
            self.built()()
        return ended("ok")

    def built(self) -> Callable[[], object]:
        """Build the network; a forward of it, which returns its output when that is there.

        Raises:
            LimitError: the memory limit is below the framework's own need.
            BenchError: the network cannot be built.
        """
        self._build()
        self._enter("a forward")
        return self._forward()

    def _forward(self) -> Callable[[], object]:
        from benchbench.measure.latency import forward_function

        return forward_function(self.timed, self.x, backend=self.job.backend, dtype=self.work.dtype)

    # -- inference

    def _infer(self) -> dict[str, Any]:
        from benchbench.measure import latency, memory, output_check

        job, work = self.job, self.work
        forward = latency.forward_function(self.timed, self.x, backend=job.backend, dtype=work.dtype)
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
        self._send_times(timed, get_runtime(work.runtime).title)
        self._send(*timed.peak.measurements(self.base_bytes, parts), *timed.watched())
        if check.bad_share and work.dtype == "fp32":
            return ended(
                "failed", f"{check.bad_share:.2%} of its output is NaN or infinite: these latencies do not count"
            )
        state = output_check.changed_state(before[0].changed(self.module))
        return end_with([state, check.unstable, *timed.doubts])

    def _send_times(self, timed: Timed, title: str) -> None:
        """Latency, throughput, warm-up, and how long it took from loading to the first output."""
        seconds, *rest = timed.latency.measurements()
        how = f"loading the network, and its first output; {title}; imports left out"
        first = self.loaded_s + (timed.latency.warmup_s[0] if timed.latency.warmup_s else 0.0)
        if not self.is_reference:
            seconds = dataclasses.replace(seconds, method=f"{seconds.method}; {title}")
        self._send(self._with_mirroring(seconds), *rest, rec.Measurement.of("first_answer_s", first, how))

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

    def _compare_outputs(self) -> None:
        """Compare the output with that of eager PyTorch in fp32, on a real case where there is one."""
        import torch

        from benchbench.measure.latency import forward_function
        from benchbench.runner.prepare import reference_input
        from benchbench.zoo import logits as zoo_logits

        job = self.job
        array, case, exclusive = reference_input(job)
        x = torch.from_numpy(array).to(self.device)
        sides = x.shape[2:]
        out = forward_function(self.network, x, backend=job.backend, dtype=self.work.dtype)()
        exact = forward_function(self.module, x, backend=job.backend)()
        now, then = (zoo_logits.main(output, sides).float().cpu().numpy() for output in (out, exact))
        self._send(*compare(now, then, case, exclusive, trained=job.checkpoint_path is not None))

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
            return ended("failed", f"the loss is NaN or infinite in {work.dtype}: these steps do not count")
        return end_with(timed.doubts)

    # -- a whole volume, and Dice

    def _volume(self) -> str | None:
        """Time it; why its time is unstable."""
        from benchbench.data import get_plan
        from benchbench.measure import volume
        from benchbench.runner.volume_input import volume_for

        job, work = self.job, self.work
        given = volume_for(job)
        plan = volume.Plan(
            patch=work.spatial,
            batch=work.batch,
            overlap=job.overlap,
            crop_foreground=work.crop_foreground,
            exclusive=job.data_where is not None and get_plan(job.data_where).exclusive,
            whole_batches=not get_runtime(work.runtime).in_pytorch,
        )
        timed = volume.measure_volume(
            self._inference(given.image, plan),
            get_protocol(work.protocol),
            of=given.of,
            backend=job.backend,
            gpu=job.gpu,
            tick=lambda phase, count: self._tick(f"volume, {phase}", count),
        )
        self.emit({"event": "forwards", "seconds": timed.spent_s})
        self._send(*(self._with_mirroring(m) for m in timed.measurements))
        return f"whole volume: {timed.unstable}" if timed.unstable else None

    def _inference(self, image: Array, plan: Plan) -> Inference:
        """What goes through a volume (C, D, H, W)."""
        from benchbench.measure import volume, volume_torch

        if self.job.backend == "cuda":
            return volume_torch.GpuInference(self.timed, image, plan, device=self.device, dtype=self._autocast)
        return volume.Inference(volume_torch.forward_of_arrays(self.timed, self._autocast), image, plan)

    def _segmenting(self) -> nn.Module:
        """What segments the cases of a data set."""
        return self.network

    def _dice(self) -> None:
        from benchbench.training.evaluate import measure_dice

        job, work, emit = self.job, self.work, self.emit
        start = time.perf_counter()
        try:
            result = measure_dice(
                self._segmenting(),
                data=job.data_where or "",
                split=work.split or "test",
                spatial=work.spatial,
                dtype=self._autocast,
                overlap=job.overlap,
                crop_foreground=work.crop_foreground,
                mirror=self.mirror,
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
        if not self.is_reference:
            self._send(self._lost_dice(result.cases))
        emit({"event": "accuracy", "seconds": time.perf_counter() - start})

    def _lost_dice(self, cases: Mapping[str, Any]) -> rec.Measurement:
        """What the cases lose against eager PyTorch in fp32, case by case."""
        from benchbench.runner.eager_dice import eager_cases, lost_dice

        eager = eager_cases(self.job, progress=lambda n, total: self._tick(f"Dice in fp32, case {n} of {total}", n))
        return lost_dice(eager, cases)

    def _tick(self, phase: str, count: int) -> None:
        self.emit({"event": "tick", "phase": phase, "count": count})

    def _send(self, *measurements: rec.Measurement) -> None:
        for m in measurements:
            self.sent[m.metric] = m
            self.emit({"event": "measurement", "measurement": rec.to_json(m)})


def _is_near(error: float | int | None) -> bool:
    return error is not None and error <= OUTPUT_TOLERANCE


def ended(status: str, error: str | None = None) -> dict[str, Any]:
    """The end of a run, as its event has it."""
    return {"status": status, "error": error}


def end_with(doubts: Sequence[str | None]) -> dict[str, Any]:
    """`unstable` where there is a doubt."""
    why = "; ".join(doubt for doubt in doubts if doubt)
    return ended("unstable", why) if why else ended("ok")
