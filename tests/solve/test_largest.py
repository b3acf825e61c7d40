"""The largest value that fits: exact to one unit, whatever the search meets on its way."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, predict
from memplanner.prediction.margin import Margin
from memplanner.solve.largest import AXES, Largest, SearchAxis, largest
from memplanner.timeline import Verdict, advisable

BASE = {"model": "llama-60m", "method": {"kind": "lora", "rank": 4}, "step": {"batch_size": 2, "seq_len": 64}}


def plan(**fields: Any) -> TrainingPlan:
    return TrainingPlan.model_validate({**BASE, **fields})


def without_context(memory: str) -> dict[str, str]:
    """A device of that size, all of which is the allocator's."""
    return {"kind": "size", "memory": memory, "context": "0"}


def value_of(plan: TrainingPlan, axis: SearchAxis) -> int:
    values = {"batch-size": plan.step.batch_size, "seq-len": plan.step.seq_len}
    return plan.method.rank if axis == "rank" else values[axis]  # type: ignore[attr-defined]


@dataclass(kw_only=True)
class Answer:
    """What the search reads of an estimate."""

    plan: TrainingPlan
    verdict: Verdict
    is_hopeless: bool
    is_squeezed: bool = False
    margin: Margin = Margin("none", 0.0, 0, 0)  # noqa: RUF009
    context_bytes: int = 0
    limit_bytes: int = 100

    @property
    def live_bytes(self) -> int:
        return 101 if self.is_hopeless else 100


@dataclass
class Threshold:
    """Stands in for predict: fits up to a bound on one axis, and counts how often it is asked."""

    axis: SearchAxis
    bound: int
    asked: int = 0

    def __call__(self, changed: TrainingPlan) -> Any:
        self.asked += 1
        over = value_of(changed, self.axis) > self.bound

        return Answer(plan=changed, verdict="does-not-fit" if over else "fits", is_hopeless=over)


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
        assert result.comfortable == result.value, where
        assert predicted.asked <= 30, where


@given(
    kinds=st.lists(st.sampled_from(["fits", "tight", "squeezed", "does-not-fit"]), max_size=40), strict=st.booleans()
)
@settings(max_examples=300, deadline=None)
def test_the_largest_of_all_where_larger_values_may_need_less(kinds: list[str], strict: bool) -> None:
    """Values beyond the list are hopeless; of those in it any may fit."""

    def predicted(changed: TrainingPlan) -> Any:
        value = value_of(changed, "rank")
        kind = kinds[value - 1] if value <= len(kinds) else "does-not-fit"
        verdict: Any = "tight" if kind == "squeezed" else kind
        return Answer(plan=changed, verdict=verdict, is_hopeless=value > len(kinds), is_squeezed=kind == "squeezed")

    result = largest(plan(), "rank", predicted, ceiling=64, strict=strict)
    wanted = ("fits",) if strict else ("fits", "tight")
    assert result.value == max((i for i, kind in enumerate(kinds, 1) if kind in wanted), default=0)
    comfortable = max((i for i, kind in enumerate(kinds, 1) if kind == "fits"), default=0)
    assert result.comfortable == comfortable


@pytest.mark.parametrize("memory", ["640MB", "655MB", "670MB", "700MB"])
@pytest.mark.parametrize("method", ["lora", "gradnormlorp", "galore"])
def test_as_an_exhaustive_sweep_finds_it(method: str, memory: str) -> None:
    base = plan(device=memory, method=method, optimizer="adamw")
    result = largest(base, "rank", predict, ceiling=160)

    def at(rank: int) -> Estimate:
        return predict(plan(device=memory, method={"kind": method, "rank": rank}, optimizer="adamw"))

    estimates = {rank: at(rank) for rank in range(1, 161)}
    assert result.value == max((rank for rank, e in estimates.items() if advisable(e)), default=0)
    assert result.comfortable == max((rank for rank, e in estimates.items() if e.verdict == "fits"), default=0)


@given(fitting=st.sets(st.integers(1, 700), max_size=8))
@settings(max_examples=100, deadline=None)
def test_where_not_every_value_is_tried_it_says_up_to_which_one_may_fit(fitting: set[int]) -> None:
    """Up to 700 nothing is hopeless, and the first 256 from there down are tried one by one."""

    def predicted(changed: TrainingPlan) -> Any:
        value = value_of(changed, "rank")
        return Answer(plan=changed, verdict="tight" if value in fitting else "does-not-fit", is_hopeless=value > 700)

    result = largest(plan(), "rank", predicted, ceiling=4096)
    assert result.value in fitting | {0}
    most = max(fitting, default=0)
    if most > 700 - 256:
        assert (result.value, result.untried) == (most, 0)
    else:
        assert result.untried == 700 - 256
        assert result.value + 1 not in fitting
    assert result.untried == 0 or most <= result.untried


def on(memory: str, axis: SearchAxis, **fields: Any) -> Largest:
    return largest(plan(device=without_context(memory), **fields), axis, predict)


@pytest.mark.parametrize(("axis", "memory"), [("rank", "700MB"), ("batch-size", "2GB"), ("seq-len", "2GB")])
def test_one_more_does_not_fit(axis: SearchAxis, memory: str) -> None:
    result = on(memory, axis)
    assert result.value > 1
    assert result.estimate.margin_bytes >= 0
    assert result.above is not None
    assert not advisable(result.above)


def test_strict_leaves_the_error_margin_free() -> None:
    result = largest(plan(device=without_context("2GB")), "batch-size", predict, strict=True)
    assert result.estimate.verdict == "fits"
    assert result.value < on("2GB", "batch-size").value


def test_full_training_has_no_rank() -> None:
    with pytest.raises(UserError, match="rank"):
        on("24GB", "rank", method="full")


def test_an_ordinary_batch_may_be_longer_than_what_is_tried() -> None:
    ordinary = plan(step={"batch_size": 2, "seq_len": 256, "typical_seq_len": 128})
    assert largest(ordinary, "seq-len", Threshold("seq-len", 100)).value == 100
