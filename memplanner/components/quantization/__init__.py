"""How a frozen base weight is stored and multiplied."""

from collections.abc import Mapping
from typing import Final

from memplanner.components.quantization.base import Quantization
from memplanner.components.quantization.bitsandbytes import Linear4bit, Linear8bit

QUANTIZATIONS: Final[Mapping[str, Quantization | None]] = {
    "none": None,
    "int8": Linear8bit(),
    "nf4": Linear4bit(),
    "nf4-double": Linear4bit(double_quantized=True),
}
"""By the plan's word for it."""
SAVED: Final[Mapping[str, Quantization]] = {
    "int8": Linear8bit(is_read=True),
    "nf4": Linear4bit(is_read=True),
    "nf4-double": Linear4bit(double_quantized=True, is_read=True),
}
"""The same of weights that were saved so."""
