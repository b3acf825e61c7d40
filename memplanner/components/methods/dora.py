"""DoRA as peft runs it (arXiv 2402.09353; peft/tuners/lora/dora.py): LoRA with a trained magnitude per output row."""

from typing import ClassVar, Literal

from memplanner.components.context import Context, LinearSpec
from memplanner.components.methods.lora import PeftAdapter
from memplanner.program.shapes import Dtype, Shape
from memplanner.tape import nn, ops
from memplanner.tape.engine import Param, Tensor


class Dora(PeftAdapter):
    """Weight-decomposed low-rank adapters."""

    label: ClassVar[str] = "DoRA"
    kind: Literal["dora"] = "dora"

    def adapt(
        self, ctx: Context, spec: LinearSpec, x: Tensor, result: Tensor, a: Param, b: Param, out_shape: Shape
    ) -> Tensor:
        """peft's DoraLinearLayer.forward: the weight's norm by (out, in) temporaries, then two scaled products."""
        tape = ctx.tape
        base: Tensor = result
        if self.dropout > 0:
            x = ops.dropout(x, self.dropout)
        norm, held, weight = self.weight_norm(ctx, spec, a, b, x.dtype)
        out = spec.labels[0]
        magnitude = ctx.param(
            f"{spec.path}.lora_magnitude_vector",
            Shape(**{out: spec.out_features}),
            trainable=True,
            dtype=a.dtype,
            category="adapters",
        )
        ratio = tape.new(magnitude.shape, a.dtype, "magnitude / norm")
        ratio.node = tape.record(ops.elementwise_backward, (magnitude.node,), (norm,))
        inner = Shape(**dict(zip((*x.shape.labels[:-1], "rank"), (*x.shape.dims[:-1], a.shape.dims[0]), strict=True)))
        adapted = ctx.matmul(
            ctx.matmul(x, a, None, inner, f"{spec.path}.lora_A output"),
            b,
            None,
            out_shape,
            f"{spec.path}.lora_B output",
        )
        if self.dropout > 0:
            base = ctx.matmul(
                x, weight or self.whole(ctx, spec), None, out_shape, f"{spec.path} output of the dropped input"
            )
        if spec.bias and not self.dropout:
            bias = ctx.param(f"{spec.path}.bias", spec.bias_shape, trainable=False)
            base = ops.add_constant(base, bias, "base output without bias")
        extra = ops.add(
            ops.mul_param(base, ops.shift(ratio, "magnitude ratio minus one"), "rescaled base output"),
            ops.scale(ops.mul_param(adapted, ratio, "rescaled adapter output"), "scaled adapter output"),
            "DoRA output",
        )
        del held, weight
        return ops.add(result, extra, "adapted output")

    def whole(self, ctx: Context, spec: LinearSpec) -> Param:
        """The weight that multiplies the dropped input. peft transposes Conv1D's into a Parameter of its own, which
        requires a gradient, by default as any does; nobody uses it (peft/utils/other.py, transpose).
        """
        weight = ctx.param(f"{spec.path}.weight", spec.weight_shape, trainable=False)
        if not spec.conv1d:
            return weight
        out, in_ = spec.labels
        return Param(
            f"{weight.name} transposed",
            Shape(**{out: spec.out_features, in_: spec.in_features}),
            weight.dtype,
            count=weight.count,
            trainable=True,
            role="leaf",
        )

    def weight_norm(
        self, ctx: Context, spec: LinearSpec, a: Param, b: Param, dtype: Dtype
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """‖W + s·B·A‖ by rows, and what stays alive until the layer's forward returns: the identity that A and B are
        applied to and the products; and W in the adapter's type, where that is a copy.
        """
        tape = ctx.tape
        n, m, r = spec.in_features, spec.out_features, a.shape.dims[0]
        square, full = Shape(in_=n, in__=n), Shape(out=m, in_=n)
        product = ctx.autocast or a.dtype
        eye = tape.new(square, a.dtype, "identity")
        nn.cast_param(tape, a, product)  # kept in autocast's cache, as trained weights are
        lowered = eye if product is eye.dtype else tape.new(square, product, "identity cast by autocast")
        through_a = tape.new(Shape(in_=n, rank=r), product, "A of the identity")
        # The graph of B·A, never run backward, keeps what it saved while B·A is alive.
        held: tuple[Tensor, ...] = (lowered, through_a) if tape.saves else ()
        del lowered
        nn.cast_param(tape, b, product)
        lora_weight = tape.new(full, product, "B·A")
        del eye, through_a
        if product is not dtype:
            lora_weight = tape.new(full, dtype, "B·A in the adapter's type")
        held = (*held, lora_weight)
        weight = None
        quantised = ctx.quantization_of(spec) is not None
        if quantised or ctx.weight_dtype is not dtype:
            if quantised:
                dequantised = tape.new(full, ctx.weight_dtype, "dequantised weight")
                weight = (
                    dequantised if ctx.weight_dtype is dtype else tape.new(full, dtype, "weight in the adapter's type")
                )
                del dequantised
            else:
                weight = tape.new(full, dtype, "weight in the adapter's type")
        scaled = tape.new(full, dtype, "s·B·A")
        summed = tape.new(full, dtype, "W + s·B·A")
        del scaled
        norm = tape.new(Shape(out=m), dtype, "weight norm")
        del summed
        return norm, held, weight

    def adapt_embedding(self, ctx: Context, path: str, indices: Tensor, result: Tensor, a: Param, b: Param) -> Tensor:
        """peft's DoraEmbeddingLayer.forward: the norm of the table's columns by (width, rows) temporaries, then two
        scaled terms.
        """
        tape = ctx.tape
        width, rows = b.shape.dims[0], a.shape.dims[1]
        magnitude = ctx.param(
            f"{path}.lora_magnitude_vector", Shape(width=width), trainable=True, dtype=a.dtype, category="adapters"
        )
        product_type = ctx.autocast or a.dtype
        lowered = [
            tape.new(factor.shape, product_type, f"{factor.name} as {product_type.name}")
            for factor in (b, a)
            if factor.dtype is not product_type
        ]
        product = tape.new(Shape(rows=rows, width=width), product_type, "A·B")
        held = (lowered, product) if tape.saves else (product,)  # its graph, never run backward, keeps the factors
        del lowered
        norm = self.table_norm(ctx, product)
        ratio = tape.new(magnitude.shape, a.dtype, "magnitude / norm")
        ratio.node = tape.record(ops.elementwise_backward, (magnitude.node,), (norm,))
        extra = ops.scale(
            ops.mul_param(self.embedded(ctx, indices, result, a, b), ratio, "rescaled adapter output"),
            "scaled adapter output",
        )
        del held, product, norm
        return ops.add(ops.mul_param(result, ratio, "rescaled embeddings"), extra, "adapted embeddings")

    def table_norm(self, ctx: Context, product: Tensor) -> Tensor:
        """‖Wᵀ + s·(A·B)ᵀ‖ by rows. Wᵀ is a view; the sum is in the wider of the two types."""
        tape, weight = ctx.tape, ctx.weight_dtype
        scaled = tape.like(product, "s·A·B")
        dtype = weight if weight.size >= product.dtype.size else product.dtype
        summed = tape.new(product.shape, dtype, "W + s·A·B")
        del scaled
        norm = tape.new(Shape(width=product.shape.dims[1]), dtype, "weight norm")
        del summed
        return norm
