"""The analytic model: from a plan to an estimate of its memory, in pure Python."""

from typing import TYPE_CHECKING, Any

from memplanner.prediction.estimate import Estimate, longest_sequence, predict, widest_rank

if TYPE_CHECKING:
    from memplanner.prediction.predictor import Predictor

__all__ = ["Estimate", "Predictor", "longest_sequence", "predict", "widest_rank"]


def __getattr__(name: str) -> Any:
    """Import the Predictor on first use: one prediction by itself needs none."""
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from memplanner.prediction.predictor import Predictor

    return Predictor
