"""What there is of every choice in a plan, read off the unions themselves, so that nobody has to list a new kind."""

import itertools
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from memplanner.plan.training_plan import Step, TrainingPlan
from memplanner.settings.base import Settings
from memplanner.settings.describe import choices, groups, kind_of

METHODS = groups(TrainingPlan, "method")
OPTIMIZERS = groups(TrainingPlan, "optimizer")
LOSSES = groups(Step, "loss")
DEVICES = groups(TrainingPlan, "device")

_LIBRARIES = ("implementation", "accounting", "format")
"""Fields of a method that choose whose code runs."""


def variants(cls: type[Settings], *, only: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Every combination of a class's words and switches that the class takes; a share is zero or not. only: of these
    fields, if any.
    """
    values: dict[str, tuple[Any, ...]] = {}
    for name, field in cls.model_fields.items():
        if name == "kind" or (only and name not in only):
            continue
        if words := choices(cls, name):
            values[name] = words
        elif field.annotation is bool:
            values[name] = (False, True)
        elif field.annotation is float:
            values[name] = (0.0, 0.5)
    for combination in itertools.product(*values.values()):
        table = {"kind": kind_of(cls), **dict(zip(values, combination, strict=True))}
        try:
            cls.model_validate(table)
        except ValidationError:
            continue
        yield table


METHOD_VARIANTS = tuple(table for cls in METHODS for table in variants(cls, only=_LIBRARIES))
OPTIMIZER_VARIANTS = tuple(table for cls in OPTIMIZERS for table in variants(cls))


def label(table: dict[str, Any]) -> str:
    return "-".join(map(str, table.values()))
