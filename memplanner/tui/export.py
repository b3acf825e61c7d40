"""Writes plan files and reports from the interface. Only after a question is a file replaced."""

from pathlib import Path
from typing import Any

from memplanner.catalogue import find_model
from memplanner.files.write import write_text
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.report.phrases import device_word
from memplanner.settings.errors import show


def plan_table(plan: TrainingPlan, root: Path) -> dict[str, Any]:
    """The plan as a file's table: settings that differ from their defaults, every kind, and absolute model paths."""
    table = plan.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    for name in ("method", "optimizer"):
        table[name] = {"kind": getattr(plan, name).kind, **table.get(name, {})}
    if "loss" in table.get("step", {}):
        table["step"]["loss"]["kind"] = plan.step.loss.kind
    device = {"kind": plan.device.kind, **table.get("device", {})}
    table["device"] = device_word(plan) if plan.device.context is None else device
    table["model"] = _anywhere(plan.model, root)
    assert merge(table, {}, where="plan") == plan.model_copy(update={"model": table["model"]})
    return table


def _anywhere(model: str, root: Path) -> str:
    """A bundled model's name, or the absolute path of the user's own model."""
    if find_model(model, root).parameters is not None:
        return model
    return str((root / Path(model).expanduser()).absolute())


def save_plan(plan: TrainingPlan, path: Path, root: Path) -> None:
    """Write the plan as TOML; UserError where that cannot be done."""
    import tomli_w

    comment = "# A training plan. `memplanner check --plan FILE` says whether it fits.\n"
    write_text(path, comment + tomli_w.dumps(plan_table(plan, root)))


def save_report(svg: str, markdown: str, stem: Path) -> tuple[Path, Path]:
    """The screen as SVG and the plan's report as Markdown, under the next free name; the two paths."""
    number = 1
    while True:
        name = stem.name if number == 1 else f"{stem.name}-{number}"
        paths = stem.with_name(f"{name}.svg"), stem.with_name(f"{name}.md")
        if not any(path.exists() for path in paths):
            break
        number += 1
    write_text(paths[0], svg)
    write_text(paths[1], markdown)
    return paths


def can_be_saved(text: str) -> str:
    """What is wrong with a file name, or ""."""
    if not text:
        return "a file needs a name"
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return f"{show(text)} is a directory"
    except (OSError, ValueError) as error:
        return f"{show(text)}: {error}"
    return "" if path.suffix == ".toml" else "a plan file's name ends in .toml"
