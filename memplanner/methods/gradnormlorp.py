"""GradNormLoRP (arXiv 2412.19616): weight-normalised low-rank reparameterisation with projected gradients.

y = (x·W0ᵀ + s·(x·Jᵀ)·Iᵀ) ⊙ (mag / ‖W0 + s·I·J‖), with W0 (m, n) frozen, I (m, k), J (k, n) and mag (m) trained, and
no (m, n) temporary: ‖·‖² per row comes from W0·Jᵀ (m, k), J·Jᵀ (k, k) and a kept ‖W0‖² (m).
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from memplanner.methods.dora import Dora
from memplanner.methods.settings import AdapterDtype, LowRank, adapter_dtype
from memplanner.optimizers.rules import ExtraState, Projection
from memplanner.tape import ops
from memplanner.tape.context import AUXILIARY, Context, LinearSpec
from memplanner.tape.engine import Node, Param, Tape, Tensor
from memplanner.tape.shapes import FP32, Shape

Implementation = Literal["reparameterised", "low-rank-weight-norm-adamw", "weight-norm-galore-adamw", "dora-galore"]


class GradNormLorp(LowRank):
    """W_eff = mag ⊙ (W0 + s·I·J) / ‖W0 + s·I·J‖, with the gradients of I and J projected."""

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
    """Type of I, J and the magnitude."""
    train_rest: bool = True
    """Train what the method does not target (embeddings, head, norms) with the same Adam, as in pre-training."""
    implementation: Implementation = "reparameterised"
    """"reparameterised" is the method as its equations say; the others are paths of the authors' public code:
    LowRankWeightNormAdamW and WeightNormGaLoreAdamW on bare weights, and peft's DoRA under GaLoreAdamW."""

    @property
    def copies_head(self) -> bool:
        """Whether a new classification head is trained as a copy."""
        return self.implementation == "dora-galore"

    @property
    def above_full_rank(self) -> str:
        """What a rank above a matrix's smaller side comes to."""
        if self.extra_state:
            return "the SVD has no more than that, and so the rank is that"
        return super().above_full_rank

    def trains(self, ctx: Context, path: str) -> bool:
        """What is not targeted learns in pre-training."""
        return self.train_rest or self.implementation in ("low-rank-weight-norm-adamw", "weight-norm-galore-adamw")

    def linear(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """The reparameterised layer, or a plain one whose optimizer does the work."""
        if not self.targets(ctx, spec):
            return ctx.plain_linear(spec, x, out_shape, trainable=self.trains(ctx, spec.path))
        if self.implementation == "dora-galore":
            return self.as_dora(ctx, spec, x, out_shape)
        if self.implementation != "reparameterised":
            return ctx.plain_linear(spec, x, out_shape, trainable=True, tags=self.bare_rule(ctx, spec))
        return self.reparameterised(ctx, spec, x, out_shape)

    def reparameterised(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """The layer of the module docstring."""
        k = self.rank_of(ctx, spec)
        out, in_ = spec.labels
        dtype = adapter_dtype(ctx, self.adapter_dtype)
        sides: Literal["one", "two"] = "one" if self.projection == "one-sided" else "two"
        rule = Projection(rank=self.projection_rank, sides=sides, in_place=True)
        shapes = {"I": Shape(**{out: spec.out_features, "rank": k}), "J": Shape(**{"rank": k, in_: spec.in_features})}
        factor_i, factor_j = (
            ctx.param(f"{spec.path}.{n}", s, trainable=True, dtype=dtype, category="adapters", tags=rule)
            for n, s in shapes.items()
        )
        rows = Shape(**{out: spec.out_features})
        magnitude = ctx.param(f"{spec.path}.magnitude", rows, trainable=True, dtype=dtype, category="adapters")
        ctx.param(f"{spec.path}.row_norms", rows, trainable=False, dtype=FP32, category="adapters", tags=AUXILIARY)
        hidden = ops.to(x, dtype, "adapter input")
        ratio = self.ratio(ctx, spec, k, factor_i, factor_j, magnitude)
        base = ctx.frozen_linear(spec, x, out_shape)
        inner = Shape(**dict(zip((*x.shape.labels[:-1], "rank"), (*x.shape.dims[:-1], k), strict=True)))
        low = ctx.matmul(hidden, factor_j, None, inner, f"{spec.path} in the inner rank")
        up = ctx.matmul(low, factor_i, None, out_shape, f"{spec.path} adapter output")
        total = ops.add(base, up, f"{spec.path} before normalisation")
        del base, up, low
        return ops.to(ops.mul_param(total, ratio, f"{spec.path} output"), x.dtype)

    def ratio(self, ctx: Context, spec: LinearSpec, k: int, i: Param, j: Param, magnitude: Param) -> Tensor:
        """mag / ‖W0 + s·I·J‖ per row, in fp32 but for the result; the exact norm keeps its parts for backward."""
        tape = ctx.tape
        tall = Shape(out=spec.out_features, rank=k)
        cross = tape.new(tall, FP32, "W0·Jᵀ")
        gram = tape.new(Shape(rank=k, rank_=k), FP32, "J·Jᵀ")
        mixed = tape.new(tall, FP32, "I·(J·Jᵀ)")
        product = tape.new(tall, FP32, "row products")
        del product
        norm = tape.new(magnitude.shape, FP32, "weight norm")
        ratio = tape.new(magnitude.shape, magnitude.dtype, "magnitude / norm")
        if self.norm == "exact":
            edges = (magnitude.node, i.node, j.node)
            ratio.node = tape.record(_exact_backward, edges, (norm, cross, gram, mixed), (magnitude, i, j))
        else:
            ratio.node = tape.record(ops.elementwise_backward, (magnitude.node,), (norm,))
        return ratio

    def as_dora(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """peft's DoRA (dropout .1) whose factors are under GaLoreAdamW."""
        adapter = Dora(
            rank=self.rank,
            rank_pattern=self.rank_pattern,
            target_modules=("all-linear",),  # the caller has chosen
            dropout=0.1,
            adapter_dtype="base",
        )
        for factor in adapter.factors(ctx, spec):
            factor.tags = Projection(rank=self.projection_rank, sides="one", stores_identity=True)
        return adapter.linear(ctx, spec, x, out_shape)

    def bare_rule(self, ctx: Context, spec: LinearSpec) -> Projection:
        """Paths A and C of the authors' code: what their optimizers keep per weight beside the projected moments."""
        return Projection(
            rank=self.rank_of(ctx, spec),
            sides="one",
            pins_full_factor=True,
            stores_identity=True,
            extra=self.extra_state,
            keeps_moments=self.implementation == "low-rank-weight-norm-adamw",
        )

    @property
    def extra_state(self) -> tuple[ExtraState, ...]:
        """What LowRankWeightNormAdamW and WeightNormGaLoreAdamW keep for every parameter: the weight's direction v and
        its norms g, with what the optimizer keeps for them.
        """
        if self.implementation == "low-rank-weight-norm-adamw":
            return (
                ExtraState("v, a full copy of the weight", "full"),
                ExtraState("g", "row"),
                ExtraState("moments of g", "row", 2),
            )
        if self.implementation == "weight-norm-galore-adamw":
            return (
                ExtraState("v, its gradient and moments", "full", 5),
                ExtraState("g, its gradient and moments", "row", 4),
            )
        return ()


def _exact_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the magnitude and, through the norm, of I and J."""
    magnitude, i, j = node.ctx
    scale = tape.new(magnitude.shape, grad.dtype, "magnitude gradient")
    scaled = tape.new(i.shape, FP32, "norm gradient times cross product")
    i_grad = tape.new(i.shape, i.dtype, "gradient through the norm")
    j_grad = tape.new(j.shape, j.dtype, "gradient through the norm")
    del scaled
    return scale, i_grad, j_grad
