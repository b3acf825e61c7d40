"""predict for many similar plans, which share their work."""

from collections import deque
from pathlib import Path
from typing import Final

from memplanner.allocator.simulation import AllocatorSimulation
from memplanner.catalogue import GpuProfile, capability_of
from memplanner.components.attention import same_kernels
from memplanner.notes import Note
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction.estimate import (
    Estimate,
    estimate_of,
    gpu_of,
    is_computed,
    model_of,
    predict,
    profile_of,
    stamp_of,
    workspace_of,
)
from memplanner.prediction.traced import refuse_traced
from memplanner.program.program import StepProgram
from memplanner.program.symbolic_program import SymbolicProgram
from memplanner.step.assemble import assemble
from memplanner.step.run import run, run_symbolically

_OTHER_DEVICE: Final = {
    name: TrainingPlan.model_fields[name].get_default() for name in ("device", "allocator", "budget", "headroom")
}
"""Settings that no tensor of a step depends on, at their defaults."""
_OTHER_SIZES: Final = {"batch_size": 1, "seq_len": 1}
"""Settings that usually change the sizes of tensors and nothing else, at one value for all."""


_Pattern = tuple[SymbolicProgram, tuple[Note, ...]]


class Predictor:
    """Predicts plans, and remembers recent steps. A step that differs from one of them only in device or budget is not
    written again; one that differs in batch size or sequence length as well is computed from its symbolic program.

    root: directory that relative model paths start from. traces: answer for models that no family is written for, too,
    by tracing their steps, which takes seconds each; False: UserError.
    """

    def __init__(self, root: Path = Path(), *, remember: int = 8, traces: bool = True) -> None:
        self.root, self.traces = root, traces
        self._simulation = AllocatorSimulation()
        self._recent: deque[tuple[object, int, TrainingPlan, Estimate]] = deque(maxlen=remember)
        self._patterns: deque[tuple[object, TrainingPlan, _Pattern | None]] = deque(maxlen=remember)

    def __call__(self, plan: TrainingPlan) -> Estimate:
        """The same estimate that `predict` gives."""
        gpu = gpu_of(plan)
        workspace = workspace_of(gpu)
        # Besides its plan a step depends on the kernels of the device and on the present content of the model's file.
        around = (same_kernels(capability_of(gpu)), stamp_of(plan.model, self.root))
        step = plan.model_copy(update=_OTHER_DEVICE)
        same_step = None
        for past_around, past_workspace, past_step, estimate in reversed(self._recent):  # the most recent first
            if past_around == around and past_step == step:
                if past_workspace == workspace:
                    return estimate.replaced(plan=plan, gpu=gpu)
                same_step = estimate.program, estimate.step_notes
        profile = profile_of(plan, self.root)
        is_traced = not is_computed(plan, profile)
        if is_traced and not self.traces:
            refuse_traced(plan, profile)
        if is_traced or plan.step.typical_seq_len is not None:  # such a plan's notes need a second step
            estimate = predict(plan, root=self.root, simulation=self._simulation)
        else:
            model, _, _ = model_of(plan, self.root)
            program, notes = same_step or self._run(plan, gpu, around)
            estimate = estimate_of(plan, model, gpu, program, notes, self._simulation)
        self._recent.append((around, workspace, step, estimate))
        return estimate

    def _run(self, plan: TrainingPlan, gpu: GpuProfile | None, around: object) -> tuple[StepProgram, tuple[Note, ...]]:
        """The plan's step. Only when a second plan differs from an earlier one in its sizes alone is a symbolic program
        written for both: it takes longer to write, and most plans are never followed by such a second one.
        """
        _, family, config = model_of(plan, self.root)
        batch, seq = plan.step.batch_size, plan.step.seq_len
        alike = plan.model_copy(update=_OTHER_DEVICE | {"step": plan.step.model_copy(update=_OTHER_SIZES)})
        seen_before = False
        for past_around, past_plan, pattern in reversed(self._patterns):
            if past_around == around and past_plan == alike:
                program = None if pattern is None else pattern[0].at(batch, seq)
                if pattern is not None and program is not None:
                    return program, pattern[1]
                seen_before = True
        step = assemble(plan, family, config, compute_capability=capability_of(gpu))
        if not seen_before:
            self._patterns.append((around, alike, None))
            return run(step, batch, seq)
        symbolic, notes = run_symbolically(step, batch, seq)
        self._patterns.append((around, alike, (symbolic, notes)))
        program = symbolic.at(batch, seq)
        assert program is not None, "it was written for these sizes"
        return program, notes
