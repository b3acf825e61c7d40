"""Finds and reads the plan: a file's table, typed flags laid over it, one TrainingPlan or every problem at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from memplanner.catalogue import model_inside, stems
from memplanner.errors import Problem, UserError
from memplanner.files.parse import Table, file_error, parse_json, parse_toml, read_text
from memplanner.files.sandbox import refuse_link_in_ci, resolve_inside, running_in_ci
from memplanner.plan.flags import BY_FLAG, OPTIMIZERS
from memplanner.plan.named import PLANS, NamedTable, named_tables
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.describe import choices, groups, kind_of, owners
from memplanner.settings.errors import problems_of, show, suggest

if TYPE_CHECKING:
    from memplanner.frameworks import Foreign

DEFAULT_PLAN = "llama-7b-gradnormlorp-rtx4090"

_CHOOSERS = ("--method", "--loss", "--optimizer")
"""Flags that choose a kind, and with it which other fields exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPlan:
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
) -> LoadedPlan:
    """The plan a command works on.

    Base: --plan's file or bundled plan; else memplanner.toml; else pyproject.toml's [tool.memplanner]; else, when no
    model is named, the default bundled plan; else the settings' defaults. A model or a flag wins over the base, but
    only when it was typed.

    flags: flag -> typed text (True/False for switches), e.g. {"--rank": "128"}. configs: files of another framework,
    which are the base instead.
    """
    if configs:
        return _from_framework(root, configs, model, flags or {})
    source = find_source(root, plan_file, default=not model)
    table = dict(source.table)
    if model:
        table["model"] = model
    plan = merge(table, flags or {}, where=source.label)
    if not model and source.path is not None and (source.name or running_in_ci()):
        model_inside(source.root, plan.model, where=source.label)
    start = root if model else source.root
    return LoadedPlan(plan=plan, label=source.label, root=start, path=source.path, name=source.name)


def _from_framework(root: Path, configs: Sequence[str], model: str, flags: Mapping[str, Any]) -> LoadedPlan:
    """The plan that another framework's config comes to. A model's path in it may not leave the repository."""
    from memplanner.frameworks import read_framework

    paths = [root / word for word in configs]
    for path in paths:
        refuse_link_in_ci(path)
    foreign = read_framework(paths, model)
    label = f"{foreign.framework}, {' and '.join(map(str, paths))}"
    plan = merge(foreign.table | ({"model": model} if model else {}), flags, where=label)
    if not model:
        model_inside(root, plan.model, where=label)
    return LoadedPlan(plan=plan, label=label, root=root, path=paths[0], foreign=foreign)


def find_source(root: Path, plan_file: str = "", *, default: bool = True) -> Source:
    """The table under the flags; see load_plan for the order."""
    source = _named(root, plan_file) if plan_file else _own(root)
    if source is not None:
        if PLANS in source.table and not default:  # a model is typed: what the file says of all its plans holds for it
            return replace(source, table={key: value for key, value in source.table.items() if key != PLANS})
        if PLANS in source.table:
            names = ", ".join(table.name for table in named_tables(source.table, source.label, source.root))
            hint = "name one with --plan, or check them all with --all"
            raise file_error(source.label, f"holds several plans: {names}", hint)
        return source
    if default:
        return _bundled(DEFAULT_PLAN, root)
    return Source(table={}, label="defaults", root=root)


def find_named(root: Path, plan_file: str = "") -> tuple[Source, tuple[NamedTable, ...]]:
    """The file that holds several plans (memplanner.toml or pyproject.toml, where none is named), and those plans.

    UserError where there is none, or where it holds one plan without a name.
    """
    for path in [root / plan_file] if plan_file else [root / "memplanner.toml", root / "pyproject.toml"]:
        if path.is_symlink() or path.exists():
            resolve_inside(path.parent, path.name, where=str(path), key="")
    source = _named(root, plan_file) if plan_file else _own(root)
    if source is not None and source.name:
        raise file_error(
            "--plan", f"{show(source.name)} is one plan, and all of a file's are asked for", "leave it out"
        )
    hint = "several plans are tables such as [plans.pretrain] in memplanner.toml"
    if source is None:
        raise file_error("memplanner.toml", "no such file, and pyproject.toml has no [tool.memplanner]", hint)
    if PLANS not in source.table:
        raise file_error(source.label, "holds no named plans", hint)
    return source, named_tables(source.table, source.label, source.root)


def own_names(root: Path) -> tuple[str, ...]:
    """The names of the plans of memplanner.toml, or of pyproject.toml's table; none where it holds one plan."""
    own = _own(root)
    plans = own.table.get(PLANS) if own is not None else None
    return tuple(plans) if isinstance(plans, dict) else ()


def _own(root: Path) -> Source | None:
    """memplanner.toml, else pyproject.toml's table; None where there is neither."""
    own = root / "memplanner.toml"
    if own.exists() or own.is_symlink():
        refuse_link_in_ci(own)
        return Source(table=parse_toml(read_text(own), own), label=str(own), root=root, path=own)
    project = root / "pyproject.toml"
    if project.is_file():
        refuse_link_in_ci(project)
    if project.is_file() and "memplanner" in (text := read_text(project)):
        tool = parse_toml(text, project).get("tool", {})
        if isinstance(tool, dict) and "memplanner" in tool:
            table = tool["memplanner"]
            if not isinstance(table, dict):
                raise file_error(project, f"tool.memplanner is {show(table)}, not a table")
            return Source(table=table, label=f"{project} [tool.memplanner]", root=root, path=project)
    return None


def _named(root: Path, name: str) -> Source:
    path = root / name
    try:
        is_path = path.exists()
    except (OSError, ValueError):
        is_path = False
    if not is_path:
        own = _own(root)
        named = named_tables(own.table, own.label, own.root) if own is not None and PLANS in own.table else ()
        for one in named:
            if one.name == name:
                assert own is not None, "it holds them"
                return Source(table=one.table, label=one.label, root=root, path=own.path, name=name)
        if name in stems("plans", ".toml"):
            return _bundled(name, root)
        known = [*(one.name for one in named), *stems("plans", ".toml")]
        raise file_error("--plan", f"no file or plan is called {show(name)}", suggest(name, known))
    refuse_link_in_ci(path)
    if path.suffix in (".yml", ".yaml"):
        raise file_error(path, "is YAML, as other frameworks' configs are", "--from reads those")
    text = read_text(path)
    if path.suffix == ".json" or text.lstrip().startswith("{"):
        table = parse_json(text, path)
        if str(table.get("schema", "")).startswith("memplanner/estimate/"):
            table = table.get("plan")  # type: ignore[assignment]  # what it is gets checked next
    else:
        table = parse_toml(text, path)
        if path.name == "pyproject.toml":
            tool = table.get("tool")
            table = tool.get("memplanner") if isinstance(tool, dict) else None  # type: ignore[assignment]
    if not isinstance(table, dict):
        raise file_error(path, "holds no plan")
    return Source(table=table, label=str(path), root=path.parent, path=path)


def _bundled(name: str, root: Path) -> Source:
    path = stems("plans", ".toml")[name]
    return Source(table=parse_toml(read_text(path), path), label=f"bundled plan {name}", root=root)


def merge(base: Table, flags: Mapping[str, Any], *, where: str) -> TrainingPlan:
    """The plan of a raw table with typed flags laid over it; UserError carrying every problem."""
    table = _copy(base)
    problems: list[Problem] = []
    set_by: dict[tuple[str, ...], str] = {}
    typed: Table = {}
    for flag, value in flags.items():
        read = BY_FLAG[flag].read(value) if isinstance(value, str) else value
        if isinstance(read, Problem):
            problems.append(read)
        else:
            typed[flag] = read
    for flag in _CHOOSERS:
        if flag in typed:
            problems += _choose(table, flag, typed[flag])
            set_by[BY_FLAG[flag].path] = flag
    if "--optimizer-bits" in typed:
        problems += _set_bits(table, typed["--optimizer-bits"], chosen=typed.get("--optimizer", ""))
        set_by["optimizer",] = "--optimizer-bits"
    for flag, value in typed.items():
        path = BY_FLAG[flag].path
        if path in set_by or flag == "--optimizer-bits":
            continue
        problem = _set(table, flag, path, value)
        problems += problem
        set_by[path] = flag
    try:
        plan = TrainingPlan.model_validate(table)
    except ValidationError as error:
        flagged = {problem.where for problem in problems}

        def place(path: tuple[str, ...]) -> tuple[str, str]:
            # a flag that chooses a kind answers for the kind only: the fields beside it may be the file's
            flags = ((n, set_by.get(path[:n], "")) for n in range(len(path), 0, -1))
            flag = next((f for n, f in flags if f and (n == len(path) or f not in _CHOOSERS)), "")
            return (flag, "") if flag else (where, ".".join(path))

        problems += [p for p in problems_of(error, TrainingPlan, place) if p.where not in flagged]
        raise UserError(*problems) from None
    if problems:
        raise UserError(*problems)
    return plan


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def _group(table: Table, path: tuple[str, ...]) -> Any:
    """The table at a path, made if absent, with `method = "lora"` spelled out; whatever is there if it is no table."""
    at: Any = table
    for depth, key in enumerate(path):
        if not isinstance(at, dict):
            return at
        value = at.setdefault(key, {})
        if isinstance(value, str) and path[: depth + 1] in (("method",), ("optimizer",), ("step", "loss")):
            at[key] = value = _expand(value)
        at = value
    return at


def _expand(word: str) -> Table:
    return {"kind": "adamw", "implementation": "fused"} if word == "adamw-fused" else {"kind": word}


def _kind(table: Any, path: tuple[str, ...]) -> str:
    """The kind that a group of the table has or falls back on."""
    owner = owners(TrainingPlan, path)[0]
    default = kind_of(type(owner.model_fields[path[-1]].default))
    return str(table.get("kind", default)) if isinstance(table, dict) else default


def _choose(table: Table, flag: str, word: str) -> list[Problem]:
    """Switch a union to the kind a flag names; settings that the new kind also has carry over."""
    path = BY_FLAG[flag].path
    owner = owners(TrainingPlan, path)[0]
    known = OPTIMIZERS if flag == "--optimizer" else choices(owner, path[-1])
    if word not in known:
        return [
            Problem(where=flag, key="", message=f"{show(word)} is not a known {path[-1]}", hint=suggest(word, known))
        ]
    new = _expand(word)
    if word == "adamw":
        new["implementation"] = "foreach"
    old = _group(table, path)
    kept = {}
    if isinstance(old, dict):
        member = next(cls for cls in groups(owner, path[-1]) if kind_of(cls) == new["kind"])
        same = _kind(old, path) == new["kind"]
        kept = {k: v for k, v in old.items() if same or k in member.model_fields}
    parent = _group(table, path[:-1])
    if isinstance(parent, dict):
        parent[path[-1]] = kept | new
    return []


def _set_bits(table: Table, bits: int, *, chosen: str) -> list[Problem]:
    """--optimizer-bits: 8 is adamw-8bit; 16 and 32 are adamw with its moments in bf16 and fp32."""
    flag = "--optimizer-bits"
    if bits not in (8, 16, 32):
        return [Problem(where=flag, key="", message=f"{bits} is not 8, 16 or 32")]
    old = _group(table, ("optimizer",))
    kind = _kind(old, ("optimizer",))
    if kind not in ("adamw", "adamw-8bit"):
        return [
            Problem(
                where=flag,
                key="",
                message=f"optimizer {show(kind)} has no moments whose width can be chosen",
                hint="adamw and adamw-8bit have",
            )
        ]
    if chosen and (bits == 8) != (chosen == "adamw-8bit"):
        return [Problem(where=flag, key="", message=f"{bits} contradicts --optimizer {chosen}")]
    old = old if isinstance(old, dict) else {}
    if bits == 8:
        table["optimizer"] = {k: v for k, v in old.items() if k == "format"} | {"kind": "adamw-8bit"}
    else:
        kept = {k: v for k, v in old.items() if k == "implementation"}
        table["optimizer"] = kept | {"kind": "adamw", "state_dtype": "bf16" if bits == 16 else "fp32"}
    return []


def _set(table: Table, flag: str, path: tuple[str, ...], value: Any) -> list[Problem]:
    """Set one field; a Problem when the chosen kind has no such field."""
    parent = _group(table, path[:-1])
    if not isinstance(parent, dict):
        return []  # validation reports what is there instead of a table
    if path[0] == "method":
        kind = _kind(parent, ("method",))
        having = [kind_of(cls) for cls in owners(TrainingPlan, path)]
        if kind not in having:
            if not parent:
                del table["method"]  # nobody asked for one: it is not to be complained about as well
            if kind not in choices(TrainingPlan, "method"):
                return []
            hint = f"methods that have one: {', '.join(having)}"
            name = path[-1].replace("_", " ")
            return [Problem(where=flag, key="", message=f"method {kind!r} has no {name}", hint=hint)]
    parent[path[-1]] = value
    return []
