"""The optimizer against the formula, torch's own AdamW and its own saved state."""

import copy
import io
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

import torch
from torch import Tensor, nn

from memplanner.gradnormlorp import GradNormLoRPAdamW
from memplanner.gradnormlorp.projector import subspace

FORMATS = ["param", "fp32", "bf16", "8-bit"]


def run(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int, seed: int = 0) -> None:
    """Steps on gradients that depend on the parameters and on the step."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = (p.detach() + noise.to(p.dtype)).contiguous()
        optimizer.step()


def matrix(m: int, n: int, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    generator = torch.Generator().manual_seed(m * 1000 + n)
    return nn.Parameter(torch.randn(m, n, generator=generator, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("projection", ["two-sided", "one-sided"])
@pytest.mark.parametrize("shape", [(24, 6), (6, 24), (16, 16)])
def test_a_rank_that_covers_the_projected_sides_is_plain_adamw(projection: Any, shape: tuple[int, int]) -> None:
    rank = max(shape) if projection == "two-sided" else min(shape)
    ours, theirs = matrix(*shape), matrix(*shape)
    mine = GradNormLoRPAdamW(
        [ours], lr=0.01, weight_decay=0.1, projection_rank=rank, projection=projection, refresh_interval=3
    )
    run(mine, [ours], 10)
    run(torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1), [theirs], 10)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert not {"left", "right"} & mine.state[ours].keys()


def reference(p: Tensor, grads: list[Tensor], rank: int, sides: str, every: int, restart: bool) -> Tensor:
    """The method with whole matrices in float64: N̂ from moments of UᵀGV, update α·U·N̂·Vᵀ, plain where U and V are I."""
    p = p.clone()
    m, n = p.shape
    eye_m, eye_n = torch.eye(m, dtype=p.dtype), torch.eye(n, dtype=p.dtype)
    left, right, first, second, t = eye_m, eye_n, torch.zeros(()), torch.zeros(()), 0
    for i, grad in enumerate(grads):
        if i % every == 0:
            u, _, vh = torch.linalg.svd(grad, full_matrices=False)
            both = sides == "two-sided"
            left = u[:, :rank] if (both and rank < m) or (not both and m < n and rank < m) else eye_m
            right = vh[:rank].t() if (both and rank < n) or (not both and m >= n and rank < n) else eye_n
            if restart or i == 0:
                first, second, t = torch.zeros((), dtype=p.dtype), torch.zeros((), dtype=p.dtype), 0
        low = left.t() @ grad @ right
        t += 1
        first = 0.9 * first + 0.1 * low
        second = 0.999 * second + 0.001 * low**2
        normed = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        alpha = 1 if left is eye_m and right is eye_n else 0.25
        p -= 0.01 * alpha * left @ normed @ right.t()
    return p


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("sides", ["two-sided", "one-sided"])
@pytest.mark.parametrize("shape", [(20, 8), (8, 20), (12, 12), (20, 3), (3, 20)])
def test_projected_steps_are_the_formula_s(sides: Any, shape: tuple[int, int], restart: bool) -> None:
    param = matrix(*shape)
    generator = torch.Generator().manual_seed(5)
    grads = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(9)]
    expected = reference(param.detach(), grads, 4, sides, every=4, restart=restart)
    optimizer = GradNormLoRPAdamW(
        [param], lr=0.01, projection_rank=4, projection=sides, refresh_interval=4, restart_moments=restart
    )
    for grad in grads:
        param.grad = grad
        optimizer.step()
    torch.testing.assert_close(param.detach(), expected, rtol=1e-9, atol=1e-10)


def test_projectors_pin_nothing_larger_and_are_orthonormal() -> None:
    projector = subspace(matrix(64, 32).detach().float(), 4, "two-sided")
    assert projector is not None
    for vectors, side in ((projector.left, 64), (projector.right, 32)):
        assert vectors is not None
        assert vectors.shape == (side, 4)
        assert vectors.untyped_storage().nbytes() == side * 4 * 4
        torch.testing.assert_close(vectors.t() @ vectors, torch.eye(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [None, 64])
@pytest.mark.parametrize(("how", "tolerance"), [("fp32", 1e-6), ("bf16", 0.04), ("8-bit", 0.06)])
def test_narrow_moments_stay_within_their_format_s_error(how: Any, tolerance: float, rank: int | None) -> None:
    exact, narrow = matrix(128, 96, torch.float32), matrix(128, 96, torch.float32)
    start = exact.detach().clone()
    run(GradNormLoRPAdamW([exact], lr=0.01, projection_rank=rank), [exact], 20)
    run(GradNormLoRPAdamW([narrow], lr=0.01, projection_rank=rank, state=how), [narrow], 20)
    moved = (exact - start).norm()
    assert (narrow - exact).norm() <= tolerance * moved


def test_eight_bit_states_are_eight_bit_and_small_ones_whole() -> None:
    large, small = matrix(64, 64, torch.float32), matrix(63, 65, torch.float32)
    optimizer = GradNormLoRPAdamW([large, small], state="8-bit")
    run(optimizer, [large, small], 1)
    assert optimizer.state[large]["exp_avg"].dtype == torch.uint8
    assert optimizer.state[large]["exp_avg_sq_absmax"].shape == (16,)
    assert optimizer.state[small]["exp_avg"].dtype == torch.float32
    double = matrix(64, 64)
    with pytest.raises(ValueError, match="float64"):
        run(GradNormLoRPAdamW([double], state="8-bit"), [double], 1)


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [None, 64])
def test_saved_state_goes_on_bit_for_bit(how: Any, dtype: torch.dtype, rank: int | None) -> None:
    def fresh() -> tuple[list[nn.Parameter], GradNormLoRPAdamW, Any]:
        params = [matrix(96, 128, dtype), nn.Parameter(torch.ones(7, dtype=dtype))]
        made = GradNormLoRPAdamW(params, lr=0.01, state=how, projection_rank=rank, refresh_interval=3)
        return params, made, torch.optim.lr_scheduler.StepLR(made, 2, 0.5)

    params, optimizer, scheduler = fresh()
    run(optimizer, params, 5)
    scheduler.step()
    saved = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "params": params}, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    others, other, other_scheduler = fresh()
    with torch.no_grad():
        for mine, theirs in zip(others, loaded["params"], strict=True):
            mine.copy_(theirs)
    other.load_state_dict(loaded["optimizer"])
    other_scheduler.load_state_dict(loaded["scheduler"])
    for p, q in zip(params, others, strict=True):
        ours, theirs = optimizer.state[p], other.state[q]
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if isinstance(value, Tensor):
                assert value.dtype == theirs[name].dtype
                assert torch.equal(value, theirs[name]), name
                assert value.data_ptr() != theirs[name].data_ptr()
            else:
                assert value == theirs[name], name
    for each, scheduled, own in ((optimizer, scheduler, params), (other, other_scheduler, others)):
        run(each, own, 4, seed=9)
        scheduled.step()
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"] == 0.005


def test_schedulers_and_groups_set_their_own_rates() -> None:
    fast, slow = matrix(8, 8), matrix(8, 8)
    starts = fast.detach().clone(), slow.detach().clone()
    optimizer = GradNormLoRPAdamW([{"params": [fast], "lr": 0.1}, {"params": [slow]}], lr=0.001)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    run(optimizer, [fast, slow], 1)
    for param, start, lr in zip((fast, slow), starts, (0.1, 0.001), strict=True):
        torch.testing.assert_close((param.detach() - start).abs(), torch.full_like(start, lr), rtol=1e-3, atol=0)
    scheduler.step()
    before = fast.detach().clone()
    run(optimizer, [fast, slow], 3)
    assert torch.equal(fast, before)


@pytest.mark.parametrize("how", FORMATS)
def test_updates_in_backward_are_the_same_updates(how: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 64))
    twin = copy.deepcopy(model)
    x = torch.randn(5, 64)
    made: dict[str, Any] = {"lr": 0.01, "projection_rank": 16, "refresh_interval": 2, "state": how}
    plain, layered = GradNormLoRPAdamW(model.parameters(), **made), GradNormLoRPAdamW(twin.parameters(), **made)
    layered.update_in_backward()
    for _ in range(5):
        model(x).square().mean().backward()
        plain.step()
        plain.zero_grad()
        twin(x).square().mean().backward()
        assert all(p.grad is None for p in twin.parameters())
        layered.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1},
        {"betas": (1.0, 0.9)},
        {"eps": -1},
        {"weight_decay": -0.1},
        {"projection_rank": 0},
        {"projection": "both"},
        {"refresh_interval": 0},
        {"state": "4-bit"},
    ],
)
def test_impossible_values_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} "):
        GradNormLoRPAdamW([matrix(2, 2)], **wrong)
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} "):
        GradNormLoRPAdamW([{"params": [matrix(2, 2)], **wrong}])
