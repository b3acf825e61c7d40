"""Measures steps on a CUDA device: totals by the caching allocator's counters, categories by its recorded history.

The step whose history is recorded is one more, so that recording adds nothing to the times of the others.
"""

import contextlib
import dataclasses
import os
import statistics
import time
from typing import Any

import torch

from memplanner.harness.cpu import exact_bytes, no_decomposition
from memplanner.harness.history import Event, Mark, Reading, read_history
from memplanner.harness.job import Batch, Job
from memplanner.harness.loop import Untimed, marking, run_step
from memplanner.harness.run import RunResult
from memplanner.measurement import Outcome
from memplanner.program.program import round_to_block
from memplanner.timeline import Category, Phase

HISTORY_ENTRIES = 2_000_000
"""The most events that the allocator's history keeps; a step with more would lose its first ones."""


class Statistics:
    """Reads the allocator's counters at the end of every phase."""

    device = "cuda"

    def __init__(self, job: Job) -> None:
        self.job = job
        self.run = RunResult()
        self.phase: Phase = "load"
        self._since = time.perf_counter()

    def begin(self) -> None:
        """Reset the peak counters and the clock before a step."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._since = time.perf_counter()

    def watching(self) -> contextlib.AbstractContextManager[Any]:
        """No mode is needed: the allocator counts by itself."""
        return contextlib.nullcontext()

    def on_batch(self, batch: Batch) -> None:
        """Nothing to do: the allocator's counters include the inputs."""

    def on_phase_begin(self, phase: Phase) -> None:
        """Remember the phase, for reporting where memory ran out."""
        self.phase = phase

    def on_phase_end(self, phase: Phase) -> None:
        """Read the counters, then reset the peak for the next phase."""
        if phase == "forward" and self.phase == "loss":  # a second loss of the same forward pass
            return
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

    def on_host(self, tensors: list[torch.Tensor]) -> None:
        """Nothing to do: the device's counters do not include tensors on the host."""


class History(Untimed):
    """Finds what is alive at the peaks of one step, by category, in the allocator's history."""

    def __init__(self, job: Job) -> None:
        super().__init__("cuda")
        self.job = job
        self.inputs: list[torch.Tensor] = []
        self.marks: list[Mark] = []
        self.initial = _active(torch.cuda.memory._snapshot(), self._roles())

    def on_batch(self, batch: Batch) -> None:
        """Keep the batch's tensors, whose addresses are looked up at the end of each phase."""
        self.inputs = [t for t in batch.values() if isinstance(t, torch.Tensor)]

    def on_phase_end(self, phase: Phase) -> None:
        """Record how many events there were so far, and which category each address belongs to now."""
        self.marks.append(Mark(phase, len(_trace(torch.cuda.memory._snapshot())), self._roles()))
        if phase == "update":
            self.inputs = []

    def readings(self) -> list[Reading]:
        """One reading per phase: what was alive at its peak and at its end, by category."""
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
    """The allocator's trace as births and deaths. Entries about segments become events that change nothing, so that
    positions in the trace stay valid.


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
    """Births of what exists before the step. Blocks that no tensor of the job uses are the libraries' workspaces."""
    events = []
    for segment in snapshot["segments"]:
        address = segment["address"]
        for piece in segment["blocks"]:
            if piece["state"] == "active_allocated":
                size = round_to_block(piece.get("requested_size", piece["size"]))
                events.append(Event(address, size, roles.get(address, "workspaces")))
            address += piece["size"]
    return events


def _trace(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
    traces: list[list[dict[str, Any]]] = snapshot["device_traces"]
    return traces[torch.cuda.current_device()]


def run_on_cuda(job: Job, *, warmup: int = 2, timed: int = 3) -> RunResult:
    """Runs warm-up steps, timed steps, one step whose counters are read at each phase, one that recomputes subspaces
    where the job has any, and one whose every allocation is recorded. Running out of memory ends the run and becomes
    its outcome.
    """
    watch = Statistics(job)
    run = watch.run
    run.warmup_steps, run.measured_steps = warmup, timed
    torch.cuda.synchronize()
    weights = torch.cuda.memory_allocated()
    run.readings["load"] = Reading(phase="load", peak_bytes=weights, end_bytes=weights, at_peak={}, at_end={})
    watcher: list[Any] = [watch]  # its one item is exchanged while `marking` keeps calling it
    nothing = (lambda: None, lambda: None)
    with marking(lambda: watcher[0].on_phase_end("forward"), nothing, nothing):
        try:
            _steps(job, run, watch, watcher, warmup, timed)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            run.outcome = no_decomposition(error, watch.phase)
        except torch.OutOfMemoryError as error:
            # The first sentence says what happened; the others advise.
            message = str(error).splitlines()[0].split(". Of the allocated")[0]
            run.outcome = Outcome(status="out-of-memory", phase=watch.phase, message=message)
        finally:
            torch.cuda.memory._record_memory_history(enabled=None)
    if run.outcome.status == "completed":
        _measure_outside(run)
    return run


def _steps(job: Job, run: RunResult, watch: Statistics, watcher: list[Any], warmup: int, timed: int) -> None:
    for _ in range(warmup):
        run.note(run_step(job, watch))
    watcher[0] = Untimed("cuda")
    durations = []
    for _ in range(timed):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run.note(run_step(job, Untimed("cuda")))
        torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    run.step_seconds = statistics.median(durations) if durations else None
    watcher[0] = watch
    watch.begin()
    run.note(run_step(job, watch))
    if job.refreshes:
        # The refreshing step writes into the same dictionaries: keep the plain step's, and put its own beside them.
        plain = {name: dict(getattr(run, name)) for name in ("readings", "reserved", "device", "seconds")}
        job.refresh_next()
        watch.begin()
        start = time.perf_counter()
        run.note(run_step(job, watch))
        run.refresh_seconds = time.perf_counter() - start
        job.refresh_no_more()
        last = dataclasses.replace(run.readings[job.updates_in], phase="refresh")
        refreshed = {name: getattr(run, name)[job.updates_in] for name in ("reserved", "device", "seconds")}
        run.readings = {**plain["readings"], "refresh": last}
        run.reserved = {**plain["reserved"], "refresh": refreshed["reserved"]}
        run.device = {**plain["device"], "refresh": refreshed["device"]}
        run.seconds = {**plain["seconds"], "refresh": refreshed["seconds"]}
    torch.cuda.synchronize()
    torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=HISTORY_ENTRIES)
    watcher[0] = history = History(job)
    run.note(run_step(job, history))
    for reading in history.readings():
        counted = run.readings[reading.phase]
        run.readings[reading.phase] = dataclasses.replace(counted, at_peak=reading.at_peak, at_end=reading.at_end)


def _measure_outside(run: RunResult) -> None:
    """Measure what the process uses outside the allocator, and what cuBLAS keeps within it as workspaces."""
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    run.context_bytes = max(0, process_bytes(total - free) - torch.cuda.memory_reserved())
    before = torch.cuda.memory_allocated()
    torch._C._cuda_clearCublasWorkspaces()
    run.workspace_bytes = max(0, before - torch.cuda.memory_allocated())


def process_bytes(otherwise: int) -> int:
    """The device memory of this process by NVML; `otherwise` where NVML cannot tell."""
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
    """Limit this process's allocator to `limit_bytes`; returns their share of this card's memory."""
    total = torch.cuda.mem_get_info()[1]
    share = min(1.0, limit_bytes / total)
    torch.cuda.set_per_process_memory_fraction(share)
    return share
