"""The analytic model: from a plan to an estimate of its memory, in pure Python."""

from memplanner.prediction.estimate import Estimate, longest_sequence, predict, widest_rank
from memplanner.prediction.predictor import Predictor

__all__ = ["Estimate", "Predictor", "longest_sequence", "predict", "widest_rank"]
