"""From a step to what is reserved for it."""

import tomllib
from typing import Any

import pytest

from memplanner.allocator import DeviceFullError, native
from memplanner.allocator.simulation import AllocatorSimulation
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.program.program import Carried, Persistent, PersistentTensor, Repeat, StepProgram, Structure
from memplanner.program.shapes import UINT8, Shape
from memplanner.timeline import Category
from memplanner.units import MIB


@pytest.mark.skipif(not native.is_available(), reason="installed without a C compiler")
@pytest.mark.parametrize("allocator", ["{}", "{ expandable_segments = true }", "{ max_split_size = '64MiB' }"])
@pytest.mark.parametrize("model", ["llama-60m", "gpt2"])
def test_predictions_are_the_same_without_the_compiled_one(
    model: str, allocator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"model": model, "allocator": tomllib.loads(f"x = {allocator}")["x"], "method": "lora"}

    def reserved(**more: Any) -> list[int]:
        estimate = predict(TrainingPlan.model_validate(table | more), simulation=AllocatorSimulation())
        return [estimate.reserved_bytes, estimate.expandable_saving_bytes]

    wanted = reserved()
    tight = {"device": {"kind": "size", "memory": f"{wanted[0] - 4 * MIB}B"}}  # unused segments are to be returned
    squeezed = reserved(**tight)
    monkeypatch.setattr(native, "is_available", lambda: False)
    assert (reserved(), reserved(**tight)) == (wanted, squeezed)


def test_sizes_beyond_64_bits_are_replayed_in_python() -> None:
    step = {"batch_size": 1 << 20, "seq_len": 1 << 24}
    estimate = predict(TrainingPlan.model_validate({"model": "llama-7b", "step": step}))
    assert estimate.reserved_bytes > 1 << 62


Group = tuple[int, tuple[int, ...]]


def program(sizes: tuple[int, ...] = (MIB // 2, 30 * MIB, 40 * MIB), **stays: tuple[Group, ...]) -> StepProgram:
    """Four blocks of a model, each of which makes its output (tensor 1, 30 MiB) and something else (2, 40 MiB).

    early, late: what stays, made before the first step and in it: (copies, bytes of each tensor).
    """
    blocks = Repeat(start=1, end=5, times=4, blocks=0, carried=(Carried(input=0, output=1, offset=-1),))
    structure = Structure((0, 1, 2, ~2, ~0, ~1), (("forward", 0), ("update", 6)), (blocks,), (1, 4, 4))
    categories: dict[str, Category] = {"early": "parameters", "late": "optimizer_state"}
    persistent = tuple(
        PersistentTensor("stays", categories[when], Shape(bytes=size), UINT8, copies)
        for when, groups in stays.items()
        for copies, group in groups
        for size in group
    )
    return StepProgram(tensors=(), sizes=sizes, structure=structure, persistent=Persistent(persistent))


def test_the_pools_are_added_up() -> None:
    simulation = AllocatorSimulation()
    alone = simulation.footprint(program()).reserved
    assert alone == simulation.footprint(program(), limit=alone).reserved
    with pytest.raises(DeviceFullError):
        simulation.footprint(program(), limit=70 * MIB)
    without_small = simulation.footprint(program(sizes=(0, 30 * MIB, 40 * MIB))).reserved
    assert alone - without_small == 2 * MIB


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
def test_what_stays_may_have_more_copies_than_the_log(count: int) -> None:
    """Of segments of their own, so that nothing else uses them."""
    simulation = AllocatorSimulation()
    base = simulation.footprint(program()).reserved
    stays = simulation.footprint(program(early=((count, (90 * MIB, 0, 60 * MIB)), (1, (100 * MIB,))))).reserved
    assert stays == base + (count * 150 + 100) * MIB


def test_what_the_first_step_makes_before_its_update_stays() -> None:
    """While it is made the output's 30 MiB are free again, and are split for it."""
    simulation = AllocatorSimulation()
    base = simulation.footprint(program()).reserved
    assert simulation.footprint(program(late=((1, (12 * MIB,)),))).reserved > base
    early = simulation.footprint(program(early=((2, (80 * MIB,)),), late=((3, (80 * MIB,)),))).reserved
    assert early == base + 5 * 80 * MIB


def test_simulations_do_not_share_their_caches() -> None:
    one, other = AllocatorSimulation(), AllocatorSimulation()
    assert one.footprint(program()).reserved == one.footprint(program()).reserved == other.footprint(program()).reserved
