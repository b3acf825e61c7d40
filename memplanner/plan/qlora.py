"""qlora, a word for a method and its base's format at once: LoRA over a base in 4 bits with quantised scales.

So the paper has it (arXiv 2305.14314, NF4 with double quantisation), and so peft's guide to quantization loads a base.
"""

from collections.abc import Mapping
from typing import Any, Final

QLORA: Final = "qlora"
UNDER: Final = "lora"
"""The method that it is."""
FORMATS: Final = ("nf4-double", "nf4")
"""The formats of a base that it goes with; the first where none is chosen."""


def is_qlora(method: Any) -> bool:
    """Whether a plan's method, a word or a table with its kind, is qlora."""
    kind = method.get("kind") if isinstance(method, Mapping) else method
    return isinstance(kind, str) and kind == QLORA


def spell_out(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a plan, with qlora as the two settings that it stands for. A table that has another format for the
    base as well is left as it is.
    """
    method, quantization = table.get("method"), table.get("quantization", FORMATS[0])
    if not is_qlora(method) or quantization not in FORMATS:
        return dict(table)
    under = {**method, "kind": UNDER} if isinstance(method, Mapping) else UNDER
    return {**table, "method": under, "quantization": quantization}
