"""--optimizer-bits: the width of AdamW's moments, which chooses the optimizer and its state_dtype together."""

from typing import Final

from memplanner.components.optimizers.update import Optimizer
from memplanner.errors import Problem
from memplanner.files.parse import Table
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.describe import words
from memplanner.settings.errors import show

FLAG: Final = "--optimizer-bits"
TABLES: Final[dict[int, Table]] = {
    8: {"kind": "adamw-8bit"},
    16: {"kind": "adamw", "state_dtype": "bf16"},
    32: {"kind": "adamw", "state_dtype": "fp32"},
}
"""Bits -> the settings that they stand for."""
KINDS: Final = ("adamw", "adamw-8bit")
"""The optimizers whose moments have a width to choose."""
RIVALS: Final = {FLAG: "--optimizer", "--optimizer": FLAG}
"""Both flags choose the optimizer: typed later, either takes the other's place."""


def table_for(bits: int, *, present: str, typed: str) -> Table | Problem:
    """The settings that the flag stands for.

    present: the kind of optimizer that the plan has otherwise. typed: --optimizer's word, or "".
    """
    if bits not in TABLES:
        return _problem(f"{bits} is not 8, 16 or 32")
    if present not in KINDS:
        return _problem(
            f"optimizer {show(present)} has no moments whose width can be chosen", "adamw and adamw-8bit have"
        )
    if typed and (bits == 8) != typed.endswith("adamw-8bit"):
        return _problem(f"{bits} contradicts --optimizer {typed}")
    return dict(TABLES[bits])


def _problem(message: str, hint: str = "") -> Problem:
    return Problem(where=FLAG, key="", message=message, hint=hint)


def bits_of(optimizer: Optimizer) -> str:
    """What would be typed for an optimizer; "" where its moments follow the parameters, or have no width to choose."""
    for bits, table in TABLES.items():
        if all(getattr(optimizer, key, None) == value for key, value in table.items()):
            return str(bits)
    return ""


def worth_of(word: str) -> float | None:
    """An optimizer's word by the width of its moments, of which more is better; None where there is none to choose.

    Moments that follow the parameters count as 32 bits: only the order matters here.
    """
    kind = words(TrainingPlan, "optimizer").get(word, {}).get("kind")
    return {"adamw-8bit": 8.0, "adamw": 32.0}.get(str(kind))
