"""The changes that would make a plan fit."""

from typing import Any

import pytest

from memplanner.plan.merge import merge
from memplanner.plan.training_plan import SizeDevice, TrainingPlan
from memplanner.prediction import predict
from memplanner.solve.changes import single_changes
from memplanner.timeline import advisable
from tests.fakes import fake_predict


def test_only_what_fits_least_intrusive_first() -> None:
    estimate = fake_predict(TrainingPlan(device="16GiB"))  # type: ignore[arg-type]  # the shorthand of plan files
    changes = single_changes(estimate, fake_predict)  # type: ignore[arg-type]  # the fake has the shape
    assert [change.typed for change in changes.fitting] == ["--checkpointing full", "--optimizer adamw-8bit"]
    assert [change.intrusion for change in changes.fitting] == [1, 3]
    assert changes.others == ()
    for change in changes.fitting:
        changed = fake_predict(merge(estimate.plan.model_dump(mode="json"), change.flags, where="plan"))
        assert changed.verdict != "does-not-fit"
        assert estimate.device_bytes - changed.device_bytes == change.saved_bytes > 0


def test_where_nothing_is_enough_the_largest_savings_are_shown() -> None:
    estimate = fake_predict(TrainingPlan(device="8GiB"))  # type: ignore[arg-type]
    changes = single_changes(estimate, fake_predict)  # type: ignore[arg-type]
    assert changes.fitting == ()
    assert changes.others[0].typed == "--optimizer adamw-8bit"
    savings = [change.saved_bytes for change in changes.others]
    assert savings == sorted(savings, reverse=True)


def of(**settings: Any) -> TrainingPlan:
    return TrainingPlan.model_validate(settings)


def test_the_best_of_each_kind_is_offered() -> None:
    """The largest batch that fits, and not a half."""
    plan = of(model="llama-60m", method="lora", device="2GB", step={"batch_size": 60, "seq_len": 256})
    estimate = predict(plan)
    assert estimate.verdict == "does-not-fit"
    changes = single_changes(estimate, predict)
    (smaller,) = [change for change in changes.fitting if "--batch-size" in change.flags and len(change.flags) == 1]
    size = int(str(smaller.flags["--batch-size"]))
    table = plan.model_dump(mode="json")
    assert advisable(predict(merge(table, smaller.flags, where="")))
    more = (predict(merge(table, {"--batch-size": str(n)}, where="")) for n in range(size + 1, 60))
    assert all(estimate.verdict != "fits" for estimate in more)


def test_free_changes_come_first() -> None:
    plan = of(model="llama-1b", precision="fp32", device="32GiB", step={"batch_size": 8, "seq_len": 512})
    estimate = predict(plan)
    assert estimate.verdict == "does-not-fit"
    changes = single_changes(estimate, predict)
    intrusions = [change.intrusion for change in changes.fitting]
    assert intrusions == sorted(intrusions)
    assert ("--precision bf16-mixed", 1) in [(change.typed, change.intrusion) for change in changes.fitting]


def test_several_together_where_a_single_one_takes_too_much() -> None:
    plan = of(
        model="llama-3.1-8b",
        method={"kind": "lora", "rank": 64},
        device="rtx4090",
        step={"batch_size": 8, "seq_len": 2048},
    )
    estimate = predict(plan)
    changes = single_changes(estimate, predict)
    together = changes.together
    assert together is not None
    assert together.intrusion < min(change.intrusion for change in changes.fitting)
    table = plan.model_dump(mode="json")
    changed = predict(merge(table, together.flags, where=""))
    assert advisable(changed)
    assert estimate.device_bytes - changed.device_bytes == together.saved_bytes
    for name in together.flags.keys() - {"--grad-accumulation"}:  # which keeps the total batch, and saves nothing
        fewer = {flag: value for flag, value in together.flags.items() if flag != name}
        assert not advisable(predict(merge(table, fewer, where=""))), f"{name} is not needed"


def test_nothing_together_where_all_is_not_enough() -> None:
    plan = of(model="llama-3.1-405b", method="lora", device="rtx4090")
    changes = single_changes(predict(plan), predict)
    assert (changes.fitting, changes.together) == ((), None)
    assert changes.others


def test_expandable_segments_are_offered_where_fragmentation_is_what_is_too_much() -> None:
    roomy = predict(of(model="llama-1b", method="lora", device="80GiB", step={"batch_size": 4, "seq_len": 512}))
    assert roomy.expandable_saving_bytes > 0
    size = roomy.reserved_bytes - roomy.expandable_saving_bytes // 2
    tight = predict(roomy.plan.model_copy(update={"device": SizeDevice(memory=f"{size} B", context="0")}))
    assert not advisable(tight, strict=True)
    changes = single_changes(tight, predict)
    assert ("--expandable-segments", 0) in [(change.typed, change.intrusion) for change in changes.fitting]


@pytest.mark.parametrize(
    ("settings", "flags", "intrusion"),
    [
        ({"precision": "fp32"}, "--torch 2.14", 0),
        ({"model": "mistral-7b-v0.1", "method": "lora", "step": {"seq_len": 8192}}, "--attention flash-attention-2", 0),
        ({"method": "lora", "quantization": "nf4"}, "--precision bf16-mixed", 1),
        ({"method": "lora", "quantization": "nf4", "precision": "fp16"}, "--precision fp16-mixed", 1),
    ],
    ids=["grouped heads in fp32", "masks of a window", "k-bit preparation", "k-bit preparation in fp16"],
)
def test_what_makes_attention_and_arithmetic_small_is_offered(
    settings: dict[str, Any], flags: str, intrusion: int
) -> None:
    """Each where it is enough: on a device that has what the changed plan needs with half of the saving to spare."""
    step = {"batch_size": 4, "seq_len": 1024}
    plan = of(**{"model": "llama-3.2-1b", "device": "1TiB", "step": step, **settings})
    name, value = flags.split()
    before = predict(plan)
    after = predict(merge(plan.model_dump(mode="json"), {name: value}, where=""))
    assert after.device_bytes < before.device_bytes
    size = (before.device_bytes + after.device_bytes) // 2
    small = predict(plan.model_copy(update={"device": SizeDevice(memory=f"{size} B")}))
    assert not advisable(small)
    assert (flags, intrusion) in [(c.typed, c.intrusion) for c in single_changes(small, predict).fitting]
