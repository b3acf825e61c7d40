"""predict, for many plans that are much alike."""

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Final

from memplanner.allocator.simulation import AllocatorSimulation
from memplanner.catalogue import GpuProfile
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
from memplanner.step.walk import Pattern, Walk, walk

NEWEST_KERNELS: Final = 8
"""Compute capability from which on the choice of kernels, and with it their memory, is the same; below, whole
generations are alike."""
_OTHER_DEVICE: Final = {
    name: TrainingPlan.model_fields[name].get_default() for name in ("device", "allocator", "budget", "headroom")
}
"""What a step's tensors do not depend on."""
_OTHER_SIZES: Final = {"batch_size": 1, "seq_len": 1}
"""What mostly decides the tensors' sizes alone."""


class Predictor:
    """A step that differs from a recent one in its device or budget alone is not walked again, and one that differs in
    its batch size or sequence length is computed from the walk of the other.

    root: directory that relative model paths start from.
    """

    def __init__(self, root: Path = Path(), *, remember: int = 8) -> None:
        self.root = root
        self._simulation = AllocatorSimulation()
        self._recent: deque[tuple[object, int, TrainingPlan, Estimate]] = deque(maxlen=remember)
        self._patterns: deque[tuple[object, TrainingPlan, Pattern | None]] = deque(maxlen=remember)

    def __call__(self, plan: TrainingPlan) -> Estimate:
        """What `predict` says of the plan."""
        gpu = gpu_of(plan)
        workspace = workspace_of(gpu)
        # What a walk depends on beside its plan: the generation of kernels, and the model's file as it is now.
        around = (min(int(capability_of(gpu)), NEWEST_KERNELS), stamp_of(plan.model, self.root))
        step = plan.model_copy(update=_OTHER_DEVICE)
        walked = None
        for known, bytes_known, same, estimate in reversed(self._recent):  # the likeliest first
            if known == around and same == step:
                if bytes_known == workspace:
                    return replace(estimate, plan=plan, gpu=gpu)
                walked = estimate.walked
        if plan.step.typical_seq_len is not None:  # a note tells of a second walk there
            estimate = predict(plan, root=self.root, simulation=self._simulation)
        else:
            model, _, _ = model_of(plan, self.root)
            estimate = estimate_of(plan, model, gpu, walked or self._walk(plan, gpu, around), self._simulation)
        self._recent.append((around, workspace, step, estimate))
        return estimate

    def _walk(self, plan: TrainingPlan, gpu: GpuProfile | None, around: object) -> Walk:
        """The plan's walk. The second of plans alike in all but their sizes is walked as their pattern: most plans have
        no second, and a pattern takes longer.
        """
        _, family, config = model_of(plan, self.root)
        batch, seq = plan.step.batch_size, plan.step.seq_len
        alike = plan.model_copy(update=_OTHER_DEVICE | {"step": plan.step.model_copy(update=_OTHER_SIZES)})
        seen = False
        for known, same, pattern in reversed(self._patterns):
            if known == around and same == alike:
                walked = None if pattern is None else pattern.at(batch, seq)
                if walked is not None:
                    return walked
                seen = True
        if not seen:
            self._patterns.append((around, alike, None))
            return walk(plan, family, config, seq_len=seq, compute_capability=capability_of(gpu))
        pattern = Pattern(plan, family, config, compute_capability=capability_of(gpu))
        self._patterns.append((around, alike, pattern))
        walked = pattern.at(batch, seq)
        assert walked is not None
        return walked
