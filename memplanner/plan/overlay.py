"""One table of settings over another. A group with a `kind` is one alternative among several: kinds do not mix."""

from collections.abc import Mapping
from typing import Any

from memplanner.files.parse import Table
from memplanner.settings.base import Settings
from memplanner.settings.describe import kind_of


def copy_table(value: Any) -> Any:
    """The table with tables of its own inside, so that setting a key in the copy changes nothing else."""
    return {k: copy_table(v) for k, v in value.items()} if isinstance(value, dict) else value


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """`over`'s settings on top of `base`'s, group by group; a group of another kind replaces the base's whole."""
    merged: Table = copy_table(dict(base))
    for key, value in over.items():
        old = merged.get(key)
        alike = isinstance(old, dict) and isinstance(value, dict) and _same_kind(old, value)
        merged[key] = overlay(old, value) if alike else copy_table(value)  # type: ignore[arg-type]  # old: a dict
    return merged


def _same_kind(old: Table, new: Table) -> bool:
    return bool(new.get("kind", old.get("kind")) == old.get("kind"))


def switch_kind(old: Any, old_kind: str, new: Table, member: type[Settings]) -> Table:
    """The group `new` with whatever of the old group carries over to it.

    old: the group as it was, or whatever stands in its place. member: the class of the new kind. Within one kind
    everything carries over, a misspelt key too, which is then complained of; to another kind, what both have.
    """
    if not isinstance(old, dict):
        return new
    same = old_kind == kind_of(member)
    return {key: value for key, value in old.items() if same or key in member.model_fields} | new
