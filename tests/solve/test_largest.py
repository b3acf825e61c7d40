"""The largest value that fits: exact to one unit, whatever the search meets on its way."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.solve.largest import AXES, Largest, SearchAxis, largest

BASE = {"model": "llama-60m", "method": {"kind": "lora", "rank": 4}, "step": {"batch_size": 2, "seq_len": 64}}


def plan(**fields: Any) -> TrainingPlan:
    return TrainingPlan.model_validate({**BASE, **fields})


def value_of(plan: TrainingPlan, axis: SearchAxis) -> int:
    values = {"batch-size": plan.step.batch_size, "seq-len": plan.step.seq_len}
    return plan.method.rank if axis == "rank" else values[axis]  # type: ignore[attr-defined]


@dataclass
class Threshold:
    """Stands in for predict: fits up to a bound on one axis, and counts how often it is asked."""

    axis: SearchAxis
    bound: int
    asked: int = 0

    def __call__(self, changed: TrainingPlan) -> Any:
        self.asked += 1
        over = value_of(changed, self.axis) > self.bound

        class Answer:
            verdict = "does-not-fit" if over else "fits"
            plan = changed

        return Answer()


BOUNDS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 1000, 4095, 4096, 4097)
CEILINGS = (1, 2, 64, 100, 4096)


def test_exact_at_every_bound_and_ceiling() -> None:
    for axis, bound, ceiling in product(AXES, BOUNDS, CEILINGS):
        where = f"{axis}, fits up to {bound}, searched up to {ceiling}"
        predicted = Threshold(axis, bound)
        result = largest(plan(), axis, predicted, ceiling=ceiling)
        assert result.value == min(bound, ceiling), where
        assert value_of(result.estimate.plan, axis) == max(result.value, 1), where
        if 0 < bound < ceiling:
            assert result.above is not None, where
            assert value_of(result.above.plan, axis) == bound + 1, where
        else:
            assert result.above is None, where
        assert predicted.asked <= 30, where


def on(memory: str, axis: SearchAxis, **fields: Any) -> Largest:
    return largest(plan(device=memory, **fields), axis, predict)


@pytest.mark.parametrize(("axis", "memory"), [("rank", "700MB"), ("batch-size", "2GB"), ("seq-len", "2GB")])
def test_one_more_does_not_fit(axis: SearchAxis, memory: str) -> None:
    result = on(memory, axis)
    assert result.value > 1
    assert result.estimate.margin_bytes >= 0
    assert result.above is not None
    assert result.above.margin_bytes < 0


def test_strict_leaves_the_error_margin_free() -> None:
    result = largest(plan(device="2GB"), "batch-size", predict, strict=True)
    assert result.estimate.verdict == "fits"
    assert result.value < on("2GB", "batch-size").value


def test_full_training_has_no_rank() -> None:
    with pytest.raises(UserError, match="rank"):
        on("24GB", "rank", method="full")


def test_an_ordinary_batch_may_be_longer_than_what_is_tried() -> None:
    ordinary = plan(step={"batch_size": 2, "seq_len": 256, "typical_seq_len": 128})
    assert largest(ordinary, "seq-len", Threshold("seq-len", 100)).value == 100
