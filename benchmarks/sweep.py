"""How long a sweep takes: some ten thousand plans, each in a process of its own on one core.

`python -m benchmarks.sweep [--rounds N]`. Time per plan, best of N, and the share of plans whose allocator had to be
replayed. Plans that differ in the card, the batch or the sequence share a walk, so that most of the time goes into the
allocator's replay, which models with many layers make dear. Bytecode is there, as on any second start.
"""

import argparse
import subprocess
import sys

from benchmarks.cold_start import ENVIRONMENT

GPUS = (
    "rtx4090,rtx3090,t4,a10,a10g,l4,l40s,a40,rtxa6000,rtx3060,"
    "rtx4080,rtx5090,v100-16gb,v100-32gb,a100-40gb,a100-80gb,h100-sxm,rtx2080ti,rtxa4000,rtx4070"
)
AXES = f"--rank 8,16,...,1024 --batch-size 1..16 --seq-len 256,512,1024,2048 --gpu {GPUS}".split()
MODELS = (
    ("llama-60m", "lora"),
    ("llama-350m", "gradnormlorp"),
    ("llama-1b", "galore"),
    ("llama-7b", "lora"),
    ("llama-7b", "gradnormlorp"),
)
LIMIT_S = 5.0
"""What ten thousand plans may take."""
CHILD = """
import csv, io, sys, time
from contextlib import redirect_stdout
from memplanner.cli.main import main
began, out = time.perf_counter(), io.StringIO()
with redirect_stdout(out):
    main(sys.argv[1:])
took = time.perf_counter() - began
rows = list(csv.DictReader(io.StringIO(out.getvalue())))
print(took, len(rows), sum(bool(row["device_bytes"]) for row in rows))
"""


def once(model: str, method: str) -> tuple[float, int, int]:
    """Seconds, plans, and plans whose reserved memory was worked out."""
    words = ["sweep", model, "--method", method, *AXES, "--format", "csv"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    seconds, plans, replayed = done.stdout.split()
    return float(seconds), int(plans), int(replayed)


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="how often each is timed (default: 2)")
    rounds = parser.parse_args().rounds
    print(f"{'sweep':<28}{'plans':>8}{'within reach':>14}{'seconds':>10}{'per plan':>12}")
    for model, method in MODELS:
        seconds, plans, replayed = min(once(model, method) for _ in range(rounds))
        said = "met" if seconds * 10_000 / plans < LIMIT_S else "missed"
        print(
            f"{model + ' ' + method:<28}{plans:>8,}{replayed / plans:>13.0%}{seconds:>10.2f}"
            f"{seconds / plans * 1e3:>9.2f} ms  {said}"
        )


if __name__ == "__main__":
    main()
