"""Predictions held against traces of plans drawn at random: what a step keeps to the byte, every phase's peak closely.

A fixed draw runs always. `make grid` draws as many as it is told, from a seed of its own, and prints the seed:
MEMPLANNER_GRID=200 MEMPLANNER_SEED=7.
"""

import os
import random
import statistics
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.validation.traces import validate_traces
from tests.validation.grid import draw

KEPT = ("parameters", "adapters", "gradients", "optimizer state", "projectors")
PEAKS = ("allocated", "load", "forward", "loss", "backward", "update", "refresh", "steady")
MEDIAN, WORST = 0.0005, 0.005


def count_and_seed() -> tuple[int, int]:
    count = int(os.environ.get("MEMPLANNER_GRID", "24"))
    seed = os.environ.get("MEMPLANNER_SEED")
    if seed is None:
        seed = "20" if "MEMPLANNER_GRID" not in os.environ else str(random.SystemRandom().randrange(1 << 30))
    return count, int(seed)


def test_plans_drawn_at_random(tmp_path: Path) -> None:
    count, seed = count_and_seed()
    plans = {f"plan {i} of seed {seed}": plan for i, plan in enumerate(draw(seed, count, tmp_path))}
    validation = validate_traces((name, plan, tmp_path) for name, plan in plans.items())
    assert len(validation.skipped) <= count // 20, validation.skipped
    kept = [row for row in validation.rows if row.metric in KEPT]
    assert kept
    assert [row for row in kept if row.predicted_bytes != row.measured_bytes] == []
    peaks = [row for row in validation.rows if row.metric in PEAKS]
    assert statistics.median(abs(row.error) for row in peaks) <= MEDIAN
    off = [f"{row.id}: {row.metric} {row.error:+.3%}, {plans[row.id]!r}" for row in peaks if abs(row.error) > WORST]
    assert off == []
