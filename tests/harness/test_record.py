"""Real steps on the CPU, their records, and runs that end early."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch

from memplanner.errors import UserError
from memplanner.files.sandbox import profiles_dir
from memplanner.harness.builders.optimizers import LEARNING_RATE, optimizers_for
from memplanner.harness.job import job_of_plan
from memplanner.harness.record import available, available_bytes, measure
from memplanner.measurement import Measurement, load_measurement, save_measurement
from memplanner.plan.training_plan import TrainingPlan
from memplanner.suite.definition import load_suite

SUITES = profiles_dir() / "suites"


def tiny(**fields: Any) -> TrainingPlan:
    base = {"model": "models/smoke-llama.json", "precision": "fp32", "device": "24GiB"}
    step = {"batch_size": 2, "seq_len": 32, **fields.pop("step", {})}
    return TrainingPlan.model_validate({**base, **fields, "step": step})


def peaks(record: Measurement) -> dict[str, tuple[int, int]]:
    return {p.name: (p.peak_bytes, p.end_bytes) for p in record.phases}


METHODS: list[dict[str, Any]] = [
    {"method": "full"},
    {"method": {"kind": "lora", "rank": 4}},
    {"method": {"kind": "dora", "rank": 4}},
    {"method": {"kind": "gradnormlorp", "rank": 8, "projection_rank": 4}},
    {"method": {"kind": "gradnormlorp", "rank": 8, "projection_rank": 4, "norm": "exact"}},
    {"method": {"kind": "gradnormlorp", "rank": 64, "projection_rank": 64}, "optimizer": "adamw-8bit"},
    {"method": {"kind": "galore", "rank": 8}, "step": {"per_layer_updates": True}},
    {"method": {"kind": "galore", "rank": 8}, "optimizer": "adamw-8bit"},
    {"method": "lora", "quantization": "nf4", "precision": "bf16"},
    {"method": "full", "step": {"checkpointing": "full", "grad_accumulation": 2}},
    {"method": "full", "step": {"keep_outputs": True, "attention": "eager"}},
]


@pytest.mark.parametrize("fields", METHODS, ids=lambda f: str(f["method"])[:40])
def test_peaks_of_real_steps_are_those_of_fake_ones(fields: dict[str, Any]) -> None:
    """This machine's kernels keep what CUDA's do, but for the column-major copy that cuSOLVER's SVD is given."""
    real = measure(tiny(**fields), "cpu", name="real", root=SUITES, timed=1)
    fake = measure(tiny(**fields), "fake", name="fake", root=SUITES)
    assert real.outcome.status == fake.outcome.status == "completed"
    assert real.persistent == fake.persistent
    assert (real.num_parameters, real.num_trainable) == (fake.num_parameters, fake.num_trainable)
    assert peaks(real).keys() == peaks(fake).keys()
    for name, peak_and_end in peaks(real).items():
        copy = 4 * 688 * 256 if name == "refresh" else 0
        for ours, theirs in zip(peak_and_end, peaks(fake)[name], strict=True):
            assert theirs * 0.998 - copy <= ours <= theirs * 1.002, name
    for phase in real.phases:
        assert sum(phase.at_end.values()) == phase.end_bytes
        assert phase.name == "steady" or sum(phase.at_peak.values()) == phase.peak_bytes
    assert all(torch.isfinite(torch.tensor(real.losses)))
    assert real.step_seconds
    assert real.tokens_per_second
    assert fake.step_seconds is None


def test_records_are_read_back_as_they_were(tmp_path: Path) -> None:
    record = measure(tiny(method="lora"), "cpu", name="r", root=SUITES, evidence=True)
    path = tmp_path / "deep" / "r.json"
    save_measurement(record, path)
    assert load_measurement(path) == record
    assert [p.name for p in path.parent.iterdir()] == ["r.json"]
    assert record.config is not None
    assert record.config["hidden_size"] == 256
    assert record.environment.libraries["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "is not a record of a run: its schema is null"),
        ('{"schema": "memplanner/measurement/1"}', "is missing"),
        ('{"schema": "memplanner/measurement/1", "id": 3}', "3 is not text"),
    ],
)
def test_other_files_than_records_are_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_measurement(path)
    lines = [str(problem) for problem in caught.value.problems]
    assert all(str(path) in line and "\n" not in line for line in lines)
    assert any(message in line for line in lines)


@pytest.mark.parametrize("phase", ["forward", "backward", "update"])
def test_running_out_of_memory_is_an_outcome(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    class Full(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
            full()

    made = optimizers_for

    def optimizers(plan: Any, model: Any) -> Any:
        if phase == "forward":
            model.register_forward_pre_hook(full)
        if phase == "backward":
            model.lm_head.register_forward_hook(lambda m, i, o: Full.apply(o))
        optimizer_list = made(plan, model)
        if phase == "update":
            optimizer_list[0].register_step_pre_hook(full)
        return optimizer_list

    monkeypatch.setattr("memplanner.harness.job.optimizers_for", optimizers)
    record = measure(tiny(method="full"), "cpu", name="r", root=SUITES)
    assert record.outcome.status == "out-of-memory"
    assert record.outcome.phase == phase
    assert "2.00 GiB" in record.outcome.message
    assert record.phases[0].name == "load"


def test_a_step_larger_than_the_machines_memory_is_not_begun() -> None:
    there = available_bytes()
    assert there is not None
    record = measure(tiny(method="full"), "cpu", name="r", root=SUITES, needed_bytes=there * 2)
    assert record.outcome.status == "cannot-be-built"
    assert "this machine has" in record.outcome.message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "fused"}, "loss 'fused'"),
        (
            {"method": {"kind": "gradnormlorp", "implementation": "weight-norm-galore-adamw"}},
            "cannot be installed as a package",
        ),
        ({"method": "gradnormlorp", "optimizer": "sgd"}, "no library trains GradNormLoRP with sgd"),
        ({"optimizer": {"kind": "adamw-8bit", "format": "torchao"}}, "torchao"),
        ({"optimizer": {"kind": "adamw", "state_dtype": "bf16"}}, "bf16 moments"),
        ({"method": "lora", "quantization": "int8"}, "int8"),
    ],
)
def test_what_cannot_be_built_says_why(fields: dict[str, Any], message: str) -> None:
    step = {"loss": fields.pop("loss")} if "loss" in fields else {}
    record = measure(tiny(**fields, step=step), "fake", name="r", root=SUITES)
    assert record.outcome.status == "cannot-be-built"
    assert message in record.outcome.message


def test_a_machine_without_cuda_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert "sees no CUDA device" in available("cuda")
    assert available("cpu") == available("fake") == ""


def test_its_losses_are_those_of_a_plain_training_loop() -> None:
    """The harness's steps are training steps; that many of them lower the loss is an experiment."""
    plan = tiny(method="full")
    torch.manual_seed(0)
    record = measure(plan, "cpu", name="r", root=SUITES, warmup=2, timed=1)
    torch.manual_seed(0)
    job = job_of_plan(plan, SUITES, "cpu")
    optimizer = torch.optim.AdamW(job.model.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(len(record.losses)):
        loss = job.model(**job.batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert len(losses) == 4
    assert record.losses == pytest.approx(losses, rel=1e-6, abs=0)


@pytest.mark.parametrize("suite", ["smoke", "gpu-core", "gpu-wide"])
def test_every_bundled_suite_is_sound(suite: str) -> None:
    from memplanner.prediction import predict

    for case in load_suite(suite, Path()):
        assert predict(case.plan, root=case.root).allocated_bytes > 0, case.id
