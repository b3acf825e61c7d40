"""Predictions held against third parties' measurements on real GPUs (profiles/published), by the figures we promise."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from memplanner.errors import UserError
from memplanner.files.sandbox import profiles_dir
from memplanner.prediction.margin import margin_of
from memplanner.validation.published import PublishedRow, load_published, plan_of, validate_published
from memplanner.validation.rows import Row, Validation

DATA = profiles_dir() / "published" / "measurements.json"


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
    assert len(compared) == 8 + 36 + 9
    assert len(left_out) == 6
    assert all("2 GPUs" in reason for reason in left_out.values())
    assert not compared & left_out.keys()
    by_verdict_alone = set(validation.out_of_memory)
    assert not by_verdict_alone & (compared | left_out.keys())
    assert len(compared | left_out.keys() | by_verdict_alone) == len(json.loads(DATA.read_text())["rows"])


UNEXPLAINED = "t4-2026-09-15-flash-nf4-fp16-adamw-r32-ckpt-HuggingFaceTB_SmolLM2-135M-bs2-seq512"
"""The one run with an allocated peak that is off by more than half a percent (docs/lab-log.md)."""


@pytest.mark.parametrize(("start", "limit"), [("a6000-", 0.001), ("t4-", 0.0025), ("a100-", 0.0004)])
def test_allocated_peaks(start: str, limit: float, validation: Validation) -> None:
    assert worst([row for row in rows_of(validation, start, "allocated") if row.id != UNEXPLAINED]) <= limit


def test_allocated_peaks_without_a_quantised_base(validation: Validation) -> None:
    rows = [row for row in validation.rows if row.metric == "allocated" and "nf4" not in row.method]
    assert len(rows) == 8 + 18 + 4
    assert worst(rows) <= 0.001


def test_the_unexplained_run(validation: Validation) -> None:
    (row,) = (row for row in rows_of(validation, UNEXPLAINED, "allocated"))
    assert row.id == UNEXPLAINED
    assert 0.008 < row.error <= 0.012, "an explanation ends this, and belongs in the lab log"


def test_mean_error_of_allocated_peaks_on_a_t4(validation: Validation) -> None:
    assert statistics.fmean(abs(row.error) for row in rows_of(validation, "t4-", "allocated")) <= 0.003


def test_phases_on_a_t4(validation: Validation) -> None:
    assert worst(rows_of(validation, "t4-", "forward", "backward", "update")) <= 0.02


def test_bytes_that_outlive_a_step(validation: Validation) -> None:
    assert worst(rows_of(validation, "t4-", "parameters", "gradients", "optimizer state")) <= 2e-6  # rotary buffers
    assert worst(rows_of(validation, "a100-", "steady")) <= 0.0007  # a 70B's packed weights, read in another order
    assert worst(rows_of(validation, "a6000-", "parameters")) <= 0.0005


def test_reserved_and_device(validation: Validation) -> None:
    assert worst(rows_of(validation, "t4-", "reserved")) <= 0.052
    assert worst(rows_of(validation, "t4-", "device")) <= 0.047
    assert worst(rows_of(validation, "a100-", "device")) <= 0.081


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


def test_every_run_is_within_the_margin_of_its_kind(validation: Validation, tmp_path: Path) -> None:
    rows = {row.id: row for row in load_published(DATA)}
    for row in validation.rows:
        if row.metric == "device":
            share = margin_of(plan_of(rows[row.id], tmp_path)[0]).share
            assert row.measured_bytes <= row.predicted_bytes * (1 + share), row.id


def test_no_run_that_ran_out_of_memory_was_said_to_fit(validation: Validation) -> None:
    assert len(validation.out_of_memory) == 7
    assert validation.false_fits == []


def test_runs_out_of_sample(validation: Validation) -> None:
    """Added after the model was done, and nothing was changed for them."""
    rows = [row for row in validation.rows if not row.in_sample]
    assert len({row.id for row in rows}) == 5
    assert worst([row for row in rows if row.metric == "allocated"]) <= 0.0001
    assert worst([row for row in rows if row.metric == "steady"]) <= 0.0002


FIRST = json.loads(DATA.read_text())["rows"][0]
ARCH = FIRST["arch"]


def row(**changed: Any) -> PublishedRow:
    return PublishedRow.model_validate_json(json.dumps({**FIRST, **changed}))


def published_file(folder: Path, *rows: PublishedRow) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps({"rows": [each.model_dump(mode="json") for each in rows]}))
    return path


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"framework": "accelerated-peft-bnb-foak"}, "its fused kernels (RoPE, RMSNorm, cross-entropy, LoRA)"),
        ({"framework": "foak-fast-kernels-liger"}, "its fused kernels"),
        ({"framework": "accelerated-peft-autogptq"}, "a GPTQ base is not modelled"),
        ({"framework": "accelerated-peft-bnb-padding-free"}, "batches without padding are not modelled"),
        ({"framework": "mystery"}, "framework 'mystery': what it changes is not known; what is: none, baseline-peft-"),
        ({"num_gpus": 2}, "parallelism is not part of a plan yet"),
        ({"gpu": "Voodoo 2"}, "no card is called 'Voodoo 2'"),
        ({"attention": "sparse"}, "attention 'sparse' is not known; what is: eager, sdpa"),
        ({"base_dtype": "int4"}, "int4 under autocast"),
        ({"method": "prefix"}, "method 'prefix'"),
        ({"arch": None, "model": "nobody/has-this"}, "no bundled model is called 'nobody/has-this'"),
        ({"arch": {"hidden_size": 8}}, "its architecture has no 'intermediate_size'"),
        ({"arch": ARCH | {"hidden_size": "wide"}}, "Llama-3-2-1B: hidden_size: 'wide' is not a whole number"),
        ({"method": "lora"}, "method.rank: None is not a whole number"),
        ({"checkpointing": "selective"}, "step.checkpointing: 'selective' is not 'none', 'full' or"),
        ({"quantization": "gptq"}, "quantization: 'gptq' is not a known quantization"),
        ({"quantization": "nf4"}, "quantization 'nf4' needs a frozen base"),
        ({"seq": 1 << 40}, "step.seq_len: 1099511627776 is above"),
        ({"measured": {"weights_on_disk": 5}}, "no figure was measured that a prediction has, too"),
    ],
)
def test_rows_that_no_plan_expresses_are_left_out_with_the_reason(
    changed: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    validation = validate_published(published_file(tmp_path, row(**changed)))
    assert not validation.rows
    assert reason in validation.skipped[0].reason
    assert "\n" not in validation.skipped[0].reason


@pytest.mark.parametrize(
    ("model", "bundled", "assumed"),
    [
        ("meta-llama/Llama-3.2-1B", "llama-3.2-1b", False),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b-v0.1", False),
        ("NousResearch/Llama-2-70b-hf", "llama-2-70b", False),
        ("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "tinyllama-1.1b", False),
        ("somebody/Llama-2-70b-hf", "llama-2-70b", True),
    ],
)
def test_a_row_without_arch_uses_the_bundled_model_of_that_name(
    model: str, bundled: str, assumed: bool, tmp_path: Path
) -> None:
    plan, assumptions = plan_of(row(arch=None, model=model), tmp_path)
    assert plan.model == bundled
    assert any(f"{model} is taken to have the shape of" in text for text in assumptions) == assumed


def test_rows_of_one_name_keep_their_own_architectures(tmp_path: Path) -> None:
    first, second = (plan_of(row(arch=ARCH | {"num_layers": n}), tmp_path)[0].model for n in (1, 2))
    assert json.loads(Path(first).read_text())["num_hidden_layers"] == 1
    assert json.loads(Path(second).read_text())["num_hidden_layers"] == 2


def test_a_row_may_have_no_allocated_peak(tmp_path: Path) -> None:
    validation = validate_published(published_file(tmp_path, row(measured={"reserved_peak": 20_000_000_000})))
    assert [(each.metric, each.measured_bytes) for each in validation.rows] == [("reserved", 20_000_000_000)]


QLORA = {
    "id": "a100-046",
    "gpu": "A100-SXM4-80GB",
    "model": "mistralai/Mistral-7B-v0.1",
    "arch": None,
    "method": "lora",
    "rank": 16,
    "autocast": "bfloat16",
    "quantization": "nf4",
    "batch": 4,
    "seq": 4096,
    "attention": "flash_attention_2",
    "checkpointing": "full",
    "framework": "accelerated-peft-bnb",
    "peer_predicted": None,
}


def test_the_plugin_without_fused_kernels_is_qlora_without_casts_to_fp32(tmp_path: Path) -> None:
    """fms-acceleration's refs/a100_80gb.csv, Mistral-7B: 3.9 GiB below the same run with trl's casts of the norms."""
    peaks = {4: (16_373_838_336, 4_306_496_512), 8: (28_412_178_944, 4_306_889_728)}
    for batch, (peak, steady) in peaks.items():
        measured = {"allocated_peak": peak, "steady": steady}
        validation = validate_published(published_file(tmp_path, row(**QLORA | {"batch": batch, "measured": measured})))
        assert [each.metric for each in validation.rows] == ["allocated", "steady"]
        assert abs(validation.rows[0].error) < 0.00002
        assert abs(validation.rows[1].error) < 0.0002


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
