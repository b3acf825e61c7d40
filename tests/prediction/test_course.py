"""The step moment by moment: what the timeline draws is what the peaks were read off."""

from itertools import product

import pytest

from memplanner.plan.merge import merge
from memplanner.prediction import predict

MODELS = ("llama-60m", "gpt2", "roberta-base", "qwen2.5-0.5b")
STEPS: tuple[dict[str, str | bool], ...] = (
    {},
    {"--checkpointing": "full"},
    {"--checkpointing": "every-3", "--keep-outputs": True},
    {"--grad-accumulation": "2"},
    {"--per-layer-updates": True},
)
METHODS = ("full", "lora", "dora", "galore", "gradnormlorp")


CASES = [(MODELS[i % len(MODELS)], method, step) for i, (method, step) in enumerate(product(METHODS, STEPS))]
"""Every method with every step, the models in turn: of what a plan consists test_invariants draws at random."""


@pytest.mark.parametrize(("model", "method", "step"), CASES, ids=str)
def test_every_moment_is_accounted_for(model: str, method: str, step: dict[str, str | bool]) -> None:
    flags = {"--method": method, "--batch-size": "2", "--seq-len": "64", **step}
    if method != "full":
        flags["--rank"] = "16"
    estimate = predict(merge({"model": model}, flags, where="test"))
    course = estimate.timeline.points(60)
    assert len(course) <= 60
    seen: dict[str, int] = {}
    for phase, size, moment in course:
        assert sum(estimate.timeline.by_category(moment).values()) == size
        seen[phase] = max(seen.get(phase, 0), size)
    assert max(seen.values()) == estimate.live_bytes
    peaks: dict[str, int] = {phase.name: phase.peak_bytes for phase in estimate.live_phases}
    replayed = {"update": "refresh", "backward": "refresh"} if estimate.peak_phase == "refresh" else {}
    for name, size in seen.items():
        if name in peaks and name not in replayed and name != "steady":
            assert size == peaks[name], name
    phases = [phase for phase, _, _ in course]
    assert phases == sorted(phases, key=list(dict.fromkeys(phases)).index)
    rows = estimate.timeline.rows_at(course[len(course) // 2][2])
    assert sum(row.bytes for row in rows) == course[len(course) // 2][1]
