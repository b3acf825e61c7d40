"""Gradient energy by rank: against the exact decomposition, and against autograd's own gradients."""

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch

from memplanner.files.sandbox import profiles_dir
from memplanner.harness.job import job_of_plan
from memplanner.harness.rank_energy import energy_shares, linear_layers, rank_evidence
from tests.harness.test_record import tiny

SUITES = profiles_dir() / "suites"


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (400, 700)])
def test_shares_are_the_exact_decomposition_s(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    decay = torch.logspace(0, -2, min(shape))
    gradient = torch.randn(shape[0], min(shape)) * decay @ torch.randn(min(shape), shape[1])
    values = torch.linalg.svdvals(gradient.double()).square()
    exact = values.cumsum(0) / values.sum()
    shares = energy_shares(gradient, (1, 2, 8, 16, 24))
    assert shares
    for rank, share in shares.items():
        assert share == pytest.approx(float(exact[rank - 1]), abs=2e-3), rank
    assert list(shares.values()) == sorted(shares.values())


def test_a_full_rank_holds_everything_and_no_gradient_any_rank() -> None:
    assert energy_shares(torch.randn(8, 20), (4, 8, 16))[8] == 1.0
    assert energy_shares(torch.zeros(8, 20), (4, 8, 16)) == {4: 1.0, 8: 1.0}
    rank_one = torch.outer(torch.randn(30), torch.randn(20))
    assert energy_shares(rank_one, (1, 2)) == pytest.approx({1: 1.0, 2: 1.0}, abs=1e-6)


METHODS: list[Any] = [
    "full",
    {"kind": "lora", "rank": 4},
    {"kind": "gradnormlorp", "rank": 4, "train_rest": False},
]


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_linear_layer_of_the_blocks_has_its_evidence(method: Any, checkpointing: str) -> None:
    job = job_of_plan(tiny(method=method, step={"checkpointing": checkpointing}), SUITES, "cpu")
    all_evidence = rank_evidence(job, "cpu", steps=1)
    assert len(all_evidence) == len(list(linear_layers(job.model))) == 2 * 7
    names = {evidence.name for evidence in all_evidence}
    assert "model.layers.1.mlp.down_proj" in names
    for evidence in all_evidence:
        assert evidence.shape in ((256, 256), (688, 256), (256, 688))
        assert all(0 < share <= 1 for share in evidence.energy.values())
        assert evidence.energy["256"] == 1.0


def test_the_gradient_is_the_weight_s_own() -> None:
    job = job_of_plan(tiny(method="full"), SUITES, "cpu")
    taken: dict[str, torch.Tensor] = {}
    for name, param in job.model.named_parameters():
        param.register_post_accumulate_grad_hook(lambda p, n=name: taken.update({n: p.grad.clone()}))  # type: ignore[misc]
    evidence_by_name = {evidence.name: evidence for evidence in rank_evidence(job, "cpu", steps=1)}
    for name, evidence in evidence_by_name.items():
        expected = energy_shares(taken[f"{name}.weight"])
        for rank, share in expected.items():
            assert evidence.energy[str(rank)] == pytest.approx(share, abs=1e-3), (name, rank)
