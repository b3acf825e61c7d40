"""The analytic model: a plan to an estimate, in pure Python."""

from memplanner.predict.estimate import Estimate, predict

__all__ = ["Estimate", "predict"]
