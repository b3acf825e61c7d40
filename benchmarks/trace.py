"""Our fake trace beside PyTorch's own MemTracker: the same step of the same model on the same fake tensors.

MemTracker follows modules as well as tensors; what both are asked for is the step's peak. Each runs in this process in
turn, model and optimizer built anew, which is left out of the time. MemTracker runs two steps, the first of which makes
the optimizer's states; our trace has them made without a forward and a backward pass, and follows one step. Full
training only: MemTracker (torch 2.13) cannot follow a model with frozen parameters.

    python -m benchmarks.trace [MODEL]        (default: llama-1b)
"""

import sys
import time
from pathlib import Path
from typing import Any

from torch.distributed._tools.mem_tracker import MemTracker

from memplanner.harness.builders.models import quiet_libraries
from memplanner.harness.cpu import faking, run_tracked
from memplanner.harness.job import job_of_plan
from memplanner.harness.loop import Untimed, run_step
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict


def ours(plan: TrainingPlan) -> tuple[float, int]:
    """(seconds, peak bytes) of a followed step, the optimizer's states included."""
    with faking(plan, Path()) as mode:
        job = job_of_plan(plan, Path(), "cpu", fake_mode=mode)
        with mode:
            begun = time.perf_counter()
            run = run_tracked(job, warmup=0)
            return time.perf_counter() - begun, max(reading.peak_bytes for reading in run.readings.values())


def mem_tracker(plan: TrainingPlan) -> tuple[float, int]:
    """The same under MemTracker."""
    with faking(plan, Path()) as mode:
        job = job_of_plan(plan, Path(), "cpu", fake_mode=mode)
        with mode:
            tracker = MemTracker()
            tracker.track_external(job.model, *job.optimizers)
            begun = time.perf_counter()
            with tracker:
                for number in range(2):
                    if number:
                        tracker.reset_mod_stats()
                    run_step(job, Untimed("cpu"))
            seconds = time.perf_counter() - begun
            snapshot: Any = tracker.get_tracker_snapshot("peak")
            return seconds, max(int(sum_of(device)) for device in snapshot.values())


def sum_of(device: Any) -> int:
    """A device's total in a snapshot, which names it or not depending on the version."""
    return next((v for k, v in device.items() if str(k).endswith("Total")), max(device.values()))


def main() -> None:
    quiet_libraries()
    model = sys.argv[1] if len(sys.argv) > 1 else "llama-1b"
    for batch_size in (1, 16):
        plan = TrainingPlan.model_validate(
            {"model": model, "step": {"batch_size": batch_size, "seq_len": 256}, "device": "80GiB"}
        )
        estimate = predict(plan)
        workspaces = estimate.workspace_bytes
        seconds, peak = ours(plan)
        their_seconds, their_peak = mem_tracker(plan)
        print(f"{model}, batch {batch_size}: predicted {estimate.allocated_bytes - workspaces:>14,} B")
        print(f"  our trace   {seconds:7.2f} s  {peak:>14,} B")
        print(f"  MemTracker  {their_seconds:7.2f} s  {their_peak:>14,} B  ({their_peak / peak - 1:+.3%})")
        print(f"  ours takes 1/{their_seconds / seconds:.1f} of the time")


if __name__ == "__main__":
    main()
