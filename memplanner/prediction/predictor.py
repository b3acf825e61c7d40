"""predict, for many plans that are much alike."""

from collections import deque
from pathlib import Path
from typing import Final

from memplanner.allocator.simulation import AllocatorSimulation
from memplanner.catalogue import GpuProfile
from memplanner.notes import Note
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction.estimate import (
    Estimate,
    capability_of,
    estimate_of,
    gpu_of,
    model_of,
    predict,
    stamp_of,
    workspace_of,
)
from memplanner.program.program import StepProgram
from memplanner.program.symbolic_program import SymbolicProgram
from memplanner.step.assemble import assemble
from memplanner.step.run import run, run_symbolically

NEWEST_KERNELS: Final = 8
"""Compute capability from which on the choice of kernels, and with it their memory, is the same; below, whole
generations are alike."""
_OTHER_DEVICE: Final = {
    name: TrainingPlan.model_fields[name].get_default() for name in ("device", "allocator", "budget", "headroom")
}
"""What a step's tensors do not depend on."""
_OTHER_SIZES: Final = {"batch_size": 1, "seq_len": 1}
"""What mostly decides the tensors' sizes alone."""


_Pattern = tuple[SymbolicProgram, tuple[Note, ...]]


class Predictor:
    """A step that differs from a recent one in its device or budget alone is not written again, and one that
    differs in its batch size or sequence length is computed from the other's.

    root: directory that relative model paths start from.
    """

    def __init__(self, root: Path = Path(), *, remember: int = 8) -> None:
        self.root = root
        self._simulation = AllocatorSimulation()
        self._recent: deque[tuple[object, int, TrainingPlan, Estimate]] = deque(maxlen=remember)
        self._patterns: deque[tuple[object, TrainingPlan, _Pattern | None]] = deque(maxlen=remember)

    def __call__(self, plan: TrainingPlan) -> Estimate:
        """What `predict` says of the plan."""
        gpu = gpu_of(plan)
        workspace = workspace_of(gpu)
        # What a step depends on beside its plan: the generation of kernels, and the model's file as it is now.
        around = (min(int(capability_of(gpu)), NEWEST_KERNELS), stamp_of(plan.model, self.root))
        step = plan.model_copy(update=_OTHER_DEVICE)
        known_step = None
        for known, bytes_known, same, estimate in reversed(self._recent):  # the likeliest first
            if known == around and same == step:
                if bytes_known == workspace:
                    return estimate.replaced(plan=plan, gpu=gpu)
                known_step = estimate.program, estimate.notes
        if plan.step.typical_seq_len is not None:  # a note tells of a second step there
            estimate = predict(plan, root=self.root, simulation=self._simulation)
        else:
            model, _, _ = model_of(plan, self.root)
            program, notes = known_step or self._run(plan, gpu, around)
            estimate = estimate_of(plan, model, gpu, program, notes, self._simulation)
        self._recent.append((around, workspace, step, estimate))
        return estimate

    def _run(self, plan: TrainingPlan, gpu: GpuProfile | None, around: object) -> tuple[StepProgram, tuple[Note, ...]]:
        """The plan's step. The second of plans alike in all but their sizes is written as their pattern: most plans
        have no second, and a pattern takes longer.
        """
        _, family, config = model_of(plan, self.root)
        batch, seq = plan.step.batch_size, plan.step.seq_len
        alike = plan.model_copy(update=_OTHER_DEVICE | {"step": plan.step.model_copy(update=_OTHER_SIZES)})
        seen = False
        for known, same, pattern in reversed(self._patterns):
            if known == around and same == alike:
                program = None if pattern is None else pattern[0].at(batch, seq)
                if pattern is not None and program is not None:
                    return program, pattern[1]
                seen = True
        step = assemble(plan, family, config, compute_capability=capability_of(gpu))
        if not seen:
            self._patterns.append((around, alike, None))
            return run(step, batch, seq)
        symbolic, notes = run_symbolically(step, batch, seq)
        self._patterns.append((around, alike, (symbolic, notes)))
        program = symbolic.at(batch, seq)
        assert program is not None, "it was written for these sizes"
        return program, notes
