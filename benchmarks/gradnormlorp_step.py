"""A GradNormLoRP step beside the public way to it, at equal rank: peft's DoRA under GaLore's AdamW.

Real steps on this machine's processor, interleaved: every method steps once per round, in turn, and each is compared by
its median time and its peak of live bytes. The public code runs DoRA with dropout 0.1; DoRA without it, under torch's
own AdamW, is the third rival, since it is peft's fastest path.

    python -m benchmarks.gradnormlorp_step [--model llama-60m] [--rank 32] [--rounds 7] [--precision fp32]
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from memplanner.harness.builders.models import quiet_libraries
from memplanner.harness.cpu import run_tracked
from memplanner.harness.job import Job, job_of_plan
from memplanner.harness.loop import Untimed, run_step
from memplanner.plan.training_plan import TrainingPlan
from memplanner.units import format_bytes


def methods(rank: int) -> dict[str, dict[str, Any]]:
    """What is compared; ratios are to the first."""
    shared = {"rank": rank, "train_rest": False, "kind": "gradnormlorp"}
    return {
        "GradNormLoRP, two-sided": {**shared, "projection_rank": rank // 2},
        "GradNormLoRP, one-sided": {**shared, "projection_rank": rank // 2, "projection": "one-sided"},
        "GradNormLoRP, exact norm": {**shared, "projection_rank": rank // 2, "norm": "exact"},
        "DoRA + GaLoreAdamW": {**shared, "projection_rank": rank // 2, "implementation": "dora-galore"},
        "DoRA + AdamW, no dropout": {
            "kind": "dora",
            "rank": rank,
            "target_modules": ["all-linear"],
            "adapter_dtype": "base",
        },
    }


def seconds(job: Job) -> float:
    begun = time.perf_counter()
    run_step(job, Untimed("cpu"))
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-60m")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, default=2)
    args = parser.parse_args()
    quiet_libraries()
    torch.manual_seed(0)
    step = {"batch_size": args.batch_size, "seq_len": 256}
    jobs = {}
    for name, method in methods(args.rank).items():
        fields = {"model": args.model, "precision": args.precision, "device": "80GiB", "method": method, "step": step}
        jobs[name] = job_of_plan(TrainingPlan.model_validate(fields), Path(), "cpu")
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        seconds(job)
    for _ in range(args.rounds):
        for name, job in jobs.items():
            times[name].append(seconds(job))
    peaks = {name: max(r.peak_bytes for r in run_tracked(job).readings.values()) for name, job in jobs.items()}
    first = next(iter(jobs))
    base_time, base_peak = statistics.median(times[first]), peaks[first]
    print(f"{args.model}, rank {args.rank}, {args.precision}, batch {args.batch_size} × 256, median of {args.rounds}\n")
    print(f"{'':<28}{'step':>10}{'ratio':>8}{'peak':>14}{'ratio':>8}")
    for name in jobs:
        median, peak = statistics.median(times[name]), peaks[name]
        print(f"{name:<28}{median:>8.2f} s{median / base_time:>8.2f}{format_bytes(peak):>14}{peak / base_peak:>8.2f}")


if __name__ == "__main__":
    main()
