"""Every rule of tape/aten against PyTorch itself: the same allocations and frees in the same order, in forward and in
backward, whichever inputs need a gradient.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

pytest.importorskip("torch")

from memplanner.program.shapes import BF16, BOOL, FP32, INT64
from tests.tape.aten_cases import KINDS, Given, each_way, on_tape, on_torch

Case = tuple[Callable[..., Any], Iterable[tuple[Given, ...]]]

X, ROW, QUERIES = (64, 32, 16), (16,), (4, 8, 16, 128)
BROADCAST = [(X, X), (X, ROW), ((64, 1, 16), (1, 32, 16)), (ROW, X)]
INDICES = Given((4, 6), INT64, "input")


def in_fp32(ways: Iterable[tuple[Given, ...]]) -> list[tuple[Given, ...]]:
    return [tuple(given._replace(dtype=FP32) for given in way) for way in ways]


def turned(op: Any, x: Any) -> Any:
    return op("transpose", x, 1, 2)


CASES: dict[str, Case] = {}


def case(name: str, function: Callable[..., Any], ways: Iterable[tuple[Given, ...]]) -> None:
    assert name not in CASES
    CASES[name] = function, list(ways)


# -- elementwise -------------------------------------------------------------------------------------------------------

UNARY = (
    *("exp", "log", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "silu", "gelu", "softplus", "relu", "tanh", "sigmoid"),
    *("neg", "abs", "clone"),
)
for unary in UNARY:
    case(unary, lambda op, x, name=unary: op(name, x), each_way(X))
    case(f"{unary} of a transposed", lambda op, x, name=unary: op(name, turned(op, x)), each_way(QUERIES))
for binary in ("add", "sub", "rsub", "mul", "div"):
    for dims in BROADCAST:
        case(f"{binary} {dims}", lambda op, a, b, name=binary: op(name, a, b), each_way(*dims))
    case(f"{binary} a number", lambda op, x, name=binary: op(name, x, 2.0), each_way(X))
    case(
        f"{binary} of two types",
        lambda op, a, b, name=binary: op(name, a, b),
        [(Given(X, FP32, a), Given((32, 16), BF16, b)) for a in KINDS for b in KINDS],
    )
    case(
        f"{binary} of two memory orders",
        lambda op, a, b, name=binary: op(name, a, turned(op, b)),
        each_way(QUERIES, (4, 16, 8, 128)),
    )
for exponent in (2, 3, 0.5, -1, 0, 1):
    case(f"pow {exponent}", lambda op, x, n=exponent: op("pow", x, n), each_way(X))
for limits in ((None, 1.0), (-1.0, None), (-1.0, 1.0)):
    case(f"clamp {limits}", lambda op, x, at=limits: op("clamp", x, *at), each_way(X))
case("to", lambda op, x: op("to", x, FP32), each_way(X))
case("to of a transposed", lambda op, x: op("to", turned(op, x), FP32), each_way(X))
case("to its own type", lambda op, x: op("neg", op("to", x, BF16)), each_way(X))
case("dropout", lambda op, x: op("dropout", x, 0.1), each_way(X))
case("dropout of a transposed", lambda op, x: op("dropout", turned(op, x), 0.1), each_way(X))
for mask, a, b in ((X, X, X), ((64, 1, 1), X, (1, 16)), (X, (64, 1, 16), ROW)):
    case(f"where {mask, a, b}", lambda op, c, a, b: op("where", c, a, b), each_way(Given(mask, BOOL, "input"), a, b))
case("masked_fill", lambda op, c, x: op("masked_fill", x, c, 0.0), each_way(Given((64, 32, 1), BOOL, "input"), X))
for comparison in ("eq", "lt"):
    case(comparison, lambda op, a, b, name=comparison: op(name, a, b), each_way(X, ROW))

# -- views -------------------------------------------------------------------------------------------------------------

AXES = (0, 3, 1, 2)
OF_ONE: dict[str, Callable[..., Any]] = {
    "permute": lambda op, x: op("permute", x, AXES),
    "a product of a permuted": lambda op, x: op("mul", op("permute", x, AXES), 2),
    "view": lambda op, x: op("view", op("mul", x, 2), size=(32, 16, 128)),
    "reshape that copies": lambda op, x: op("reshape", turned(op, op("mul", x, 2)), size=(4, 16, 1024)),
    "reshape of a whole": lambda op, x: op("reshape", op("transpose", op("mul", x, 2), 0, 1), size=(-1, 128)),
    "contiguous": lambda op, x: op("contiguous", turned(op, op("mul", x, 2))),
    "unsqueeze": lambda op, x: op("unsqueeze", op("mul", x, 2), 2),
    "squeeze": lambda op, x: op("squeeze", op("unsqueeze", turned(op, x), -1), -1),
    "expand": lambda op, x: op("expand", op("unsqueeze", x, 2), size=(4, 8, 3, 16, 128)),
    "repeated heads": lambda op, x: op(
        "reshape", op("expand", op("unsqueeze", x, 2), size=(4, 8, 3, 16, 128)), size=(4, 24, 16, 128)
    ),
    "slice": lambda op, x: op("mul", op("slice", x, 3, 0, 64), 2),
    "slice with a step": lambda op, x: op("neg", op("slice", turned(op, x), 3, 0, 128, 2)),
    "clone of a slice": lambda op, x: op("clone", op("slice", turned(op, x), 3, 0, 128, 2)),
    "cast of a slice": lambda op, x: op("to", op("slice", turned(op, x), 3, 0, 128, 2), FP32),
    "select": lambda op, x: op("mul", op("select", x, 1, 2), 2),
    "split": lambda op, x: op("add", *op("split", x, 64, 3)),
    "split, of which one is used": lambda op, x: op("split", x, 64, 3)[0],
    "split, of which two are used": lambda op, x: op("split", x, 32, 3)[1:3],
    "split_with_sizes": lambda op, x: op("mul", *op("split_with_sizes", x, (64, 64), -1)),
    "unbind, of which one is used": lambda op, x: op("unbind", x, 1)[2],
    "unbind, of which two are used": lambda op, x: op("add", *op("unbind", x, 1)[2:4]),
    "rotated": lambda op, x: op(
        "add",
        op("mul", x, 2),
        op("cat", [op("neg", op("slice", x, 3, 64, 128)), op("slice", x, 3, 0, 64)], -1),
    ),
    "rotated, of a transposed": lambda op, x: OF_ONE["rotated"](op, turned(op, x)),
    "softmax in fp32": lambda op, x: op("softmax", x, -1, FP32),
    "softmax": lambda op, x: op("softmax", x, -1),
    "mean of all": lambda op, x: op("mean", x),
    "sum of all": lambda op, x: op("sum", x),
}
for name, function in OF_ONE.items():
    case(name, function, each_way(QUERIES))
for reduction in ("sum", "mean"):
    for axes in ((-1,), (1, 2), (0,)):
        for keepdim in (False, True):
            case(
                f"{reduction} over {axes}, keepdim={keepdim}",
                lambda op, x, name=reduction, axes=axes, keep=keepdim: op(name, op("mul", x, 2), axes, keep),
                each_way(QUERIES),
            )
        case(
            f"a product with the {reduction} over {axes}",
            lambda op, x, name=reduction, axes=axes: op("mul", x, op(name, x, axes, True)),
            each_way(QUERIES),
        )
case("cat", lambda op, x, y: op("cat", [x, y], 1), each_way(QUERIES, QUERIES))
case("cat at the end", lambda op, x, y: op("cat", [op("neg", x), y], -1), each_way(QUERIES, QUERIES))
case("stack", lambda op, x, y: op("stack", [op("neg", x), y], -1), each_way(QUERIES, QUERIES))

# -- products ----------------------------------------------------------------------------------------------------------

case("mm", lambda op, x, y: op("mm", x, y), each_way((64, 32), (32, 16)))
case(
    "mm of transposed",
    lambda op, x, y: op("mm", op("t", op("reshape", x, size=(32, 64))), op("t", op("reshape", y, size=(16, 32)))),
    each_way((64, 32), (32, 16)),
)
case("bmm", lambda op, x, y: op("bmm", x, y), each_way((4, 64, 32), (4, 32, 16)))
for dims in (
    ((64, 32), (32, 16)),
    ((4, 64, 32), (4, 32, 16)),
    ((4, 8, 64, 32), (4, 8, 32, 16)),
    ((4, 8, 64, 32), (32, 16)),
    ((4, 1, 64, 32), (4, 8, 32, 16)),
    ((64, 32), (4, 32, 16)),
    ((8, 64, 32), (4, 8, 32, 16)),
    ((1, 64, 32), (4, 32, 16)),
):
    case(f"matmul {dims}", lambda op, x, y: op("matmul", x, y), each_way(*dims))


def scores(op: Any, x: Any, y: Any) -> Any:
    return op("matmul", turned(op, x), op("transpose", turned(op, y), 2, 3))


BY_TOKEN = (4, 64, 8, 32)
case("scores of attention", scores, each_way(BY_TOKEN, BY_TOKEN))
case(
    "scores of what was negated", lambda op, x, y: scores(op, op("neg", x), op("neg", y)), each_way(BY_TOKEN, BY_TOKEN)
)
W, ROWS, HIDDEN = (48, 32), (256, 32), (4, 64, 32)
case("linear", lambda op, x, w: op("linear", x, w), each_way(HIDDEN, W))
case(
    "linear of a transposed",
    lambda op, x, w: op("linear", op("transpose", op("reshape", x, size=(64, 4, 32)), 0, 1), w),
    each_way(HIDDEN, W),
)
case("linear of a slice", lambda op, x, w: op("linear", op("slice", x, 1, 0, 32), w), each_way(HIDDEN, W))
case("linear of rows", lambda op, x, w: op("linear", x, w), each_way(ROWS, W))
case(
    "linear with a part of the weight",
    lambda op, x, w: op("add", x, op("linear", x, op("slice", w, 0, 0, 32))),
    each_way(ROWS, W),
)
case("linear with a bias", lambda op, x, w, b: op("linear", x, w, b), each_way(HIDDEN, W, (48,)))
case("linear of rows with a bias", lambda op, x, w, b: op("linear", x, w, b), each_way(ROWS, W, (48,)))
case(
    "linear of columns",
    lambda op, x, w, b: op("linear", op("t", op("reshape", x, size=(32, 256))), w, b),
    each_way(ROWS, W, (48,)),
)
case("addmm", lambda op, x, w, b: op("addmm", b, x, op("t", w)), each_way(ROWS, W, (48,)))
# The CPU's kernel keeps its statistics in the input's type, CUDA's in fp32.
case("layer_norm", lambda op, x, w, b: op("layer_norm", x, w, b), in_fp32(each_way(HIDDEN, (32,), (32,))))
case("layer_norm without a weight", lambda op, x: op("layer_norm", x), in_fp32(each_way(HIDDEN)))

# -- indices -----------------------------------------------------------------------------------------------------------

TABLE = (64, 32)
case("embedding", lambda op, i, x: op("embedding", x, i), each_way(INDICES, TABLE))
case("index", lambda op, i, x: op("index", x, [i]), each_way(INDICES, TABLE))
case("index of columns", lambda op, i, x: op("index", x, [None, i]), each_way(INDICES, TABLE))
case(
    "index_select",
    lambda op, i, x: op("index_select", x, 0, op("reshape", i, size=(24,))),
    each_way(INDICES, TABLE),
)
case("gather", lambda op, i, x: op("gather", x, 0, i), each_way(INDICES, TABLE))
case("constant_pad_nd", lambda op, x: op("constant_pad_nd", x, size=(1, 1)), each_way(TABLE))


@pytest.mark.parametrize("name", CASES)
def test_allocations_are_pytorch_s(name: str) -> None:
    function, ways = CASES[name]
    for way in ways:
        log, shapes = on_torch(function, way)
        assert on_tape(function, way, shapes) == log, way
