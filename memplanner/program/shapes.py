"""Data types and labelled shapes: the numbers behind every tensor's size, kept so that `why` can show them."""

from math import prod
from typing import Final


class Dtype:
    """A tensor's element type: its short name and its size in bytes."""

    __slots__ = ("name", "size")

    def __init__(self, name: str, size: int) -> None:
        self.name: Final = name
        self.size: Final = size

    def __repr__(self) -> str:
        return self.name


FP32 = Dtype("fp32", 4)
BF16 = Dtype("bf16", 2)
FP16 = Dtype("fp16", 2)
INT64 = Dtype("int64", 8)
INT32 = Dtype("int32", 4)
INT8 = Dtype("int8", 1)
UINT8 = Dtype("uint8", 1)
BOOL = Dtype("bool", 1)
COMPLEX64 = Dtype("complex64", 8)


class Shape:
    """Dimensions with the names they go by, e.g. Shape(batch=4, seq=256, hidden=512)."""

    __slots__ = ("dims", "labels", "numel")

    def __init__(self, **dims: int) -> None:
        self.labels: Final = tuple(dims)
        self.dims: Final = tuple(dims.values())
        self.numel: Final[int] = prod(self.dims)

    def why(self, dtype: Dtype) -> str:
        """The size as a formula, e.g. "4 batch × 256 seq × 512 hidden × 2 B (bf16)"."""
        factors = [f"{n} {label.rstrip('_')}" for n, label in zip(self.dims, self.labels, strict=True)]
        return " × ".join([*factors, f"{dtype.size} B ({dtype.name})"])


SCALAR = Shape()
