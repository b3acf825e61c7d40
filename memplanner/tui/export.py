"""Writes plan files and reports from the interface. Only after a question is a file replaced."""

from os.path import lexists
from pathlib import Path
from typing import Any, Final

from memplanner.catalogue import find_model
from memplanner.errors import UserError
from memplanner.files.parse import file_error
from memplanner.files.write import write_text
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.report.phrases import device_word
from memplanner.settings.errors import show

_BEYOND: Final = "leads out of the folder that the planner was started in"
_MOST_REPORTS: Final = 1000


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


def save_plan(
    plan: TrainingPlan, path: Path, root: Path, *, replacing: bool = False, inside: Path | None = None
) -> None:
    """Write the plan as TOML; UserError where that cannot be done. replacing: over the file that is there.

    inside: the folder that files must stay in, links followed.
    """
    import tomli_w

    if inside is not None and not _is_below(path, inside):
        raise file_error(path, _BEYOND)
    comment = "# A training plan. `memplanner check --plan FILE` says whether it fits.\n"
    write_text(path, comment + tomli_w.dumps(plan_table(plan, root)), new=not replacing)


def save_report(svg: str, markdown: str, stem: Path) -> tuple[Path, Path]:
    """The screen as SVG and the plan's report as Markdown, under the next free name; the two paths. UserError where
    they cannot be written, and then there is neither.
    """
    for number in range(1, _MOST_REPORTS + 1):
        name = stem.name if number == 1 else f"{stem.name}-{number}"
        paths = stem.with_name(f"{name}.svg"), stem.with_name(f"{name}.md")
        if any(map(lexists, paths)):
            continue
        written: list[Path] = []
        try:
            for path, text in zip(paths, (svg, markdown), strict=True):
                write_text(path, text, new=True)
                written.append(path)
        except UserError:
            for path in written:
                path.unlink(missing_ok=True)
            if not any(map(lexists, paths)):  # else another program took the name in the meantime
                raise
        else:
            return paths
    raise file_error(stem.with_suffix(".svg"), f"has {_MOST_REPORTS:,} namesakes: move some away")


def can_be_saved(text: str, *, inside: Path | None = None) -> str:
    """What is wrong with a file name, or "". inside: the folder that files must stay in, links followed."""
    if not text:
        return "a file needs a name"
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return f"{show(text)} is a directory"
        if path.is_symlink():
            return f"{show(text)} is a link, and nothing is written through one"
    except (OSError, ValueError, RuntimeError) as error:
        return f"{show(text)}: {(isinstance(error, OSError) and error.strerror) or error}"
    if inside is not None and not _is_below(path, inside):
        return f"{show(text)} {_BEYOND}"
    return "" if path.suffix == ".toml" else "a plan file's name ends in .toml"


def _is_below(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return False
