"""What a card cannot run is refused with the card and what to take instead; what it only emulates is said."""

from typing import Any

import pytest

from memplanner.catalogue import all_gpus, find_gpu
from memplanner.errors import UserError
from memplanner.notes import AssumedContext, EmulatedBf16
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, Predictor, predict
from memplanner.prediction.capability import refuse_beyond
from memplanner.prediction.estimate import ASSUMED_CONTEXT_BYTES

Fields = dict[str, Any]
FLASH: Fields = {"step": {"attention": "flash-attention-2"}, "precision": "fp16"}
EFFICIENT: Fields = {"step": {"attention": "sdpa-efficient"}, "precision": "bf16"}
INT8: Fields = {"method": "lora", "quantization": "int8", "precision": "fp16"}
NF4: Fields = {"method": "lora", "quantization": "nf4", "precision": "fp16"}
MOMENTS: Fields = {"optimizer": "adamw-8bit", "precision": "fp16"}
OLD = [card.id for card in all_gpus() if card.architecture in ("pascal", "volta", "turing")]


def plan_of(device: str, fields: Fields) -> TrainingPlan:
    return TrainingPlan.model_validate({"model": "llama-60m", "device": device, **fields})


def estimate(device: str, fields: Fields) -> Estimate:
    return predict(plan_of(device, fields))


@pytest.mark.parametrize(
    ("fields", "device", "refusal"),
    [
        (FLASH, "t4", "step.attention: 'flash-attention-2' needs compute capability 8.0; Tesla T4 has 7.5 (sdpa"),
        (FLASH, "gtx1080ti", "step.attention: 'flash-attention-2' needs compute capability 8.0; @ has 6.1 (sdpa"),
        (EFFICIENT, "t4", "step.attention: 'sdpa-efficient' in bf16 needs compute capability 8.0; @ has 7.5 (sdpa"),
        (INT8, "v100-16gb", "quantization: 'int8' needs compute capability 7.5; @ has 7.0 (nf4"),
    ],
)
def test_what_a_card_cannot_run_is_refused_with_what_to_take_instead(fields: Fields, device: str, refusal: str) -> None:
    plan = plan_of(device, fields)
    for predictor in (predict, Predictor()):
        with pytest.raises(UserError) as caught:
            predictor(plan)
        assert str(caught.value) == f"plan: {refusal.replace('@', find_gpu(device).name)} runs there)"


@pytest.mark.parametrize(
    ("fields", "capability", "key"),
    [
        (FLASH, 8.0, "step.attention"),
        (EFFICIENT, 8.0, "step.attention"),
        (EFFICIENT | {"precision": "bf16-mixed"}, 8.0, "step.attention"),
        (INT8, 7.5, "quantization"),
        (NF4, 6.0, "quantization"),
        (NF4 | {"quantization": "nf4-double"}, 6.0, "quantization"),
        (MOMENTS, 6.0, "optimizer"),
        (MOMENTS | {"method": "galore"}, 6.0, "optimizer"),
    ],
)
def test_refused_below_a_compute_capability_and_nowhere_else(fields: Fields, capability: float, key: str) -> None:
    plan = plan_of("24GiB", fields)
    for text in ("5.2", "6.0", "6.1", "7.0", "7.5", "8.0", "8.9", "10.0", "12.0"):
        card = find_gpu("t4").model_copy(update={"compute_capability": text})
        if float(text) >= capability:
            refuse_beyond(plan, card)
            continue
        with pytest.raises(UserError) as caught:
            refuse_beyond(plan, card)
        assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(
    "fields",
    [
        EFFICIENT | {"precision": "fp16"},
        EFFICIENT | {"precision": "fp16-mixed"},
        {"step": {"attention": "eager"}},
        {"step": {"attention": "sdpa"}},
        {"step": {"attention": "sdpa-math"}},
        NF4,
        MOMENTS,
        {"optimizer": {"kind": "adamw-8bit", "format": "torchao"}},
    ],
)
@pytest.mark.parametrize("device", OLD)
def test_an_old_card_runs_the_rest(device: str, fields: Fields) -> None:
    assert estimate(device, fields).live_bytes > 0


def test_everything_that_a_card_cannot_run_is_said_at_once() -> None:
    with pytest.raises(UserError) as caught:
        estimate("v100-16gb", FLASH | INT8)
    assert [problem.key for problem in caught.value.problems] == ["step.attention", "quantization"]


@pytest.mark.parametrize("precision", ["bf16", "bf16-mixed"])
def test_bf16_is_emulated_before_ampere_and_the_answer_says_so(precision: str) -> None:
    predictor = Predictor()
    for card in all_gpus():
        said = EmulatedBf16() in predictor(plan_of(card.id, {"precision": precision})).notes
        assert said == (card.id in OLD), card.id
        assert said == (EmulatedBf16() in estimate(card.id, {"precision": precision}).notes)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp16-mixed"])
def test_no_other_precision_is_emulated(precision: str) -> None:
    assert EmulatedBf16() not in estimate("t4", {"precision": precision}).notes


@pytest.mark.parametrize("device", ["24GiB", "mi210", "mi300x"])
def test_nothing_is_said_of_a_bare_size_or_of_amd(device: str) -> None:
    context = {AssumedContext(context_bytes=ASSUMED_CONTEXT_BYTES)} if device == "24GiB" else set()
    assert set(estimate(device, {"precision": "bf16"}).notes) == context
    for fields in (FLASH, EFFICIENT, INT8, NF4, MOMENTS):
        assert estimate(device, fields).live_bytes > 0


def test_the_libraries_list_every_amd_card_that_is_bundled() -> None:
    """The architectures of flash-attention's setup.py (allowed_archs) that bitsandbytes' README.md has as well."""
    both = {"gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101", "gfx1102", "gfx1150", "gfx1151", "gfx1200", "gfx1201"}
    assert {card.compute_capability for card in all_gpus() if card.vendor == "amd"} <= both
