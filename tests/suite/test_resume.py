"""Which record of an earlier run still answers a case, and what is said of one that does not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from memplanner.catalogue import find_model
from memplanner.measurement import Backend, Environment, Measurement, Outcome
from memplanner.plan.training_plan import TrainingPlan
from memplanner.suite.definition import Case
from memplanner.suite.resume import ended, staleness

PLAN = TrainingPlan.model_validate({"model": "llama-60m", "device": "rtx4090"})
HERE = Environment(memplanner="1", python="3.13", platform="Linux", libraries={"torch": "2.13.0", "peft": "0.19"})
CUDA = HERE.model_copy(
    update={"gpu": "NVIDIA H200", "driver": "570", "cuda": "13.0", "gpu_total_bytes": 10, "allocator": ""}
)
CASE = Case(id="a", plan=PLAN, root=Path())


def record(backend: Backend, **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "id": "a",
        "backend": backend,
        "date": "",
        "plan": PLAN,
        "config": json.loads(json.dumps(find_model("llama-60m").config)),
        "environment": CUDA if backend == "cuda" else HERE,
        "outcome": Outcome(status="completed"),
        "warmup_steps": {"cuda": 2, "cpu": 1, "fake": 0}[backend],
        "measured_steps": 0 if backend == "fake" else 2,
    }
    return Measurement.model_validate(fields | changes)


def stale(of: Measurement, case: Case = CASE, backend: Backend = "cpu") -> str:
    return str(staleness(of, case, backend, CUDA if backend == "cuda" else HERE))


@pytest.mark.parametrize("backend", ["cuda", "cpu", "fake"])
def test_a_record_of_the_same_run_is_kept(backend: Backend) -> None:
    assert stale(record(backend), backend=backend) == ""


def changed(**changes: Any) -> Case:
    return dataclasses.replace(CASE, **changes)


def test_what_was_asked_for() -> None:
    table = PLAN.model_dump(mode="json")
    longer = TrainingPlan.model_validate(table | {"step": table["step"] | {"seq_len": 64}})
    assert stale(record("cpu"), changed(plan=longer)) == f"plan's step.seq_len {PLAN.step.seq_len} → 64"
    assert stale(record("fake")).startswith("device fake → cpu")
    assert stale(record("cpu"), changed(warmup=3, steps=5)) == "steps before the timed 1 → 3, timed steps 2 → 5"
    assert stale(record("fake"), changed(warmup=3, steps=5), "fake") == ""
    assert stale(record("cuda"), changed(cap_memory=True), "cuda") == "memory capped"
    capped = record("cuda", environment=CUDA.model_copy(update={"memory_fraction": 0.5}))
    assert stale(capped, changed(cap_memory=True), "cuda") == ""
    assert stale(capped, CASE, "cuda") == "memory not capped any more"
    assert stale(record("cpu"), changed(rank_evidence=True)) == "rank evidence asked for"
    tried = Outcome(status="completed", message="no rank evidence of 2 of 2 weights, whose gradients are not finite")
    assert stale(record("cpu", outcome=tried), changed(rank_evidence=True)) == ""


def test_a_model_s_file_that_has_changed(tmp_path: Path) -> None:
    config = dict(find_model("llama-60m").config)
    (tmp_path / "m.json").write_text(json.dumps(config), encoding="utf-8")
    plan = TrainingPlan.model_validate({"model": "m.json"})
    case = Case(id="a", plan=plan, root=tmp_path)
    assert stale(record("cpu", plan=plan), case) == ""
    wider = config | {"intermediate_size": 1}
    (tmp_path / "m.json").write_text(json.dumps(wider), encoding="utf-8")
    assert stale(record("cpu", plan=plan), case) == f"model's intermediate_size {config['intermediate_size']} → 1"
    (tmp_path / "m.json").unlink()  # then the run says so
    assert stale(record("cpu", plan=plan), case) == ""


def test_software_and_machine() -> None:
    older = HERE.model_copy(update={"memplanner": "0", "libraries": {"torch": "2.12.0", "trl": "1"}})
    assert stale(record("cpu", environment=older)) == (
        "memplanner 0 → 1, torch 2.12.0 → 2.13.0, peft none → 0.19, trl 1 → none"
    )
    other = CUDA.model_copy(update={"gpu": "NVIDIA A10", "driver": "560", "allocator": "expandable_segments:True"})
    assert stale(record("cuda", environment=other), backend="cuda") == (
        "GPU NVIDIA A10 → NVIDIA H200, driver 560 → 570, PYTORCH_ALLOC_CONF expandable_segments:True → none"
    )


def test_a_run_that_could_end_otherwise_is_no_answer() -> None:
    assert [ended(record("cpu", outcome=Outcome(status=s))) for s in ("completed", "out-of-memory", "failed")] == [
        True,
        True,
        False,
    ]
