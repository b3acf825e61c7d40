"""A plan's training step, written on the tape: load, forward, loss, backward, update, refresh, steady."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import groupby
from typing import NamedTuple, cast

from memplanner.components.architectures.registry import Family
from memplanner.components.context import Context, dtypes
from memplanner.components.methods.gradnormlorp import GradNormLorp
from memplanner.components.optimizers.adamw import AdamW
from memplanner.components.optimizers.adamw8bit import AdamW8bit
from memplanner.components.optimizers.one_by_one import OneByOne
from memplanner.components.optimizers.rules import ExtraState, Optimizer, Projection, extra_states, in_order
from memplanner.errors import Problem, UserError
from memplanner.plan.training_plan import ChunkedCrossEntropy, CrossEntropy, TrainingPlan
from memplanner.program.shapes import FP32, INT64, UINT8, Dtype, Shape
from memplanner.program.symbolic import Program
from memplanner.tape.engine import Param, Tape, Tensor, block
from memplanner.timeline import Category


class Held(NamedTuple):
    """A tensor that outlives the step, or `count` equal ones."""

    name: str
    category: Category
    shape: Shape
    dtype: Dtype
    count: int  # type: ignore[assignment]  # a tuple's method of that name is not used

    @property
    def num_bytes(self) -> int:
        """Exact bytes of all copies."""
        return self.shape.numel * self.dtype.size * self.count

    @property
    def block_bytes(self) -> int:
        """What the caching allocator hands out for them."""
        return block(self.shape.numel * self.dtype.size) * self.count


@dataclass(eq=False)
class Holdings:
    """All that outlives a step, summed up once for the walks of other sizes that share it. Equal to itself alone."""

    tensors: list[Held] = field(default_factory=list)

    def __iter__(self) -> Iterator[Held]:
        return iter(self.tensors)

    @cached_property
    def by_category(self) -> Counter[Category]:
        """What the caching allocator hands out for them."""
        sums: Counter[Category] = Counter()
        for held in self.tensors:
            sums[held.category] += held.block_bytes
        return sums

    @cached_property
    def total(self) -> int:
        """The same, of all."""
        return sum(self.by_category.values())

    @cached_property
    def block_groups(self) -> tuple[tuple[tuple[int, tuple[int, ...]], ...], tuple[tuple[int, tuple[int, ...]], ...]]:
        """What the caching allocator is asked for: before the first step, and in it before its update.

        Each group is a number of equal blocks of the model, and what it hands out for each tensor of one such block.
        """
        late = ("gradients", "optimizer_state", "projectors")

        def groups(*, made_late: bool) -> Iterator[tuple[int, tuple[int, ...]]]:
            tensors = (h for h in self.tensors if (h.category in late) is made_late)
            for count, alike in groupby(tensors, lambda h: h.count):
                yield count, tuple(h.block_bytes // count for h in alike)

        return tuple(groups(made_late=False)), tuple(groups(made_late=True))

    @lru_cache(maxsize=64)  # noqa: B019  # few are ever there
    def with_workspace(self, num_bytes: int) -> "Holdings":
        """The same on a card whose cuBLAS workspaces have this size (forward and backward run on different threads and
        hold one each).
        """
        held = [h for h in self.tensors if h.category != "workspaces"]
        if num_bytes:
            held.append(Held("cuBLAS workspace", "workspaces", Shape(bytes=num_bytes), UINT8, 2))
        return Holdings(held)


@dataclass(slots=True, eq=False)
class Walk:
    """A step: its log on the tape, and what is alive throughout. Equal to itself alone."""

    tape: Tape
    held: Holdings = field(default_factory=Holdings)
    refresh_only: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def with_workspace(self, num_bytes: int) -> "Walk":
        """The same step on a card whose cuBLAS workspaces have this size."""
        return Walk(self.tape, self.held.with_workspace(num_bytes), self.refresh_only, self.notes)


def walk(
    plan: TrainingPlan,
    family: Family,
    config: object,
    *,
    seq_len: int,
    compute_capability: float,
    collapse: bool = True,
) -> Walk:
    """Walk one step of the plan at the given sequence length.

    Without cuBLAS workspaces: Walk.with_workspace adds them. collapse: walk equal blocks once (False walks every one,
    for tests).
    """
    return _walk(plan, family, config, plan.step.batch_size, seq_len, compute_capability, collapse=collapse)


class Pattern:
    """A step walked once for all batch sizes and sequence lengths that need the same tensors in the same order."""

    def __init__(self, plan: TrainingPlan, family: Family, config: object, *, compute_capability: float) -> None:
        self._program = Program(plan.step.batch_size, plan.step.seq_len)
        batch, seq = self._program.inputs
        self._walk = _walk(plan, family, config, cast(int, batch), cast(int, seq), compute_capability)
        self._places = [self._program.place(size) for size in self._walk.tape.sizes]
        assert all(isinstance(held.num_bytes, int) for held in self._walk.held), "what stays is of the model's sizes"

    def at(self, batch: int, seq: int) -> Walk | None:
        """The walk of the plan with another batch size and sequence length; None where its tensors are others."""
        values = self._program.run(batch, seq)
        if values is None:
            return None
        walked, sizes = self._walk, [values[place] for place in self._places]
        return Walk(replace(walked.tape, sizes=sizes, values=values), walked.held, walked.refresh_only, walked.notes)


def _walk(
    plan: TrainingPlan,
    family: Family,
    config: object,
    batch: int,
    seq: int,
    compute_capability: float,
    *,
    collapse: bool = True,
) -> Walk:
    step, method = plan.step, plan.method
    weight_dtype, autocast = dtypes(plan.precision, master_weights=plan.master_weights)
    compute_dtype = autocast or weight_dtype
    norm_dtype = weight_dtype
    if plan.quantization != "none":
        norm_dtype = weight_dtype if plan.kbit_preparation == "none" else FP32
        weight_dtype = FP32 if plan.kbit_preparation == "all" else weight_dtype
    tape = Tape(collapse=collapse)
    out = Walk(tape)
    ctx = Context(
        tape,
        method,
        weight_dtype,
        autocast,
        batch,
        seq,
        step.attention,
        step.checkpoint_every,
        compute_capability=compute_capability,
        padding=step.padding,
        loss_kind=step.loss.kind,
        loss_chunks=step.loss.chunks if isinstance(step.loss, ChunkedCrossEntropy) else 1,
        loss_shifts=step.loss.shifts if isinstance(step.loss, CrossEntropy) else "labels",
        quantization=plan.quantization,
        compute_dtype=compute_dtype,
        norm_dtype=norm_dtype,
        input_gradients=step.asks_input_gradients,
        default_targets=family.lora_targets if method.kind in ("lora", "dora") else family.block_targets,
    )
    optimizer = _as_run(plan)
    tape.gradients_held = held_gradients = step.keep_gradients or step.grad_accumulation > 1
    if step.per_layer_updates:
        tape.on_gradient = _update_at_once(optimizer, out.refresh_only)

    model = family.model(config, ctx)
    tape.phase("forward")
    tape.category = "inputs"
    tokens = Shape(batch=batch, seq=seq)
    input_ids = tape.new(tokens, INT64, "input ids")
    labels = tape.new(Shape(batch=batch) if family.classifier else tokens, INT64, "labels")
    tape.category = "activations"
    logits, loss = model.forward(input_ids, labels)
    tape.autocast_cache.clear()
    if not step.keep_outputs:
        del logits
    if loss.node is None:
        raise _nothing_trained(plan, family)
    tape.phase("backward")
    held_on = step.keep_outputs and step.keep_outputs_until == "update"
    tape.backward(loss)
    del loss
    if step.keep_outputs and not held_on:
        del logits
    if not held_on:
        tape.leaves.clear()
    tape.phase("update")
    trained = [p for p in tape.params.values() if p.trainable]
    replaced = held_gradients and optimizer.in_place and any(_is_galore(p) for p in trained)
    if replaced:  # on the tape, then, and not throughout the step
        for p in trained:
            p.grad = _gradient(tape, p, p.shape, p.count)
            tape.backdate(p.grad)
    if not step.per_layer_updates:
        _update(tape, optimizer, trained, out.refresh_only)
    if held_on:
        del logits
        tape.leaves.clear()
    tape.phase("steady")
    for p in trained:
        p.grad = None
    del input_ids, labels

    held = [Held(p.name, p.category, p.shape, p.dtype, p.count) for p in tape.params.values()]
    if held_gradients and not replaced:
        held += [Held(f"{p.name} gradient", "gradients", p.shape, p.dtype, p.count) for p in trained]
    held += _states(optimizer, trained, getattr(method, "extra_state", ()), per_layer=step.per_layer_updates)
    out.held = Holdings(held)
    unmatched = [t for t in getattr(method, "target_modules", ()) if not _names_a_module(t, family)]
    if unmatched:
        ctx.notes.append(f"target_modules {', '.join(unmatched)}: no such linear module; ignored, as peft does")
    out.notes = ctx.notes
    return out


def _names_a_module(target: str, family: Family) -> bool:
    return target == "all-linear" or target.rsplit(".", 1)[-1] in family.block_targets


def _as_run(plan: TrainingPlan) -> Optimizer:
    """The plan's optimizer as the method's code runs it: the projected optimizers go parameter by parameter."""
    optimizer = plan.optimizer
    method = plan.method
    if isinstance(method, GradNormLorp) and method.implementation == "reparameterised":
        if isinstance(optimizer, AdamW):
            return OneByOne(optimizer.model_copy(update={"implementation": "for-loop"}))
        return OneByOne(optimizer) if isinstance(optimizer, AdamW8bit) else optimizer
    if method.kind in ("galore", "gradnormlorp") and isinstance(optimizer, AdamW):
        return optimizer.model_copy(update={"implementation": "for-loop"})
    if method.kind == "galore" and isinstance(optimizer, AdamW8bit):
        # galore_torch passes percentile_clipping=100 by position, where bitsandbytes now expects max_unorm.
        return optimizer.model_copy(update={"update_norms": method.accounting == "as-coded"})
    return optimizer


def _update_at_once(optimizer: Optimizer, refresh_only: set[int]) -> Callable[[Tape, Param], None]:
    """A hook that updates a parameter as soon as its gradient is there, and frees the gradient."""

    def update(tape: Tape, param: Param) -> None:
        _step_one(tape, optimizer, param, refresh_only)
        param.grad = None

    return update


def _step_one(tape: Tape, optimizer: Optimizer, param: Param, refresh_only: set[int]) -> None:
    rule = param.tags
    if not isinstance(rule, Projection):
        optimizer.step_one(tape, param.shape, param.dtype)
        return
    first = len(tape.sizes)
    rule.refresh(tape, param.shape, param.dtype)
    refresh_only.update(range(first, len(tape.sizes)))
    if _is_galore(param) and optimizer.in_place:
        low = tape.new(rule.reduced(param.shape), param.dtype, "projected gradient")
        rule.step_stand_in(tape, param.shape, param.dtype, partial(setattr, param, "grad", None))
        del low
    else:
        rule.step(optimizer, tape, param.shape, param.dtype)


def _update(tape: Tape, optimizer: Optimizer, trained: list[Param], refresh_only: set[int]) -> None:
    """The optimizer's step over all parameters. Projected ones go one by one, equal shapes alike."""
    plain = [p for p in trained if not isinstance(p.tags, Projection)]
    projected = [p for p in trained if _is_galore(p)]
    if projected and optimizer.in_place:
        _galore_8bit_loop(tape, projected, refresh_only)
        return
    if projected:
        _galore_loop(tape, optimizer, plain, projected, refresh_only)
        return
    optimizer.step_all(tape, plain)
    seen = set()
    for p in trained:
        key = (p.shape.dims, p.dtype.name, p.tags)
        if isinstance(p.tags, Projection) and key not in seen:
            seen.add(key)
            _step_one(tape, optimizer, p, refresh_only)


def _is_galore(param: Param) -> bool:
    """Whether galore_torch projects its gradient."""
    return isinstance(param.tags, Projection) and not param.tags.adds_product


def _galore_loop(
    tape: Tape, optimizer: Optimizer, plain: list[Param], projected: list[Param], refresh_only: set[int]
) -> None:
    """galore_torch's AdamW.step: one loop, whose variables hold the last parameter's projected gradient, denominator
    and update while the next one is decomposed.
    """
    grad = denominator = update = None
    for p in (*in_order(plain), *in_order(projected)):
        rule = p.tags if isinstance(p.tags, Projection) else None
        shape = p.shape if rule is None else rule.reduced(p.shape)
        grad = None
        if rule is not None:
            first = len(tape.sizes)
            rule.refresh(tape, p.shape, p.dtype)
            refresh_only.update(range(first, len(tape.sizes)))
            grad = tape.new(shape, p.dtype, "projected gradient")
        denominator = tape.new(shape, p.dtype, f"{p.name} denominator")
        update = tape.new(shape, p.dtype, f"{p.name} normalised gradient")
        if rule is not None:
            full = tape.new(p.shape, p.dtype, f"{p.name} update")
            scaled = tape.new(p.shape, p.dtype, f"{p.name} scaled update")
            del full
            update = scaled
            del scaled
    del grad, denominator, update


def _galore_8bit_loop(tape: Tape, projected: list[Param], refresh_only: set[int]) -> None:
    """galore_torch's AdamW8bit.step: the projected gradient takes each gradient's place, so that memory falls as the
    loop goes on and a weight's first copy is its highest. What is not projected has been updated in place before.
    """
    for _, group in groupby(projected, key=lambda p: p.count):
        copies = list(group)
        lows = []
        for p in copies:
            rule = p.tags
            assert isinstance(rule, Projection)
            first = len(tape.sizes)
            rule.refresh(tape, p.shape, p.dtype)
            refresh_only.update(range(first, len(tape.sizes)))
            lows.append(_gradient(tape, p, rule.reduced(p.shape), 1))
            rule.step_stand_in(tape, p.shape, p.dtype, partial(_replace_gradient, tape, p, p.shape, p.count - 1))
        for p in copies:
            del lows[0]
            _replace_gradient(tape, p, p.tags.reduced(p.shape), p.count)


def _replace_gradient(tape: Tape, param: Param, shape: Shape, count: int) -> None:
    """`count` of the parameter's copies have a gradient of this shape now, the others none."""
    param.grad = None
    param.grad = _gradient(tape, param, shape, count)


def _gradient(tape: Tape, param: Param, shape: Shape, count: int) -> Tensor:
    tape.current_reps, tape.category = count, "gradients"
    out = tape.new(shape, param.dtype, f"{param.name} gradient")
    tape.current_reps, tape.category = 1, "temporaries"
    return out


def _states(
    optimizer: Optimizer, trained: list[Param], extra: tuple[ExtraState, ...], *, per_layer: bool
) -> list[Held]:
    """What the optimizer keeps between steps; with per-layer updates there is one optimizer object per parameter."""
    held = []
    for p in trained:
        if isinstance(p.tags, Projection):
            state = p.tags.state(optimizer, p.shape, p.dtype)
        else:
            state = (*optimizer.state(p.shape, p.dtype), *extra_states(extra, p.shape, p.dtype))
        held += [Held(f"{p.name} {t.name}", t.category, t.shape, t.dtype, p.count) for t in state]
    quantised = sum(h.count for h in held if h.dtype is UINT8 and h.name.endswith("state1"))
    own = per_layer and not isinstance(optimizer, OneByOne)  # which updates in backward by itself
    objects = quantised if own else min(quantised, 1)
    return held + [Held(t.name, t.category, t.shape, t.dtype, objects) for t in optimizer.shared() if objects]


def _nothing_trained(plan: TrainingPlan, family: Family) -> UserError:
    names = ", ".join(getattr(plan.method, "target_modules", ()))
    return UserError(
        Problem(
            where="plan",
            key="method.target_modules",
            message=f"{names!r} names no linear module of {plan.model}",
            hint=f"its modules: {', '.join(family.block_targets)}",
        )
    )
