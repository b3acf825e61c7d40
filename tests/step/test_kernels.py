"""Which kernel scaled_dot_product_attention runs, on which card, for which call, and the sentence that says so."""

from pathlib import Path
from typing import Any

import pytest

from memplanner.components.attention import Attention, Call, same_kernels
from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.program.shapes import BF16, FP16, FP32, Dtype
from memplanner.report.notes import note_sentences
from tests.models import plan_of


def kernel(card: float, dtype: Dtype, torch: str = "2.13", kind: str = "sdpa", **fields: Any) -> str:
    call = {"seq": 128, "groups": 1, "head_dim": 64, "masked": False, **fields}
    call.setdefault("value_dim", call["head_dim"])
    return Attention(kind=kind, compute_capability=card, padding=False, torch=torch).kernel(Call(dtype=dtype, **call))


@pytest.mark.parametrize(
    ("card", "dtype", "call", "in_2_13", "in_2_14"),
    [
        # Ampere, Ada, consumer Blackwell: flash, which takes neither fp32 nor masks.
        (8.0, BF16, {}, "flash", "flash"),
        (8.9, FP16, {"groups": 4}, "flash", "flash"),
        (12.0, BF16, {"head_dim": 36}, "flash", "flash"),  # padded to 40
        (8.0, FP32, {}, "efficient", "efficient"),
        (8.0, FP32, {"groups": 4}, "math", "efficient-grouped"),
        (8.0, FP32, {"head_dim": 36}, "efficient", "efficient"),
        (8.0, FP32, {"head_dim": 50}, "math", "math"),
        (8.0, BF16, {"masked": True}, "efficient", "efficient"),
        (8.0, BF16, {"masked": True, "head_dim": 100}, "math", "math"),
        # Wide heads: 256 at most, and on cards with little shared memory not all of those.
        (8.0, BF16, {"head_dim": 208}, "flash", "flash"),
        (8.0, BF16, {"head_dim": 264}, "efficient", "efficient"),
        (8.6, BF16, {"head_dim": 192}, "flash", "flash"),
        (8.6, BF16, {"head_dim": 208}, "efficient", "efficient"),
        (8.9, BF16, {"head_dim": 208, "groups": 4}, "math", "efficient-grouped"),
        (12.0, BF16, {"head_dim": 256}, "flash", "flash"),
        (12.0, BF16, {"head_dim": 256, "dropout": 0.1}, "efficient", "efficient"),
        (11.0, BF16, {"head_dim": 208}, "flash", "flash"),
        # Latent attention: flash takes one width alone.
        (8.0, BF16, {"head_dim": 192, "value_dim": 128}, "efficient", "efficient"),
        (9.0, BF16, {"head_dim": 192, "value_dim": 128}, "cudnn", "efficient"),
        (8.0, BF16, {"head_dim": 64, "value_dim": 36}, "math", "math"),
        # Before Ampere there is no flash, and no bf16 in the memory-efficient kernel.
        (7.5, FP16, {}, "efficient", "efficient"),
        (7.5, FP16, {"groups": 4}, "math", "efficient-grouped"),
        (7.5, FP16, {"head_dim": 36}, "math", "math"),
        (7.5, FP32, {"head_dim": 35}, "efficient", "efficient"),
        (7.5, BF16, {}, "math", "math"),
        (6.1, FP16, {"head_dim": 35}, "efficient", "efficient"),
        # Hopper and data-centre Blackwell: cuDNN's, with or without a mask.
        (9.0, BF16, {}, "cudnn", "cudnn"),
        (9.0, FP16, {"groups": 4}, "cudnn", "cudnn"),
        (10.3, BF16, {"masked": True}, "cudnn", "cudnn"),
        (9.0, FP32, {}, "efficient", "efficient"),
        (9.0, BF16, {"head_dim": 36}, "flash", "flash"),
        (9.0, BF16, {"head_dim": 100, "masked": True}, "math", "math"),
        (9.0, BF16, {"seq": 1}, "flash", "flash"),
        (9.0, BF16, {"dropout": 0.125}, "cudnn", "cudnn"),
        (9.0, BF16, {"dropout": 0.1}, "flash", "flash"),
        (9.0, BF16, {"head_dim": 208}, "cudnn", "flash"),
        (9.0, BF16, {"head_dim": 256}, "cudnn", "cudnn"),
        (10.0, BF16, {"head_dim": 208}, "flash", "flash"),
        (10.0, BF16, {"head_dim": 256}, "flash", "cudnn"),
    ],
)
def test_sdpa_runs_the_first_kernel_that_can(
    card: float, dtype: Dtype, call: dict[str, Any], in_2_13: str, in_2_14: str
) -> None:
    assert (kernel(card, dtype, "2.13", **call), kernel(card, dtype, "2.14", **call)) == (in_2_13, in_2_14)


@pytest.mark.parametrize("card", [6.1, 7.5, 8.0, 9.0, 10.0])
def test_a_plan_may_name_the_kernel(card: float) -> None:
    def named(kind: str, torch: str = "2.13", groups: int = 4) -> str:
        return kernel(card, FP16, torch, kind=kind, groups=groups)

    assert (named("eager"), named("sdpa-math"), named("flash-attention-2")) == ("eager", "math", "flash")
    assert (named("sdpa-efficient"), named("sdpa-efficient", "2.14")) == ("efficient", "efficient-grouped")
    assert named("sdpa-efficient", "2.14", groups=1) == "efficient"


def test_cards_that_share_kernels_give_the_same_answers() -> None:
    """What the planner relies on to keep a step's answer for other cards."""
    cards = (5.0, 6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 10.3, 11.0, 12.0, 12.1)
    calls: list[tuple[Dtype, str, dict[str, Any]]] = [
        (dtype, torch, {"groups": groups, "head_dim": head_dim, "masked": masked, "dropout": dropout})
        for dtype in (FP32, FP16, BF16)
        for torch in ("2.13", "2.14")
        for groups in (1, 4)
        for head_dim in (35, 36, 64, 208, 256, 264)
        for masked in (False, True)
        for dropout in (0.0, 0.1)
    ]
    for card in cards:
        like = same_kernels(card)
        for dtype, torch, call in calls:
            assert kernel(card, dtype, torch, **call) == kernel(like, dtype, torch, **call), (card, dtype, call)


CUDNN = "the workspace that cuDNN's own plan asks for is in no source and is not counted"


@pytest.mark.parametrize(
    ("model", "fields", "sentence"),
    [
        ("llama", {}, ""),
        ("llama", {"step": {"attention": "sdpa-math"}}, ""),
        ("llama", {"step": {"padding": True}}, "sdpa runs efficient: flash takes no mask"),
        (
            "llama",
            {"precision": "fp32"},
            "sdpa runs math: flash takes no fp32, efficient takes no grouped heads",
        ),
        ("llama", {"precision": "fp32", "torch": "2.14"}, "sdpa runs efficient: flash takes no fp32"),
        (
            "llama",
            {"precision": "fp16", "device": "t4"},
            "sdpa runs math: flash needs sm_80, efficient takes no grouped heads",
        ),
        ("gpt2", {"precision": "fp16", "device": "t4"}, "sdpa runs efficient: flash needs sm_80"),
        (
            "llama-36",
            {"step": {"padding": True}},
            "sdpa runs math: flash takes no mask, efficient takes no head dim 36",
        ),
        (
            "llama",
            {"precision": "bf16", "device": "t4"},
            "sdpa runs math: flash needs sm_80, efficient needs sm_80 for bf16",
        ),
        ("llama-264", {}, "sdpa runs efficient: flash takes no head dim 264"),
        (
            "llama-208",
            {"device": "rtx4090", "torch": "2.14"},
            "sdpa runs efficient: flash takes no head dim 208 on this card",
        ),
        (
            "llama",
            {"device": "h100-sxm"},
            f"sdpa runs cuDNN's kernel, PyTorch's first choice on this card; {CUDNN}",
        ),
        (
            "gpt2",
            {"device": "b300", "step": {"padding": True, "batch_size": 2}},
            # Its attention dropout of 0.1 is not in sixteenths.
            "sdpa runs efficient: flash takes no mask",
        ),
    ],
)
def test_a_line_says_which_kernel_runs_and_why(
    model: str, fields: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    step = {"batch_size": 2, "seq_len": 64, **fields.get("step", {})}
    notes = note_sentences(predict(plan_of(model, {**fields, "step": step}, tmp_path)).notes)
    assert [note for note in notes if note.startswith("sdpa")] == ([sentence] if sentence else [])
    assert "cuDNN" in sentence or len(sentence) <= 76


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("llama-36", {"step": {"attention": "sdpa-efficient"}}, "needs head dims that 8 divides in bf16"),
        ("llama-264", {"step": {"attention": "flash-attention-2"}}, "takes head dims up to 256; the model's are 264"),
        ("llama-100", {"step": {"attention": "flash-attention-2"}}, "is modelled for head dims that 8 divides"),
    ],
)
def test_a_named_kernel_that_cannot_run_is_refused(
    model: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"step\.attention") as error:
        predict(plan_of(model, fields, tmp_path))
    assert message in str(error.value)


def test_torch_is_named_by_its_release() -> None:
    for typed, release in (("2.13", "2.13"), ("2.14.1", "2.14"), ("2.14.0+cu130", "2.14")):
        assert TrainingPlan.model_validate({"model": "llama-60m", "torch": typed}).torch == release
    for typed in ("2.12", "2.15", "2", "2.13.", "nightly"):
        with pytest.raises(ValueError, match="torch"):
            TrainingPlan.model_validate({"model": "llama-60m", "torch": typed})
