"""memplanner predicts, traces and measures the GPU memory of low-rank language-model training.

>>> from memplanner import TrainingPlan, predict
>>> predict(TrainingPlan(model="llama-7b")).verdict
'does-not-fit'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memplanner.plan.training_plan import TrainingPlan
    from memplanner.prediction import Estimate, predict

__all__ = ["Estimate", "TrainingPlan", "predict"]

_HOMES = {
    "Estimate": "memplanner.prediction",
    "TrainingPlan": "memplanner.plan.training_plan",
    "predict": "memplanner.prediction",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import memplanner` alone costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'memplanner' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
