"""The analytic model: a plan to an estimate, in pure Python."""

from memplanner.prediction.estimate import Estimate, predict

__all__ = ["Estimate", "predict"]
