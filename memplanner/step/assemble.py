"""From a plan to the parts of its training step, resolved once; whatever can be wrong with a plan is said here."""

from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

from memplanner.components.architectures.family import Family, Modules
from memplanner.components.attention import Attention
from memplanner.components.context import Context, Numerics
from memplanner.components.losses.base import Batch, Losses
from memplanner.components.losses.heads import head_loss
from memplanner.components.methods.base import Method
from memplanner.components.optimizers.update import UpdateRule
from memplanner.components.quantization import QUANTIZATIONS, SAVED
from memplanner.components.quantization.base import Quantization
from memplanner.errors import Problem, UnsupportedError, UserError
from memplanner.frozen import Frozen
from memplanner.plan.training_plan import TrainingPlan
from memplanner.program.shapes import BF16, FP16, FP32, Dtype
from memplanner.tape.engine import Tape

PRECISIONS: Final[dict[str, tuple[Dtype, Dtype | None]]] = {
    "fp32": (FP32, None),
    "bf16": (BF16, None),
    "fp16": (FP16, None),
    "bf16-mixed": (FP32, BF16),
    "fp16-mixed": (FP32, FP16),
}
"""The type of the weights, and that autocast runs matrix products in, None without autocast; by the plan's word."""


class RunsModel(Protocol):
    """A loss, of a language model or of a classifier."""

    def inputs(self, ctx: Context) -> Batch:
        """What a step needs on the device."""

    def run(self, ctx: Context, model: object, batch: Batch) -> Losses:
        """The forward pass, from the inputs to the loss."""


class Step(Frozen, eq=False):
    """A plan's training step, resolved: every part answers for itself.

    accumulates: gradients of earlier micro-batches are there when a step begins. keeps_outputs: until when the loop
    holds on to the model's output, None where it does not.
    """

    family: Family
    config: Any
    method: Method
    rule: UpdateRule
    loss: RunsModel
    numerics: Numerics
    attention: Attention
    quantization: Quantization | None
    ranks: Mapping[str, int]
    copied: frozenset[str]
    checkpoint_every: int
    use_reentrant: bool
    input_gradients: bool
    accumulates: bool
    keeps_outputs: Literal["backward", "update"] | None
    per_layer_updates: bool
    kernels: frozenset[str]

    def context(self, tape: Tape, batch: int, seq: int) -> Context:
        """What the forward pass is written with."""
        return Context(
            tape=tape,
            batch=batch,
            seq=seq,
            method=self.method,
            numerics=self.numerics,
            attention=self.attention,
            quantization=self.quantization,
            ranks=self.ranks,
            copied=self.copied,
            checkpoint_every=self.checkpoint_every,
            use_reentrant=self.use_reentrant,
            input_gradients=self.input_gradients,
            kernels=self.kernels,
        )


def assemble(plan: TrainingPlan, family: Family, config: Any, *, compute_capability: float) -> Step:
    """The parts of the plan's step.

    family, config: the model's, as architectures.registry.read_config gives them. compute_capability: the card's, for
    CUDA. UserError where no library has what the plan asks for, or its method names what the model does not have.
    """
    step, method = plan.step, plan.method
    rule = rule_of(plan)
    modules = family.modules(config)
    ranks, copied = method.ranks(family, config), method.copied(family, config)
    _check_copies(plan, modules, copied)
    _check_lora_kernels(plan, family, config)
    if config.task == "causal-lm" and step.loss.multiplies_head and any(path in ranks for path in modules.head):
        message = f"{step.loss.label} multiplies by the head's own weight and leaves its adapter out"
        raise UnsupportedError(
            Problem(where="plan", key="step.loss", message=message, hint=f"modules_to_save {', '.join(modules.head)}")
        )
    if plan.fp32_embeddings and not family.types_apart:
        message = f"is not modelled for the family {family.name}"
        raise UserError(Problem(where="plan", key="fp32_embeddings", message=message))
    numerics = numerics_of(plan)
    attention = Attention(
        kind=step.attention, compute_capability=compute_capability, padding=step.padding, torch=plan.torch
    )
    if problem := attention.problem(numerics.autocast or numerics.weights, family.heads(config)[1]):
        raise UserError(problem)
    return Step(
        family=family,
        config=config,
        method=method,
        rule=rule,
        loss=_loss_of(plan, family, config),
        numerics=numerics,
        attention=attention,
        quantization=_quantization(plan, config),
        ranks={_in_tape(path, modules): rank for path, rank in ranks.items()},
        copied=frozenset(_in_tape(path, modules) for path in copied),
        checkpoint_every=step.checkpoint_every,
        use_reentrant=step.use_reentrant,
        input_gradients=step.asks_input_gradients,
        accumulates=step.keep_gradients or step.grad_accumulation > 1,
        keeps_outputs=step.keep_outputs_until if step.keep_outputs else None,
        per_layer_updates=step.per_layer_updates,
        kernels=_kernels(plan, family, config),
    )


def _loss_of(plan: TrainingPlan, family: Family, config: Any) -> Any:
    """The plan's loss of a causal language model, or that of another head; UserError where the two do not go
    together.
    """
    task, loss = config.task, plan.step.loss
    if task == "causal-lm":
        return loss
    if loss.kind != "cross-entropy" and task != family.tasks[0]:  # a family without any other loss has none to choose
        message = f"{loss.label} is a loss of causal language models, and the task is {task}"
        raise UnsupportedError(Problem(where="plan", key="step.loss", message=message, hint="loss cross-entropy"))
    return head_loss(
        task,
        is_decoder=family.tasks[0] == "causal-lm",
        has_loss_function=family.has_loss_function,
        dropout=config.head_dropout,
        is_regression=config.is_regression,
    )


def _quantization(plan: TrainingPlan, config: Any) -> Quantization | None:
    """The base's format; UserError where the plan has another than weights that were saved quantised."""
    if not config.saved_in:
        return QUANTIZATIONS[plan.quantization]
    refuse_other_format(plan, config.saved_in, config.multiplied_in, assumed=config.is_format_assumed)
    return SAVED[config.saved_in]


def refuse_other_format(plan: TrainingPlan, saved_in: str, multiplied_in: str, *, assumed: bool) -> None:
    """UserError where the plan has another format than weights that were saved quantised, or another type for their
    products (saved_format gives both). assumed: whether the model's name alone speaks for these.
    """
    source = "the quantization_config that is assumed of the model's name" if assumed else "its quantization_config"
    if plan.quantization != saved_in:
        message = f"{plan.quantization!r} is not how the model's weights were saved, by {source}"
        hint = f"--quantization {saved_in}"
        raise UserError(Problem(where="plan", key="quantization", message=message, hint=hint))
    compute = numerics_of(plan).compute.name
    if multiplied_in not in ("", compute):
        message = f"products are in {compute}, and in {multiplied_in} where the model's weights were saved, by {source}"
        hint = f"--precision {multiplied_in}"
        raise UserError(Problem(where="plan", key="precision", message=message, hint=hint))


def _kernels(plan: TrainingPlan, family: Family, config: object) -> frozenset[str]:
    """UserError where the model has no place for one of the plan's kernels."""
    for name in plan.step.kernels:
        if name not in family.kernels:
            message = f"{name!r} is not modelled for the family {family.name}"
        elif name == "liger-swiglu" and getattr(config, "activation", "") not in ("silu", "swish"):
            message = f"{name!r} is for models with SiLU; this one has another activation"  # LigerSwiGLUMLP raises
        else:
            continue
        raise UserError(Problem(where="plan", key="step.kernels", message=message))
    return frozenset(plan.step.kernels)


def _check_lora_kernels(plan: TrainingPlan, family: Family, config: Any) -> None:
    """UserError where Axolotl's kernels for LoRA do not run."""
    kernels = plan.method.lora_kernels
    if not kernels:
        return
    numerics = numerics_of(plan)
    types = {numerics.weights, numerics.norms, numerics.linears, numerics.stored, numerics.autocast or numerics.weights}
    hint = "no kernels"
    if absent := [name for name in kernels if name not in family.lora_kernels]:
        message = f"Axolotl's for {', '.join(absent)} are not modelled for the family {family.name}"
    elif config.task != "causal-lm":  # monkeypatch/lora_kernels.py: "Model must be a PeftModelForCausalLM"
        message = f"Axolotl's are for causal language models, and the task is {config.task}"
    elif "mlp" in kernels and config.activation != "silu" and "gelu" not in config.activation:
        message = f"Axolotl has its MLP for SiLU and GELU, and the model's activation is {config.activation}"
    elif plan.quantization == "int8":  # utils/schemas/validation.py, check_lora_kernels_8bit
        message, hint = "Axolotl's take no weights in int8", "quantization nf4, nf4-double or none"
    elif len(types) > 1:  # matmul_lora's addmm_ takes matrices of one type, and autocast casts nothing in place
        message = "Axolotl's compute in one type, which hidden states, weights and autocast have in common"
        hint = "kbit_preparation none" if plan.quantization != "none" else "master_weights false"
        if plan.quantization != "none" and plan.precision.endswith("-mixed") and plan.master_weights:
            hint += ", master_weights false"
    else:
        return
    raise UserError(Problem(where="plan", key="method.kernels", message=message, hint=hint))


def rule_of(plan: TrainingPlan) -> UpdateRule:
    """How the plan's parameters are updated; UnsupportedError where no library does that."""
    rule = plan.method.rule(plan.optimizer, numerics_of(plan).linears)
    if plan.step.keep_gradients and rule.replaces_gradients:
        message = (
            "galore_torch's 8-bit AdamW puts the projected gradient in the gradient's place, and the next backward "
            "pass cannot add to it"
        )
        raise UnsupportedError(Problem(where="plan", key="step.keep_gradients", message=message))
    return rule


def numerics_of(plan: TrainingPlan) -> Numerics:
    """The types that the plan's step computes in. With a quantised base, what of the rest goes to fp32 is the plan's
    kbit_preparation.
    """
    weights, autocast = PRECISIONS[plan.precision]
    if autocast is not None and not plan.master_weights:
        weights = autocast
    compute, norms, stored, linears = autocast or weights, weights, weights, weights
    if plan.fp32_embeddings:
        weights = norms = FP32
    if plan.quantization != "none":
        norms = weights if plan.kbit_preparation == "none" else FP32
        weights = linears = FP32 if plan.kbit_preparation == "all" else weights
    return Numerics(weights=weights, linears=linears, stored=stored, autocast=autocast, compute=compute, norms=norms)


def _check_copies(plan: TrainingPlan, modules: Modules, copied: frozenset[str]) -> None:
    """UnsupportedError where the plan's copies cannot be trained."""
    if not copied.difference(modules.classifier):
        return
    key = "method.modules_to_save"
    packed = next((path for path in modules.linear if path in copied), None)
    if packed is not None and plan.quantization != "none":
        message = f"{packed} is quantised, and no gradient of its weight exists"
        raise UnsupportedError(Problem(where="plan", key=key, message=message, hint="quantization none"))
    numerics = numerics_of(plan)
    if numerics.autocast is None and plan.method.copied_dtype(numerics.weights) is not numerics.weights:
        message = f"copies in fp32 do not multiply {numerics.weights.name} without autocast"
        hint = f"precision {numerics.weights.name}-mixed, or modules_to_save_dtype base"
        raise UnsupportedError(Problem(where="plan", key=f"{key}_dtype", message=message, hint=hint))


def _in_tape(path: str, modules: Modules) -> str:
    """A path as the tape has it, without the module around the whole model."""
    return path.removeprefix(f"{modules.root}.")
