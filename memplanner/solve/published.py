"""Published memory figures (profiles/published), compared with what is computed for the plan that each describes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from memplanner.catalogue import files
from memplanner.errors import UserError
from memplanner.files.parse import parse_toml, read_text
from memplanner.plan.merge import merge
from memplanner.plan.sources import find_source
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.base import Settings
from memplanner.settings.errors import problems_of

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate


Quantity = Literal["weights-and-state", "optimizer", "moments", "allocated", "device", "none"]


class PublishedFigure(Settings):
    """One published figure."""

    claim: str
    """What was printed, with the base and the settings it names or that are assumed."""
    published: str
    """The figure as printed, unit and all."""
    quantity: Quantity
    """What is computed: "optimizer" is state and projectors, "moments" state alone, "none" no memory at all."""
    plan: str = ""
    """The bundled plan that is computed."""
    flags: dict[str, str | bool] = Field(default_factory=dict)
    """Laid over the plan."""
    base_flags: dict[str, str | bool] = Field(default_factory=dict)
    """Laid over the plan for the base; where given, the figure is the share of the base that is saved."""
    note: str = ""
    """Why it can differ, or cannot be reproduced."""


class Paper(Settings):
    """One file of profiles/published."""

    title: str
    about: str
    figure: tuple[PublishedFigure, ...] = Field(strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A figure and what the model makes of it.

    num_bytes: the computed quantity; None where there is none.
    base_bytes: the base that a saving is a share of; None where the figure is no saving.
    refusal: why nothing could be computed, or "".
    """

    figure: PublishedFigure
    num_bytes: int | None
    base_bytes: int | None = None
    verdict: str = ""
    refusal: str = ""


def papers() -> tuple[Paper, ...]:
    """Every file of profiles/published."""
    return tuple(_paper(path) for path in reversed(files("published", ".toml")))


def _paper(path: Path) -> Paper:
    try:
        return Paper.model_validate(parse_toml(read_text(path), path))
    except ValidationError as error:
        raise UserError(*problems_of(error, Paper, lambda keys: (str(path), ".".join(keys)))) from None


def compute(figure: PublishedFigure, predict: "Callable[[TrainingPlan], Estimate]") -> Computed:
    """Predict the figure's plan, and its base where it has one."""
    if figure.quantity == "none":
        return Computed(figure=figure, num_bytes=None)
    table = find_source(Path(), figure.plan).table
    try:
        estimate = predict(merge(table, figure.flags, where=figure.plan))
        base = predict(merge(table, figure.base_flags, where=figure.plan)) if figure.base_flags else None
    except UserError as error:
        return Computed(figure=figure, num_bytes=None, refusal=str(error).splitlines()[0])
    return Computed(
        figure=figure,
        num_bytes=quantity(estimate, figure.quantity),
        base_bytes=quantity(base, figure.quantity) if base is not None else None,
        verdict=estimate.verdict if figure.quantity == "device" else "",
    )


def quantity(estimate: "Estimate", name: str) -> int:
    """The named quantity in bytes."""
    persistent = estimate.persistent
    match name:
        case "weights-and-state":
            return (
                persistent["parameters"]
                + persistent["adapters"]
                + persistent["optimizer_state"]
                + persistent["projectors"]
            )
        case "optimizer":
            return persistent["optimizer_state"] + persistent["projectors"]
        case "moments":
            return persistent["optimizer_state"]
        case "allocated":
            return estimate.allocated_bytes
        case _:
            return estimate.device_bytes
