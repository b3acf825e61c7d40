"""The changes of a plan that would make it fit: single ones, the least intrusive first, or several together.

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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memplanner.components.optimizers.adamw import AdamW
from memplanner.errors import UserError
from memplanner.plan.flags import Value, command_line, command_words
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.solve.compare import common_rank
from memplanner.solve.largest import SearchAxis, largest
from memplanner.timeline import advisable

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate

Flags = Mapping[str, Value]
SHOWN = 6
STORED = 3
"""The intrusion of changes that leave ranks, method and data as they are."""


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
        return command_line(command_words(self.flags))


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """fitting: changes that make the plan fit, each the best of its kind. others: where none does, those that save
    most. together: less intrusive ones that make it fit with one another, where a single one would have to take away
    ranks, the method or data, or none is enough; None where they are not enough either.
    """

    fitting: tuple[Change, ...]
    others: tuple[Change, ...]
    together: Change | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A change to be tried. family: of its kind the first that fits is the best."""

    family: str
    intrusion: int
    flags: Flags
    effect: str


def single_changes(
    estimate: "Estimate", predict: "Callable[[TrainingPlan], Estimate]", *, strict: bool = False
) -> Changes:
    """Try each single change of the estimate's plan through `predict`, and where none is enough, several together.

    strict: a tight fit is none.
    """
    fitting: list[Change] = []
    others: dict[str, Change] = {}
    tried: list[_Candidate] = []
    base = estimate.plan.model_dump(mode="json")
    fitting_families: set[str] = set()
    for candidate in (*_candidates(estimate.plan), *_largest_values(estimate.plan, predict, strict=strict)):
        if candidate.family in fitting_families:
            continue  # a smaller dose of the same change was enough
        try:
            changed = predict(merge(base, candidate.flags, where="plan"))
        except UserError:
            continue  # not a plan that this model and method allow
        tried.append(candidate)  # what saves nothing alone may save beside another change
        if changed.device_bytes >= estimate.device_bytes:
            continue
        change = _change(candidate.flags, candidate.effect, candidate.intrusion, estimate, changed)
        if advisable(changed, strict=strict):
            fitting.append(change)
            fitting_families.add(candidate.family)
        elif candidate.family not in others or others[candidate.family].saved_bytes < change.saved_bytes:
            others[candidate.family] = change
    fitting.sort(key=lambda change: (change.intrusion, -change.saved_bytes))
    most = [] if fitting else sorted(others.values(), key=lambda change: -change.saved_bytes)
    together = None
    if not fitting or fitting[0].intrusion > STORED:
        lesser = [c for c in tried if not fitting or c.intrusion < fitting[0].intrusion]
        together = _together(estimate, lesser, predict, strict=strict)
    return Changes(fitting=tuple(fitting[:SHOWN]), others=tuple(most[:SHOWN]), together=together)


def _change(flags: Flags, effect: str, intrusion: int, before: "Estimate", after: "Estimate") -> Change:
    saved = before.device_bytes - after.device_bytes
    return Change(flags=flags, effect=effect, intrusion=intrusion, saved_bytes=saved, device_bytes=after.device_bytes)


def _together(
    estimate: "Estimate",
    candidates: Sequence[_Candidate],
    predict: "Callable[[TrainingPlan], Estimate]",
    *,
    strict: bool,
) -> Change | None:
    """The least intrusive changes, one after the other, until the plan fits; then without those that are not needed."""
    base = estimate.plan.model_dump(mode="json")

    def with_all(chosen: Sequence[_Candidate]) -> "Estimate | None":
        flags = {name: value for candidate in chosen for name, value in candidate.flags.items()}
        try:
            return predict(merge(base, flags, where="plan"))
        except UserError:
            return None

    chosen: list[_Candidate] = []
    fits, least = False, estimate.device_bytes
    for candidate in sorted(candidates, key=lambda candidate: candidate.intrusion):
        taken = {name for other in chosen for name in other.flags}
        rest = [other for other in chosen if other.family != candidate.family]
        if taken & candidate.flags.keys() and len(rest) == len(chosen):
            continue  # another change sets the same
        changed = with_all([*rest, candidate])
        if changed is None or changed.device_bytes >= least:
            continue
        chosen, least = [*rest, candidate], changed.device_bytes
        if fits := advisable(changed, strict=strict):
            break
    if not fits:
        return None
    for candidate in sorted(chosen, key=lambda candidate: -candidate.intrusion):
        fewer = [other for other in chosen if other is not candidate]
        changed = with_all(fewer)
        if changed is not None and advisable(changed, strict=strict):
            chosen = fewer
    after = with_all(chosen)
    assert after is not None
    flags = {name: value for candidate in chosen for name, value in candidate.flags.items()}
    effect = "; ".join(candidate.effect for candidate in chosen)
    return _change(flags, effect, max(candidate.intrusion for candidate in chosen), estimate, after)


def _largest_values(
    plan: TrainingPlan, predict: "Callable[[TrainingPlan], Estimate]", *, strict: bool
) -> Iterator[_Candidate]:
    """The largest rank, batch and sequence below the plan's that fit; a half of each where none does."""
    now: tuple[tuple[SearchAxis, int | None, int, str], ...] = (
        ("rank", plan.method.chosen_rank, 4, "a smaller rank"),
        ("batch-size", plan.step.batch_size, 6, "a smaller batch"),
        ("seq-len", plan.step.seq_len, 6, "shorter sequences"),
    )
    for axis, value, intrusion, effect in now:
        if value is None or value < 2:
            continue
        best = largest(plan, axis, predict, ceiling=value - 1, strict=strict)
        if best.comfortable:
            effect += ", the largest that fits comfortably"
        elif best.value:
            effect += ", the largest that fits"
        chosen = best.comfortable or best.value or value // 2
        yield _Candidate(family=axis, intrusion=intrusion, flags={f"--{axis}": str(chosen)}, effect=effect)


def _candidates(plan: TrainingPlan) -> Iterator[_Candidate]:
    """Changes of all kinds but smaller values; within a family the smaller dose comes first."""
    every = (*_implementations(plan), *_batches(plan), *_storage(plan), *_methods(plan))
    for family, intrusion, flags, effect in every:
        yield _Candidate(family=family, intrusion=intrusion, flags=flags, effect=effect)


def _implementations(plan: TrainingPlan) -> Iterator[tuple[str, int, Flags, str]]:
    step, optimizer = plan.step, plan.optimizer
    if not plan.allocator.expandable_segments:
        effect = "PYTORCH_ALLOC_CONF=expandable_segments:True: less is lost to fragmentation"
        yield "segments", 0, {"--expandable-segments": True}, effect
    if isinstance(optimizer, AdamW) and optimizer.implementation == "foreach":
        yield "fused", 0, {"--optimizer": "adamw-fused"}, "same arithmetic, no copies at the optimizer step"
    if step.attention in ("eager", "sdpa-math"):
        yield "attention", 0, {"--attention": "sdpa"}, "same arithmetic, no score matrices kept"
    if step.attention == "sdpa" and plan.torch == "2.13":
        yield "torch", 0, {"--torch": "2.14"}, "PyTorch 2.14: its memory-efficient kernel takes grouped heads"
    if step.attention != "flash-attention-2":
        effect = "the package flash-attn: in half precision, no scores and no masks kept"
        yield "attention", 0, {"--attention": "flash-attention-2"}, effect
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


def _storage(plan: TrainingPlan) -> Iterator[tuple[str, int, Flags, str]]:
    if plan.optimizer.kind == "adamw":
        yield "8-bit", 3, {"--optimizer": "adamw-8bit"}, "moments in 8 bits"
    if plan.quantization != "none" and plan.kbit_preparation == "all" and plan.precision in ("bf16", "fp16"):
        effect = "autocast: what k-bit preparation puts into fp32 is computed with in half precision"
        yield "autocast", 1, {"--precision": f"{plan.precision}-mixed"}, effect
    if plan.precision == "fp32":
        yield "autocast", 1, {"--precision": "bf16-mixed"}, "autocast: weights stay in fp32, activations are in bf16"
    if plan.precision in ("fp32", "bf16-mixed", "fp16-mixed"):
        yield "precision", 3, {"--precision": "bf16"}, "weights and arithmetic in bf16"
    if plan.quantization != "none" and plan.kbit_preparation != "none":
        effect = "what is not packed stays in half precision: no prepare_model_for_kbit_training"
        yield "preparation", 2, {"--kbit-preparation": "none"}, effect
    if plan.method.freezes_base and plan.quantization in ("none", "int8"):
        if plan.quantization == "none":
            yield "quantization", 3, {"--quantization": "int8"}, "frozen weights in 8 bits"
        yield "quantization", 3, {"--quantization": "nf4"}, "frozen weights in 4 bits"


def _methods(plan: TrainingPlan) -> Iterator[tuple[str, int, Flags, str]]:
    if not plan.method.freezes_base:
        rank = common_rank(plan)
        for kind in ("gradnormlorp", "lora"):
            if kind != plan.method.kind:
                yield kind, 5, {"--method": kind, "--rank": str(rank)}, f"train {kind} adapters of rank {rank} instead"
