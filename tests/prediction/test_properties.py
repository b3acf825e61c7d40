"""What must hold of every estimate, whatever the plan."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, predict
from memplanner.timeline import PHASES
from tests.pairs import exists

RANKED = st.fixed_dictionaries(
    {"kind": st.sampled_from(["lora", "dora"]), "rank": st.integers(1, 300), "dropout": st.sampled_from([0.0, 0.1])}
)
PROJECTED = st.one_of(
    st.fixed_dictionaries({"kind": st.just("galore"), "rank": st.integers(1, 900)}),
    st.fixed_dictionaries(
        {
            "kind": st.just("gradnormlorp"),
            "rank": st.integers(1, 300),
            "projection_rank": st.integers(1, 300),
            "projection": st.sampled_from(["two-sided", "one-sided"]),
            "norm": st.sampled_from(["detached", "exact"]),
            "train_rest": st.booleans(),
        }
    ),
)
METHODS = st.one_of(st.just({"kind": "full"}), RANKED, PROJECTED)
OPTIMIZERS = st.sampled_from(
    [
        "adamw",
        "adamw-fused",
        {"kind": "adamw", "implementation": "for-loop", "state_dtype": "fp32"},
        "adamw-8bit",
        {"kind": "adamw-8bit", "format": "torchao"},
        "sgd",
        {"kind": "sgd", "momentum": 0.9},
        "adafactor",
    ]
)


@st.composite
def plans(draw: Any) -> TrainingPlan:
    method = draw(METHODS)
    frozen = method["kind"] in ("lora", "dora")
    per_layer = draw(st.booleans())
    attention = draw(st.sampled_from(["eager", "sdpa", "sdpa-math", "sdpa-efficient"]))
    step = {
        "batch_size": draw(st.integers(1, 5)),
        "seq_len": draw(st.integers(1, 400)),
        "checkpointing": draw(st.sampled_from(["none", "full", "every-2", "every-3", "every-5"])),
        "attention": attention,
        "padding": draw(st.booleans()),
        "loss": draw(st.sampled_from(["cross-entropy", {"kind": "chunked", "chunks": 3}, "fused"])),
        "keep_outputs": draw(st.booleans()),
        "per_layer_updates": per_layer,
        "keep_gradients": False if per_layer else draw(st.booleans()),
        "grad_accumulation": 1 if per_layer else draw(st.integers(1, 2)),
    }
    plan = {
        "model": draw(st.sampled_from(["llama-60m", "gpt2", "roberta-base", "smollm2-135m", "qwen3-0.6b"])),
        "method": method,
        "precision": draw(st.sampled_from(["fp32", "bf16", "fp16", "bf16-mixed"])),
        "quantization": draw(st.sampled_from(["none", "int8", "nf4", "nf4-double"])) if frozen else "none",
        "optimizer": draw(OPTIMIZERS),
        "step": step,
        "device": draw(st.sampled_from(["rtx4090", "t4", "16GiB"])),
    }
    assume(exists(plan) or exists(plan := {**plan, "optimizer": "adamw"}))
    return TrainingPlan.model_validate(plan)


def by_category(estimate: Estimate) -> Counter[str]:
    sums: Counter[str] = Counter()
    for row in estimate.rows:
        sums[row.category] += row.bytes
    return sums


@settings(max_examples=150, deadline=None, derandomize=True)
@given(plans())
def test_collapsed_walk_equals_expanded(plan: TrainingPlan) -> None:
    collapsed, expanded = predict(plan), predict(plan, collapse=False)
    assert collapsed.live_phases == expanded.live_phases
    assert collapsed.peak_phase == expanded.peak_phase
    assert by_category(collapsed) == by_category(expanded)
    if plan.method.kind in ("galore", "gradnormlorp"):
        # Their loop over the parameters is written for unequal ones alone, so that gaps in segments may differ.
        assert collapsed.reserved_bytes == pytest.approx(expanded.reserved_bytes, rel=0.01)
    else:
        assert (collapsed.phases, collapsed.reserved_bytes) == (expanded.phases, expanded.reserved_bytes)
    assert collapsed.persistent == expanded.persistent
    assert (collapsed.num_parameters, collapsed.num_trainable) == (expanded.num_parameters, expanded.num_trainable)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(plans())
def test_every_byte_is_accounted_for(plan: TrainingPlan) -> None:
    estimate = predict(plan)
    assert sum(row.bytes for row in estimate.rows) == estimate.live_bytes
    assert sum(estimate.at_peak.values()) == estimate.live_bytes
    assert estimate.live_bytes <= estimate.allocated_bytes <= estimate.reserved_bytes <= estimate.device_bytes
    for live, allocated in zip(estimate.live_phases, estimate.phases, strict=True):
        assert live.peak_bytes <= allocated.peak_bytes
        assert live.end_bytes <= allocated.end_bytes
    unsplit = estimate.plan.allocator.model_copy(update={"expandable_segments": True})
    whole = predict(plan.model_copy(update={"allocator": unsplit}))
    assert whole.phases[1:] == whole.live_phases[1:], "expandable segments split off every 512 bytes"
    assert min(estimate.at_peak.values()) >= 0
    assert [p.name for p in estimate.live_phases] == [n for n in PHASES if n in {p.name for p in estimate.live_phases}]
    assert all(0 <= p.end_bytes <= p.peak_bytes for p in estimate.live_phases)
    for row in estimate.rows:
        assert row.count > 0
        assert row.bytes % 512 == 0
        assert all(str(n) in row.why for n in row.shape)
        assert f"{row.bytes:,} B" in row.why or row.count == 1
    if not plan.step.per_layer_updates:
        trained = [p for p in estimate.program.persistent if p.trainable]
        assert estimate.persistent["gradients"] == sum(p.num_bytes for p in trained)
    peak = max(value for _, value, _ in estimate.timeline.points())
    assert peak == max(p.peak_bytes for p in estimate.live_phases) or estimate.peak_phase != "refresh"


def allocated(**fields: Any) -> int:
    return predict(TrainingPlan.model_validate({"model": "llama-60m", **fields})).live_bytes


@pytest.mark.parametrize("method", ["full", "lora", "galore", "gradnormlorp"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_monotone_in_batch_and_sequence(method: str, checkpointing: str) -> None:
    def at(batch: int, seq: int) -> int:
        step = {"batch_size": batch, "seq_len": seq, "checkpointing": checkpointing}
        return allocated(method=method, step=step)

    assert [at(b, 128) for b in range(1, 9)] == sorted(at(b, 128) for b in range(1, 9))
    assert [at(2, s) for s in range(8, 512, 40)] == sorted(at(2, s) for s in range(8, 512, 40))


@pytest.mark.parametrize("kind", ["lora", "dora", "galore", "gradnormlorp"])
def test_monotone_in_rank(kind: str) -> None:
    peaks = [allocated(method={"kind": kind, "rank": r}) for r in (1, 2, 8, 31, 64, 128, 256, 512)]
    assert peaks == sorted(peaks)


def test_optimizer_state_grows_with_its_bits() -> None:
    kinds: list[Any] = [
        "sgd",
        "adamw-8bit",
        {"kind": "adamw", "state_dtype": "bf16"},
        {"kind": "adamw", "state_dtype": "fp32"},
    ]
    estimates = [predict(TrainingPlan.model_validate({"model": "llama-60m", "optimizer": o})) for o in kinds]
    states = [e.persistent["optimizer_state"] for e in estimates]
    assert states == sorted(set(states))


def test_checkpointing_keeps_less() -> None:
    def activations(checkpointing: str) -> int:
        step = {"batch_size": 8, "seq_len": 256, "checkpointing": checkpointing}
        estimate = predict(TrainingPlan.model_validate({"model": "llama-350m", "step": step}))
        return next(p.end_bytes for p in estimate.live_phases if p.name == "loss")

    assert activations("full") < activations("every-2") < activations("every-4") < activations("none")


def test_full_rank_galore_saves_nothing() -> None:
    full = predict(TrainingPlan.model_validate({"model": "llama-60m", "method": "full"})).persistent
    galore = predict(TrainingPlan.model_validate({"model": "llama-60m", "method": {"kind": "galore", "rank": 4096}}))
    assert galore.persistent["optimizer_state"] == full["optimizer_state"]
    assert galore.persistent["projectors"] > 0


def test_gradnormlorp_at_full_projection_rank_keeps_plain_moments() -> None:
    method = {"kind": "gradnormlorp", "rank": 16, "projection_rank": 100_000}
    estimate = predict(TrainingPlan.model_validate({"model": "llama-60m", "method": method}))
    trained = sum(p.num_bytes for p in estimate.program.persistent if p.trainable)
    assert estimate.persistent["projectors"] == 0
    assert estimate.persistent["optimizer_state"] == 2 * trained
