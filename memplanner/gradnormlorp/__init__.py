"""GradNormLoRP (arXiv 2412.19616) as a library that trains: the layer, the optimizer, apply, merge, save and load.

>>> settings = GradNormLorp(rank=128, projection_rank=128)
>>> apply_gradnormlorp(model, settings)
>>> optimizer = GradNormLoRPAdamW(parameter_groups(model, settings), lr=1e-3, state="8-bit")
"""

from memplanner.components.methods.gradnormlorp import GradNormLorp
from memplanner.gradnormlorp.adapter_file import load_adapter, save_adapter
from memplanner.gradnormlorp.layer import GradNormLoRPLinear
from memplanner.gradnormlorp.model import (
    apply_gradnormlorp,
    fold,
    fold_every,
    merge_and_unload,
    parameter_groups,
)
from memplanner.gradnormlorp.optimizer import GradNormLoRPAdamW

__all__ = [
    "GradNormLoRPAdamW",
    "GradNormLoRPLinear",
    "GradNormLorp",
    "apply_gradnormlorp",
    "fold",
    "fold_every",
    "load_adapter",
    "merge_and_unload",
    "parameter_groups",
    "save_adapter",
]
