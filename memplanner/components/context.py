"""What an architecture's forward pass writes with: the tape plus the plan's precision, method and shapes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from memplanner.components.quantization import bitsandbytes as quantized
from memplanner.program.shapes import BF16, FP16, FP32, Dtype, Shape
from memplanner.tape import nn, ops
from memplanner.tape.attention import Heads, Kernel, choose_kernel
from memplanner.tape.engine import Param, Tape, Tensor
from memplanner.timeline import Category

PRECISIONS: dict[str, tuple[Dtype, Dtype | None]] = {
    "fp32": (FP32, None),
    "bf16": (BF16, None),
    "fp16": (FP16, None),
    "bf16-mixed": (FP32, BF16),
    "fp16-mixed": (FP32, FP16),
}
"""Name → (type of the weights, type autocast runs matrix products in, or None without autocast)."""


def dtypes(precision: str, *, master_weights: bool) -> tuple[Dtype, Dtype | None]:
    """(type of the weights, type of autocast's products or None); without master weights both are the half one."""
    weights, autocast = PRECISIONS[precision]
    return (weights if master_weights or autocast is None else autocast), autocast


AUXILIARY = "auxiliary"
"""Tag of a tensor that is no parameter of the model: quantisation scales, cached norms, buffers."""


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """A linear module: path inside its block, e.g. "self_attn.q_proj", and its sizes."""

    path: str
    in_features: int
    out_features: int
    bias: bool = False
    labels: tuple[str, str] = ("out", "in_")
    conv1d: bool = False
    """GPT-2's Conv1D: the weight is stored (in, out)."""
    in_block: bool = True
    """Whether it belongs to one of the model's repeated blocks."""

    @property
    def weight_shape(self) -> Shape:
        """(out, in), or (in, out) for Conv1D."""
        out, in_ = self.labels
        if self.conv1d:
            return Shape(**{in_: self.in_features, out: self.out_features})
        return Shape(**{out: self.out_features, in_: self.in_features})

    @property
    def bias_shape(self) -> Shape:
        """(out,)."""
        return Shape(**{self.labels[0]: self.out_features})


class Method(Protocol):
    """A training method's answers to the forward pass.

    copies_head: a new classification head is trained as a copy, the original kept (peft's modules_to_save).
    """

    @property
    def copies_head(self) -> bool:
        """Whether a new classification head is trained as a copy."""

    def linear(self, ctx: "Context", spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """What a linear layer is under this method."""

    def trains(self, ctx: "Context", path: str) -> bool:
        """Whether a parameter outside the linear layers learns."""


@dataclass(slots=True)
class Context:
    """The tape, and how this plan computes."""

    tape: Tape
    method: Method
    weight_dtype: Dtype
    autocast: Dtype | None
    batch: int
    seq: int
    attention: str
    checkpoint_every: int
    compute_capability: float = 8.0
    padding: bool = False
    loss_kind: str = "cross-entropy"
    loss_chunks: int = 8
    loss_shifts: str = "labels"
    quantization: str = "none"
    compute_dtype: Dtype = BF16
    norm_dtype: Dtype = BF16
    """Type of the norms' weights."""
    input_gradients: bool = False
    default_targets: tuple[str, ...] = ("all-linear",)
    notes: list[str] = field(default_factory=list)

    def kernel(self, heads: Heads) -> Kernel:
        """The attention kernel that runs on this device."""
        kernel = choose_kernel(
            self.attention,
            self.autocast or self.weight_dtype,
            groups=heads.groups,
            head_dim=heads.head_dim,
            compute_capability=self.compute_capability,
            masked=self.padding,
        )
        if self.attention == "sdpa" and kernel != "flash":
            self.notes.append(f"attention 'sdpa' runs PyTorch's {kernel} kernel here: flash cannot take this plan")
        return kernel

    # -- parameters ----------------------------------------------------------------------------------------------

    def param(
        self,
        path: str,
        shape: Shape,
        *,
        trainable: bool | None = None,
        dtype: Dtype | None = None,
        category: Category = "parameters",
        tags: Any = None,
    ) -> Param:
        """The weight of this name in the current block, made the first time it is asked for."""
        tape = self.tape
        key = f"{tape.scope}.{path}" if tape.scope else path
        found = tape.params.get(key)
        if found is None:
            found = tape.params[key] = Param(
                key,
                shape,
                dtype or self.weight_dtype,
                count=tape.current_reps,
                trainable=self.method.trains(self, path) if trainable is None else trainable,
                category=category,
                tags=tags,
            )
        return found

    # -- layers --------------------------------------------------------------------------------------------------

    def linear(self, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """A linear layer as the method has it."""
        return self.method.linear(self, spec, x, out_shape)

    def head(self, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """A linear layer of a new classification head: trained whole under every method; peft trains a copy of it
        (modules_to_save) and keeps the original.
        """
        if self.method.copies_head:
            path = f"{spec.path}.original_module"
            self.param(f"{path}.weight", spec.weight_shape, trainable=False)
            self.param(f"{path}.bias", spec.bias_shape, trainable=False)
        return self.plain_linear(spec, x, out_shape, trainable=True)

    def plain_linear(
        self, spec: LinearSpec, x: Tensor, out_shape: Shape, *, trainable: bool, tags: Any = None
    ) -> Tensor:
        """torch.nn.Linear, in autocast's type where there is autocast."""
        weight = self.param(f"{spec.path}.weight", spec.weight_shape, trainable=trainable, tags=tags)
        bias: Param | None = None
        if spec.bias:
            bias = self.param(f"{spec.path}.bias", spec.bias_shape, trainable=trainable)
        return self.matmul(x, weight, bias, out_shape, f"{spec.path} output")

    def frozen_linear(self, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """The base layer under an adapter: its weight frozen, and quantised where the plan says so."""
        if self.quantization == "none":
            return self.plain_linear(spec, x, out_shape, trainable=False)
        tags: object = spec.weight_shape  # the first tensor stands for the weight, the others are its scales
        for name, shape, dtype in quantized.state_shapes(self.quantization, spec.weight_shape):
            self.param(f"{spec.path}.{name}", shape, trainable=False, dtype=dtype, tags=tags)
            tags = AUXILIARY
        if spec.bias:
            self.param(f"{spec.path}.bias", spec.bias_shape, trainable=False)
        name = f"{spec.path} output"
        if self.quantization == "int8":
            return quantized.linear_8bit(x, spec.weight_shape, out_shape, name)
        lowered = ops.to(x, self.compute_dtype, "input in the compute type")
        out = quantized.linear_4bit(lowered, spec.weight_shape, out_shape, name)
        return ops.to(out, x.dtype, "output in the input's type")

    def matmul(
        self, x: Tensor, weight: Param | Tensor, bias: Param | Tensor | None, out_shape: Shape, name: str
    ) -> Tensor:
        """torch.nn.functional.linear under the plan's autocast."""
        if self.autocast is not None:
            # C++ evaluates the casts of a call's arguments last to first.
            if bias is not None:
                bias = nn.cast_param(self.tape, bias, self.autocast)
            x, weight = self.lowered(x, weight)
        return nn.matmul_weight(x, weight, bias, out_shape, name)

    def lowered(self, x: Tensor, weight: Param | Tensor) -> tuple[Tensor, Param | Tensor]:
        """An input and a weight in autocast's type."""
        if self.autocast is None:
            return x, weight
        cast = nn.cast_param(self.tape, weight, self.autocast)
        return ops.to(x, self.autocast, "input cast by autocast"), cast

    def require_input_gradients(self, embeddings: Tensor) -> None:
        """enable_input_require_grads: the embedding's output asks for a gradient of its own if it has none. The graph
        holds on to it, as to any leaf.
        """
        if self.input_gradients and embeddings.node is None:
            leaf = Param(
                "embeddings",
                embeddings.shape,
                embeddings.dtype,
                count=1,
                trainable=True,
                category="temporaries",
                tags=embeddings,
            )
            embeddings.node = self.tape.record(ops.pass_backward, (leaf,))

    def buffer(self, path: str, shape: Shape, dtype: Dtype) -> None:
        """A module's buffer."""
        self.param(path, shape, trainable=False, dtype=dtype, tags=AUXILIARY)

    def layers(
        self,
        prefix: str,
        num_layers: int,
        block: Callable[[int, Tensor, Any], Tensor],
        entering: list[Tensor],
        shared: Any,
    ) -> Tensor:
        """A stack of blocks under the plan's checkpointing: transformers checkpoints blocks 0, N, 2N, …

        entering: the hidden state, taken out of the list, so that it lives on only if the caller holds it elsewhere.
        shared: what every block is given beside the hidden state; checkpointed calls hold on to it.
        """
        every, tape = self.checkpoint_every, self.tape

        def layer(i: int, h: Tensor) -> Tensor:
            if every and i % every == 0:
                return tape.checkpoint(lambda x: block(i, x, shared), h)
            return block(i, h, shared)

        return tape.stack(prefix, self.runs(prefix, num_layers), layer, entering)

    def runs(self, prefix: str, num_layers: int) -> list[tuple[int, int]]:
        """Stretches of equal blocks as (width, reps): by the rank patterns that name single blocks, and by the period
        of checkpointing.
        """
        period = max(1, self.checkpoint_every)
        named = {i for i in range(num_layers) if self.is_named(f"{prefix}.{i}")} if self.rank_pattern else set()
        runs: list[tuple[int, int]] = []
        i = 0
        while i < num_layers:
            apart = min((n for n in named if n >= i), default=num_layers)  # the next block unlike its neighbours
            reps = (apart - i) // period if i % period == 0 else 0
            width = period if reps else 1
            if not reps:
                # To the next checkpointed block, or that block alone; with period 1 only a named block comes here.
                reps = 1 if i % period == 0 or i == apart else min(apart, -(-i // period) * period) - i
            runs.append((width, reps))
            i += width * reps
        return runs

    @property
    def rank_pattern(self) -> dict[str, int]:
        """The method's other ranks, by module."""
        return getattr(self.method, "rank_pattern", {})

    def is_named(self, scope: str) -> bool:
        """Whether a rank pattern names this very block."""
        return any(f".{scope}." in f".{key}." for key in self.rank_pattern)
