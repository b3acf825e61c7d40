"""The analytic model: a plan to an estimate, in pure Python."""

from memplanner.prediction.estimate import Estimate, Predictor, longest_sequence, predict, widest_rank

__all__ = ["Estimate", "Predictor", "longest_sequence", "predict", "widest_rank"]
