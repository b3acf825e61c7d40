"""One training step, written down: it reads like the loop that makes it."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from memplanner.components.optimizers.update import UpdateRule
from memplanner.notes import Note, OtherHead, PagedStates, SequenceAboveModel
from memplanner.program.program import Persistent, PersistentTensor, StepProgram
from memplanner.program.symbolic import Arithmetic
from memplanner.step.assemble import Step
from memplanner.tape.engine import BlocksDifferError, Param, Tape

if TYPE_CHECKING:
    from memplanner.program.symbolic_program import SymbolicProgram


def run(step: Step, batch: int, seq: int, *, collapse: bool = True) -> tuple[StepProgram, tuple[Note, ...]]:
    """The step at a batch size and a sequence length, without cuBLAS's workspaces; and what is to be remarked on.

    collapse: write equal blocks once; False writes every one, for tests.
    """
    alone: frozenset[tuple[str, int]] = frozenset()
    while True:
        tape = Tape(collapse=collapse, gradients_held=step.accumulates, alone=alone)
        try:
            return _written(step, tape, batch, seq)
        except BlocksDifferError as error:
            alone |= {error.block}


def _written(step: Step, tape: Tape, batch: int, seq: int) -> tuple[StepProgram, tuple[Note, ...]]:
    ctx = step.context(tape, batch, seq)
    trained_length = step.family.trained_length(step.config)
    if trained_length is not None and seq > trained_length:
        ctx.notes.append(SequenceAboveModel(max_positions=trained_length))
    if step.config.published_as:
        ctx.notes.append(OtherHead(published=step.config.published_as, task=step.config.task))
    if step.per_layer_updates:
        tape.on_gradient = _updating(step.rule)
    model = step.family.model(step.config, ctx)

    tape.phase("forward")
    inputs = step.loss.inputs(ctx)
    loss, logits = step.loss.run(ctx, model, inputs)
    tape.autocast_cache.clear()
    if step.keeps_outputs is None:
        del logits
    tape.phase("backward")
    tape.backward(loss)
    del loss
    if step.keeps_outputs == "backward":
        del logits
    if step.keeps_outputs != "update":
        tape.leaves.clear()
    tape.phase("update")
    trained = step.family.in_module_order([p for p in tape.params.values() if p.trainable and not p.unused])
    gradients_outlive = step.accumulates and not step.rule.replaces_gradients
    if step.accumulates and not gradients_outlive:
        _gradients_before(tape, trained)
    if not step.per_layer_updates:
        step.rule.step(tape, trained)
    if step.keeps_outputs == "update":
        del logits
        tape.leaves.clear()
    tape.phase("steady")
    for param in trained:
        param.grad = None
    del inputs

    in_managed_memory = sum(
        t.shape.numel * t.dtype.size * p.count for p in trained for t in step.rule.state(p) if t.is_paged
    )
    if in_managed_memory:
        ctx.notes.append(PagedStates(num_bytes=in_managed_memory))
    program = StepProgram(
        tensors=tape.tensors,
        sizes=tape.sizes,
        structure=tape.structure(),
        persistent=Persistent(
            tuple(_persistent(step, tape, trained, gradients_outlive=gradients_outlive)),
            checkpoint=None if step.quantization is None else step.numerics.stored,
            is_packed=step.quantization is not None and step.quantization.is_read,
        ),
        refresh_only=frozenset(tape.refresh_only),
    )
    return program, tuple(ctx.notes)


def run_symbolically(step: Step, batch: int, seq: int) -> "tuple[SymbolicProgram, tuple[Note, ...]]":
    """The step as `run` writes it for these sizes, with the arithmetic that leads from them to every tensor's size."""
    from memplanner.program.symbolic_program import SymbolicProgram  # a single prediction needs none

    arithmetic = Arithmetic(batch, seq)
    symbolic_batch, symbolic_seq = (cast(int, number) for number in arithmetic.inputs)
    program, notes = run(step, symbolic_batch, symbolic_seq)
    return SymbolicProgram(program=program, arithmetic=arithmetic), notes


def _updating(rule: UpdateRule) -> Callable[[Tape, Param], None]:
    """A hook that updates a parameter as soon as its gradient is there, and frees the gradient."""

    def update(tape: Tape, param: Param) -> None:
        rule.step_in_backward(tape, param)
        param.grad = None

    return update


def _gradients_before(tape: Tape, trained: Iterable[Param]) -> None:
    """Accumulated gradients that the update replaces: they are there from the step's beginning, not throughout."""
    for param in trained:
        tape.current_copies, tape.category = param.count, "gradients"
        param.grad = tape.new(param.shape, param.dtype, f"{param.name} gradient")
        tape.current_copies, tape.category = 1, "temporaries"
        tape.backdate(param.grad)


def _persistent(step: Step, tape: Tape, trained: list[Param], *, gradients_outlive: bool) -> Iterable[PersistentTensor]:
    """The model, its gradients where they outlive a step, and what the optimizer keeps."""
    for p in tape.params.values():
        role = "buffer" if p.role == "buffer" else "weight"
        learns = p.trainable, p.stands_for, not p.unused
        yield PersistentTensor(p.name, p.category, p.shape, p.dtype, p.count, role, *learns)  # type: ignore[arg-type]
    if gradients_outlive:
        for p in trained:
            yield PersistentTensor(f"{p.name} gradient", "gradients", p.shape, p.dtype, p.count)
    for p in trained:
        for t in (t for t in step.rule.state(p) if not t.is_paged):
            yield PersistentTensor(f"{p.name} {t.name}", t.category, t.shape, t.dtype, p.count)
    for t, copies in step.rule.shared(trained, per_layer=step.per_layer_updates):
        yield PersistentTensor(t.name, t.category, t.shape, t.dtype, copies)
