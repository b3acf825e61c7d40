"""LoRA as peft runs it (arXiv 2106.09685; peft/tuners/lora/layer.py): y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with W frozen."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from memplanner.components.context import Context, LinearSpec
from memplanner.components.methods.low_rank import AdapterDtype, LowRank, adapter_dtype
from memplanner.program.shapes import Shape
from memplanner.tape import ops
from memplanner.tape.engine import Param, Tensor


class PeftAdapter(LowRank):
    """What peft's LoRA and DoRA layers share: factors A and B beside a frozen weight."""

    freezes_base: ClassVar[bool] = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of A; above zero it keeps the dropped input and a mask."""
    adapter_dtype: AdapterDtype = "fp32"
    """peft keeps adapters in fp32 over a half-precision base (autocast_adapter_dtype=True); "base" follows it."""

    @property
    def copies_head(self) -> bool:
        """Whether a new classification head is trained as a copy."""
        return True

    def trains(self, ctx: Context, path: str) -> bool:
        """Only adapters (and a new classification head) learn."""
        return False

    def default_targets(self, family: Any) -> tuple[str, ...]:
        """peft's own for the architecture."""
        targets: tuple[str, ...] = family.lora_targets
        return targets

    def factors(self, ctx: Context, spec: LinearSpec) -> tuple[Param, Param]:
        """A (rank, in) and B (out, rank)."""
        dtype = adapter_dtype(ctx, self.adapter_dtype)
        rank = self.rank_of(ctx, spec)
        out, in_ = spec.labels
        a = ctx.param(
            f"{spec.path}.lora_A.weight",
            Shape(**{"rank": rank, in_: spec.in_features}),
            trainable=True,
            dtype=dtype,
            category="adapters",
        )
        b = ctx.param(
            f"{spec.path}.lora_B.weight",
            Shape(**{out: spec.out_features, "rank": rank}),
            trainable=True,
            dtype=dtype,
            category="adapters",
        )
        return a, b

    def linear(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """peft's Linear.forward; over a quantised weight, that of peft/tuners/lora/bnb.py."""
        result = ctx.frozen_linear(spec, x, out_shape)
        if not self.targets(ctx, spec) or not ctx.adapters_enabled:
            return result
        if ctx.quantization is not None and ctx.quantization.clones_output:
            result = ops.clone(result)
        dtype = result.dtype
        a, b = self.factors(ctx, spec)
        if ctx.quantization is not None and ctx.autocast is not None:  # autocast makes the casts that peft leaves out
            return self.adapt(ctx, spec, x, result, a, b, out_shape)
        x = ops.to(x, a.dtype, "adapter input")
        result = self.adapt(ctx, spec, x, result, a, b, out_shape)
        return ops.to(result, dtype, "adapted output")

    def adapt(
        self, ctx: Context, spec: LinearSpec, x: Tensor, result: Tensor, a: Param, b: Param, out_shape: Shape
    ) -> Tensor:
        """The layer's output: the base layer's `result`, adapted."""
        raise NotImplementedError


class Lora(PeftAdapter):
    """Low-rank adapters beside frozen weights."""

    label: ClassVar[str] = "LoRA"
    kind: Literal["lora"] = "lora"

    def adapt(
        self, ctx: Context, spec: LinearSpec, x: Tensor, result: Tensor, a: Param, b: Param, out_shape: Shape
    ) -> Tensor:
        """result + B(A(dropout(x)))·s; over a quantised weight the second term is cast before it is added."""
        cast_to = result.dtype if ctx.quantization is not None and ctx.autocast is None else None
        inner = Shape(**dict(zip((*x.shape.labels[:-1], "rank"), (*x.shape.dims[:-1], a.shape.dims[0]), strict=True)))
        output = ops.scale(
            ctx.matmul(
                ctx.matmul(ops.dropout(x, self.dropout), a, None, inner, f"{spec.path}.lora_A output"),
                b,
                None,
                out_shape,
                f"{spec.path}.lora_B output",
            ),
            "scaled adapter output",
        )
        if cast_to is not None:
            output = ops.to(output, cast_to, "adapter output")
        return ops.add(result, output, "adapted output")
