"""The changes that would make a plan fit."""

from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.solve.changes import single_changes
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
