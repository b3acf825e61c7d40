"""LoRA as peft runs it (arXiv 2106.09685; peft/tuners/lora/layer.py): y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with W frozen."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from memplanner.components.context import Context, LinearSpec
from memplanner.components.methods.low_rank import AdapterDtype, LowRank, ModulesToSave, adapter_dtype
from memplanner.components.methods.targets import copied_modules
from memplanner.program.shapes import FP32, Dtype, Shape
from memplanner.tape import axolotl, nn, ops
from memplanner.tape.axolotl import Adapted
from memplanner.tape.engine import Param, Tensor

LoraKernel = Literal["mlp", "o", "qkv"]


def _sorted(names: tuple[LoraKernel, ...]) -> tuple[LoraKernel, ...]:
    return tuple(sorted({*names}))


class PeftAdapter(LowRank):
    """What peft's LoRA and DoRA layers share: factors A and B beside a frozen weight."""

    freezes_base: ClassVar[bool] = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of A; above zero it keeps the dropped input and a mask."""
    adapter_dtype: AdapterDtype = "fp32"
    """peft keeps adapters in fp32 over a half-precision base (autocast_adapter_dtype=True); "base" follows it."""

    modules_to_save: ModulesToSave = ()
    """Modules that are trained whole as copies beside the adapters (peft's modules_to_save), by the ends of their
    paths: embed_tokens, lm_head. A new classification head always is."""
    modules_to_save_dtype: Literal["base", "fp32"] = "base"
    """A copy is of its original's type; LLaMA-Factory casts what is trained to fp32."""

    def copied(self, family: Any, config: Any) -> frozenset[str]:
        """modules_to_save, and a new classification head, with all that is in them."""
        return copied_modules(self.modules_to_save, family.modules(config))

    def copied_dtype(self, original: Dtype) -> Dtype:
        """The original's, or FP32."""
        return FP32 if self.modules_to_save_dtype == "fp32" else original

    @property
    def saved_names(self) -> tuple[str, ...]:
        """modules_to_save."""
        return self.modules_to_save

    @property
    def adapts_all(self) -> bool:
        """peft has adapters for embeddings and the output projection too."""
        return True

    def trains(self, ctx: Context, path: str) -> bool:
        """Only adapters and copies learn."""
        return False

    @property
    def peft_targets(self) -> tuple[str, ...] | str | None:
        """As they are written."""
        return self.target_modules

    def default_targets(self, family: Any) -> tuple[str, ...] | str:
        """peft's own for the architecture."""
        targets: tuple[str, ...] | str = family.lora_targets
        return targets

    def factors(self, ctx: Context, spec: LinearSpec) -> tuple[Param, Param]:
        """A (rank, in) and B (out, rank)."""
        dtype = adapter_dtype(ctx, self.adapter_dtype, ctx.quantization_of(spec))
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
        quantization = ctx.quantization_of(spec)
        if quantization is not None and quantization.clones_output:
            result = ops.clone(result)
        dtype = result.dtype
        a, b = self.factors(ctx, spec)
        if quantization is not None and ctx.autocast is not None:  # autocast makes the casts that peft leaves out
            return self.adapt(ctx, spec, x, result, a, b, out_shape)
        x = ops.to(x, a.dtype, "adapter input")
        result = self.adapt(ctx, spec, x, result, a, b, out_shape)
        return ops.to(result, dtype, "adapted output")

    def adapt(
        self, ctx: Context, spec: LinearSpec, x: Tensor, result: Tensor, a: Param, b: Param, out_shape: Shape
    ) -> Tensor:
        """The layer's output: the base layer's `result`, adapted."""
        raise NotImplementedError

    def embedding(self, ctx: Context, path: str, table: Shape, indices: Tensor, out_shape: Shape, name: str) -> Tensor:
        """peft's Embedding.forward: rows of the frozen table, and rows of Aᵀ times Bᵀ."""
        result = super().embedding(ctx, path, table, indices, out_shape, name)
        rank = ctx.ranks.get(ctx.path_of(path))
        if rank is None or not ctx.adapters_enabled:
            return result
        rows, width = table.dims
        dtype = adapter_dtype(ctx, self.adapter_dtype, None)
        shapes = {"A": Shape(rank=rank, rows=rows), "B": Shape(width=width, rank=rank)}
        a, b = (
            ctx.param(f"{path}.lora_embedding_{n}", shape, trainable=True, dtype=dtype, category="adapters")
            for n, shape in shapes.items()
        )
        return ops.to(self.adapt_embedding(ctx, path, indices, result, a, b), result.dtype, "adapted embeddings")

    def adapt_embedding(self, ctx: Context, path: str, indices: Tensor, result: Tensor, a: Param, b: Param) -> Tensor:
        """The table's rows `result`, adapted."""
        raise NotImplementedError

    def embedded(self, ctx: Context, indices: Tensor, result: Tensor, a: Param, b: Param) -> Tensor:
        """Rows of Aᵀ times Bᵀ, of the shape of the table's own rows."""
        labels = (*result.shape.labels[:-1], "rank")
        inner = Shape(**dict(zip(labels, (*result.shape.dims[:-1], a.shape.dims[0]), strict=True)))
        after_a = nn.embedding_of_columns(ctx.tape, a, indices, inner, "lora_embedding_A output")
        factor: Param | Tensor = b
        if ctx.autocast is not None:  # a view: its cast is not kept (aten/src/ATen/autocast_mode.cpp, cached_cast)
            factor = nn.cast_view(ctx.tape, b, ctx.autocast)
            after_a = ops.to(after_a, ctx.autocast, "input cast by autocast")
        return nn.matmul_weight(after_a, factor, None, result.shape, "lora_embedding_B output")


class Lora(PeftAdapter):
    """Low-rank adapters beside frozen weights."""

    label: ClassVar[str] = "LoRA"
    kind: Literal["lora"] = "lora"
    kernels: Annotated[tuple[LoraKernel, ...], Field(strict=False), AfterValidator(_sorted)] = ()
    """Axolotl's kernels, each of which computes linear layers together with their adapters: of a block's MLP (mlp), of
    its queries, keys and values (qkv), of its attention's output (o). One runs where all of its layers have adapters.
    """

    @property
    def lora_kernels(self) -> tuple[str, ...]:
        """kernels."""
        return self.kernels

    def adapt(
        self, ctx: Context, spec: LinearSpec, x: Tensor, result: Tensor, a: Param, b: Param, out_shape: Shape
    ) -> Tensor:
        """result + B(A(dropout(x)))·s; over a quantised weight the second term is cast before it is added."""
        cast_to = result.dtype if ctx.quantization_of(spec) is not None and ctx.autocast is None else None
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

    def adapt_embedding(self, ctx: Context, path: str, indices: Tensor, result: Tensor, a: Param, b: Param) -> Tensor:
        """result + (Aᵀ[x]·Bᵀ)·s."""
        output = ops.scale(self.embedded(ctx, indices, result, a, b), "scaled adapter output")
        return ops.add(result, output, "adapted embeddings")

    def fused_linears(self, ctx: Context, x: Tensor, *layers: tuple[LinearSpec, Shape]) -> list[Tensor]:
        """axolotl/kernels/lora.py, apply_lora_qkv and apply_lora_o: the layers have one dropout."""
        return axolotl.linears(x, self._dropped(x), [self._adapted(ctx, *layer) for layer in layers])

    def fused_mlp(
        self,
        ctx: Context,
        x: Tensor,
        gate: tuple[LinearSpec, Shape],
        up: tuple[LinearSpec, Shape],
        down: tuple[LinearSpec, Shape],
    ) -> Tensor:
        """axolotl/kernels/lora.py, apply_lora_mlp_swiglu and apply_lora_mlp_geglu."""
        layers = [self._adapted(ctx, *layer) for layer in (gate, up, down)]
        return axolotl.gated_mlp(x, self._dropped(x), *layers)

    def _dropped(self, x: Tensor) -> Tensor | None:
        return ops.dropout(x, self.dropout) if self.dropout > 0 else None

    def _adapted(self, ctx: Context, spec: LinearSpec, out_shape: Shape) -> Adapted:
        ctx.frozen_params(spec)
        quantization = ctx.quantization_of(spec)
        return Adapted(
            spec.path,
            spec.weight_shape,
            *self.factors(ctx, spec),
            out_shape,
            stored=None if quantization is None else ctx.numerics.stored,
            scales=None if quantization is None else quantization.scales(spec.weight_shape),
        )
