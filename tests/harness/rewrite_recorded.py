"""Records the types that ship anew, holds them against traces, says what changed and writes docs/models.md:
`python -m tests.harness.rewrite_recorded`, or with names of types these alone, new ones too.

A type whose recording does not give what a trace gives is left as it is.
"""

import difflib
import re
import sys
from pathlib import Path

from memplanner.catalogue import all_models
from memplanner.errors import UserError
from memplanner.harness.forward.made import differences, made
from memplanner.prediction.recorded import answer_of, recording_name, shipped_path, shipped_types

SHOWN = 12
"""Lines that changed, of each type."""
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
ROW = re.compile(r"^\| `([a-z0-9_-]+)` \|.*$", re.MULTILINE)
TEXT = """# Which models, and how each is answered

Written by `make record`.

- **Written** by hand, and held against traces and measurements: {written}.
- **Recorded**: the types of this table. The forward pass of transformers' own class was recorded, operation by
  operation, with sizes that are expressions of the settings in config.json; methods, precisions, checkpointing, padding
  and attention kernels are applied when a plan is predicted, without torch.
- **Traced**: every other type that the installed transformers has, with `pip install 'memplanner[live]'`; and of the
  types of this table other tasks than causal language modelling, settings that decide the structure of the forward pass
  and were not recorded, and adapters of experts.

`memplanner models` says which it is of the {count} bundled models; `memplanner record` records another type.

The last two columns compare a recording with traces of the very step, of a model of 6 layers with small sizes: full
training in bf16, LoRA with autocast and checkpointing, LoRA over nf4, and full training in fp32 with eager attention
and every second block checkpointed. The difference is the largest of any phase's peak or end.

| type | bundled models | programs | worst difference | parameters, gradients, states |
| --- | --- | ---: | ---: | --- |
{rows}
"""


def main() -> int:
    types = sys.argv[1:] or sorted(shipped_types())
    rows = {found[1]: found[0] for found in ROW.finditer(PAGE.read_text(encoding="utf-8"))} if PAGE.exists() else {}
    failed = []
    for model_type in types:
        row = _rewritten(model_type)
        if row:
            rows[model_type] = row
        else:
            failed.append(model_type)
    shipped_types.cache_clear()
    models = all_models()
    written = sorted({model.model_type for model in models if answer_of(model.config) == "written"})
    kept = [rows[model_type] for model_type in sorted(shipped_types()) if model_type in rows]
    text = TEXT.format(written=", ".join(f"`{t}`" for t in written), count=len(models), rows="\n".join(kept))
    PAGE.write_text(text, encoding="utf-8")
    print(f"{len(types)} types" + (f"; left as they are: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _rewritten(model_type: str) -> str:
    """The type's row of the page; empty where the file is left as it is."""
    bundled = [profile for profile in all_models() if recording_name(profile.config) == model_type]
    try:
        text, recorded, sources = made([p.config for p in bundled] or [{"model_type": model_type}], model_type)
        found = [*differences(recorded, sources)]
    except UserError as error:
        print(f"{model_type}: {error}", flush=True)
        return ""
    worst = max(found, key=lambda difference: difference.worst)
    kept = "equal" if all(difference.kept for difference in found) else "not equal"
    holds = all(difference.holds for difference in found)
    print(
        f"{model_type}: {len(sources)} programs, worst {worst.worst:.4%} ({worst.plan}: {worst.phase}), parameters and "
        f"states {kept}, {_changes(model_type, text)}",
        flush=True,
    )
    if not holds:
        return ""
    shipped_path(model_type).write_text(text, encoding="utf-8")
    names = ", ".join(profile.id for profile in bundled) or "–"
    return f"| `{model_type}` | {names} | {len(sources)} | {worst.worst:.4%} | {kept} |"


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
