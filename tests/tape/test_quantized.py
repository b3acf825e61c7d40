"""The tensors of a quantised weight, against bitsandbytes' own modules."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
bitsandbytes = pytest.importorskip("bitsandbytes")

from memplanner.components.quantization import QUANTIZATIONS
from memplanner.program.shapes import Shape

SHAPES = [(64, 64), (96, 200), (1000, 72), (512, 1024)]


def sizes(quantization: str, out: int, in_: int) -> list[int]:
    chosen = QUANTIZATIONS[quantization]
    assert chosen is not None
    return sorted(t.shape.numel * t.dtype.size for t in chosen.tensors(Shape(out=out, in_=in_)))


def nbytes(*tensors: Any) -> list[int]:
    return sorted(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_nf4(out: int, in_: int) -> None:
    layer = bitsandbytes.nn.Linear4bit(in_, out, bias=False, quant_type="nf4", compress_statistics=False).to("cpu")
    state = layer.weight.quant_state
    assert sizes("nf4", out, in_) == nbytes(layer.weight, state.absmax, state.code)


@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_nf4_double(out: int, in_: int) -> None:
    layer = bitsandbytes.nn.Linear4bit(in_, out, bias=False, quant_type="nf4", compress_statistics=True).to("cpu")
    state = layer.weight.quant_state
    nested = state.state2
    real = nbytes(layer.weight, state.absmax, state.code, nested.absmax, nested.code, state.offset)
    assert sizes("nf4-double", out, in_) == real


@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_int8(out: int, in_: int) -> None:
    layer = bitsandbytes.nn.Linear8bitLt(in_, out, bias=False, has_fp16_weights=False).to("cpu")
    layer(torch.randn(3, in_, dtype=torch.float16))
    assert sizes("int8", out, in_) == nbytes(layer.state.CB, layer.state.SCB)
