"""GradNormLoRP's persistent tensors: the method's equations worked by hand, and the figures of the authors' code."""

from typing import Any

import pytest

from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, predict


def estimate(model: str, **method: Any) -> Estimate:
    fields = {"model": model, "method": {"kind": "gradnormlorp", **method}, "device": "80GiB"}
    return predict(TrainingPlan.model_validate(fields))


@pytest.mark.parametrize(("model", "rank", "gigabytes"), [("llama-60m", 128, 0.281), ("llama-7b", 1024, 22.9)])
def test_low_rank_weight_norm_adamw(model: str, rank: int, gigabytes: float) -> None:
    """Whole-model bf16 state of the authors' optimizer; it is more than plain Adam's at 60M."""
    kept = estimate(model, rank=rank, implementation="low-rank-weight-norm-adamw").persistent
    assert (kept["optimizer_state"] + kept["projectors"]) / 1e9 == pytest.approx(gigabytes, rel=0.002)


def test_dora_under_galore() -> None:
    """Rank 8 on q and v of LLaMA-7B: 4.456 M trained, 17.0 MiB of state in bf16, two 8×8 projectors a module."""
    predicted = estimate(
        "llama-7b",
        rank=8,
        projection_rank=1024,
        implementation="dora-galore",
        train_rest=False,
        target_modules=["q_proj", "v_proj"],
    )
    assert predicted.num_trainable == 4_456_448
    assert predicted.persistent["optimizer_state"] / 2**20 == pytest.approx(17.0, abs=0.001)
    assert predicted.persistent["projectors"] == 32 * 2 * 2 * 8 * 8 * 2


@pytest.mark.parametrize(("projection_rank", "projection"), [(4, "two-sided"), (4, "one-sided"), (16, "two-sided")])
def test_moments_and_projectors_by_hand(projection_rank: int, projection: str) -> None:
    k, r, d = 16, projection_rank, 512
    predicted = estimate(
        "llama-60m",
        rank=k,
        projection_rank=r,
        projection=projection,
        train_rest=False,
        target_modules=["q_proj"],
    )
    # I (d, k) and J (k, d) alike: the long side d, the short side k.
    if projection == "one-sided":
        moments, projectors = d * r, k * r
    elif r < k:
        moments, projectors = r * r, d * r + k * r
    else:
        moments, projectors = k * k, d * k  # the short side is left whole
    layers, bf16, fp32 = 8, 2, 4  # the magnitude and the kept squares of row norms are in fp32
    assert predicted.persistent["optimizer_state"] == layers * (bf16 * 2 * 2 * moments + fp32 * 2 * d)
    assert predicted.persistent["projectors"] == layers * bf16 * 2 * projectors
    assert predicted.persistent["adapters"] == layers * (bf16 * 2 * d * k + fp32 * 2 * d)
    assert predicted.num_trainable == layers * (2 * d * k + d)


def test_no_tensor_of_the_weights_shape_is_made() -> None:
    predicted = estimate("llama-60m", rank=8, train_rest=False)
    made = {(tensor.shape.dims, tensor.name) for tensor in predicted.program.tensors}
    assert not [name for dims, name in made if dims in ((512, 512), (1376, 512), (512, 1376))]
