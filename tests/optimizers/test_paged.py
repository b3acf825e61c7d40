"""Paged optimizers: whose moments are in managed memory, and what is left on the card."""

import json
from pathlib import Path
from typing import Any

import pytest

from memplanner.components.optimizers.adamw import AdamW
from memplanner.components.optimizers.adamw8bit import AdamW8bit
from memplanner.components.optimizers.update import Optimizer
from memplanner.errors import UserError
from memplanner.notes import PagedStates
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.program.shapes import BF16, Shape
from memplanner.report.notes import note_sentences
from memplanner.tape.engine import Param
from tests.models import plan_of


def bytes_of(optimizer: Optimizer, numel: int) -> tuple[int, int]:
    """Of a parameter's states: on the card, and in managed memory."""
    states = optimizer.state(Param("w", Shape(n=numel), BF16, count=1, trainable=True))
    sizes: dict[bool, int] = {False: 0, True: 0}
    for state in states:
        sizes[state.is_paged] += state.shape.numel * state.dtype.size
    return sizes[False], sizes[True]


@pytest.mark.parametrize(
    ("optimizer", "numel", "expected"),
    [
        (AdamW(implementation="bitsandbytes"), 100_000, (800_000, 0)),
        (AdamW(implementation="bitsandbytes", is_paged=True), 99_999, (799_992, 0)),
        (AdamW(implementation="bitsandbytes", is_paged=True), 100_000, (0, 800_000)),
        (AdamW8bit(is_paged=True), 99_999, (199_998 + 2 * 391 * 4, 0)),
        (AdamW8bit(is_paged=True), 100_000, (2 * 391 * 4, 200_000)),
        (AdamW8bit(is_paged=True), 1_000, (8_000, 0)),
    ],
    ids=str,
)
def test_moments_of_large_parameters_are_paged(optimizer: Optimizer, numel: int, expected: tuple[int, int]) -> None:
    assert bytes_of(optimizer, numel) == expected


def test_a_note_says_what_the_figures_leave_out(tmp_path: Path) -> None:
    paged = predict(plan_of("llama", {"method": "full", "optimizer": "paged-adamw-8bit"}, tmp_path))
    resident = predict(plan_of("llama", {"method": "full", "optimizer": "adamw-8bit"}, tmp_path))
    (note,) = (note for note in paged.notes if isinstance(note, PagedStates))
    difference = resident.persistent["optimizer_state"] - paged.persistent["optimizer_state"]
    assert note.num_bytes == difference > 0
    assert any("host-backed memory" in sentence for sentence in note_sentences(paged.notes))
    assert not any(isinstance(note, PagedStates) for note in resident.notes)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"kind": "adamw", "is_paged": True},
        {"kind": "adamw", "implementation": "bitsandbytes", "state_dtype": "bf16"},
        {"kind": "adamw-8bit", "format": "torchao", "is_paged": True},
    ],
)
def test_what_bitsandbytes_does_not_have_is_refused(optimizer: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="bitsandbytes"):
        merge({"optimizer": optimizer}, {}, where="plan.toml")


@pytest.mark.parametrize(
    ("base", "word", "expected"),
    [
        ("adamw", "paged-adamw", ("bitsandbytes", True)),
        ("paged-adamw", "adamw", ("foreach", False)),
        ("paged-adamw", "adamw-fused", ("fused", False)),
    ],
)
def test_a_typed_word_pages_or_does_not(base: str, word: str, expected: tuple[str, bool]) -> None:
    plan = merge({"optimizer": base}, {"--optimizer": word}, where="plan.toml")
    assert isinstance(plan.optimizer, AdamW)
    assert (plan.optimizer.implementation, plan.optimizer.is_paged) == expected


def test_a_plan_survives_being_written(tmp_path: Path) -> None:
    plan = plan_of("llama", {"optimizer": "paged-adamw-8bit"}, tmp_path)
    assert TrainingPlan.model_validate(json.loads(plan.model_dump_json())) == plan


def test_no_other_library_pages(tmp_path: Path) -> None:
    for method, optimizer in (("gradnormlorp", "paged-adamw-8bit"), ("galore", "paged-adamw")):
        with pytest.raises(UserError, match=f"no library trains .* with {optimizer}"):
            predict(plan_of("llama", {"method": method, "optimizer": optimizer}, tmp_path))
