"""What two versions of a plan differ by: each part of the device memory, and the settings that moved it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from memplanner.budgets.lock import Snapshot, snapshot
from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate

_MOST_ALONE: Final = 32
"""Changes that are each looked at alone; more are "several changes together"."""
_BY_MODULE: Final = "method.rank_pattern"
"""A setting whose keys are modules and no settings: it changes as a whole."""
_JUDGED: Final = ("budget", "headroom")
"""Settings that change the limit, and no tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A setting that is another one now. key: dotted, as a plan file has it; a group of another kind is one change."""

    key: str
    before: object
    after: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A part that takes more bytes, or less (below zero). causes: the changes that move it, each alone, by how much.

    The causes' bytes need not add up to the row's: two settings together may take more than one after the other.
    """

    part: str
    bytes: int
    causes: tuple[tuple[Change, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """From one snapshot of a plan to another. rows: what is not equal, the largest growth first; they sum to the whole.

    before, after: None where the plan is new, or gone. version: the versions of memplanner, where they differ.
    """

    name: str
    before: Snapshot | None
    after: Snapshot | None
    changes: tuple[Change, ...] = ()
    rows: tuple[Row, ...] = ()
    version: tuple[str, str] | None = None

    @property
    def bytes(self) -> int:
        """How much more device memory it takes."""
        before, after = (0 if side is None else side.device_bytes for side in (self.before, self.after))
        return after - before

    @property
    def share(self) -> float:
        """The same, of what it was; 0 for a new plan."""
        return 0.0 if self.before is None else self.bytes / self.before.device_bytes

    @property
    def limits(self) -> tuple[Change, ...]:
        """The changes that move the limit and no tensor."""
        return tuple(change for change in self.changes if change.key in _JUDGED)

    @property
    def phase_moved(self) -> bool:
        """Whether the peak lies in another phase now."""
        return self.before is not None and self.after is not None and self.before.peak_phase != self.after.peak_phase


def growth(
    name: str,
    before: Snapshot | None,
    after: Snapshot | None,
    predict: Callable[[TrainingPlan], Estimate],
    *,
    versions: tuple[str, str] = ("", ""),
) -> Growth:
    """What a plan has grown by. predict: for plans with one of several changes, to tell what each moves."""
    version = versions if versions[0] != versions[1] else None
    if before is None or after is None:
        return Growth(name=name, before=before, after=after, version=version)
    changes = changes_between(before.plan, after.plan)
    moved = {part: size - before.parts[part] for part, size in after.parts.items() if size != before.parts[part]}
    several = 1 < len(changes) <= _MOST_ALONE
    alone = {change.key: _moved_alone(before, change, predict) for change in changes} if several else {}
    rows = []
    causes: tuple[tuple[Change, int], ...]
    for part, size in moved.items():
        if len(changes) == 1 and changes[0].key not in _JUDGED:
            causes = ((changes[0], size),)
        else:
            causes = tuple(
                (change, alone[change.key][part]) for change in changes if alone.get(change.key, {}).get(part)
            )
        rows.append(Row(part=part, bytes=size, causes=tuple(sorted(causes, key=lambda cause: -abs(cause[1])))))
    rows.sort(key=lambda row: -row.bytes)
    return Growth(name=name, before=before, after=after, changes=changes, rows=tuple(rows), version=version)


def changes_between(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> tuple[Change, ...]:
    """The settings that two plans' tables differ in, in the order of the second."""
    changes: list[Change] = []
    for key in dict.fromkeys([*after, *before]):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        path = f"{prefix}{key}"
        alike = isinstance(old, dict) and isinstance(new, dict) and old.get("kind") == new.get("kind")
        if alike and path != _BY_MODULE:
            changes += changes_between(old, new, f"{path}.")  # type: ignore[arg-type]  # alike: both are dicts
        else:
            changes.append(Change(key=path, before=old, after=new))
    return tuple(changes)


def _moved_alone(before: Snapshot, change: Change, predict: Callable[[TrainingPlan], Estimate]) -> Mapping[str, int]:
    """What the change moves by itself, by part; nothing where the plan with it alone is none."""
    if change.key in _JUDGED:
        return {}
    table = _with(before.plan, change.key.split("."), change.after)
    try:
        parts = snapshot(predict(TrainingPlan.model_validate(table))).parts
    except (ValidationError, UserError):
        return {}
    return {part: size - before.parts[part] for part, size in parts.items()}


def _with(table: Mapping[str, Any], keys: list[str], value: object) -> dict[str, Any]:
    first, *rest = keys
    if not rest:
        return {**table, first: value}
    inner = table.get(first)
    return {**table, first: _with(inner if isinstance(inner, dict) else {}, rest, value)}
