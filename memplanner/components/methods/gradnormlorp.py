"""GradNormLoRP (arXiv 2412.19616): weight-normalised low-rank reparameterisation with projected gradients.

y = (x·W0ᵀ + s·(x·Jᵀ)·Iᵀ) ⊙ (mag / ‖W0 + s·I·J‖), with W0 (m, n) frozen, I (m, k), J (k, n) and mag (m) trained, and
no (m, n) temporary: ‖·‖² per row comes from W0·Jᵀ (m, k), J·Jᵀ (k, k) and a kept ‖W0‖² (m).
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from memplanner.components.context import Context, LinearSpec
from memplanner.components.methods.gradnormlorp_update import gradnormlorp_rule
from memplanner.components.methods.low_rank import AdapterDtype, LowRank, adapter_dtype
from memplanner.components.optimizers.update import Optimizer, UpdateRule
from memplanner.program.shapes import FP32, Dtype, Shape
from memplanner.tape import nn, ops
from memplanner.tape.engine import Node, Param, Tape, Tensor
from memplanner.tape.projection import Projection

Implementation = Literal["reparameterised", "low-rank-weight-norm-adamw", "weight-norm-galore-adamw", "dora-galore"]


class GradNormLorp(LowRank):
    """W_eff = mag ⊙ (W0 + s·I·J) / ‖W0 + s·I·J‖, with the gradients of I and J projected."""

    label: ClassVar[str] = "GradNormLoRP"
    kind: Literal["gradnormlorp"] = "gradnormlorp"
    projection_rank: Annotated[int, Field(ge=1, le=1 << 20)] = 4
    """Rank r of the gradient projection; a side of a factor no longer than r is left whole."""
    projection: Literal["two-sided", "one-sided"] = "two-sided"
    """Project both sides of a factor's gradient (moments r×r) or its short side only (GaLore's "std")."""
    refresh_interval: Annotated[int, Field(ge=1, le=1 << 30)] = 200
    """Steps between two SVDs of the gradient."""
    norm: Literal["detached", "exact"] = "detached"
    """Whether the gradient flows through the weight norm; public code detaches it."""
    adapter_dtype: AdapterDtype = "base"
    """Type of I and J; the magnitude is always in fp32."""
    train_rest: bool = True
    """Train what the method does not target (embeddings, head, norms) with the same Adam, as in pre-training."""
    implementation: Implementation = "reparameterised"
    """"reparameterised" is the method as its equations say; the others are paths of the authors' public code:
    LowRankWeightNormAdamW and WeightNormGaLoreAdamW on bare weights, and peft's DoRA under GaLoreAdamW."""

    def describe(self) -> str:
        """With the projection's rank."""
        return f"{super().describe()}, projection rank {self.projection_rank}"

    @property
    def blocks_only(self) -> bool:
        """Without names, or for all-linear: the blocks' layers alone."""
        return self.target_modules in ((), ("all-linear",))

    def copied(self, family: Any, config: Any) -> frozenset[str]:
        """A new classification head, by peft."""
        return frozenset(family.modules(config).classifier if self.implementation == "dora-galore" else ())

    @property
    def peft_targets(self) -> tuple[str, ...] | str | None:
        """Every linear layer where none are named."""
        return (self.target_modules or ("all-linear",)) if self.implementation == "dora-galore" else None

    @property
    def is_bare(self) -> bool:
        """Whether the weights stay as they are and the authors' optimizers do all the work."""
        return self.implementation in ("low-rank-weight-norm-adamw", "weight-norm-galore-adamw")

    @property
    def rank_is_capped(self) -> bool:
        """Where the rank is the projection's, the SVD gives no more than the matrix's smaller side."""
        return self.is_bare

    @property
    def refreshes(self) -> bool:
        """Every refresh_interval steps."""
        return True

    def rule(self, optimizer: Optimizer, weights: Dtype) -> UpdateRule:
        """memplanner.gradnormlorp's optimizer, the authors', or galore_torch's over DoRA's factors.

        What the public code builds on is imported where a plan asks for it.
        """
        if self.implementation == "reparameterised":
            return gradnormlorp_rule(optimizer)
        if self.is_bare:
            from memplanner.components.methods.gradnormlorp_authors_update import authors_rule

            return authors_rule(optimizer, weights, low_rank=self.implementation == "low-rank-weight-norm-adamw")
        from memplanner.components.methods.galore import galore_rule

        return galore_rule(optimizer, weights, "GradNormLoRP over DoRA")

    def trains(self, ctx: Context, path: str) -> bool:
        """What is not targeted learns in pre-training."""
        return self.train_rest or self.is_bare

    def linear(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """The reparameterised layer, or a plain one whose optimizer does the work."""
        if not self.targets(ctx, spec):
            return ctx.plain_linear(spec, x, out_shape, trainable=self.trains(ctx, spec.path))
        if self.implementation == "dora-galore":
            return self.as_dora(ctx, spec, x, out_shape)
        if self.is_bare:
            projection = Projection(rank=self.rank_of(ctx, spec))
            return ctx.plain_linear(spec, x, out_shape, trainable=True, projection=projection)
        return self.reparameterised(ctx, spec, x, out_shape)

    def reparameterised(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """memplanner.gradnormlorp's layer (its layer.py, in the same order)."""
        tape, dtype = ctx.tape, ctx.autocast or x.dtype
        weight, bias, factor_i, factor_j, magnitude = self.weights(ctx, spec)
        x = ops.to(x, dtype, "input cast by autocast")
        k = factor_j.shape.dims[0]
        inner = Shape(**dict(zip((*x.shape.labels[:-1], "rank"), (*x.shape.dims[:-1], k), strict=True)))
        low = nn.matmul_weight(x, _lowered(tape, factor_j, dtype), None, inner, f"{spec.path} in the inner rank")
        total = nn.matmul_weight(x, _lowered(tape, weight, dtype), None, out_shape, f"{spec.path} before normalisation")
        _add_product(total, low, _lowered(tape, factor_i, dtype))
        ratio = ops.to(self.ratio(ctx, spec, weight, factor_i, factor_j, magnitude), dtype, "magnitude / norm")
        out = ops.mul_param(total, ratio, f"{spec.path} output")
        if bias is not None:  # in place
            lowered = _lowered(tape, bias, dtype)
            out.node = tape.record(ops.add_broadcast_backward, (out.node, lowered.node), None, bias.shape)
        return out

    def weights(self, ctx: Context, spec: LinearSpec) -> tuple[Param, Param | None, Param, Param, Param]:
        """W0, the bias, I, J and the magnitude, which is always in fp32; ‖W0‖² per row is kept beside them."""
        k, (out, in_) = self.rank_of(ctx, spec), spec.labels
        dtype = adapter_dtype(ctx, self.adapter_dtype, ctx.quantization)
        projection = Projection(rank=self.projection_rank, two_sided=self.projection == "two-sided")
        weight = ctx.param(f"{spec.path}.weight", spec.weight_shape, trainable=False)
        bias = ctx.param(f"{spec.path}.bias", spec.bias_shape) if spec.bias else None
        shapes = {"I": Shape(**{out: spec.out_features, "rank": k}), "J": Shape(**{"rank": k, in_: spec.in_features})}
        factor_i, factor_j = (
            ctx.param(f"{spec.path}.{n}", s, trainable=True, dtype=dtype, category="adapters", projection=projection)
            for n, s in shapes.items()
        )
        rows = Shape(**{out: spec.out_features})
        magnitude = ctx.param(f"{spec.path}.magnitude", rows, trainable=True, dtype=FP32, category="adapters")
        ctx.buffer(f"{spec.path}.row_squares", rows, FP32, category="adapters")
        return weight, bias, factor_i, factor_j, magnitude

    def ratio(self, ctx: Context, spec: LinearSpec, weight: Param, i: Param, j: Param, magnitude: Param) -> Tensor:
        """mag / ‖W0 + s·I·J‖ per row, in fp32; only the exact norm has a gradient."""
        tape = ctx.tape
        exact = self.norm == "exact"
        node = tape.record(_row_squares_backward, (i.node, j.node), (), (weight, i, j)) if exact else None
        wide = [tape.new(p.shape, FP32, "factor in fp32") for p in (i, j) if p.dtype is not FP32]
        products = _cross_product(tape, spec, weight, j)
        gram = tape.new(Shape(rank=j.shape.dims[0], rank_=j.shape.dims[0]), FP32, "J·Jᵀ")
        del gram
        squares = tape.new(magnitude.shape, FP32, "squared norms")
        del products, wide
        squares.node = node
        clamped = ops.unary(squares, "squared norms above zero", saves="input")
        norms = ops.unary(clamped, "norms", saves="output")
        del clamped
        node = tape.record(_quotient_backward, (magnitude.node, norms.node), (norms,))
        out = tape.new(magnitude.shape, FP32, "magnitude / norm in fp32")
        out.node = node
        return out

    def as_dora(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """peft's DoRA (dropout .1) whose factors are under GaLoreAdamW."""
        from memplanner.components.methods.dora import Dora

        adapter = Dora(
            rank=self.rank,
            rank_pattern=self.rank_pattern,
            target_modules=("all-linear",),  # the caller has chosen
            dropout=0.1,
            adapter_dtype="base",
        )
        for factor in adapter.factors(ctx, spec):
            factor.projection = Projection(rank=self.projection_rank)
        return adapter.linear(ctx, spec, x, out_shape)


CHUNK_ROWS: Final = 256
"""Rows of a half-precision weight that are cast to fp32 at a time (memplanner/gradnormlorp/norm.py)."""


def _lowered(tape: Tape, param: Param, dtype: Dtype) -> Param | Tensor:
    """param.to(dtype): unlike autocast's own casts, not kept for the next use."""
    if param.dtype is dtype:
        return param
    node = tape.record(nn.cast_param_backward, (param.node,), None, param)
    out = tape.new(param.shape, dtype, f"{param.name} as {dtype.name}")
    out.node = node
    return out


def _add_product(total: Tensor, low: Tensor, factor: Param | Tensor) -> None:
    """total.addmm_(low, Iᵀ): in place."""
    tape = total.tape
    total.node = tape.record(
        _add_product_backward,
        (low.node, factor.node, total.node),
        (low, factor if factor.__class__ is Tensor else None),
        (low.shape, factor.shape),
    )


def _add_product_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, ...]:
    low_shape, factor_shape = node.ctx
    low = tape.new(low_shape, grad.dtype, "gradient in the inner rank")
    factor = tape.view(tape.new(factor_shape, grad.dtype, "weight gradient"), factor_shape)
    return low, factor, None if node.edges[2] is None else grad


def _cross_product(tape: Tape, spec: LinearSpec, weight: Param, j: Param) -> Tensor:
    """W0·Jᵀ in fp32: one call for equal types, else a few rows of W0 at a time."""
    out = tape.new(Shape(out=spec.out_features, rank=j.shape.dims[0]), FP32, "W0·Jᵀ")
    if weight.dtype is not FP32 and j.dtype is not weight.dtype:
        rows = tape.new(Shape(rows=min(CHUNK_ROWS, spec.out_features), in_=spec.in_features), FP32, "rows of W0")
        del rows
    return out


def _quotient_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    magnitude = tape.like(grad, "magnitude gradient")
    norms = None if node.edges[1] is None else tape.like(grad, "norm gradient")
    return magnitude, norms


def _row_squares_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor, Tensor]:
    """Gradients of I and J through the norm; W0·Jᵀ is taken anew (memplanner/gradnormlorp/norm.py)."""
    weight, i, j = node.ctx
    wide = [tape.new(p.shape, FP32, "factor in fp32") for p in (i, j) if p.dtype is not FP32]
    weighted = tape.new(i.shape, FP32, "I weighted by the gradient")
    spec = LinearSpec("", j.shape.dims[1], i.shape.dims[0])
    i_grad = _cross_product(tape, spec, weight, j)
    square = Shape(rank=j.shape.dims[0], rank_=j.shape.dims[0])
    gram = tape.new(square, FP32, "J·Jᵀ")
    del gram
    inner = tape.new(square, FP32, "weighted Iᵀ·I")
    j_grad = tape.new(j.shape, FP32, "gradient of J through the norm")
    del inner
    if weight.dtype is not FP32:
        rows = tape.new(Shape(rows=min(CHUNK_ROWS, i.shape.dims[0]), in_=j.shape.dims[1]), FP32, "rows of W0")
        del rows
    if i.dtype is not FP32:
        i_grad = tape.new(i.shape, i.dtype, "gradient of I through the norm")
        j_grad = tape.new(j.shape, j.dtype, "gradient of J through the norm")
    del wide, weighted
    return i_grad, j_grad
