"""The single changes of a plan that would make it fit, the least intrusive first.

Each change is a set of flags as a user would type them, laid over the plan by the code that reads typed flags, so that
what is offered works as typed. `intrusion` orders the changes by what the user gives up:

0  nothing that training sees: another implementation of the same arithmetic;
1  time: the same numbers, recomputed, or in more micro-batches;
2  a habit: what a training loop may look at (gradients after backward) is gone;
3  precision of what is stored;
4  capacity: fewer ranks;
5  another method;
6  other data: shorter sequences.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memplanner.components.optimizers.adamw import AdamW
from memplanner.errors import UserError
from memplanner.plan.flags import Value, command_words
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.solve.compare import common_rank
from memplanner.timeline import advisable

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate

Flags = Mapping[str, Value]
SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Flags to add to the command, what they cost the user, and what they save."""

    flags: Flags
    effect: str
    intrusion: int
    saved_bytes: int
    device_bytes: int

    @property
    def typed(self) -> str:
        """The flags as they are typed."""
        return shlex.join(command_words(self.flags))


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """fitting: changes that make the plan fit. others: where none does, those that save most. Both may be empty."""

    fitting: tuple[Change, ...]
    others: tuple[Change, ...]


def single_changes(
    estimate: "Estimate", predict: "Callable[[TrainingPlan], Estimate]", *, strict: bool = False
) -> Changes:
    """Try each single change of the estimate's plan through `predict`; strict: a tight fit is none."""
    fitting: list[Change] = []
    others: dict[str, Change] = {}
    base = estimate.plan.model_dump(mode="json")
    fitting_families: set[str] = set()
    for family, intrusion, flags, effect in _candidates(estimate.plan):
        if family in fitting_families:
            continue  # a smaller dose of the same change was enough
        try:
            changed = predict(merge(base, flags, where="plan"))
        except UserError:
            continue  # not a plan that this model and method allow
        saved = estimate.device_bytes - changed.device_bytes
        if saved <= 0:
            continue
        change = Change(
            flags=flags, effect=effect, intrusion=intrusion, saved_bytes=saved, device_bytes=changed.device_bytes
        )
        if advisable(changed, strict=strict):
            fitting.append(change)
            fitting_families.add(family)
        elif family not in others or others[family].saved_bytes < saved:
            others[family] = change
    fitting.sort(key=lambda change: (change.intrusion, -change.saved_bytes))
    most = sorted(others.values(), key=lambda change: -change.saved_bytes)
    return Changes(fitting=tuple(fitting[:SHOWN]), others=() if fitting else tuple(most[:SHOWN]))


def _candidates(plan: TrainingPlan) -> Iterator[tuple[str, int, Flags, str]]:
    """(family, intrusion, flags, effect); within a family the smaller dose comes first."""
    yield from _implementations(plan)
    yield from _batches(plan)
    yield from _storage(plan)
    yield from _methods(plan)
    if plan.step.seq_len >= 256:
        half = plan.step.seq_len // 2
        yield "seq", 6, {"--seq-len": str(half)}, f"sequences cut at {half} tokens"


def _implementations(plan: TrainingPlan) -> Iterator[tuple[str, int, Flags, str]]:
    step, optimizer = plan.step, plan.optimizer
    if isinstance(optimizer, AdamW) and optimizer.implementation == "foreach":
        yield "fused", 0, {"--optimizer": "adamw-fused"}, "same arithmetic, no copies at the optimizer step"
    if step.attention in ("eager", "sdpa-math"):
        yield "attention", 0, {"--attention": "sdpa"}, "same arithmetic, no score matrices kept"
    if step.loss.kind == "cross-entropy":
        yield "loss", 0, {"--loss": "fused"}, "same loss, logits never whole (Liger's kernel)"
        yield "chunked", 1, {"--loss": "chunked"}, "same loss, one chunk's logits at a time"
    if step.keep_outputs:
        yield "outputs", 0, {"--keep-outputs": False}, "drop the output object before backward"
    if step.keep_gradients:
        yield "gradients", 0, {"--keep-gradients": False}, "zero_grad(set_to_none=True)"
    if step.checkpointing != "full":
        yield "checkpointing", 1, {"--checkpointing": "full"}, "same result, each block's forward runs twice"
    if not step.per_layer_updates and step.grad_accumulation == 1:
        yield "per-layer", 2, {"--per-layer-updates": True}, "update inside backward: no clipping by the global norm"


def _batches(plan: TrainingPlan) -> Iterator[tuple[str, int, Flags, str]]:
    size, accumulation = plan.step.batch_size, plan.step.grad_accumulation
    while size % 2 == 0 and not plan.step.per_layer_updates:
        size, accumulation = size // 2, accumulation * 2
        flags = {"--batch-size": str(size), "--grad-accumulation": str(accumulation)}
        yield "batch", 1, flags, "same total batch, in more micro-batches"
    if plan.step.batch_size > 1:
        size = plan.step.batch_size
        while (size := size // 2) >= 1:
            yield "small batch", 6, {"--batch-size": str(size)}, "a smaller batch"


def _storage(plan: TrainingPlan) -> Iterator[tuple[str, int, Flags, str]]:
    if plan.optimizer.kind == "adamw":
        yield "8-bit", 3, {"--optimizer": "adamw-8bit"}, "moments in 8 bits"
    if plan.precision in ("fp32", "bf16-mixed", "fp16-mixed"):
        yield "precision", 3, {"--precision": "bf16"}, "weights and arithmetic in bf16"
    if plan.method.freezes_base and plan.quantization in ("none", "int8"):
        if plan.quantization == "none":
            yield "quantization", 3, {"--quantization": "int8"}, "frozen weights in 8 bits"
        yield "quantization", 3, {"--quantization": "nf4"}, "frozen weights in 4 bits"


def _methods(plan: TrainingPlan) -> Iterator[tuple[str, int, Flags, str]]:
    if plan.method.chosen_rank is not None:
        rank = plan.method.chosen_rank
        while (rank := rank // 2) >= 4:
            yield "rank", 4, {"--rank": str(rank)}, "a smaller rank"
    if not plan.method.freezes_base:
        rank = common_rank(plan)
        for kind in ("gradnormlorp", "lora"):
            if kind != plan.method.kind:
                yield kind, 5, {"--method": kind, "--rank": str(rank)}, f"train {kind} adapters of rank {rank} instead"
