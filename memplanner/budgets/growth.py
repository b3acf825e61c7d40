"""How two versions of a plan differ: in each part of the device memory, and in the settings that changed it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from memplanner.budgets.lock import Snapshot, snapshot
from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate

_MOST_SEPARATE: Final = 32
"""The most changes whose effects are predicted one by one; more are not told apart."""
_BY_MODULE: Final = "method.rank_pattern"
"""A setting whose keys name modules, not settings: it changes as a whole."""
_LIMITING: Final = ("budget", "headroom")
"""Settings that change the limit and no tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """A setting that has changed. key: dotted, as in a plan file. A group whose kind has changed is one change."""

    key: str
    before: object
    after: object


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthRow:
    """A part of the memory and how many bytes more (below zero: fewer) it takes. causes: each change that affects the
    part, with the bytes that it adds when it is made alone. These need not sum to the row's bytes, since two changes
    together may add more than each alone.
    """

    part: str
    bytes: int
    causes: tuple[tuple[SettingChange, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """From one snapshot of a plan to another. rows: the parts that differ, largest growth first; they sum to the whole.

    before, after: None where the plan is new, or gone. version: both versions of memplanner, where they differ.
    """

    name: str
    before: Snapshot | None
    after: Snapshot | None
    changes: tuple[SettingChange, ...] = ()
    rows: tuple[GrowthRow, ...] = ()
    version: tuple[str, str] | None = None

    @property
    def bytes(self) -> int:
        """How much more device memory the plan takes; negative where it takes less."""
        before, after = (0 if side is None else side.device_bytes for side in (self.before, self.after))
        return after - before

    @property
    def share(self) -> float:
        """The growth as a share of what the plan took before; 0 for a new plan."""
        return 0.0 if self.before is None else self.bytes / self.before.device_bytes

    @property
    def limits(self) -> tuple[SettingChange, ...]:
        """The changes of the limit, which affect no tensor."""
        return tuple(change for change in self.changes if change.key in _LIMITING)

    @property
    def phase_moved(self) -> bool:
        """Whether the peak has differing to another phase."""
        return self.before is not None and self.after is not None and self.before.peak_phase != self.after.peak_phase


def growth(
    name: str,
    before: Snapshot | None,
    after: Snapshot | None,
    predict: Callable[[TrainingPlan], Estimate],
    *,
    versions: tuple[str, str] = ("", ""),
) -> Growth:
    """How a plan has grown. predict: called for the plan with each of several changes alone, to tell them apart."""
    version = versions if versions[0] != versions[1] else None
    if before is None or after is None:
        return Growth(name=name, before=before, after=after, version=version)
    changes = changes_between(before.plan, after.plan)
    differing = {part: size - before.parts[part] for part, size in after.parts.items() if size != before.parts[part]}
    several = 1 < len(changes) <= _MOST_SEPARATE
    alone = {change.key: _effect_alone(before, change, predict) for change in changes} if several else {}
    rows = []
    causes: tuple[tuple[SettingChange, int], ...]
    for part, size in differing.items():
        if len(changes) == 1 and changes[0].key not in _LIMITING:
            causes = ((changes[0], size),)
        else:
            causes = tuple(
                (change, alone[change.key][part]) for change in changes if alone.get(change.key, {}).get(part)
            )
        rows.append(GrowthRow(part=part, bytes=size, causes=tuple(sorted(causes, key=lambda cause: -abs(cause[1])))))
    rows.sort(key=lambda row: -row.bytes)
    return Growth(name=name, before=before, after=after, changes=changes, rows=tuple(rows), version=version)


def changes_between(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> tuple[SettingChange, ...]:
    """The settings that two plans' tables differ in, in the order of the second."""
    changes: list[SettingChange] = []
    for key in dict.fromkeys([*after, *before]):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        path = f"{prefix}{key}"
        alike = isinstance(old, dict) and isinstance(new, dict) and old.get("kind") == new.get("kind")
        if alike and path != _BY_MODULE:
            changes += changes_between(old, new, f"{path}.")  # type: ignore[arg-type]  # alike: both are dicts
        else:
            changes.append(SettingChange(key=path, before=old, after=new))
    return tuple(changes)


def _effect_alone(
    before: Snapshot, change: SettingChange, predict: Callable[[TrainingPlan], Estimate]
) -> Mapping[str, int]:
    """The bytes that the change adds by itself, by part; empty where the plan with this change alone is invalid."""
    if change.key in _LIMITING:
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
