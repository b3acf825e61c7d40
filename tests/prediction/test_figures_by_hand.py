"""Every figure of a small LLaMA's step worked out by hand, and the verdict's arithmetic around it.

Letters: T = 64 tokens (2 × 32), h = 64 hidden, f = 128 intermediate, V = 512 vocabulary, 2 layers, 4 heads; bf16.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memplanner.catalogue import all_gpus
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, predict
from memplanner.prediction.estimate import DEFAULT_WORKSPACE_BYTES
from memplanner.units import GIB, MIB

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
T, H, F, V, LAYERS = 64, 64, 128, 512, 2
NORMS = 2 * LAYERS + 1
WEIGHTS = 2 * (2 * V * H + LAYERS * (4 * H * H + 3 * H * F) + NORMS * H)
"""Exact bytes: embedding and head, four attention and three MLP matrices a layer, norms."""
BLOCKS = WEIGHTS + NORMS * (512 - 2 * H)
"""In the allocator: only the norms (128 B) fall short of a block."""
BUFFERS = 2 * 512
"""inv_freq and original_inv_freq."""
STATES = 2 * BLOCKS
WORKSPACES = 2 * DEFAULT_WORKSPACE_BYTES
TOKENS = 2 * T * 8
"""Input ids and labels."""
LOGITS = T * V * 2
STEADY = BLOCKS + BUFFERS + STATES + WORKSPACES

SCALE = 512
"""Any tensor below a block: a random seed, a scalar, a step count."""
ROTARY = 2 * 32 * 16 * 2
"""cos and sin of one sequence and one head, shared by all layers and all sequences of a batch."""


def norm_saves(tokens: int) -> int:
    """RMSNorm and what reads it: the fp32 input, 1/rms in whole blocks, the bf16 quotient, the output."""
    return tokens * H * 4 + -(-tokens * 4 // 512) * 512 + 2 * tokens * H * 2


def layer_saves(tokens: int) -> int:
    """Two norms; flash attention's q, k, v, output, log-sum-exp per head and seed; gate, silu(gate), up, product."""
    attention = 4 * tokens * H * 2 + 4 * tokens * 4 + SCALE
    return 2 * norm_saves(tokens) + attention + 4 * tokens * F * 2


def forward_saves(tokens: int) -> int:
    """All layers, the last norm and the rotary tables."""
    return LAYERS * layer_saves(tokens) + norm_saves(tokens) + ROTARY


SAVED = forward_saves(T)


@pytest.fixture
def estimate(tmp_path: Path) -> Callable[..., Estimate]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))

    def predicted(**fields: Any) -> Estimate:
        step = {"batch_size": 2, "seq_len": 32, **fields.pop("step", {})}
        return predict(TrainingPlan.model_validate({"model": str(path), "device": "24GiB", "step": step, **fields}))

    return predicted


Estimating = Callable[..., Estimate]


def peak(predicted: Estimate, phase: str) -> int:
    return next(p.peak_bytes for p in predicted.live_phases if p.name == phase)


def end(predicted: Estimate, phase: str) -> int:
    return next(p.end_bytes for p in predicted.live_phases if p.name == phase)


# -- the step ------------------------------------------------------------------------------------------------------


def test_load_and_steady(estimate: Estimating) -> None:
    predicted = estimate()
    assert WEIGHTS == 295_552
    assert predicted.num_parameters == predicted.num_trainable == WEIGHTS // 2
    assert peak(predicted, "load") == end(predicted, "load") == BLOCKS + BUFFERS == 298_496
    assert peak(predicted, "steady") == end(predicted, "steady") == STEADY == 893_440 + WORKSPACES
    assert predicted.persistent["optimizer_state"] == 2 * WEIGHTS
    assert predicted.persistent["gradients"] == WEIGHTS


@pytest.mark.parametrize("more", [1, 2, 3, 7])
def test_forward_saves_what_its_formulas_say(estimate: Estimating, more: int) -> None:
    assert SAVED == 368_128
    predicted = estimate(step={"batch_size": 2 * more})
    assert end(predicted, "forward") == STEADY + more * (TOKENS + LOGITS) + forward_saves(more * T)


def test_the_loss_keeps_its_log_probabilities(estimate: Estimating) -> None:
    """The bf16 logits go once they are in fp32, and those once the log-softmax is there; then three small tensors."""
    predicted = estimate()
    assert end(predicted, "loss") == STEADY + TOKENS + SAVED + 2 * LOGITS + 3 * SCALE
    assert peak(predicted, "loss") >= STEADY + TOKENS + SAVED + 5 * LOGITS


def test_update_makes_a_root_per_moment(estimate: Estimating) -> None:
    foreach, fused, one = (
        estimate(optimizer={"kind": "adamw", "implementation": way}) for way in ("foreach", "fused", "for-loop")
    )
    ready = STEADY + BLOCKS + TOKENS
    assert end(foreach, "backward") == ready
    assert peak(foreach, "update") == ready + BLOCKS
    tensors = 2 + 7 * LAYERS + NORMS
    assert peak(fused, "update") == ready + tensors * SCALE  # a step count each, on the device
    # The head's root and denominator, and the final norm's denominator, which the loop still holds.
    assert peak(one, "update") == ready + 2 * (2 * V * H) + -(-2 * H // 512) * 512
    for predicted in (foreach, fused, one):
        assert end(predicted, "update") - TOKENS - BLOCKS == end(predicted, "steady")


@pytest.mark.parametrize("accumulation", [2, 3, 64])
def test_accumulated_gradients_live_through_forward(estimate: Estimating, accumulation: int) -> None:
    plain, predicted = estimate(), estimate(step={"grad_accumulation": accumulation})
    for phase in ("forward", "loss"):
        assert peak(predicted, phase) == peak(plain, phase) + BLOCKS
        assert end(predicted, phase) == end(plain, phase) + BLOCKS
    assert end(predicted, "backward") == end(plain, "backward")
    assert end(predicted, "steady") == STEADY
    assert predicted.persistent == plain.persistent


def test_kept_gradients_outlive_the_step(estimate: Estimating) -> None:
    plain, predicted = estimate(), estimate(step={"keep_gradients": True})
    assert end(predicted, "forward") == end(plain, "forward") + BLOCKS
    assert end(predicted, "backward") == end(plain, "backward")
    assert end(predicted, "steady") == STEADY + BLOCKS
    both = estimate(step={"keep_gradients": True, "grad_accumulation": 4})
    assert both.live_phases == predicted.live_phases


def test_per_layer_updates_leave_no_gradient(estimate: Estimating) -> None:
    plain, predicted = estimate(), estimate(step={"per_layer_updates": True})
    assert predicted.persistent == {**plain.persistent, "gradients": 0}
    assert end(predicted, "forward") == end(plain, "forward")
    assert end(predicted, "backward") == peak(predicted, "update") == end(predicted, "update") == STEADY + TOKENS
    assert end(predicted, "steady") == STEADY
    assert peak(predicted, "update") == peak(plain, "update") - 2 * BLOCKS  # neither gradients nor roots


def test_the_output_object_holds_the_logits(estimate: Estimating) -> None:
    plain, predicted = estimate(), estimate(step={"keep_outputs": True})
    assert end(predicted, "forward") == end(plain, "forward")
    assert end(predicted, "loss") == end(plain, "loss") + LOGITS
    assert peak(predicted, "backward") == peak(plain, "backward") + LOGITS
    assert end(predicted, "backward") == end(plain, "backward")
    assert end(predicted, "steady") == STEADY


def test_full_checkpointing_keeps_the_blocks_inputs(estimate: Estimating) -> None:
    predicted = estimate(step={"checkpointing": "full", "input_gradients": False})
    assert end(predicted, "forward") == STEADY + TOKENS + LAYERS * T * H * 2 + norm_saves(T) + ROTARY + LOGITS


def test_lora_by_hand(estimate: Estimating) -> None:
    """Rank 4 on q and v, fp32: A (4, 64) and B (64, 4), 1 KiB each; a gradient and two moments as large."""
    predicted = estimate(method={"kind": "lora", "rank": 4})
    adapters = LAYERS * 2 * 2 * (4 * H * 4)
    expected = {"adapters": adapters, "gradients": adapters, "optimizer_state": 2 * adapters, "projectors": 0}
    assert {name: predicted.persistent[name] for name in expected} == expected
    assert (predicted.num_trainable, predicted.num_parameters) == (adapters // 4, WEIGHTS // 2 + adapters // 4)
    assert end(predicted, "steady") == BLOCKS + BUFFERS + 3 * adapters + WORKSPACES


# -- reserved, device, verdict -------------------------------------------------------------------------------------


def test_reserved_by_hand(estimate: Estimating) -> None:
    """Nothing but the two workspaces is above 1 MiB: 16.25 of a 20 MiB segment; the rest is in one small segment."""
    predicted = estimate()
    small = predicted.live_bytes - WORKSPACES
    assert small < 2 * MIB
    assert predicted.reserved_bytes == 20 * MIB + 2 * MIB
    assert predicted.device_bytes == predicted.reserved_bytes + predicted.context_bytes


def test_exactly_at_the_limit_is_tight_and_one_byte_over_does_not_fit(estimate: Estimating) -> None:
    need = estimate().device_bytes
    exactly, over = estimate(device=f"{need} B"), estimate(device=f"{need - 1} B")
    assert (exactly.verdict, exactly.margin_bytes) == ("tight", 0)
    assert (over.verdict, over.margin_bytes) == ("does-not-fit", -1)


def test_tight_ends_at_the_error_margin(estimate: Estimating) -> None:
    need = estimate().device_bytes
    margin = round(need * estimate().margin.share)
    assert estimate().error_margin_bytes == margin
    assert estimate(device=f"{need + margin - 1} B").verdict == "tight"
    assert estimate(device=f"{need + margin} B").verdict == "fits"


def test_the_budget_has_the_same_boundaries(estimate: Estimating) -> None:
    need = estimate().device_bytes
    margin = estimate().error_margin_bytes
    verdicts = {need - 1: "does-not-fit", need: "tight", need + margin - 1: "tight", need + margin: "fits"}
    assert {b: estimate(budget=f"{b} B").verdict for b in verdicts} == verdicts
    headroom = 24 * GIB - need
    assert estimate(headroom=f"{headroom} B").verdict == "tight"
    assert estimate(headroom=f"{headroom + 1} B").verdict == "does-not-fit"
    assert estimate(headroom=f"{headroom - margin} B").verdict == "fits"


@pytest.mark.parametrize(
    ("budget", "headroom", "limit"),
    [
        (None, "0%", 10 * GIB),
        (None, "10%", 9 * GIB),
        (None, "1GiB", 9 * GIB),
        (None, "100%", 0),
        (None, "11GiB", -GIB),
        ("50%", "0%", 5 * GIB),
        ("50%", "10%", 5 * GIB),  # a budget is a ceiling of its own; headroom is kept of the device
        ("95%", "10%", 9 * GIB),
        ("100%", "0 B", 10 * GIB),
        ("4GiB", "0%", 4 * GIB),
        ("4 GB", "0%", 4_000_000_000),
        ("40GiB", "0%", 10 * GIB),
        ("8GiB", "3GiB", 7 * GIB),
        ("33.3%", "0%", round(10 * GIB * 0.333)),
    ],
)
def test_budget_and_headroom(estimate: Estimating, budget: str | None, headroom: str, limit: int) -> None:
    predicted = estimate(device="10GiB", budget=budget, headroom=headroom)
    assert (predicted.total_bytes, predicted.limit_bytes) == (10 * GIB, limit)
    assert predicted.margin_bytes == limit - predicted.device_bytes


@pytest.mark.parametrize(
    ("size", "total"), [("24GiB", 24 * GIB), ("24 GB", 24 * 10**9), ("1.5GiB", 3 * GIB // 2), ("512 MiB", 512 * MIB)]
)
def test_a_device_by_its_size(estimate: Estimating, size: str, total: int) -> None:
    predicted = estimate(device=size)
    assert predicted.gpu is None
    assert (predicted.total_bytes, predicted.context_bytes) == (total, 744_685_568)
    assert predicted.at_peak["workspaces"] == WORKSPACES
    assert predicted.live_bytes == estimate().live_bytes


@pytest.mark.parametrize("name", [gpu.id for gpu in all_gpus()])
def test_every_card_adds_its_context_and_workspaces(estimate: Estimating, name: str) -> None:
    """What the step itself allocates is the same on every card that runs the same attention kernel."""
    predicted = estimate(device=name, step={"attention": "eager"})
    gpu = predicted.gpu
    assert gpu is not None
    assert predicted.total_bytes == predicted.limit_bytes == gpu.total.bytes
    assert predicted.device_bytes == predicted.reserved_bytes + gpu.context.bytes
    own = 2 * gpu.cublas_workspace.bytes
    plain = estimate(step={"attention": "eager"})
    assert predicted.at_peak["workspaces"] == -(-own // 512) * 512
    assert predicted.live_bytes - own == plain.live_bytes - WORKSPACES
    assert predicted.verdict == "fits"
