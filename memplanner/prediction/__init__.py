"""The analytic model: a plan to an estimate, in pure Python."""

from memplanner.prediction.estimate import Estimate, longest_sequence, predict, widest_rank
from memplanner.prediction.predictor import Predictor

__all__ = ["Estimate", "Predictor", "longest_sequence", "predict", "widest_rank"]
