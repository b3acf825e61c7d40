"""Records the types that ship anew, holds them against traces and says what changed:
`python -m tests.harness.rewrite_recorded`, or with names of types these alone, new ones too.

A type whose recording does not give what a trace gives is left as it is.
"""

import difflib
import sys

from memplanner.catalogue import all_models
from memplanner.errors import UserError
from memplanner.harness.forward.made import differences, made
from memplanner.prediction.recorded import recording_name, shipped_path, shipped_types

SHOWN = 12
"""Lines that changed, of each type."""


def main() -> int:
    types = sys.argv[1:] or sorted(shipped_types())
    failed = [model_type for model_type in types if not _rewritten(model_type)]
    print(f"{len(types)} types" + (f"; left as they are: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _rewritten(model_type: str) -> bool:
    """Whether the file holds what the installed transformers gives."""
    configs = [profile.config for profile in all_models() if recording_name(profile.config) == model_type]
    try:
        text, recorded, sources = made(configs or [{"model_type": model_type}], model_type)
        found = [*differences(recorded, sources)]
    except UserError as error:
        print(f"{model_type}: {error}")
        return False
    worst = max(found, key=lambda d: d.worst)
    holds = all(difference.holds for difference in found)
    kept = "equal" if all(difference.kept for difference in found) else "NOT EQUAL"
    print(
        f"{model_type}: {len(sources)} programs, worst {worst.worst:.4%} ({worst.plan}: {worst.phase}), parameters and "
        f"states {kept}, {_changes(model_type, text)}",
        flush=True,
    )
    if holds:
        shipped_path(model_type).write_text(text, encoding="utf-8")
    return holds


def _changes(model_type: str, text: str) -> str:
    path = shipped_path(model_type)
    before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    changed = [
        line
        for line in difflib.unified_diff(before, text.splitlines(), n=0, lineterm="")
        if line.startswith(("+", "-")) and not line.startswith(("+++", "---", '+"sha256"', '-"sha256"'))
    ]
    if not changed:
        return "as before"
    if not before:
        return "new"
    more = [f"and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
    return "\n  ".join([f"{len(changed)} lines changed", *changed[:SHOWN], *more])


if __name__ == "__main__":
    sys.exit(main())
