"""Cold starts: `memplanner check` beside a peer's command line, and where the time goes.

`python -m benchmarks.cold_start [--pairs N]`. Both are asked whether full bf16 training of LLaMA-7B, one sequence of
2048 tokens, fits an RTX 4090, and answer in JSON. The two run in turn, N pairs, each pair in the other order than the
one before; the figure is the median of the pairs' ratios, with its middle half. The peer is vramcalc (extra `bench`).
Both run from bytecode, which an unmeasured run writes first, as they do on any machine from the second start on.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

LIMIT_RATIO = 1.5
"""What a cold start may take, in times of the peer's."""

PEER_VERSION = "0.1.2"
SCRIPTS = Path(sys.executable).parent
MODEL = Path(__file__).resolve().parent.parent / "profiles" / "models" / "llama-7b.json"
QUESTION = ["check", "llama-7b", "--gpu", "rtx4090", "--format", "json"]
SAME = ["--method", "full", "--precision", "bf16", "--batch-size", "1", "--seq-len", "2048"]
MEMPLANNER = [str(SCRIPTS / "memplanner"), *QUESTION, *SAME]
PEER = [
    *(str(SCRIPTS / "vramcalc"), "estimate", str(MODEL), "--train", "--precision", "pure", "--dtype", "bf16"),
    *("--batch", "1", "--seq", "2048", "--gpu", "RTX 4090", "--json"),
]
STEPS = {
    "python, nothing imported": [sys.executable, "-c", "pass"],
    "import argparse": [sys.executable, "-c", "import argparse"],
    "import pydantic's BaseModel": [sys.executable, "-c", "from pydantic import BaseModel"],
    "import memplanner.plan.training_plan": [sys.executable, "-c", "import memplanner.plan.training_plan"],
    "from memplanner import predict": [sys.executable, "-c", "from memplanner import predict"],
}
"""What a cold start consists of, each on top of the one before."""

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def milliseconds(command: list[str]) -> float:
    """Wall time of one process; 0 (fits) and 1 (does not) are both answers."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False, env=ENVIRONMENT)
    elapsed = (time.perf_counter() - start) * 1e3
    if done.returncode not in (0, 1) or done.stderr:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr.decode(errors='replace')}")
    return elapsed


def pairs(count: int) -> tuple[list[float], list[float]]:
    """Times of memplanner and of the peer, pair by pair, after one unmeasured run of each."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for i in range(-1, count):
        order = [("ours", MEMPLANNER), ("peer", PEER)]
        for name, command in order if i % 2 else reversed(order):
            elapsed = milliseconds(command)
            if i >= 0:
                times[name].append(elapsed)
    return times["ours"], times["peer"]


def import_times(command: list[str]) -> Counter[str]:
    """Milliseconds spent in each top-level package's own modules, from one run under -X importtime."""
    script, *arguments = command
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    own: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        words = line.removeprefix("import time:").split("|")
        if len(words) == 3 and words[0].strip().isdigit():
            top = words[2].strip().partition(".")[0]
            own["standard library" if top in sys.stdlib_module_names else top] += int(words[0])
    return Counter({name: round(micros / 1e3) for name, micros in own.items()})


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=25, help="how many pairs of runs (default: 25)")
    count = parser.parse_args().pairs
    if not Path(PEER[0]).exists():
        sys.exit("vramcalc is not installed: pip install '.[bench]'")

    ours, peer = pairs(count)
    low, ratio, high = quartiles([a / b for a, b in zip(ours, peer, strict=True)])
    print(f"Cold start, {count} interleaved pairs\n")
    print(f"{'command':<36}{'best':>9}{'median':>11}")
    for name, values in (("memplanner check", ours), (f"vramcalc {PEER_VERSION} estimate", peer)):
        print(f"{name:<36}{min(values):>6.0f} ms{statistics.median(values):>8.0f} ms")
    met = "met" if ratio <= LIMIT_RATIO else "missed"
    print(f"\nratio {ratio:.2f} (middle half {low:.2f}–{high:.2f}), wanted at most {LIMIT_RATIO}: {met}\n")

    print("Where the time goes: processes\n")
    steps = {name: [milliseconds(command) for _ in range(count)] for name, command in STEPS.items()}
    for name, values in steps.items():
        print(f"{name:<36}{min(values):>6.0f} ms{statistics.median(values):>8.0f} ms")

    print("\nWhere the time goes: imports of memplanner check, own milliseconds by package (-X importtime adds some)\n")
    for name, spent in import_times(MEMPLANNER).most_common(8):
        print(f"{name:<36}{spent:>6} ms")


if __name__ == "__main__":
    main()
