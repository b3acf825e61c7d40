"""TrainingPlan: everything a training step's memory depends on, in one frozen value."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from memplanner.components.architectures.tasks import Task
from memplanner.components.losses.base import Loss
from memplanner.components.methods.base import Method
from memplanner.components.optimizers.update import Optimizer
from memplanner.plan import qlora
from memplanner.settings.base import Settings
from memplanner.settings.describe import groups, kind_of
from memplanner.settings.errors import one_of, show
from memplanner.settings.kinds import Kinds
from memplanner.units import parse_share, parse_size


def _size(value: str) -> str:
    parse_size(value)
    return value


def _size_or_share(value: str) -> str:
    if value.strip().endswith("%"):
        parse_share(value)
    else:
        parse_size(value)
    return value


def _above_zero(value: str) -> str:
    if (parse_share(value) if value.strip().endswith("%") else parse_size(value)) == 0:
        raise ValueError(f"{value!r} is no memory at all")
    return value


METHODS = Kinds(
    {
        "full": "memplanner.components.methods.full:Full",
        "lora": "memplanner.components.methods.lora:Lora",
        "dora": "memplanner.components.methods.dora:Dora",
        "galore": "memplanner.components.methods.galore:Galore",
        "gradnormlorp": "memplanner.components.methods.gradnormlorp:GradNormLorp",
    }
)
OPTIMIZERS = Kinds(
    {
        "adamw": "memplanner.components.optimizers.adamw:AdamW",
        "adamw-8bit": "memplanner.components.optimizers.adamw8bit:AdamW8bit",
        "sgd": "memplanner.components.optimizers.sgd:Sgd",
        "adafactor": "memplanner.components.optimizers.adafactor:Adafactor",
    }
)
LOSSES = Kinds(
    {
        "cross-entropy": "memplanner.components.losses.cross_entropy:CrossEntropy",
        "chunked": "memplanner.components.losses.chunked:ChunkedCrossEntropy",
        "fused": "memplanner.components.losses.fused:FusedLinearCrossEntropy",
        "cut-cross-entropy": "memplanner.components.losses.cut:CutCrossEntropy",
    }
)
Precision = Literal["fp32", "bf16", "fp16", "bf16-mixed", "fp16-mixed"]
Quantization = Literal["none", "int8", "nf4", "nf4-double"]


def _kbit_preparation(value: Any) -> Any:
    """true and false stand for "all" and "none"."""
    return {True: "all", False: "none"}[value] if isinstance(value, bool) else value


KbitPreparation = Annotated[Literal["all", "norms", "none"], BeforeValidator(_kbit_preparation)]


def _release(value: Any) -> Any:
    """2.13.1+cu130 is of the release 2.13."""
    matched = re.fullmatch(r"(\d+\.\d+)(\.\d+)?(\+\w+)?", value, re.ASCII) if isinstance(value, str) else None
    return matched[1] if matched else value


TorchRelease = Annotated[Literal["2.13", "2.14"], BeforeValidator(_release)]
Attention = Literal["eager", "sdpa", "sdpa-math", "sdpa-efficient", "flash-attention-2"]

Kernel = Literal["liger-rms-norm", "liger-rope", "liger-swiglu"]

_CHECKPOINTING = re.compile(r"none|full|every-([1-9]\d{0,4})", re.ASCII)


def _checkpointing(value: str) -> str:
    if _CHECKPOINTING.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not 'none', 'full' or 'every-N' with N from 1")
    return value


class Step(Settings):
    """One optimizer step: its batches and what the training loop keeps alive."""

    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Sequences in one micro-batch."""
    seq_len: Annotated[int, Field(ge=1, le=1 << 24)] = 256
    """Longest sequence of any batch, in tokens; the longest is what runs out of memory."""
    typical_seq_len: Annotated[int, Field(ge=1, le=1 << 24)] | None = None
    """Length of an ordinary batch, for comparison with the longest; unset: the same."""
    grad_accumulation: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Micro-batches per optimizer step; above one, gradients live through later forward passes."""
    keep_gradients: bool = False
    """Gradients stay allocated into the next forward pass (zero_grad(set_to_none=False))."""
    keep_outputs: bool = False
    """The output object, logits included, is held through backward, as hand-written loops do."""
    keep_outputs_until: Literal["backward", "update"] = "backward"
    """With keep_outputs: how long. Held through the update, the output also holds its graph's leaves: where the
    embeddings' output asks for a gradient, that output and the gradient."""
    input_gradients: bool | None = None
    """The embedding's output asks for a gradient (enable_input_require_grads). Unset: where there is checkpointing, as
    transformers 5 does."""
    checkpointing: Annotated[str, AfterValidator(_checkpointing)] = "none"
    """Activation checkpointing: none, full (every block) or every-N (each N-th block)."""
    use_reentrant: bool = False
    """With checkpointing: torch.utils.checkpoint's variant with an autograd.Function, transformers' default before 5,
    which keeps a block's output and its gradient while the block's backward pass runs."""
    attention: Attention = "sdpa"
    """Attention implementation; "sdpa" is the kernel that PyTorch picks: flash where data type, card and mask allow it,
    cuDNN's on Hopper and data-centre Blackwell."""
    padding: bool = False
    """Batches are padded, so attention gets a mask tensor: SDPA then expands grouped heads, keeps a mask per layer and
    cannot use the flash kernel. (transformers 4.5x made such a mask for unpadded batches as well.)"""
    loss: Annotated[Loss, LOSSES] = Field(default_factory=LOSSES.default("cross-entropy"))
    """How the loss is computed."""
    kernels: Annotated[
        tuple[Kernel, ...], Field(strict=False), AfterValidator(lambda names: tuple(sorted({*names})))
    ] = ()
    """Kernels of Liger that take the place of transformers' own code for RMSNorm, rotary embeddings and SwiGLU."""
    per_layer_updates: bool = False
    """Update each parameter as soon as its gradient is ready in backward and free the gradient."""

    @property
    def checkpoint_every(self) -> int:
        """0 without checkpointing, else N: blocks 0, N, 2N … are checkpointed (transformers' every_n_layers)."""
        if self.checkpointing == "none":
            return 0
        return 1 if self.checkpointing == "full" else int(self.checkpointing.removeprefix("every-"))

    @property
    def asks_input_gradients(self) -> bool:
        """input_gradients, or transformers' own rule where it is unset."""
        return self.checkpoint_every > 0 if self.input_gradients is None else self.input_gradients

    @model_validator(mode="after")
    def _flash_attention_unpads(self) -> "Step":
        if self.padding and self.attention == "flash-attention-2":
            raise ValueError("padding with attention 'flash-attention-2' (variable-length kernels) is not modelled yet")
        return self

    @model_validator(mode="after")
    def _per_layer_updates_use_gradients_up(self) -> "Step":
        if self.per_layer_updates and self.grad_accumulation > 1:
            raise ValueError(
                f"per_layer_updates frees every gradient; grad_accumulation {self.grad_accumulation} needs them kept"
            )
        if self.per_layer_updates and self.keep_gradients:
            raise ValueError("per_layer_updates frees each gradient at once; keep_gradients would keep it")
        return self

    @model_validator(mode="after")
    def _outputs_of_one_micro_batch(self) -> "Step":
        if self.keep_outputs and self.keep_outputs_until == "update" and self.grad_accumulation > 1:
            raise ValueError(
                f"keep_outputs_until 'update' with grad_accumulation {self.grad_accumulation} (outputs held into the "
                "next micro-batch) is not modelled yet"
            )
        return self

    @model_validator(mode="after")
    def _typical_within_longest(self) -> "Step":
        if self.typical_seq_len is not None and self.typical_seq_len > self.seq_len:
            raise ValueError(f"typical_seq_len {self.typical_seq_len} is above seq_len {self.seq_len}, the longest")
        return self


class Allocator(Settings):
    """Options of PyTorch's caching allocator (PYTORCH_ALLOC_CONF)."""

    expandable_segments: bool = False
    """Segments that grow instead of new ones: less is lost to fragmentation."""
    max_split_size: Annotated[str, AfterValidator(_size)] | None = None
    """Blocks of at least this size are not split (max_split_size_mb), e.g. "128MiB"."""


class GpuDevice(Settings):
    """A card from profiles/gpus."""

    kind: Literal["gpu"] = "gpu"
    name: str = "rtx4090"
    context: Annotated[str, AfterValidator(_size)] | None = None
    """What a process takes outside the caching allocator (CUDA context, loaded kernels), e.g. "500MiB"; unset: what the
    card's profile says."""


class SizeDevice(Settings):
    """A device given by its memory alone."""

    kind: Literal["size"] = "size"
    memory: Annotated[str, AfterValidator(_size), AfterValidator(_above_zero)]
    """Bytes a process can get, e.g. "24GiB"."""
    context: Annotated[str, AfterValidator(_size)] | None = None
    """What a process takes of it outside the caching allocator (CUDA context, loaded kernels), e.g. "500MiB" or "0";
    unset: the largest of the bundled NVIDIA cards'."""


def device_table(word: str) -> dict[str, Any]:
    """The table that a device's word stands for: that of a size, or of a card's name."""
    try:
        parse_size(word)
    except ValueError:
        return {"kind": "gpu", "name": word}
    return {"kind": "size", "memory": word}


def _device_shorthand(value: Any) -> Any:
    """A word stands for a table; a table without its kind is that of a size where it says how much memory there is."""
    if isinstance(value, str):
        return device_table(value)
    if isinstance(value, dict) and "kind" not in value:
        return {"kind": "size" if "memory" in value else "gpu", **value}
    return value


Device = Annotated[Annotated[GpuDevice | SizeDevice, Field(discriminator="kind")], BeforeValidator(_device_shorthand)]


class TrainingPlan(Settings):
    """model × method × precision × optimizer × step × device × budget."""

    model: Annotated[str, Field(min_length=1, max_length=4096)] = "llama-7b"
    """A bundled model's name, or the path of a Hugging Face config.json."""
    task: Task | None = None
    """What the model is trained for, which decides its head and its loss. Unset: what the architectures in config.json
    are for; a masked language model such as BERT is trained for sequence-classification."""
    num_labels: Annotated[int, Field(ge=1, le=1 << 24)] | None = None
    """Labels of sequence-classification and token-classification; unset: those of config.json."""
    method: Annotated[Method, METHODS] = Field(default_factory=METHODS.default("full"))
    precision: Precision = "bf16"
    """Weights and arithmetic; "-mixed" is autocast over fp32 weights."""
    master_weights: bool = True
    """With a -mixed precision: weights are in fp32. False: they are in half precision already, and autocast runs over
    them, as where the Trainer's bf16=True trains a model that was loaded in bf16."""
    fp32_embeddings: bool = False
    """With master_weights = false: embeddings, norms and head are in fp32 all the same, beside linear layers in half
    precision, as Axolotl's loader leaves them where the whole model is trained without flash attention."""
    quantization: Quantization = "none"
    """Storage of the frozen base weights (bitsandbytes); needs a method that freezes them."""
    kbit_preparation: KbitPreparation = "all"
    """With a quantised base, what of the rest goes to fp32: all of it (peft's prepare_model_for_kbit_training, and the
    hidden states with it), the norms (trl's SFTTrainer with bf16=True takes embeddings and head back), or none."""
    optimizer: Annotated[Optimizer, OPTIMIZERS] = Field(default_factory=OPTIMIZERS.default("adamw"))
    step: Step = Field(default_factory=Step)
    torch: TorchRelease = "2.13"
    """PyTorch's release, which has a say in the kernel of attention "sdpa": from 2.14 on, the memory-efficient one
    takes grouped heads without a mask (fp32, and fp16 before Ampere), which the math kernel takes in 2.13."""
    device: Device = Field(default_factory=GpuDevice)
    allocator: Allocator = Field(default_factory=Allocator)
    budget: Annotated[str, AfterValidator(_size_or_share), AfterValidator(_above_zero)] | None = None
    """A ceiling below the card's memory: a size or a share of it."""
    headroom: Annotated[str, AfterValidator(_size_or_share)] = "0%"
    """Memory of the card left free for others (a display, a second process): a size or a share."""

    @model_validator(mode="before")
    @classmethod
    def _qlora_is_two_settings(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        table = qlora.spell_out(value)
        if qlora.is_qlora(table.get("method")):
            other = show(table["quantization"])
            raise ValueError(
                f"method 'qlora' is lora over a base in 4 bits, and quantization is {other} (leave it out, or "
                f"{one_of(qlora.FORMATS)}; method lora takes any format)"
            )
        return table

    @model_validator(mode="after")
    def _flash_attention_wants_half_precision(self) -> "TrainingPlan":
        if self.step.attention == "flash-attention-2" and self.precision == "fp32":
            raise ValueError("attention 'flash-attention-2' computes in half precision; precision 'fp32' cannot use it")
        return self

    @model_validator(mode="after")
    def _cut_cross_entropy_wants_a_head_in_half_precision(self) -> "TrainingPlan":
        """cut_cross_entropy/cce_backward.py asserts so of the head and its input; that one it casts to bf16 alone."""
        if self.step.loss.kind != "cut-cross-entropy":
            return self
        full = self.precision == "fp32" or (self.precision.endswith("-mixed") and self.master_weights)
        full = full or self.fp32_embeddings
        if self.quantization != "none":
            casts = ("all",) if self.precision.startswith("bf16") else ("all", "norms")
            full = full or self.kbit_preparation in casts
        if full:
            raise ValueError(
                "loss 'cut-cross-entropy' needs embeddings and head in half precision: precision 'bf16' or 'fp16', "
                "master_weights false with a -mixed one, and with a quantised base kbit_preparation 'none'"
            )
        return self

    @model_validator(mode="after")
    def _only_autocast_has_master_weights(self) -> "TrainingPlan":
        if not self.master_weights and not self.precision.endswith("-mixed"):
            raise ValueError(f"master_weights = false is for a -mixed precision; {self.precision!r} has none anyway")
        return self

    @model_validator(mode="after")
    def _fp32_embeddings_over_half_precision(self) -> "TrainingPlan":
        if self.fp32_embeddings and (self.master_weights or not self.method.plain_layers):
            methods = [cls for cls in groups(TrainingPlan, "method") if issubclass(cls, Method) and cls.plain_layers]
            raise ValueError(
                "fp32_embeddings is for a -mixed precision with master_weights = false, and for method "
                f"{one_of(map(kind_of, methods))}"
            )
        return self

    @model_validator(mode="after")
    def _norms_in_fp32_want_autocast(self) -> "TrainingPlan":
        """What norms in fp32 give is in fp32, and PyTorch multiplies it with no head in half precision."""
        half = self.precision in ("fp16", "bf16")
        if self.quantization != "none" and self.kbit_preparation == "norms" and half:
            raise ValueError(
                "kbit_preparation 'norms' needs autocast, as PyTorch cannot multiply hidden states in fp32 with a head "
                f"in {self.precision}: precision '{self.precision}-mixed' with master_weights false, or "
                "kbit_preparation 'all' or 'none'"
            )
        return self

    @model_validator(mode="after")
    def _quantized_base_is_frozen(self) -> "TrainingPlan":
        if self.quantization != "none" and not self.method.freezes_base:
            methods = groups(TrainingPlan, "method")
            freezing = one_of(kind_of(cls) for cls in methods if issubclass(cls, Method) and cls.freezes_base)
            raise ValueError(
                f"quantization {self.quantization!r} needs a frozen base: method {freezing}, not {self.method.kind!r}"
            )
        return self
