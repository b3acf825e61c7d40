"""The plan a command works on, from what was typed and the files around it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplanner.catalogue import model_inside
from memplanner.files.sandbox import running_in_ci
from memplanner.frozen import Frozen
from memplanner.plan.merge import merge
from memplanner.plan.sources import Source, find_source
from memplanner.plan.training_plan import TrainingPlan

if TYPE_CHECKING:
    from memplanner.frameworks import Foreign


class LoadedPlan(Frozen):
    """A valid plan, where it came from, and the directory that its model path starts from.

    path: the user's file, where it came from one, and name: its name there, where it has one. foreign: another
    framework's config, where it came from that.
    """

    plan: TrainingPlan
    label: str
    root: Path
    path: Path | None = None
    name: str = ""
    foreign: "Foreign | None" = None


def load_plan(
    *,
    root: Path,
    plan_file: str = "",
    model: str = "",
    flags: Mapping[str, Any] | None = None,
    configs: Sequence[str] = (),
    ignored: Sequence[str] = (),
) -> LoadedPlan:
    """The plan a command works on.

    Base: --plan's file or bundled plan; else memplanner.toml; else pyproject.toml's [tool.memplanner]; else, when no
    model is named, the default bundled plan; else the settings' defaults. A model or a flag wins over the base, but
    only when it was typed.

    flags: flag -> typed text (True/False for switches), e.g. {"--rank": "128"}. configs: files of another framework,
    which are the base instead. ignored: keys of theirs that are passed over.
    """
    source, foreign = find_base(root=root, plan_file=plan_file, model=model, configs=configs, ignored=ignored)
    plan = merge(source.table | ({"model": model} if model else {}), flags or {}, where=source.label)
    untrusted = foreign is not None or (source.path is not None and (source.name or running_in_ci()))
    if untrusted and not model:
        model_inside(source.root, plan.model, where=source.label)
    start = root if model else source.root
    return LoadedPlan(plan=plan, label=source.label, root=start, path=source.path, name=source.name, foreign=foreign)


def find_base(
    *, root: Path, plan_file: str = "", model: str = "", configs: Sequence[str] = (), ignored: Sequence[str] = ()
) -> "tuple[Source, Foreign | None]":
    """The settings under the typed flags, as load_plan finds them, and the other framework's config that they may be
    from.
    """
    if configs:
        return _framework(root, configs, model, ignored)
    return find_source(root, plan_file, default=not model), None


def _framework(root: Path, configs: Sequence[str], model: str, ignored: Sequence[str]) -> "tuple[Source, Foreign]":
    """Another framework's config as a source. A model's path in it may not leave the repository."""
    from memplanner.frameworks import read_framework

    paths = [root / word for word in configs]
    foreign = read_framework(paths, model, ignored)
    label = f"{foreign.framework}, {' and '.join(map(str, paths))}"
    return Source(table=foreign.table, label=label, root=root, path=paths[0]), foreign
