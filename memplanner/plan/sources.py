"""Finds the table of settings that a plan is made of: a file's, a named plan's, or a bundled one."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from memplanner.catalogue import file_of, stems
from memplanner.files.parse import Table, file_error, read_table
from memplanner.files.sandbox import resolve_inside
from memplanner.frozen import Frozen
from memplanner.settings.errors import show, suggest

if TYPE_CHECKING:
    from memplanner.plan.named import NamedTable

PLANS: Final = "plans"
"""The key of a file's named plans."""
DEFAULT_PLAN: Final = "llama-7b-gradnormlorp-rtx4090"
OWN_FILES: Final = ("memplanner.toml", "pyproject.toml")
"""Where a repository keeps its plans; the first that has any is read."""


class Source(Frozen):
    """A table of plan settings and where it was found.

    label: what error messages and the narration call it.
    root: the directory that a relative model path in it starts from.
    path: the user's file; None for what comes with memplanner. name: of one of several plans in it.
    """

    table: Table
    label: str
    root: Path
    path: Path | None = None
    name: str = ""

    @property
    def plans(self) -> "tuple[NamedTable, ...]":
        """The named plans in it; none where it holds one plan."""
        if PLANS not in self.table:
            return ()
        from memplanner.plan.named import named_tables

        return named_tables(self.table, self.label, self.root)


def find_source(root: Path, plan_file: str = "", *, default: bool = True) -> Source:
    """The table of one plan, under the typed flags.

    plan_file: a file, a plan by name or a bundled plan. Without it, memplanner.toml, else pyproject.toml's
    [tool.memplanner]. default: where there is neither, the default plan; without it, and where the file holds several
    plans, a model is typed, and lies over what the file says of all its plans.
    """
    source = _asked_for(root, plan_file) if plan_file else _own(root)
    if source is None:
        return _bundled(DEFAULT_PLAN, root) if default else Source(table={}, label="defaults", root=root)
    if PLANS not in source.table:
        return source
    if not default:
        return source.replaced(table={key: value for key, value in source.table.items() if key != PLANS})
    names = ", ".join(plan.name for plan in source.plans)
    hint = "name one with --plan, or check them all with --all"
    raise file_error(source.label, f"holds several plans: {names}", hint)


def find_named(root: Path, plan_file: str = "") -> "tuple[Source, tuple[NamedTable, ...]]":
    """The file that holds several plans (memplanner.toml or pyproject.toml, where none is named), and those plans.

    UserError where there is none, or where it holds one plan without a name.
    """
    for path in (root / name for name in ((plan_file,) if plan_file else OWN_FILES)):
        if os.path.lexists(path):
            resolve_inside(path.parent, path.name, where=str(path), key="")
    source = _asked_for(root, plan_file) if plan_file else _own(root)
    hint = "several plans are tables such as [plans.pretrain] in memplanner.toml"
    if source is None:
        raise file_error("memplanner.toml", "no such file, and pyproject.toml has no [tool.memplanner]", hint)
    if source.name:
        message = f"{show(source.name)} is one plan, where all of a file's are wanted"
        raise file_error("--plan", message, "leave it out")
    if PLANS not in source.table:
        raise file_error(source.label, "holds no named plans", hint)
    return source, source.plans


def own_names(root: Path) -> tuple[str, ...]:
    """The names of the plans of memplanner.toml, or of pyproject.toml's table; none where it holds one plan."""
    own = _own(root)
    plans = own.table.get(PLANS) if own is not None else None
    return tuple(plans) if isinstance(plans, dict) else ()


def _own(root: Path) -> Source | None:
    """memplanner.toml, else pyproject.toml's table; None where there is neither."""
    path, project = (root / name for name in OWN_FILES)
    if os.path.lexists(path):
        return _read(path)
    if os.path.isfile(project):
        source = _read(project)
        return source and source.replaced(label=f"{project} [tool.memplanner]")
    return None


def _asked_for(root: Path, name: str) -> Source:
    """What --plan names: a file, one of the repository's own plans, or a bundled plan."""
    path = root / name
    if os.path.exists(path):
        if path.suffix in (".yml", ".yaml"):
            raise file_error(path, "is YAML, as other frameworks' configs are", "--from reads those")
        source = _read(path)
        if source is None:
            raise file_error(path, "holds no plan")
        return source
    own = _own(root)
    named = {plan.name: plan for plan in own.plans} if own is not None else {}
    if own is not None and name in named:
        return own.replaced(table=named[name].table, label=named[name].label, name=name)
    if path.suffix in (".toml", ".json") or len(Path(name).parts) > 1:
        raise file_error("--plan", f"no such file: {show(name)}")
    bundled = stems("plans", ".toml")
    if name in bundled:
        return _bundled(name, root)
    raise file_error("--plan", f"no file or plan is called {show(name)}", suggest(name, [*named, *bundled]))


def _read(path: Path) -> Source | None:
    """The settings in a file; None in a pyproject.toml without any."""
    if path.name == "pyproject.toml":
        tool = read_table(path, mentioning="memplanner").get("tool")
        if not isinstance(tool, dict) or "memplanner" not in tool:
            return None
        table = tool["memplanner"]
        if not isinstance(table, dict):
            raise file_error(path, f"tool.memplanner is {show(table)}, not a table")
        return Source(table=table, label=str(path), root=path.parent, path=path)
    table = read_table(path)
    if str(table.get("schema", "")).startswith("memplanner/estimate/"):
        table = table.get("plan", {})
        if not isinstance(table, dict):
            raise file_error(path, "holds no plan")
    return Source(table=table, label=str(path), root=path.parent, path=path)


def _bundled(name: str, root: Path) -> Source:
    return Source(table=read_table(file_of("plans", name, ".toml")), label=f"bundled plan {name}", root=root)
