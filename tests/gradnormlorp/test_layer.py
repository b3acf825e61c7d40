"""The layer against the materialised formula, in float64."""

import copy
from typing import Any, Literal

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memplanner.gradnormlorp import GradNormLoRPLinear
from memplanner.gradnormlorp.norm import adapted_row_squares, row_squares

Norm = Literal["detached", "exact"]


def layer_of(
    m: int = 12, n: int = 20, k: int = 3, *, bias: bool = True, norm: Norm = "exact", scale: float = 0.7
) -> GradNormLoRPLinear:
    """A layer in float64 that has learned something."""
    torch.manual_seed(m + n + k)
    layer = GradNormLoRPLinear(nn.Linear(n, m, bias=bias, dtype=torch.float64), rank=k, scale=scale, norm=norm)
    with torch.no_grad():
        layer.factor_i.normal_()
        layer.magnitude.mul_(torch.rand(m, dtype=torch.float64) + 0.5)
    return layer


def materialised(layer: GradNormLoRPLinear, x: Tensor, *, detached: bool) -> Tensor:
    """The method as its equation says, (m, n) matrices and all."""
    adapted = layer.weight + layer.scale * layer.factor_i @ layer.factor_j
    norm = adapted.norm(dim=1)
    norm = norm.detach() if detached else norm
    return nn.functional.linear(x, (layer.magnitude / norm)[:, None] * adapted, layer.bias)


@pytest.mark.parametrize("norm", ["detached", "exact"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(20,), (5, 20), (2, 3, 20)])
def test_forward_and_gradients_are_the_formula_s(norm: Norm, bias: bool, shape: tuple[int, ...]) -> None:
    layer = layer_of(bias=bias, norm=norm)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *(p for p in layer.parameters() if p.requires_grad)]
    ours, theirs = layer(x), materialised(layer, x, detached=norm == "detached")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(ours)
    for computed, expected in zip(
        torch.autograd.grad(ours, inputs, direction), torch.autograd.grad(theirs, inputs, direction), strict=True
    ):
        torch.testing.assert_close(computed, expected, rtol=1e-10, atol=1e-12)


def test_detached_and_exact_gradients_differ() -> None:
    exact = layer_of(norm="exact")
    detached = copy.deepcopy(exact)
    detached.norm = "detached"
    x = torch.randn(4, 20, dtype=torch.float64)
    for layer in (exact, detached):
        layer(x).square().sum().backward()
    assert exact.factor_i.grad is not None
    assert detached.factor_i.grad is not None
    assert not torch.allclose(exact.factor_i.grad, detached.factor_i.grad)


def test_finite_differences_agree() -> None:
    layer = layer_of(6, 5, 2, norm="exact")
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def forward(x: Tensor, i: Tensor, j: Tensor, magnitude: Tensor) -> Any:
        values = {"factor_i": i, "factor_j": j, "magnitude": magnitude}
        return torch.func.functional_call(layer, values, (x,))

    assert torch.autograd.gradcheck(forward, (x, layer.factor_i, layer.factor_j, layer.magnitude))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fresh_layer_computes_what_its_base_does(dtype: torch.dtype) -> None:
    base = nn.Linear(300, 280, dtype=dtype)
    x = torch.randn(7, 300, dtype=dtype)
    expected = base(x)
    computed = GradNormLoRPLinear(base, rank=4)(x)
    assert computed.dtype == dtype
    torch.testing.assert_close(computed, expected, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_norms_in_float32_hold_against_float64(dtype: torch.dtype, size: float) -> None:
    torch.manual_seed(1)
    weight, i, j = (torch.randn(shape).to(dtype) for shape in ((700, 64), (700, 16), (16, 64)))
    i = i * size
    computed = adapted_row_squares(weight, row_squares(weight), i, j, 0.5)
    exact = (weight.double() + 0.5 * i.double() @ j.double()).square().sum(dim=1)
    assert computed.dtype == torch.float32
    torch.testing.assert_close(computed.double(), exact, rtol=3e-6, atol=0)


def test_cancellation_costs_float32_s_rounding_of_the_larger_terms() -> None:
    """s·I·J almost takes W0 away: what is left is as exact as the terms it is left of."""
    torch.manual_seed(2)
    i, j = torch.randn(40, 8), torch.randn(8, 50)
    weight = -(i @ j) + 1e-2 * torch.randn(40, 50)
    computed = adapted_row_squares(weight, row_squares(weight), i, j, 1.0).double()
    exact = (weight.double() + i.double() @ j.double()).square().sum(dim=1)
    terms = weight.double().square().sum(dim=1)
    assert ((computed - exact).abs() <= 8 * torch.finfo(torch.float32).eps * terms).all()


class LargestTensor(TorchDispatchMode):
    """The elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in known:
                self.numel = max(self.numel, leaf.numel())
        return out


@pytest.mark.parametrize("norm", ["detached", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_temporary_is_as_large_as_the_weight(norm: Norm, dtype: torch.dtype) -> None:
    m, n, k, tokens = 1024, 1024, 8, 4
    layer = GradNormLoRPLinear(nn.Linear(n, m, dtype=dtype), rank=k, norm=norm)
    x = torch.randn(tokens, n, dtype=dtype, requires_grad=True)
    with LargestTensor() as largest:
        layer(x).sum().backward()
    assert largest.numel <= 256 * n, "one cast of 256 rows in half precision is the most"


def test_merged_weights_compute_what_the_layer_did() -> None:
    layer = layer_of(300, 20, 3)
    x = torch.randn(5, 20, dtype=torch.float64)
    expected = layer(x)
    merged = layer.merge()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), expected, rtol=1e-12, atol=1e-12)


def test_fold_keeps_the_function_and_frees_the_factors() -> None:
    layer = layer_of(300, 20, 3)
    x = torch.randn(5, 20, dtype=torch.float64)
    expected = layer(x)
    layer.fold()
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert layer.factor_i.count_nonzero() == 0
    assert layer.num_folds == 1


def test_changing_the_type_takes_the_norms_anew() -> None:
    layer = GradNormLoRPLinear(nn.Linear(64, 48), rank=4).to(torch.bfloat16)
    assert layer.factor_i.dtype == torch.bfloat16
    assert layer.magnitude.dtype == layer.row_squares.dtype == torch.float32
    torch.testing.assert_close(layer.row_squares, layer.weight.float().square().sum(dim=1))


def test_factors_may_be_wider_than_the_base() -> None:
    layer = GradNormLoRPLinear(nn.Linear(16, 8, dtype=torch.bfloat16), rank=2, dtype=torch.float32)
    out = layer(torch.randn(3, 16, dtype=torch.bfloat16))
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert layer.factor_i.grad is not None
    assert layer.factor_i.grad.dtype == torch.float32


def test_a_zero_row_stays_finite() -> None:
    base = nn.Linear(6, 4, bias=False)
    with torch.no_grad():
        base.weight[1] = 0
    layer = GradNormLoRPLinear(base, rank=2)
    out = layer(torch.randn(3, 6))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"rank": 2, "norm": "frozen"}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rank 0|'frozen'"):
        GradNormLoRPLinear(nn.Linear(4, 4), **wrong)
