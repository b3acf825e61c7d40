"""How two plan files, lock files or git revisions of them differ: the work of `memplanner diff`."""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Final

from memplanner.budgets.check import NamedPlan, confined_predictor, named_plans, predicted
from memplanner.budgets.growth import Growth, growth
from memplanner.budgets.lock import Lock, Snapshot, lock_from, snapshot
from memplanner.catalogue import is_bundled, model_inside
from memplanner.errors import UserError
from memplanner.files.git import prefix_in_repository, read_blob
from memplanner.files.parse import file_error, parse_json, parse_toml, read_text
from memplanner.files.sandbox import resolve_inside, scratch_folder
from memplanner.files.write import write_bytes
from memplanner.frameworks import is_config
from memplanner.plan.load import load_plan
from memplanner.plan.named import FROM
from memplanner.plan.sources import PLANS

_MOST_FILES: Final = 64
"""The most files that a revision's plans may name: each takes one process of git's, or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of the comparison. plans: by name. root: where relative model paths start. version: of the memplanner
    that predicted them.
    """

    plans: dict[str, Snapshot]
    root: Path
    version: str


def differences(before: str, after: str, root: Path) -> tuple[Growth, ...]:
    """How each plan of either side has grown. Two single plans are compared whatever their names.

    UserError where a side cannot be read, or is no plan.
    """
    with ExitStack() as scratch:
        old, new = (_side(word, root, scratch) for word in (before, after))
        versions = (old.version, new.version)
        if len(old.plans) == len(new.plans) == 1:
            ((old_name, was),), ((new_name, now),) = old.plans.items(), new.plans.items()
            name = new_name if old_name == new_name else f"{old_name} → {new_name}"
            return (growth(name, was, now, confined_predictor(old.root), versions=versions),)
        names = dict.fromkeys([*new.plans, *old.plans])
        predictor = confined_predictor(old.root)
        return tuple(growth(n, old.plans.get(n), new.plans.get(n), predictor, versions=versions) for n in names)


def _side(word: str, root: Path, scratch: ExitStack) -> Side:
    path = root / word
    if not _exists(path) and ":" in word:
        folder = scratch.enter_context(scratch_folder())
        try:
            return _of_file(_checked_out(word, root, folder))
        except UserError as error:
            revision = f"{word.partition(':')[0]}:"
            raise _renamed(error, f"{folder}/", revision) from None
    if _exists(path):
        return _of_file(path)
    try:
        loaded = load_plan(root=root, plan_file=word)
    except UserError as error:
        raise _renamed(error, "--plan", "memplanner diff") from None
    return _predicted(NamedPlan(name=word, plan=loaded.plan, root=loaded.root), root=loaded.root)


def _renamed(error: UserError, place: str, shown: str) -> UserError:
    """The error with a place that the user never typed replaced by the words that the user did type."""
    return UserError(
        *(
            p.replaced(where=p.where.replace(place, shown), message=p.message.replace(place, shown))
            for p in error.problems
        )
    )


def _of_file(path: Path) -> Side:
    text = read_text(path)
    if '"memplanner/lock/' in text and path.suffix == ".json":
        lock: Lock = lock_from(text, path)
        return Side(plans=lock.plans, root=path.parent, version=lock.memplanner)
    if path.suffix == ".toml" and _holds_several(path, text):
        return _predicted(*named_plans(path.parent, path.name), root=path.parent)
    if path.suffix in (".yml", ".yaml") or (path.suffix == ".json" and is_config(parse_json(text, path))):
        loaded = load_plan(root=path.parent, configs=[path.name])
    else:
        loaded = load_plan(root=path.parent, plan_file=path.name)
    model_inside(loaded.root, loaded.plan.model, where=str(path))
    return _predicted(NamedPlan(name=path.stem, plan=loaded.plan, root=loaded.root), root=loaded.root)


def _predicted(*plans: NamedPlan, root: Path) -> Side:
    snapshots = {name: snapshot(estimate) for name, estimate in predicted(plans).items()}
    return Side(plans=snapshots, root=root, version=version("memplanner"))


def _holds_several(path: Path, text: str) -> bool:
    table = parse_toml(text, path)
    if path.name == "pyproject.toml":
        tool = table.get("tool")
        table = tool.get("memplanner") if isinstance(tool, dict) else {}  # type: ignore[assignment]  # judged next
    return isinstance(table, dict) and PLANS in table


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _checked_out(word: str, root: Path, folder: Path) -> Path:
    """Write a revision's file, and the files that its plans name, into a folder that stands for the repository."""
    revision, _, name = word.partition(":")
    if not revision or revision.startswith("-") or not name or name.startswith("/"):
        raise file_error(word, "is not a file, plan or REVISION:FILE", "such as main:memplanner.toml")
    (folder / ".git").mkdir()
    name = normpath(prefix_in_repository(root, word) + name)
    path = _written(folder, name, read_blob(root, revision, name))
    others = dict.fromkeys(normpath(f"{PurePosixPath(name).parent}/{other}") for other in _files_named_in(path))
    if len(others) > _MOST_FILES:
        raise file_error(path, f"names {len(others)} files, more than {_MOST_FILES}")
    for other in others:
        for candidate in (other, f"{other}/config.json"):
            with suppress(UserError):  # a name that is no file there: the plan's own error says so
                _written(folder, candidate, read_blob(root, revision, candidate))
    return path


def _written(folder: Path, name: str, data: bytes) -> Path:
    path = resolve_inside(folder, name, where=name, key="", top=folder.resolve())
    write_bytes(path, data)
    return path


def _files_named_in(path: Path) -> list[str]:
    """The models' and other frameworks' configs that a plan file names. Errors in the file are left to its reader."""
    if path.suffix != ".toml":
        return []
    table = parse_toml(read_text(path), path)
    tables = [table, *(plan for plan in _dict(table.get(PLANS)).values() if isinstance(plan, dict))]
    names: list[object] = []
    for plan in tables:
        start = plan.get(FROM)
        names += [plan.get("model"), *(start if isinstance(start, list) else [start])]
    return [name for name in names if isinstance(name, str) and not is_bundled(name)]


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
