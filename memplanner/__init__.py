"""memplanner predicts, traces and measures the GPU memory of low-rank language-model training.

>>> from memplanner import TrainingPlan, predict
>>> predict(TrainingPlan(model="llama-7b")).verdict
'does-not-fit'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memplanner.plan import TrainingPlan
    from memplanner.predict import Estimate, predict

__all__ = ["Estimate", "TrainingPlan", "predict"]

_HOMES = {"Estimate": "memplanner.predict", "TrainingPlan": "memplanner.plan", "predict": "memplanner.predict"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import memplanner` alone costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'memplanner' has no attribute {name!r}")
    from importlib import import_module

    # "predict" is also the name of a subpackage, which importing it puts here: the function takes its place.
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
