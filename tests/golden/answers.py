"""What the golden holds of a plan's answer: figures in full, rows and timeline as digests of every field."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, predict
from memplanner.report.notes import note_sentences

PLANS = Path(__file__).parent / "plans.jsonl"
"""One plan and its answer a line."""
COLUMNS = 40
"""Stretches of the timeline that is compared."""


def predicted(plan: TrainingPlan) -> Estimate:
    return predict(plan)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def rows(estimate: Estimate) -> list[str]:
    """Every field of every row at the peak."""
    return [
        f"{r.name}|{r.category}|{r.shape}|{r.dtype}|{r.count}|{r.bytes}|{r.born}|{r.dies}|{r.why}"
        for r in estimate.rows
    ]


def timeline(estimate: Estimate) -> list[str]:
    """The most bytes in each stretch of the step."""
    return [f"{phase} {size}" for phase, size, _ in estimate.timeline.points(COLUMNS)]


def notes(estimate: Estimate) -> list[str]:
    """As a person reads them."""
    return list(note_sentences(estimate.notes))


def figures(estimate: Estimate) -> dict[str, Any]:
    """All numbers of the answer, and digests of what is long."""
    return {
        "phases": {p.name: [p.peak_bytes, p.end_bytes] for p in estimate.live_phases},
        "at_peak": {name: size for name, size in estimate.at_peak.items() if size},
        "persistent": {name: size for name, size in estimate.persistent.items() if size},
        "parameters": [estimate.num_parameters, estimate.num_trainable],
        "allocated": {p.name: [p.peak_bytes, p.end_bytes] for p in estimate.phases},
        "reserved": estimate.reserved_bytes,
        "device": estimate.device_bytes,
        "verdict": estimate.verdict,
        "notes": notes(estimate),
        "rows": _digest(rows(estimate)),
        "timeline": _digest(timeline(estimate)),
    }


def answer(fields: dict[str, Any]) -> dict[str, Any]:
    """The figures of a plan; {"refused": why} where no library has what it asks for, or none can run it."""
    try:
        return figures(predicted(TrainingPlan.model_validate(fields)))
    except ValidationError as error:
        return {"refused": [problem["msg"] for problem in error.errors()]}
    except UserError as error:
        return {"refused": [str(problem) for problem in error.problems]}


def golden() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every plan with the answer that is kept."""
    with PLANS.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            yield entry["plan"], entry["answer"]
