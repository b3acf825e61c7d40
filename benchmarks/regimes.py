"""The paper's LLaMA sizes, trained whole in bf16 with AdamW, beside their traces: every regime that moves the peak."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from memplanner.catalogue import find_model
from memplanner.plan.training_plan import TrainingPlan
from memplanner.report.validate_report import percent
from memplanner.units import format_bytes
from memplanner.validation.traces import validate_traces

MODELS = ("llama-60m", "llama-130m", "llama-350m", "llama-1b", "llama-7b")
BATCHES = (1, 16)
CHECKPOINTING = ("none", "full")
KEPT = (False, True)


def regimes(models: tuple[str, ...] = MODELS) -> Iterator[tuple[str, TrainingPlan, Path]]:
    """(name, plan, directory) of each: model × batch × checkpointing × gradients kept into the next forward or not."""
    for model, batch, checkpointing, kept in itertools.product(models, BATCHES, CHECKPOINTING, KEPT):
        plan = TrainingPlan.model_validate(
            {
                "model": model,
                "method": "full",
                "step": {
                    "batch_size": batch,
                    "seq_len": 256,
                    "checkpointing": checkpointing,
                    "keep_gradients": kept,
                },
            }
        )
        gradients = "gradients kept" if kept else "gradients freed"
        blocks = "blocks checkpointed" if checkpointing == "full" else "all activations"
        yield f"{model}, batch {batch}, {blocks}, {gradients}", plan, Path()


def peer_bytes(plan: TrainingPlan) -> int | None:
    """vramcalc's total for the plan, without its overhead (extra `bench`); None where it is not installed. It has no
    word for kept gradients.
    """
    try:
        import vramcalc
    except ModuleNotFoundError:
        return None
    step = plan.step
    found = vramcalc.estimate(
        dict(find_model(plan.model, Path()).config),
        mode="train",
        precision="pure",
        dtype="bf16",
        batch=step.batch_size,
        seq_len=step.seq_len,
        grad_checkpoint=step.checkpointing == "full",
    )
    return int(found.total)


def regime_table() -> list[str]:
    """Allocated peaks of every regime: traced, predicted, and the peer's."""
    plans = {name: plan for name, plan, _ in regimes()}
    rows = [row for row in validate_traces(regimes()).rows if row.metric == "allocated"]
    theirs = {}
    for name, plan in plans.items():
        peer = peer_bytes(plan)
        if peer is not None:
            theirs[name] = peer
    lines = [_summary("memplanner", [row.error for row in rows])]
    if theirs:
        lines.append(_summary("vramcalc 0.1.2", [theirs[r.id] / r.measured_bytes - 1 for r in rows]))
    lines += [
        "",
        "| plan (bf16, AdamW foreach, 256 tokens) | traced | off by | vramcalc |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        peer_error = percent(theirs[row.id] / row.measured_bytes - 1) if row.id in theirs else ""
        off = f"{row.predicted_bytes - row.measured_bytes:+,} B"
        lines.append(f"| {row.id} | {format_bytes(row.measured_bytes)} | {off} | {peer_error} |")
    return lines


def _summary(tool: str, errors: list[float]) -> str:
    mean, worst = sum(map(abs, errors)) / len(errors), max(errors, key=abs)
    return f"- {tool}: mean error {mean:.4%}, worst {worst:+.4%}"
