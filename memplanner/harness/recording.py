"""Writes down a traced step as a step program, which then is read as one of a hand-written family is."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from memplanner.errors import Problem, UnsupportedError, UserError
from memplanner.harness.builders.models import quiet_libraries
from memplanner.harness.cpu import Tracker, faking, make_states, tracking
from memplanner.harness.errors import NotBuildableError
from memplanner.harness.history import Event
from memplanner.harness.job import Job, job_of_plan, quantisation_of, tensors_in
from memplanner.harness.live_bytes import Birth
from memplanner.harness.loop import run_step
from memplanner.plan.training_plan import TrainingPlan
from memplanner.program import shapes
from memplanner.program.program import Persistent, PersistentTensor, StepProgram, Structure, TensorInfo, round_to_block
from memplanner.program.shapes import UINT8, Dtype, Shape
from memplanner.timeline import Category, Phase

_DTYPES: Final = {
    torch.float32: shapes.FP32,
    torch.bfloat16: shapes.BF16,
    torch.float16: shapes.FP16,
    torch.int64: shapes.INT64,
    torch.int32: shapes.INT32,
    torch.int8: shapes.INT8,
    torch.uint8: shapes.UINT8,
    torch.bool: shapes.BOOL,
}
_FIRST_MADE: Final[dict[Category, int]] = {"gradients": 1, "optimizer_state": 2, "projectors": 2}
"""In which order a first step makes what outlives it: after the weights, gradients, and from these the states."""
_LABELS: Final = ("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size", "num_experts", "head_dim")
"""Settings of a model by which dimensions are called."""


def record(plan: TrainingPlan, root: Path = Path()) -> StepProgram:
    """The plan's step, run on fake tensors and written down tensor by tensor, without cuBLAS's workspaces.

    Of a step with gradient accumulation it is the last micro-batch, as of hand-written families: gradients are there
    from the start. UnsupportedError for methods whose steps differ from each other, as where projections are computed
    anew, and UserError for models whose step cannot be traced.
    """
    if plan.method.refreshes:
        message = f"{plan.method.kind} recomputes subspaces at intervals, and is not modelled by a trace of one step"
        raise UnsupportedError(Problem(where="plan", key="method", message=message, hint="full, lora and dora are"))
    quiet_libraries()
    try:
        return _recorded(plan, root)
    except UserError:
        raise
    except NotBuildableError as error:
        raise UserError(Problem(where=plan.model, key="", message=f"its step cannot be traced: {error}")) from None
    except Exception as error:  # of code that was written for real tensors
        text = " ".join(str(error).split())[:200]
        message = f"its step cannot be traced on fake tensors: {type(error).__name__}: {text}"
        raise UserError(Problem(where=plan.model, key="", message=message)) from error


def _recorded(plan: TrainingPlan, root: Path) -> StepProgram:
    with faking(plan, root) as mode:
        job = job_of_plan(plan, root, "cpu", fake_mode=mode)
        with mode, tracking(job, names=True) as tracker, _modules_told(job.model, tracker):
            tracker.track_job()
            make_states(job, tracker)
            if job.grad_accumulation > 1 or job.keep_gradients:
                job.grad_accumulation = 1
                for param in job.reached():
                    param.grad = torch.empty_like(param)
            tracker.track_job()
            tracker.begin()
            writer = _Writer(plan, job, tracker)
            run_step(job, tracker)
        return writer.program()


@contextlib.contextmanager
def _modules_told(model: nn.Module, tracker: Tracker) -> Iterator[None]:
    """Tell the tracker which module's forward pass is running."""
    running = tracker.meter.modules

    def leave(*_: object) -> None:
        running.pop()

    handles = []
    for path, module in model.named_modules():
        handles += [
            module.register_forward_pre_hook(lambda *_, path=path: running.append(path)),  # type: ignore[misc]
            module.register_forward_hook(leave, always_call=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Writer:
    """Turns what a tracker sees of a step into a program. Made before the step, of what is there then."""

    def __init__(self, plan: TrainingPlan, job: Job, tracker: Tracker) -> None:
        self.tracker = tracker
        self.unreached = job.unreached
        self.named = _names(job)
        self.sizes_of = _sizes(plan, job.model)
        self.tensors: list[TensorInfo] = []
        self.sizes: list[int] = []
        self.events: list[int] = []

    def program(self) -> StepProgram:
        roles = dict(self.tracker.marks[0].roles)
        initial = {event.address: event for event in self.tracker.initial}
        temporary = self._die_early(initial, roles)
        phases: list[tuple[Phase, int]] = []
        alive: dict[int, int] = {}
        for address in temporary:
            alive[address] = self._born(initial[address].size, None, roles.get(address, "temporaries"))
        starts: dict[int, list[Phase]] = {}
        order: tuple[Phase, ...] = ("forward", "loss", "backward", "update", "steady")
        previous = 0
        ends = {mark.phase: mark for mark in self.tracker.marks}
        for phase in order:
            starts.setdefault(previous, []).append(phase)
            previous = ends[phase].position
        for position, event in enumerate(self.tracker.meter.events):
            for phase in starts.pop(position, ()):
                self._close(phase, order, ends, alive)
                phases.append((phase, len(self.events)))
            if event.size:
                birth = (self.tracker.meter.names or {}).get(position)
                alive[event.address] = self._born(event.size, birth, event.category)
            elif event.address in alive:
                self.events.append(~alive.pop(event.address))
        for phase in (phase for at in sorted(starts) for phase in starts[at]):
            self._close(phase, order, ends, alive)
            phases.append((phase, len(self.events)))
        kept = [address for address in initial if address not in temporary]
        kept.sort(key=lambda address: _FIRST_MADE.get(roles.get(address, "activations"), 0))
        return StepProgram(
            tensors=self.tensors,
            sizes=self.sizes,
            structure=Structure(tuple(self.events), tuple(phases), (), (1,) * len(self.tensors)),
            persistent=Persistent(tuple(self._persistent(kept, initial, roles))),
        )

    def _close(
        self, phase: Phase, order: tuple[Phase, ...], ends: Mapping[Phase, Any], alive: Mapping[int, int]
    ) -> None:
        """At the beginning of a phase, what the end of the one before knows of the tensors that are alive."""
        at = order.index(phase)
        if at == 0:
            return
        for address, category in ends[order[at - 1]].roles.items():
            if address in alive:
                index = alive[address]
                self.tensors[index] = self.tensors[index]._replace(category=category)

    def _die_early(self, initial: Mapping[int, Event], roles: Mapping[int, Category]) -> set[int]:
        """What was there before the step and is freed in it, but for gradients that zero_grad() frees in the end."""
        freed = set()
        seen = set()
        for event in self.tracker.meter.events:
            if event.size:
                seen.add(event.address)
            elif event.address in initial and event.address not in seen:
                freed.add(event.address)
                seen.add(event.address)
        return {address for address in freed if roles.get(address) != "gradients"}

    def _born(self, size: int, birth: Birth | None, category: Category) -> int:
        shape, dtype = self._shape(size, birth)
        operation = "made in the step before" if birth is None else birth.operation
        name = operation.removeprefix("aten.").partition(".")[0].strip("_") or "tensor"
        scope = "" if birth is None else _short(birth.module)
        self.tensors.append(TensorInfo(scope, name, shape, dtype, category))
        self.sizes.append(size)
        self.events.append(len(self.sizes) - 1)
        return len(self.sizes) - 1

    def _shape(self, size: int, birth: Birth | None) -> tuple[Shape, Dtype]:
        dtype = _DTYPES.get(birth.dtype) if birth is not None else None
        if birth is None or dtype is None:
            return Shape(bytes=size), UINT8
        shape = _labelled(birth.shape, self.sizes_of)
        return (shape, dtype) if round_to_block(shape.numel * dtype.size) == size else (Shape(bytes=size), UINT8)

    def _persistent(
        self, kept: list[int], initial: Mapping[int, Event], roles: Mapping[int, Category]
    ) -> Iterator[PersistentTensor]:
        for address in kept:
            if address not in self.named:
                size = initial[address].size
                category = roles.get(address, "activations")
                yield PersistentTensor("buffer", category, Shape(bytes=size), UINT8, 1, "buffer")
                continue
            name, tensor, role = self.named[address]
            dtype, shape = _DTYPES.get(tensor.dtype, UINT8), _labelled(tuple(tensor.shape), self.sizes_of)
            state = getattr(tensor, "quant_state", None)
            stands_for = None if state is None else _labelled(tuple(state.shape), self.sizes_of)
            category = roles.get(address, "parameters")
            trainable = role == "weight" and tensor.requires_grad
            is_reached = id(tensor) not in self.unreached
            yield PersistentTensor(name, category, shape, dtype, 1, role, trainable, stands_for, is_reached)


def _sizes(plan: TrainingPlan, model: nn.Module) -> dict[int, str]:
    """What a dimension of this size is called; sizes that two settings share have the name of the first."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    sizes: dict[int, str] = {}
    for label in reversed(_LABELS):
        value = getattr(config, label, None)
        if isinstance(value, int) and value > 1:
            sizes[value] = label.removesuffix("_size")
    batch, seq = plan.step.batch_size, plan.step.seq_len
    sizes[batch * seq] = "tokens"
    sizes[seq] = "seq"
    if batch > 1:
        sizes[batch] = "batch"
    return sizes


def _labelled(dims: tuple[int, ...], sizes: Mapping[int, str]) -> Shape:
    """A shape whose dimensions have names. Dimensions of one are left out; equal names are told apart."""
    labels: dict[str, int] = {}
    for dim in dims:
        if dim == 1 and len(dims) > 1:
            continue
        label = sizes.get(dim, "dim")
        while label in labels:
            label += "_"
        labels[label] = dim
    return Shape(**labels)


def _short(module: str) -> str:
    """A module's path without what wraps the model."""
    return module.removeprefix("base_model.model.").removeprefix("model.")


_Role = Any


def _names(job: Job) -> dict[int, tuple[str, torch.Tensor, _Role]]:
    """Address → name, tensor and role of all that outlives a step."""
    found: dict[int, tuple[str, torch.Tensor, _Role]] = {}

    def add(name: str, tensor: torch.Tensor, role: _Role) -> None:
        found.setdefault(tensor.untyped_storage()._cdata, (name, tensor, role))

    paths = {}
    for name, param in job.model.named_parameters():
        paths[id(param)] = _short(name)
        add(_short(name), param, "weight")
        for number, scale in enumerate(quantisation_of(param)):
            add(f"{_short(name).rpartition('.')[0]}.scale {number}", scale, "buffer")
        if param.grad is not None:
            add(f"{_short(name)} gradient", param.grad, "state")
    for name, buffer in job.model.named_buffers():
        add(_short(name), buffer, "buffer")
    for optimizer in job.optimizers:
        for owner, state in optimizer.state.items():
            for key, value in state.items():
                for tensor in tensors_in(value):
                    add(f"{paths.get(id(owner), 'optimizer')} {key}", tensor, "state")
    return found
