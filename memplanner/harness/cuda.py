"""Steps on a CUDA device: the caching allocator's own figures by phase, its history by category."""

import contextlib
import dataclasses
import os
import statistics
import time
from typing import Any

import torch

from memplanner.harness.cpu import exact_bytes
from memplanner.harness.history import Event, Mark, Reading, read_history
from memplanner.harness.job import Batch, Job
from memplanner.harness.loop import Blind, marking, run_step
from memplanner.harness.run import Run
from memplanner.measurement import Outcome
from memplanner.program.program import round_to_block
from memplanner.timeline import Category, Phase

HISTORY_ENTRIES = 2_000_000
"""Events of one step that the allocator's history can hold."""


class Statistics:
    """Reads the allocator's counters at the end of every phase."""

    device = "cuda"

    def __init__(self, job: Job) -> None:
        self.job = job
        self.run = Run()
        self.phase: Phase = "load"
        self._since = time.perf_counter()

    def begin(self) -> None:
        """A new step."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._since = time.perf_counter()

    def watching(self) -> contextlib.AbstractContextManager[Any]:
        """The allocator counts by itself."""
        return contextlib.nullcontext()

    def given(self, batch: Batch) -> None:
        """They are in the counters."""

    def turn(self, phase: Phase) -> None:
        """Where the step is."""
        self.phase = phase

    def close(self, phase: Phase) -> None:
        """Read the counters and begin anew."""
        torch.cuda.synchronize()
        now = time.perf_counter()
        peak, end = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        self.run.readings[phase] = Reading(phase=phase, peak_bytes=peak, end_bytes=end, at_peak={}, at_end={})
        self.run.reserved[phase] = torch.cuda.max_memory_reserved()
        free, total = torch.cuda.mem_get_info()
        self.run.device[phase] = total - free
        self.run.seconds[phase] = now - self._since
        if phase == "backward":
            self.run.persistent = exact_bytes(self.job.tensors())
        if phase == "forward":
            self.phase = "loss"
        torch.cuda.reset_peak_memory_stats()
        self._since = time.perf_counter()

    def forget(self, tensors: list[torch.Tensor]) -> None:
        """They are not on the device."""


class History(Blind):
    """Follows one step through the allocator's history."""

    def __init__(self, job: Job) -> None:
        super().__init__("cuda")
        self.job = job
        self.inputs: list[torch.Tensor] = []
        self.marks: list[Mark] = []
        self.initial = _active(torch.cuda.memory._snapshot(), self._roles())

    def given(self, batch: Batch) -> None:
        """What the inputs are."""
        self.inputs = [t for t in batch.values() if isinstance(t, torch.Tensor)]

    def close(self, phase: Phase) -> None:
        """Note how many events there were, and what the addresses are."""
        self.marks.append(Mark(phase, len(_trace(torch.cuda.memory._snapshot())), self._roles()))
        if phase == "update":
            self.inputs = []

    def readings(self) -> list[Reading]:
        """What was alive, by category."""
        trace = _trace(torch.cuda.memory._snapshot())
        in_forward = [True] * len(trace)
        start = 0
        for mark in self.marks:
            in_forward[start : mark.position] = [mark.phase in ("forward", "loss")] * (mark.position - start)
            start = mark.position
        return read_history(self.initial, events_of(trace, in_forward), self.marks)

    def _roles(self) -> dict[int, Category]:
        roles: dict[int, Category] = {t.untyped_storage().data_ptr(): "inputs" for t in self.inputs}
        for category, tensors in self.job.tensors().items():
            roles.update({t.untyped_storage().data_ptr(): category for t in tensors})
        return roles


def events_of(trace: list[dict[str, Any]], in_forward: list[bool]) -> list[Event]:
    """The allocator's trace as births and deaths; entries of segments become events that change nothing.

    trace: entries with "action", "addr" and "size", as torch.cuda.memory._snapshot() has them.
    """
    events = []
    for entry, forward in zip(trace, in_forward, strict=True):
        if entry["action"] == "alloc":
            category: Category = "activations" if forward else "temporaries"
            events.append(Event(entry["addr"], round_to_block(entry["size"]), category))
        elif entry["action"] == "free_requested":
            events.append(Event(entry["addr"], 0))
        else:
            events.append(Event(-1, 0))
    return events


def _active(snapshot: dict[str, Any], roles: dict[int, Category]) -> list[Event]:
    """What is allocated before the step; what belongs to nobody are the libraries' workspaces."""
    found = []
    for segment in snapshot["segments"]:
        address = segment["address"]
        for piece in segment["blocks"]:
            if piece["state"] == "active_allocated":
                size = round_to_block(piece.get("requested_size", piece["size"]))
                found.append(Event(address, size, roles.get(address, "workspaces")))
            address += piece["size"]
    return found


def _trace(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
    traces: list[list[dict[str, Any]]] = snapshot["device_traces"]
    return traces[torch.cuda.current_device()]


def run_on_cuda(job: Job, *, warmup: int = 2, timed: int = 3) -> Run:
    """Warm-up steps, timed steps, one step read phase by phase, one that recomputes subspaces where the job has any,
    and one whose allocations are followed. Running out of memory ends it and is its outcome.
    """
    watch = Statistics(job)
    run = watch.run
    run.warmup_steps, run.measured_steps = warmup, timed
    torch.cuda.synchronize()
    weights = torch.cuda.memory_allocated()
    run.readings["load"] = Reading(phase="load", peak_bytes=weights, end_bytes=weights, at_peak={}, at_end={})
    following: list[Any] = [watch]
    nothing = (lambda: None, lambda: None)
    with marking(lambda: following[0].close("forward"), nothing, nothing):
        try:
            _steps(job, run, watch, following, warmup, timed)
        except torch.OutOfMemoryError as error:
            # The first sentence; the rest tells what to do about it.
            message = str(error).splitlines()[0].split(". Of the allocated")[0]
            run.outcome = Outcome(status="out-of-memory", phase=watch.phase, message=message)
        finally:
            torch.cuda.memory._record_memory_history(enabled=None)
    if run.outcome.status == "completed":
        _outside(run)
    return run


def _steps(job: Job, run: Run, watch: Statistics, following: list[Any], warmup: int, timed: int) -> None:
    for _ in range(warmup):
        run.note(run_step(job, watch))
    following[0] = Blind("cuda")
    spent = []
    for _ in range(timed):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        run.note(run_step(job, Blind("cuda")))
        torch.cuda.synchronize()
        spent.append(time.perf_counter() - begun)
    run.step_seconds = statistics.median(spent) if spent else None
    following[0] = watch
    watch.begin()
    run.note(run_step(job, watch))
    if job.refreshes:
        plain = {name: dict(getattr(run, name)) for name in ("readings", "reserved", "device", "seconds")}
        job.refresh_next()
        watch.begin()
        begun = time.perf_counter()
        run.note(run_step(job, watch))
        run.refresh_seconds = time.perf_counter() - begun
        job.refresh_no_more()
        last = dataclasses.replace(run.readings[job.updates_in], phase="refresh")
        at = {name: getattr(run, name)[job.updates_in] for name in ("reserved", "device", "seconds")}
        run.readings = {**plain["readings"], "refresh": last}
        run.reserved = {**plain["reserved"], "refresh": at["reserved"]}
        run.device = {**plain["device"], "refresh": at["device"]}
        run.seconds = {**plain["seconds"], "refresh": at["seconds"]}
    torch.cuda.synchronize()
    torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=HISTORY_ENTRIES)
    following[0] = history = History(job)
    run.note(run_step(job, history))
    for reading in history.readings():
        counted = run.readings[reading.phase]
        run.readings[reading.phase] = dataclasses.replace(counted, at_peak=reading.at_peak, at_end=reading.at_end)


def _outside(run: Run) -> None:
    """What the device gave out beside the allocator, and what the libraries hold within it."""
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    run.context_bytes = max(0, process_bytes(total - free) - torch.cuda.memory_reserved())
    before = torch.cuda.memory_allocated()
    torch._C._cuda_clearCublasWorkspaces()
    run.workspace_bytes = max(0, before - torch.cuda.memory_allocated())


def process_bytes(otherwise: int) -> int:
    """What NVML says this process holds of the device; `otherwise` where it does not say."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid() and process.usedGpuMemory:
                return int(process.usedGpuMemory)
    except Exception:  # not installed, no permission, another process namespace
        return otherwise
    return otherwise


def cap_memory(limit_bytes: int) -> float:
    """Hold this process's allocator to a smaller card's bytes; the share of this card that this is."""
    total = torch.cuda.mem_get_info()[1]
    share = min(1.0, limit_bytes / total)
    torch.cuda.set_per_process_memory_fraction(share)
    return share
