"""Ranks by module: what the evidence shows to be needed is where they go, and the budget holds."""

import pytest

from memplanner.errors import UserError
from memplanner.measurement import WeightEvidence
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Predictor
from memplanner.solve.ranks import ranks_by_evidence
from memplanner.timeline import advisable

SHAPES = {"q_proj": (512, 512), "v_proj": (512, 512), "down_proj": (512, 1376)}
NEEDS = {"q_proj": 0.5, "v_proj": 0.9, "down_proj": 0.99}
"""What rank 1 leaves of a gradient, by module; every doubling leaves that share of it again."""
LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def evidence(names: tuple[str, ...] = tuple(SHAPES)) -> list[WeightEvidence]:
    return [
        WeightEvidence(
            name=f"model.layers.{layer}.{'mlp' if name == 'down_proj' else 'self_attn'}.{name}",
            shape=SHAPES[name],
            energy={str(rank): 1 - NEEDS[name] ** (i + 1) for i, rank in enumerate(LADDER)},
        )
        for layer in range(8)
        for name in names
    ]


def plan(gpu: str, method: str = "lora") -> TrainingPlan:
    flags = {"--method": method, "--gpu": gpu, "--context": "0", "--target-modules": "q_proj,v_proj,down_proj"}
    return merge({"model": "llama-60m"}, flags, where="test")


@pytest.mark.parametrize("method", ["lora", "gradnormlorp"])
def test_the_plan_fits_and_no_module_could_have_more(method: str) -> None:
    predict = Predictor()
    gpu = {"lora": "330MiB", "gradnormlorp": "520MiB"}[method]
    result = ranks_by_evidence(plan(gpu, method), evidence(), predict)
    assert advisable(result.estimate)
    assert max(result.ranks.values()) > 1
    assert min(result.ranks.values()) < 256
    own = result.estimate.plan.method
    assert own.kind == method
    for name, rank in result.ranks.items():
        assert own.rank_at(f"model.layers.3.mlp.{name}") == rank  # type: ignore[attr-defined]
        if rank < 256:
            ranks = {**result.ranks, name: 2 * rank}
            lowest = min(ranks.values())
            pattern = {n: r for n, r in ranks.items() if r != lowest}
            more = own.model_copy(update={"rank": lowest, "rank_pattern": pattern})
            raised = result.estimate.plan.model_copy(update={"method": more})
            assert not advisable(predict(raised)), name
    assert result.share >= result.uniform_share > 0


def test_more_goes_where_it_gains_more_per_element() -> None:
    """q_proj has most of its gradient in few directions: after a few doublings another rank gains nothing there."""
    ranks = ranks_by_evidence(plan("330MiB"), evidence(), Predictor()).ranks
    assert ranks["v_proj"] > ranks["down_proj"]


def test_modules_that_are_no_targets_get_no_rank() -> None:
    alone = merge(
        {"model": "llama-60m"}, {"--method": "lora", "--gpu": "2GiB", "--target-modules": "q_proj"}, where="test"
    )
    assert set(ranks_by_evidence(alone, evidence(), Predictor()).ranks) == {"q_proj"}
    with pytest.raises(UserError, match="none of the record's weights"):
        ranks_by_evidence(alone, evidence(("down_proj",)), Predictor())


@pytest.mark.parametrize(
    ("gpu", "method", "message"), [("100MiB", "lora", "not even rank 1"), ("t4", "full", "no rank")]
)
def test_requests_without_an_answer_are_refused(gpu: str, method: str, message: str) -> None:
    flags = {"--method": method, "--gpu": gpu, "--context": "0"}
    with pytest.raises(UserError, match=message):
        ranks_by_evidence(merge({"model": "llama-60m"}, flags, where="test"), evidence(), Predictor())
