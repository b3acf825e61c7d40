"""Follows every storage of a step from allocation to release: on a CPU with real data, or on fake tensors, which
allocate as on a GPU.
"""

import contextlib
import dataclasses
import gc
import statistics
import time
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memplanner.catalogue import capability_of, find_gpu
from memplanner.components.attention import Attention
from memplanner.harness.cuda_kernels import cuda_memory
from memplanner.harness.history import Event, Mark, Reading, read_history
from memplanner.harness.job import Batch, Job, job_of_plan
from memplanner.harness.live_bytes import LiveBytes, addresses
from memplanner.harness.loop import Untimed, marking, run_step
from memplanner.harness.run import RunResult
from memplanner.measurement import Outcome, sentences
from memplanner.plan.training_plan import SizeDevice, TrainingPlan
from memplanner.timeline import Category, Phase


class Tracker:
    """Follows a job's steps through a dispatch mode, which sees every operation; `readings` tells of the last step."""

    device = "cpu"

    def __init__(self, job: Job, *, names: bool = False) -> None:
        self.job = job
        self.meter = LiveBytes()
        self.inputs: list[torch.Tensor] = []
        self.marks: list[Mark] = []
        self.initial: list[Event] = []
        self.seconds: dict[Phase, float] = {}
        self.persistent: dict[Category, int] = {}
        """Exact bytes by category, at the end of backward, of what outlives a step and of the gradients."""
        self.names = names
        self.phase: Phase = "forward"
        """The phase that is running, for reporting where memory ran out."""
        self.paused = False
        """While set, the ends of phases are ignored: `marking` still reports them during steps that are only timed."""
        self._since = 0.0

    def begin(self) -> None:
        """Start a new step: what is alive now becomes the reading "load", and earlier events are dropped."""
        self.initial = self.meter.alive()
        self.meter.events = []
        self.meter.names = {} if self.names else None
        self.marks = [Mark("load", 0, self._roles())]
        self.seconds = {}
        self._since = time.perf_counter()

    def readings(self) -> list[Reading]:
        """One reading per phase of the step; the first, "load", is what was alive before it."""
        return read_history(self.initial, self.meter.events, self.marks)

    def watching(self) -> contextlib.AbstractContextManager[Any]:
        """The dispatch mode that counts storages."""
        return self.meter

    def on_batch(self, batch: Batch) -> None:
        """Count the batch's tensors as inputs, which no operation makes under the dispatch mode."""
        self.inputs = [t for t in batch.values() if isinstance(t, torch.Tensor)]
        for tensor in self.inputs:
            self.meter.track(tensor, "input")

    def on_phase_begin(self, phase: Phase) -> None:
        """Tell the dispatch mode the phase, which decides the category that new tensors begin with."""
        self.phase = phase
        self.meter.in_forward = phase == "forward"
        self.meter.in_backward = phase == "backward"

    def recompute(self, *, begins: bool) -> None:
        """Backward repeats a checkpointed forward pass, or has done so; what that makes are activations."""
        self.meter.in_forward = begins

    def update(self, *, begins: bool) -> None:
        """An optimizer steps within backward, or has done so: its additions are no sums of gradients by the engine."""
        self.meter.in_backward = not begins

    def on_phase_end(self, phase: Phase) -> None:
        """Record the category of every tensor alive: only now does the job know its gradients and states."""
        if self.paused or (phase == "forward" and self.phase == "loss"):  # a second loss of the same forward pass
            return
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self.marks.append(Mark(phase, len(self.meter.events), self._roles()))
        if phase == "backward":
            self.persistent = exact_bytes(self.job.tensors())
        if phase == "update":
            self.inputs = []
        if phase == "forward":
            self.phase = "loss"
        self._since = time.perf_counter()

    def on_host(self, tensors: list[torch.Tensor]) -> None:
        """Stop counting tensors that stay on the host when training runs on a GPU."""
        for tensor in tensors:
            self.meter.untrack(tensor)

    def track_job(self) -> None:
        """Count the tensors that the job owns already, since they were made before the dispatch mode was active."""
        for tensors in self.job.tensors().values():
            for tensor in tensors:
                self.meter.track(tensor, "held")
        self.on_host(self.job.on_host())

    def _roles(self) -> dict[int, Category]:
        return {**addresses({"inputs": self.inputs}), **addresses(self.job.tensors())}


def run_tracked(job: Job, *, warmup: int = 1, timed: int = 0, names: bool = False) -> RunResult:
    """Runs warm-up steps, timed steps that nothing watches, one tracked step and, where the job recomputes subspaces,
    one tracked step that does so. Without warm-up the optimizer still makes its states, from gradients that nobody
    computed.
    """
    run = RunResult(warmup_steps=warmup, measured_steps=timed)
    with tracking(job, names=names) as tracker:
        tracker.track_job()
        tracker.begin()
        run.readings["load"] = tracker.readings()[0]
        try:
            _steps(job, run, tracker, warmup, timed)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            run.outcome = no_decomposition(error, tracker.phase)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator has none of its own
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            run.outcome = Outcome(status="out-of-memory", phase=tracker.phase, message=str(error).splitlines()[0])
    run.log = _log(tracker)
    return run


def no_decomposition(error: Exception, phase: Phase) -> Outcome:
    """How a run ends whose gradients are not finite any more, so that no subspace can be found for them."""
    return Outcome(status="failed", phase=phase, message=sentences(str(error).splitlines()[0].rstrip(".")))


@contextlib.contextmanager
def tracking(job: Job, *, names: bool = False) -> Iterator[Tracker]:
    """A tracker of the job's steps, which within this context tells their phases apart."""
    tracker = Tracker(job, names=names)
    recompute = (lambda: tracker.recompute(begins=True), lambda: tracker.recompute(begins=False))
    job.on_gradient.append(lambda p: tracker.meter.label(p.grad, "gradients") if p.grad is not None else None)
    update = (lambda: tracker.update(begins=True), lambda: tracker.update(begins=False))
    with (
        marking(lambda: tracker.on_phase_end("forward"), recompute, update),
        _collecting_between_steps(),
        _without_waiting(),
    ):
        yield tracker


@contextlib.contextmanager
def _collecting_between_steps() -> Iterator[None]:
    """Switch the garbage collector off: when it runs must not decide how long cycles of objects keep tensors alive."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _without_waiting() -> Iterator[None]:
    """Let torch.cuda.synchronize pass without a GPU: galore_torch's 8-bit step calls it, and it would raise."""
    if torch.cuda.is_available():
        yield
        return
    with unittest.mock.patch.object(torch.cuda, "synchronize", return_value=None):
        yield


def make_states(job: Job, tracker: Tracker) -> None:
    """Let the optimizers make their states. Those that step within backward make them there, and need a whole step."""
    if not job.stepped:
        run_step(job, tracker)
        gc.collect()
        return
    if job.has_other_parts:
        job.find_unreached(tracker.device)
        gc.collect()
    with tracker.watching():
        job.make_states()
        tracker.on_host(job.on_host())


def _steps(job: Job, run: RunResult, tracker: Tracker, warmup: int, timed: int) -> None:
    if not warmup:
        make_states(job, tracker)
    for _ in range(warmup):
        run.note(run_step(job, tracker))
        gc.collect()
    tracker.paused = True
    durations = []
    for _ in range(timed):
        start = time.perf_counter()
        run.note(run_step(job, Untimed("cpu")))
        durations.append(time.perf_counter() - start)
    tracker.paused = False
    run.step_seconds = statistics.median(durations) if durations else None
    tracker.track_job()
    tracker.begin()
    run.note(run_step(job, tracker))
    run.readings.update({r.phase: r for r in tracker.readings() if r.phase != "load"})
    run.seconds, run.persistent = tracker.seconds, tracker.persistent
    if not job.refreshes:
        return
    job.refresh_next()
    tracker.begin()
    start = time.perf_counter()
    run.note(run_step(job, tracker))
    run.refresh_seconds = time.perf_counter() - start
    job.refresh_no_more()
    last = {reading.phase: reading for reading in tracker.readings()}[job.updates_in]
    run.readings["refresh"] = dataclasses.replace(last, phase="refresh")
    run.seconds["refresh"] = tracker.seconds[job.updates_in]


def exact_bytes(tensors: dict[Category, list[torch.Tensor]]) -> dict[Category, int]:
    """Bytes of the tensors' storages by category, not rounded to blocks; a storage that several share counts once."""
    sizes: dict[Category, int] = {}
    seen: set[int] = set()
    for category, members in tensors.items():
        sizes[category] = 0
        for tensor in members:
            storage = tensor.untyped_storage()
            if storage._cdata not in seen:
                seen.add(storage._cdata)
                sizes[category] += storage.nbytes()
    return sizes


def _log(tracker: Tracker) -> dict[Phase, list[tuple[int, str]]]:
    """The births and deaths of every phase: (bytes, description of the tensor) or (0, "free")."""
    names = tracker.meter.names
    if names is None:
        return {}
    logs: dict[Phase, list[tuple[int, str]]] = {}
    start = 0
    for mark in tracker.marks:
        log = logs.setdefault(mark.phase, [])
        for i in range(start, mark.position):
            event = tracker.meter.events[i]
            log.append((event.size, str(names.get(i, "temporary"))) if event.size else (0, "free"))
        start = mark.position
    return logs


@contextlib.contextmanager
def faking(plan: TrainingPlan, root: Path) -> Iterator[FakeTensorMode]:
    """A mode of fake tensors on which the plan's step allocates as it would on CUDA."""
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    gpu = None if isinstance(plan.device, SizeDevice) else find_gpu(plan.device.name)
    attention = Attention(
        kind=plan.step.attention,
        compute_capability=capability_of(gpu),
        padding=plan.step.padding,
        torch=plan.torch,
    )
    with cuda_memory(attention):
        yield mode


def run_fake(plan: TrainingPlan, root: Path = Path(), *, names: bool = False) -> tuple[Job, RunResult]:
    """Runs the plan's step on fake tensors: exact live bytes without data and without a GPU. names: also keep a log of
    every birth and death.
    """
    with faking(plan, root) as mode:
        job = job_of_plan(plan, root, "cpu", fake_mode=mode)
        with mode:
            return job, run_tracked(job, warmup=0, names=names)
