"""The paper's sizes in every regime that moves the peak: each phase of the prediction equals the trace."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.regimes import regimes
from memplanner.validation.traces import validate_traces

PEAKS = ("allocated", "load", "forward", "loss", "backward", "update", "steady")


def test_the_papers_models() -> None:
    plans = list(regimes(("llama-60m", "llama-130m", "llama-350m")))
    plans += [(name, plan, root) for name, plan, root in regimes(("llama-7b",)) if plan.step.keep_gradients]
    validation = validate_traces(plans)
    assert validation.skipped == []
    peaks = [row for row in validation.rows if row.metric in PEAKS]
    assert len({row.id for row in peaks}) == len(plans) == 28
    off = [f"{row.id}: {row.metric} {row.error:+.4%}" for row in peaks if abs(row.error) > 1e-5]
    assert off == []
