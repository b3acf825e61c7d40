"""Predictions held against third parties' measurements on real GPUs (tests/data), by the figures we promise."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from memplanner.errors import UserError
from memplanner.prediction.margin import MEASURED, kind_of_plan
from memplanner.validation.published import PublishedRow, load_published, plan_of, validate_published
from memplanner.validation.rows import Row, Validation

DATA = Path(__file__).parent.parent / "data" / "published_measurements.json"


@pytest.fixture(scope="module")
def validation() -> Validation:
    return validate_published(DATA)


def rows_of(validation: Validation, start: str, *metrics: str) -> list[Row]:
    rows = [row for row in validation.rows if row.id.startswith(start) and row.metric in metrics]
    assert rows
    return rows


def worst(rows: list[Row]) -> float:
    return max(abs(row.error) for row in rows)


def test_every_row_is_compared_or_left_out_for_a_reason(validation: Validation) -> None:
    compared = {row.id for row in validation.rows}
    left_out = {skipped.id: skipped.reason for skipped in validation.skipped}
    assert len(compared) == 8 + 36 + 3
    assert len(left_out) == 6
    assert all("2 GPUs" in reason for reason in left_out.values())
    assert not compared & left_out.keys()
    assert len(compared) + len(left_out) == len(json.loads(DATA.read_text())["rows"])


@pytest.mark.parametrize(("start", "limit"), [("a6000-", 0.001), ("t4-", 0.015), ("a100-", 0.001)])
def test_allocated_peaks(start: str, limit: float, validation: Validation) -> None:
    assert worst(rows_of(validation, start, "allocated")) <= limit


def test_mean_error_of_allocated_peaks_on_a_t4(validation: Validation) -> None:
    assert statistics.fmean(abs(row.error) for row in rows_of(validation, "t4-", "allocated")) <= 0.003


def test_phases_on_a_t4(validation: Validation) -> None:
    assert worst(rows_of(validation, "t4-", "forward", "backward", "update")) <= 0.02


def test_bytes_that_outlive_a_step(validation: Validation) -> None:
    assert worst(rows_of(validation, "t4-", "parameters", "gradients", "optimizer state")) <= 2e-6  # rotary buffers
    assert worst(rows_of(validation, "a100-", "steady")) <= 0.0001
    assert worst(rows_of(validation, "a6000-", "parameters")) <= 0.0005


def test_reserved_and_device(validation: Validation) -> None:
    assert worst(rows_of(validation, "t4-", "reserved")) <= 0.047
    assert worst(rows_of(validation, "t4-", "device")) <= 0.045
    assert worst(rows_of(validation, "a100-", "device")) <= 0.045


def test_every_plan_that_ran_is_predicted_to_fit(validation: Validation) -> None:
    assert validation.false_alarms == []


def test_other_tools_are_further_off(validation: Validation) -> None:
    for start, metric in (("a6000-", "allocated"), ("t4-", "device")):
        rows = rows_of(validation, start, metric)
        theirs = [abs(row.peer_error) for row in rows if row.peer_error is not None]
        assert len(theirs) == len(rows)
        ours = [abs(row.error) for row in rows]
        assert statistics.median(ours) < statistics.median(theirs) / 4
        assert max(ours) < max(theirs) / 3


def test_margins_are_the_worst_errors_of_their_kind(validation: Validation, tmp_path: Path) -> None:
    """As `check` prints them: not narrower than what was seen, and not wider than the next tenth of a percent."""
    errors: dict[str, list[float]] = {}
    for row in load_published(DATA):
        if row.num_gpus == 1:
            kind = kind_of_plan(plan_of(row, tmp_path)[0])
            errors.setdefault(kind, []).extend(
                abs(r.error) for r in validation.rows if r.id == row.id and r.metric == "device"
            )
    for margin in MEASURED:
        assert margin.runs == len(errors[margin.kind])
        assert margin.share - 0.001 <= max(errors[margin.kind]) <= margin.share


def row(**changed: Any) -> PublishedRow:
    first = json.loads(DATA.read_text())["rows"][0]
    return PublishedRow.model_validate_json(json.dumps({**first, **changed}))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"framework": "accelerated-peft-bnb-foak"}, "another project's fused kernels"),
        ({"num_gpus": 2}, "parallelism is not part of a plan yet"),
        ({"gpu": "Voodoo 2"}, "on Voodoo 2"),
        ({"base_dtype": "int4"}, "int4 under autocast"),
        ({"method": "prefix"}, "method 'prefix'"),
        ({"arch": None, "model": "nobody/has-this"}, "no bundled model is called 'has-this'"),
        ({"arch": {"hidden_size": 8}}, "its architecture has no 'intermediate_size'"),
    ],
)
def test_rows_that_no_plan_expresses_are_left_out_with_the_reason(
    changed: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": [row(**changed).model_dump(mode="json")]}))
    validation = validate_published(path)
    assert validation.rows == []
    assert reason in validation.skipped[0].reason


def test_a_row_without_arch_uses_the_bundled_model_of_that_name(tmp_path: Path) -> None:
    plan, _ = plan_of(row(arch=None, model="meta-llama/Llama-3.2-1B"), tmp_path)
    assert plan.model == "llama-3.2-1b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not an object"),
        ("{}", "rows: is missing"),
        ('{"rows": []}', "has no rows"),
        ('{"rows": [{"id": 3}]}', "rows.0.id: 3 is not text"),
    ],
)
def test_other_files_are_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        validate_published(path)
    assert any(message in str(problem) for problem in caught.value.problems), caught.value.problems
