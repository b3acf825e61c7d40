"""Runs a plan or an entry point on a backend and makes the run's record, with the environment it was made in."""

import datetime
import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from memplanner.catalogue import find_gpu
from memplanner.errors import UnsupportedError
from memplanner.files.write import MOST_NAME_BYTES, cut
from memplanner.harness.builders.models import quiet_libraries
from memplanner.harness.cpu import run_fake, run_tracked
from memplanner.harness.errors import NotBuildableError
from memplanner.harness.job import Job, config_of, count_parameters, job_of_entry, job_of_plan, name_of
from memplanner.harness.rank_energy import rank_evidence
from memplanner.harness.run import RunResult
from memplanner.measurement import (
    Backend,
    Environment,
    Measurement,
    Outcome,
    PhaseRecord,
    WeightEvidence,
    bounded,
    sentences,
)
from memplanner.plan.training_plan import GpuDevice, TrainingPlan
from memplanner.timeline import PHASES
from memplanner.units import MIB, format_bytes, parse_size

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "galore-torch",
    "flash-attn",
    "safetensors",
    "triton",
)


def measure(
    plan: TrainingPlan | None,
    backend: Backend,
    *,
    name: str,
    root: Path = Path(),
    entry: str | Callable[[], object] = "",
    capped: bool = False,
    evidence: bool = False,
    warmup: int = 1,
    timed: int = 2,
    needed_bytes: int = 0,
) -> Measurement:
    """The record of the plan (or, with `entry`, of the user's own function) on the backend.

    capped: on CUDA, limit the process to what the plan's card offers. evidence: also measure how much of each weight's
    gradient low ranks hold. needed_bytes: what the step is expected to take; on a CPU with less it is not begun. A plan
    that cannot be built and running out of memory are outcomes, not errors.
    """
    quiet_libraries()
    run = RunResult()
    counts = (0, 0)
    share = None
    ranks: tuple[WeightEvidence, ...] = ()
    tokens = 0
    try:
        if backend == "cuda" and plan is not None:
            _set_allocator(plan)
            share = _cap(plan) if capped else None
        if backend == "fake":
            assert plan is not None, "an entry point has no fake tensors"
            job, run = run_fake(plan, root)
        else:
            if backend == "cpu":
                _require_memory(needed_bytes)
            job = job_of_entry(entry, root, backend) if plan is None else job_of_plan(plan, root, backend)
            run = _run(job, backend, warmup, timed)
            if evidence and run.outcome.status == "completed":
                ranks = _evidence(job, backend, run)
        counts, tokens = count_parameters(job.model), job.tokens_per_step
    except (NotBuildableError, UnsupportedError) as error:
        run.outcome = Outcome(status="cannot-be-built", phase="load", message=sentences(str(error)))
    except torch.OutOfMemoryError as error:
        run.outcome = Outcome(status="out-of-memory", phase="load", message=sentences(str(error).splitlines()[0]))
    outcome = run.outcome.model_copy(update={"message": sentences(run.outcome.message, _not_finite(run.losses))})
    record = Measurement(
        id=cut(name, MOST_NAME_BYTES),
        backend=backend,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        plan=plan,
        entry=entry if isinstance(entry, str) else name_of(entry),
        config=None if plan is None else config_of(plan, root),
        environment=environment(backend, share),
        outcome=outcome,
        phases=_phases(run, backend),
        persistent=run.persistent,
        num_parameters=counts[0],
        num_trainable=counts[1],
        context_bytes=run.context_bytes,
        workspace_bytes=run.workspace_bytes,
        warmup_steps=run.warmup_steps,
        measured_steps=run.measured_steps,
        step_seconds=run.step_seconds,
        refresh_seconds=None if backend == "fake" else run.refresh_seconds,
        tokens_per_second=tokens / run.step_seconds if run.step_seconds else None,
        losses=tuple(loss if math.isfinite(loss) else None for loss in run.losses),
        rank_evidence=ranks,
    )
    return bounded(record)


def _not_finite(losses: list[float]) -> str:
    """What is said of losses that are no numbers: the step took its memory all the same, and its record is kept."""
    steps = [number for number, loss in enumerate(losses, 1) if not math.isfinite(loss)]
    if not steps:
        return ""
    first = f"the loss of step {steps[0]} of {len(losses)} is {losses[steps[0] - 1]}"
    return f"{first}, and of {len(steps) - 1} later steps not finite" if len(steps) > 1 else first


def _evidence(job: Job, backend: Backend, run: RunResult) -> tuple[WeightEvidence, ...]:
    try:
        ranks = rank_evidence(job, backend)
        empty = sum(not weight.energy for weight in ranks)
        if empty:
            message = f"no rank evidence of {empty} of {len(ranks)} weights, whose gradients are not finite"
            run.outcome = Outcome(status="completed", message=message)
        return tuple(weight for weight in ranks if weight.energy)
    except torch.OutOfMemoryError:
        run.outcome = Outcome(
            status="completed", message="the steps completed, then measuring rank evidence ran out of memory"
        )
        return ()


def _run(job: Job, backend: Backend, warmup: int, timed: int) -> RunResult:
    if backend == "cpu":
        return run_tracked(job, warmup=warmup, timed=timed)
    from memplanner.harness.cuda import run_on_cuda

    return run_on_cuda(job, warmup=max(2, warmup), timed=timed)


def _require_memory(needed_bytes: int) -> None:
    """Refuse a step that needs more memory than this machine has free: the system would kill the process."""
    available_here = available_bytes()
    if available_here is not None and needed_bytes > available_here:
        raise NotBuildableError(
            f"its step needs {format_bytes(needed_bytes)} and this machine has {format_bytes(available_here)} free; "
            "fake tensors take no memory"
        )


def available_bytes() -> int | None:
    """Memory that the system could still give out, in bytes; None on systems without Linux's /proc/meminfo."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    available_kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if available_kib is None else int(available_kib) * 1024


def _set_allocator(plan: TrainingPlan) -> None:
    """Set the plan's options of the caching allocator. Call it before the process allocates anything on the device."""
    options = []
    if plan.allocator.expandable_segments:
        options.append("expandable_segments:True")
    if plan.allocator.max_split_size is not None:
        options.append(f"max_split_size_mb:{parse_size(plan.allocator.max_split_size) // MIB}")
    if options:
        torch.cuda.memory._set_allocator_settings(",".join(options))


def _cap(plan: TrainingPlan) -> float | None:
    """Limit the allocator to what the plan's card would leave beside the CUDA context; the share of this card."""
    if not isinstance(plan.device, GpuDevice):
        return None
    from memplanner.harness.cuda import cap_memory

    card, stated = find_gpu(plan.device.name), plan.device.context
    context_bytes = card.context.bytes if stated is None else parse_size(stated)
    return cap_memory(max(card.total.bytes - context_bytes, 0))


def _phases(run: RunResult, backend: Backend) -> tuple[PhaseRecord, ...]:
    return tuple(
        PhaseRecord(
            name=name,
            peak_bytes=reading.end_bytes if name == "steady" else reading.peak_bytes,
            end_bytes=reading.end_bytes,
            at_peak=reading.at_end if name == "steady" else reading.at_peak,
            at_end=reading.at_end,
            reserved_bytes=run.reserved.get(name),
            device_bytes=run.device.get(name),
            seconds=None if backend == "fake" else run.seconds.get(name),
        )
        for name in PHASES
        if (reading := run.readings.get(name)) is not None
    )


def environment(backend: Backend, share: float | None = None) -> Environment:
    """The versions, the machine and the device that this process runs with."""
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpu: dict[str, Any] = {}
    if backend == "cuda":
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = {
            "gpu": properties.name,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "gpu_total_bytes": torch.cuda.mem_get_info()[1],
            "memory_fraction": share,
        }
    return Environment(
        memplanner=importlib.metadata.version("memplanner"),
        commit=_commit(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        libraries={**libraries, "torch": str(torch.__version__)},
        allocator=sentences(os.environ.get("PYTORCH_ALLOC_CONF", os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""))),
        **gpu,
    )


def _driver() -> str | None:
    output = _output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return output.splitlines()[0].strip() if output else None


def _commit() -> str:
    """The commit of the running sources, with "+" where they differ from it; "" outside a repository."""
    here = str(Path(__file__).parent)
    commit = _output_of(["git", "-C", here, "rev-parse", "HEAD"]).strip()
    if re.fullmatch(r"[0-9a-f]{40}", commit) is None or not _output_of(["git", "-C", here, "ls-files", __file__]):
        return ""
    return commit + ("+" if _output_of(["git", "-C", here, "status", "--porcelain", "--", here]) else "")


def _output_of(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def available(backend: Backend) -> str:
    """Why this machine cannot run the backend; "" where it can."""
    if backend == "cuda" and not torch.cuda.is_available():
        return f"torch {torch.__version__} on {sys.platform} sees no CUDA device"
    return ""


def forked_too_late() -> bool:
    """Whether this process was forked from one that had used CUDA, in which case CUDA cannot be used here."""
    return bool(torch.cuda._is_in_bad_fork())
