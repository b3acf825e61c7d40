"""python -m tests.fuzz N [SEED] [--only NAME] [--start NUMBER]: a campaign of N inputs; exit code 1 on a finding."""

import argparse
import resource
import sys

from tests.fuzz.campaign import campaign, laid_out
from tests.fuzz.targets import TARGETS

MEMORY = 4 << 30


def run() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("inputs", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=1)
    parser.add_argument("--only", default="", help="the beginning of a target's name")
    parser.add_argument("--start", type=int, default=0, help="the number of the first input of each target")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    targets = tuple(target for target in TARGETS if target.name.startswith(args.only))
    inputs = findings = 0
    print(f"{'target':<28}{'inputs':>9}{'refused':>9}{'answered':>9}{'a second':>9}{'slowest':>9}  findings")
    with laid_out():
        for target, tally, seconds in campaign(args.inputs, args.seed, targets=targets, start=args.start):
            inputs += tally.inputs
            findings += sum(tally.findings.values())
            print(
                f"{target.name:<28}{tally.inputs:>9}{tally.refused:>9}{tally.inputs - tally.refused:>9}"
                f"{tally.inputs / max(seconds, 1e-9):>9.0f}{tally.slowest[0]:>8.2f}s  {sum(tally.findings.values())}",
                flush=True,
            )
            for what, count in tally.findings.most_common():
                number, details = tally.first[what]
                print(
                    f"\n  {count} × {what}\n  first: --only '{target.name}' --start {number} 1 {args.seed}\n{details}"
                )
    print(f"{inputs} inputs, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(run())
