"""Records: what is written can be read, whatever a run says and however large its model is."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.errors import UserError
from memplanner.files.write import MOST_NAME_BYTES, cut, file_name, remove_drafts
from memplanner.measurement import (
    MOST_BYTES,
    MOST_WORDS,
    Environment,
    Measurement,
    Outcome,
    UnsavedError,
    WeightEvidence,
    bounded,
    load_measurement,
    parse_measurement,
    save_measurement,
    sentences,
)
from memplanner.plan.training_plan import TrainingPlan

RESERVED = set('<>:"/\\|?*') | {chr(i) for i in range(32)}


def record(**changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "id": "r",
        "backend": "cpu",
        "date": "2026-01-01T00:00:00+00:00",
        "plan": TrainingPlan(model="llama-60m"),
        "environment": Environment(memplanner="0", python="3.13", platform="Linux x86_64"),
        "outcome": Outcome(status="completed"),
    }
    return Measurement.model_validate(fields | changes)


def evidence(weights: int) -> tuple[WeightEvidence, ...]:
    energy = {str(2**n): 0.123456789012345 for n in range(9)}
    return tuple(WeightEvidence(name=f"model.layers.{n}.w", shape=(8, 8), energy=energy) for n in range(weights))


def test_losses_that_are_no_numbers_are_null_and_can_be_read(tmp_path: Path) -> None:
    made = record(losses=(1.5, None, None))
    save_measurement(made, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["losses"] == [1.5, None, None]
    assert load_measurement(tmp_path / "r.json") == made
    assert "NaN" not in made.dump()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60)
@given(
    message=st.text(st.characters(exclude_categories=()), max_size=50),
    times=st.integers(0, 400),
    config=st.dictionaries(st.text(max_size=5), json_values, max_size=5),
    losses=st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=5),
)
def test_what_is_written_can_be_read(
    message: str, times: int, config: dict[str, Any], losses: list[float | None]
) -> None:
    outcome = Outcome(status="failed", message=sentences(*[message] * times))
    made = bounded(record(outcome=outcome, config=config, losses=tuple(losses)))
    read = parse_measurement(made.dump(), "")
    assert read.losses == made.losses
    assert read.outcome == made.outcome
    assert parse_measurement(read.dump(), "") == read


def test_a_model_with_very_many_weights_keeps_the_evidence_of_some() -> None:
    made = bounded(record(rank_evidence=evidence(36_000)))
    assert len(made.dump().encode()) <= MOST_BYTES
    kept = len(made.rank_evidence)
    assert kept > 1000
    assert made.rank_evidence[-1].name.split(".")[2] > "3"
    assert made.outcome.message == f"rank evidence of {kept} of 36000 weights is kept"
    assert parse_measurement(made.dump(), "") == made
    few = record(rank_evidence=evidence(100))
    assert bounded(few) is few


@pytest.mark.parametrize("what", ["large", "deep", "long number"])
def test_a_config_that_no_record_can_hold_is_left_out(what: str) -> None:
    nested: Any = 1
    for _ in range(100):
        nested = [nested]
    config = {"large": {"a": "x" * MOST_BYTES}, "deep": {"a": nested}, "long number": {"a": 10**2000}}[what]
    made = bounded(record(config=config, rank_evidence=evidence(10)))
    assert made.config is None
    assert len(made.rank_evidence) == 10
    assert made.outcome.message == "the model's config could not be kept"
    assert parse_measurement(made.dump(), "") == made


def test_messages_are_cut() -> None:
    assert sentences("", "a", "", "b") == "a; b"
    assert sentences("ä" * MOST_WORDS).endswith("ä …")
    assert len(sentences("ä" * MOST_WORDS).encode()) <= MOST_WORDS
    assert sentences("\udcff") == "?"


def test_a_record_that_cannot_be_written_is_with_the_error(tmp_path: Path) -> None:
    made = record()
    (tmp_path / "r.json").mkdir()
    with pytest.raises(UnsavedError, match="is a directory") as caught:
        save_measurement(made, tmp_path / "r.json")
    assert caught.value.record is made
    with pytest.raises(UnsavedError, match="larger than 4 MiB"):
        save_measurement(record(config={"a": "x" * MOST_BYTES}), tmp_path / "s.json")
    assert os.listdir(tmp_path) == ["r.json"]


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_text_names_a_file_on_any_system(text: str) -> None:
    name = file_name(text)
    assert 1 <= len(name.encode("utf-8")) <= MOST_NAME_BYTES
    assert not RESERVED & set(name)
    assert not name.startswith(".")
    assert not name.endswith((".", " "))
    assert file_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("llama-r8", "llama-r8"),
        ("a 0.5", "a 0.5"),
        ("org/model:x", "org-model-x"),
        ("con", "_con"),
        ("NUL.a-b", "_NUL.a-b"),
        ("Com1 ", "_Com1"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("schön", "schön"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert file_name(text) == name


def test_long_names_that_differ_at_their_end_stay_two() -> None:
    names = {file_name("ü" * 300 + end) for end in "ab"}
    assert len(names) == 2
    assert cut("a" * MOST_NAME_BYTES, MOST_NAME_BYTES) == "a" * MOST_NAME_BYTES


def test_abandoned_drafts_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".0123456789ab.tmp", ".fedcba987654.tmp", ".mine.tmp", "a.json"):
        (tmp_path / name).write_text("", encoding="utf-8")
        if name != ".fedcba987654.tmp":
            os.utime(tmp_path / name, (1, 1))
    remove_drafts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".fedcba987654.tmp", ".mine.tmp", "a.json"]
    remove_drafts(tmp_path / "nowhere")


def test_infinity_in_a_config_is_null() -> None:
    made = bounded(record(config={"a": [0.0, math.inf]}))
    assert parse_measurement(made.dump(), "").config == {"a": [0.0, None]}


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"schema": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="is not a record of a run"):
        load_measurement(tmp_path / "r.json")
