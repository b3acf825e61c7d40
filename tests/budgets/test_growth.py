"""What plans grow by, and whose doing it is."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.budgets.growth import Growth, changes_between, growth
from memplanner.budgets.lock import snapshot
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Predictor
from memplanner.report.growth_phrases import growth_words, row_words

BASE: dict[str, Any] = {
    "model": "llama-60m",
    "method": {"kind": "galore", "rank": 64},
    "step": {"batch_size": 2, "seq_len": 64},
    "device": "rtx4090",
}
PREDICT = Predictor()


def grown(before: dict[str, Any], after: dict[str, Any], **versions: Any) -> Growth:
    one, two = (snapshot(PREDICT(TrainingPlan.model_validate(table))) for table in (before, after))
    return growth("plan", one, two, PREDICT, **versions)


def test_one_change_is_the_cause_of_every_row() -> None:
    difference = grown(BASE, BASE | {"method": {"kind": "galore", "rank": 128}})
    assert [change.key for change in difference.changes] == ["method.rank"]
    phrases = [row_words(row, difference) for row in difference.rows]
    assert all(line.endswith(": method.rank 64 → 128") for line in phrases)
    assert any(line.startswith("optimizer state +") for line in phrases)


def test_each_of_several_changes_answers_for_what_it_moves() -> None:
    step = {"batch_size": 8, "seq_len": 64}
    difference = grown(BASE, BASE | {"method": {"kind": "galore", "rank": 128}, "step": step})
    causes = {row.part: [change.key for change, _ in row.causes] for row in difference.rows}
    assert causes["activations"] == ["step.batch_size"]
    assert causes["optimizer state"] == ["method.rank"]


def test_another_kind_is_one_change() -> None:
    difference = grown(BASE, BASE | {"method": {"kind": "lora", "rank": 64}, "device": "t4"})
    assert [change.key for change in difference.changes] == ["method", "device.name"]
    assert "method galore → lora" in " ".join(row_words(row, difference) for row in difference.rows)


def test_a_changed_budget_moves_no_bytes() -> None:
    difference = grown(BASE, BASE | {"budget": "4GiB"})
    assert ([change.key for change in difference.changes], difference.rows, difference.bytes) == (["budget"], (), 0)
    difference = grown(BASE, BASE | {"budget": "4GiB", "step": {"batch_size": 3, "seq_len": 64}})
    assert {change.key for row in difference.rows for change, _ in row.causes} == {"step.batch_size"}


def test_growth_without_a_changed_setting_is_due_to_the_version() -> None:
    one = snapshot(PREDICT(TrainingPlan.model_validate(BASE)))
    two = one.model_copy(update={"context_bytes": one.context_bytes + 512, "device_bytes": one.device_bytes + 512})
    difference = growth("plan", one, two, PREDICT, versions=("0.1.0", "0.2.0"))
    assert [row_words(row, difference) for row in difference.rows] == ["context +512 B: memplanner 0.1.0 → 0.2.0"]


def test_a_new_plan_and_a_removed_one() -> None:
    one = snapshot(PREDICT(TrainingPlan.model_validate(BASE)))
    assert growth_words(growth("plan", None, one, PREDICT)).startswith("new, ")
    assert growth_words(growth("plan", one, None, PREDICT)).startswith("gone, ")
    assert growth_words(growth("plan", one, one, PREDICT)).endswith(", unchanged")


def test_a_lock_of_another_version_may_have_settings_that_nobody_knows() -> None:
    one = snapshot(PREDICT(TrainingPlan.model_validate(BASE)))
    old = one.model_copy(update={"plan": one.plan | {"unheard": {"of": 1}}})
    two = snapshot(PREDICT(TrainingPlan.model_validate(BASE | {"method": {"kind": "galore", "rank": 128}})))
    difference = growth("plan", old, two, PREDICT)
    assert [change.key for change in difference.changes] == ["method.rank", "unheard"]
    assert {row_words(row, difference).partition(": ")[2] for row in difference.rows} == {"several changes together"}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rank=st.sampled_from([16, 64, 200]),
    batch=st.integers(1, 6),
    checkpointing=st.sampled_from(["none", "full"]),
    optimizer=st.sampled_from(["adamw", "adamw-8bit"]),
    device=st.sampled_from(["rtx4090", "t4", "24GiB"]),
)
def test_rows_add_up_to_the_growth(rank: int, batch: int, checkpointing: str, optimizer: str, device: str) -> None:
    after = BASE | {
        "method": {"kind": "galore", "rank": rank},
        "optimizer": optimizer,
        "step": {"batch_size": batch, "seq_len": 64, "checkpointing": checkpointing},
        "device": device,
    }
    difference = grown(BASE, after)
    assert difference.before is not None
    assert difference.after is not None
    assert sum(difference.before.parts.values()) == difference.before.device_bytes
    assert (
        sum(row.bytes for row in difference.rows)
        == difference.bytes
        == difference.after.device_bytes - difference.before.device_bytes
    )
    assert [row.bytes for row in difference.rows] == sorted((row.bytes for row in difference.rows), reverse=True)


def test_changes_are_in_the_second_plans_order() -> None:
    assert [c.key for c in changes_between({"a": 1, "z": 1}, {"b": 1, "a": 2})] == ["b", "a", "z"]


@pytest.mark.parametrize("same", [{}, {"a": {"kind": "x", "b": 1}}])
def test_equal_tables_have_no_changes(same: dict[str, Any]) -> None:
    assert changes_between(same, dict(same)) == ()
