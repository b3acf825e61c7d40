"""From a step to what is reserved for it."""

import tomllib
from typing import Any

import pytest

from memplanner.allocator import native
from memplanner.allocator.reference import DeviceFullError
from memplanner.allocator.simulation import AllocatorSimulation, Requests
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.tape.engine import Run
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


def test_more_than_64_bits_hold_is_left_to_python() -> None:
    step = {"batch_size": 1 << 20, "seq_len": 1 << 24}
    estimate = predict(TrainingPlan.model_validate({"model": "llama-7b", "step": step}))
    assert estimate.reserved_bytes > 1 << 62


def requests(**changes: Any) -> Requests:
    """Four blocks of a model, each of which makes its output (tensor 1, 30 MiB) and something else (2, 40 MiB)."""
    fields: dict[str, Any] = {
        "log": (0, 1, 2, ~2, ~0, ~1),
        "update": 6,
        "runs": (Run(reps=4, start=1, input=0, end=5, output=1),),
        "reps": (1, 4, 4),
        "sizes": (MIB // 2, 30 * MIB, 40 * MIB),
        "early": (),
        "late": (),
    }
    return Requests(**fields | changes)


def test_the_pools_are_added_up() -> None:
    simulation = AllocatorSimulation()
    alone = simulation.reserved_bytes(requests())
    assert alone == simulation.reserved_bytes(requests(), limit=alone)
    with pytest.raises(DeviceFullError):
        simulation.reserved_bytes(requests(), limit=70 * MIB)
    without_small = simulation.reserved_bytes(requests(sizes=(0, 30 * MIB, 40 * MIB)))
    assert alone - without_small == 2 * MIB


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
def test_what_stays_may_have_more_copies_than_the_log(count: int) -> None:
    """Of segments of their own, so that nothing else uses them."""
    simulation = AllocatorSimulation()
    base = simulation.reserved_bytes(requests())
    stays = simulation.reserved_bytes(requests(early=((count, (90 * MIB, 0, 60 * MIB)), (1, (100 * MIB,)))))
    assert stays == base + (count * 150 + 100) * MIB


def test_what_the_first_step_makes_before_its_update_stays() -> None:
    """While it is made the output's 30 MiB are free again, and are split for it."""
    simulation = AllocatorSimulation()
    base = simulation.reserved_bytes(requests())
    assert simulation.reserved_bytes(requests(late=((1, (12 * MIB,)),))) > base
    early = simulation.reserved_bytes(requests(early=((2, (80 * MIB,)),), late=((3, (80 * MIB,)),)))
    assert early == base + 5 * 80 * MIB


def test_each_simulation_remembers_by_itself() -> None:
    one, other = AllocatorSimulation(), AllocatorSimulation()
    assert one.reserved_bytes(requests()) == one.reserved_bytes(requests()) == other.reserved_bytes(requests())
