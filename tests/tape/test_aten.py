"""Every rule of tape/aten against PyTorch itself: the same allocations and frees in the same order, in forward and in
backward, whichever inputs need a gradient.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest

pytest.importorskip("torch")

from memplanner.program.shapes import BF16, BOOL, FP16, FP32, INT32, INT64
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
    *(
        "neg",
        "abs",
        "clone",
        "ceil",
        "round",
        "trunc",
        "log1p",
        "expm1",
        "floor",
        "sign",
        "leaky_relu",
        "elu",
        "mish",
        "hardswish",
    ),
)
for unary in UNARY:
    case(unary, lambda op, x, name=unary: op(name, x), each_way(X))
    case(f"{unary} of a transposed", lambda op, x, name=unary: op(name, turned(op, x)), each_way(QUERIES))
for binary in ("maximum", "minimum"):
    for dims in BROADCAST:
        case(f"{binary} {dims}", lambda op, a, b, name=binary: op(name, a, b), each_way(*dims))
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
case("addcmul", lambda op, x, a, b: op("addcmul", x, a, b), each_way(X, X, X))
case("to", lambda op, x: op("to", x, FP32), each_way(X))
case("to of a transposed", lambda op, x: op("to", turned(op, x), FP32), each_way(X))
case("to its own type", lambda op, x: op("neg", op("to", x, BF16)), each_way(X))
case("dropout", lambda op, x: op("dropout", x, 0.1), each_way(X))
case("dropout of a transposed", lambda op, x: op("dropout", turned(op, x), 0.1), each_way(X))
for mask, a, b in ((X, X, X), ((64, 1, 1), X, (1, 16)), (X, (64, 1, 16), ROW)):
    case(f"where {mask, a, b}", lambda op, c, a, b: op("where", c, a, b), each_way(Given(mask, BOOL, "input"), a, b))
case("masked_fill", lambda op, c, x: op("masked_fill", x, c, 0.0), each_way(Given((64, 32, 1), BOOL, "input"), X))
for limit in ("clamp_min", "clamp_max"):
    case(limit, lambda op, x, name=limit: op(name, x, 1.0), each_way(X))
for comparison in ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"):
    case(comparison, lambda op, a, b, name=comparison: op(name, a, b), each_way(X, ROW))

for question in ("isnan", "isinf", "logical_not"):
    case(question, lambda op, x, name=question: op(name, turned(op, x)), each_way(QUERIES))
WHOLE_NUMBERS, TRUTHS = Given(X, INT64, "input"), Given(X, BOOL, "input")
for binary in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    case(binary, lambda op, a, b, name=binary: op("bitwise_not", op(name, a, b)), [(TRUTHS, TRUTHS)])
for binary in ("floor_divide", "remainder", "fmod"):
    case(binary, lambda op, a, name=binary: op(name, a, 2), [(WHOLE_NUMBERS,)])
for binary in ("__lshift__", "__rshift__"):
    case(binary, lambda op, a, name=binary: op(name, a, 1), [(WHOLE_NUMBERS,)])
for a_type, b_type in itertools.product((BOOL, INT32, INT64, FP16, BF16, FP32), repeat=2):
    for b_dims in (X, ()):
        case(
            f"the type of {a_type} times {b_type} {b_dims}",
            lambda op, a, b: op("mul", a, b),
            [(Given(X, a_type, "input"), Given(b_dims, b_type, "input"))],
        )
for number in (True, 2, 2.0):
    case(
        f"the type of a product with {number}",
        lambda op, *tensors, n=number: [op("mul", x, n) for x in tensors][-1],
        [tuple(Given(X, dtype, "input") for dtype in (BOOL, INT32, INT64, BF16, FP32))],
    )
case(
    "the types of what integers give",
    lambda op, a, b: [op("div", a, 2), op("exp", a), op("sum", b), op("cumsum", b, 0), op("pow", a, 2), op("abs", a)][
        -1
    ],
    [(Given(X, INT32, "input"), TRUTHS)],
)

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
    "diagonal": lambda op, x: op("neg", op("diagonal", x, 0, -2, -1)),
    "unfold": lambda op, x: op("neg", op("unfold", x, 3, 8, 4)),
    "alias": lambda op, x: op("mul", op("alias", x), 2),
    "cumsum": lambda op, x: op("cumsum", x, -1),
    "cumsum of a transposed": lambda op, x: op("cumsum", turned(op, x), -1),
    "log_softmax": lambda op, x: op("log_softmax", x, -1),
    "amax": lambda op, x: op("amax", x, (-1,), True),
    "amax without the dimension": lambda op, x: op("amax", x, (-1,), False),
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

REARRANGED: list[tuple[str, tuple[Any, ...]]] = [
    ("flip", ((1,),)),
    ("roll", (1, 1)),
    ("tril", (0,)),
    ("triu", (1,)),
]
for rearranged, args in REARRANGED:
    case(rearranged, lambda op, x, name=rearranged, args=args: op(name, x, *args), each_way(QUERIES))
    case(
        f"{rearranged} of a transposed",
        lambda op, x, name=rearranged, args=args: op(name, turned(op, x), *args),
        each_way(QUERIES),
    )
for sizes in ((2, 1, 3), (2, 1, 1), (1, 3), (2, 3), (1, 1), (1, 1, 1)):
    case(f"repeat {sizes}", lambda op, x, sizes=sizes: op("repeat", x, size=sizes), each_way((64, 512)))
case("amin", lambda op, x: op("amin", x, (-1,), True), each_way((64, 512)))
for reduction in ("any", "all"):
    case(reduction, lambda op, x, name=reduction: op(name, x, -1), [(TRUTHS,)])
for reduction in ("argmax", "argmin"):
    case(reduction, lambda op, x, name=reduction: op(name, x, -1), each_way((64, 512)))
for keep in (False, True):
    case(f"logsumexp, keepdim={keep}", lambda op, x, k=keep: op("logsumexp", x, -1, k), in_fp32(each_way((64, 512))))
    case(
        f"linalg_vector_norm, keepdim={keep}",
        lambda op, x, k=keep: op("linalg_vector_norm", x, 2, -1, k),
        in_fp32(each_way((64, 512))),
    )
case("var", lambda op, x: op("var", x, (-1,)), in_fp32(each_way((64, 512))))

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
for factor in (1, 0.5):
    for summand in ((4, 64, 16), (4, 1, 16)):
        case(
            f"baddbmm {summand} times {factor}",
            lambda op, x, a, b, f=factor: op("baddbmm", x, a, b, f, f),
            each_way(summand, (4, 64, 32), (4, 32, 16)),
        )
GROUPS = Given((4,), INT32, "input")
case(
    "_grouped_mm by a transposed",
    lambda op, offsets, x, w: op("_grouped_mm", x, op("transpose", w, 1, 2), offsets),
    each_way(GROUPS, (64, 32), (4, 48, 32)),
)
case(
    "_grouped_mm",
    lambda op, offsets, x, w: op("_grouped_mm", x, w, offsets),
    each_way(GROUPS, (64, 32), (4, 32, 48)),
)
for batch in ((4,), (2, 4)):
    case(
        f"linalg_solve_triangular of {batch}",
        lambda op, a, b: op("linalg_solve_triangular", a, b, False),
        in_fp32(each_way((*batch, 64, 64), (*batch, 64, 32))),
    )


def trained_together(ways: Iterable[tuple[Given, ...]]) -> list[tuple[Given, ...]]:
    """The CPU's kernel makes the weight's gradient also where only the bias has one."""
    return [way for way in in_fp32(ways) if (way[1].kind in LEARNS) == (way[2].kind in LEARNS)]


LEARNS = ("hidden", "trained")
BY_CHANNEL = ([1], [3], [1], False, [0], 64)
PATCHES = ([4, 4], [0, 0], [1, 1], False, [0, 0], 1)
case(
    "convolution by channel",
    lambda op, x, w, b: op("convolution", x, w, b, *BY_CHANNEL),
    trained_together(each_way((4, 64, 128), (64, 1, 4), (64,))),
)
case(
    "convolution of a transposed",
    lambda op, x, w, b: op("convolution", turned(op, x), w, b, *BY_CHANNEL),
    trained_together(each_way((4, 128, 64), (64, 1, 4), (64,))),
)
case(
    "convolution of patches",
    lambda op, x, w, b: op("convolution", x, w, b, *PATCHES),
    trained_together(each_way((2, 3, 32, 32), (16, 3, 4, 4), (16,))),
)
case(
    "convolution without a bias",
    lambda op, x, w: op("convolution", x, w, None, *PATCHES),
    in_fp32(each_way((2, 3, 32, 32), (16, 3, 4, 4))),
)
# The CPU's kernel keeps its statistics in the input's type, CUDA's in fp32.
case("layer_norm", lambda op, x, w, b: op("layer_norm", x, w, b), in_fp32(each_way(HIDDEN, (32,), (32,))))
case(
    "native_layer_norm",
    lambda op, x, w, b: op("native_layer_norm", x, w, b)[0],
    in_fp32(each_way(HIDDEN, (32,), (32,))),
)
case(
    "native_group_norm",
    lambda op, x, w, b: op("native_group_norm", x, w, b)[0],
    in_fp32(each_way((4, 32, 64), (32,), (32,))),
)
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


case("topk", lambda op, x: op("topk", x, 8, -1)[0], each_way((64, 512)))
case("sort", lambda op, x: op("sort", x, -1), each_way((64, 512)))
case("max", lambda op, x: op("max", x, -1, True), each_way((64, 512)))
case("max without the dimension", lambda op, x: op("max", x, -1, False)[0], each_way((64, 512)))
BY_ROW, ROWS_OF = Given((64, 8), INT64, "input"), Given((64,), INT64, "input")
case("scatter a number", lambda op, i, x: op("scatter", x, 1, i, 0.0), each_way(BY_ROW, (64, 512)))
for put in ("scatter", "scatter_add"):
    case(put, lambda op, i, x, y, name=put: op(name, x, 1, i, y), each_way(BY_ROW, (64, 512), (64, 8)))
case("index_put", lambda op, i, x, y: op("index_put", x, [i], y), each_way(ROWS_OF, (64, 512), (64, 512)))
case("index_put that adds", lambda op, i, x, y: op("index_put", x, [i], y, True), each_way(ROWS_OF, X, X))
case("index_add", lambda op, i, x, y: op("index_add", x, 0, i, y), each_way(ROWS_OF, X, X))

# -- made --------------------------------------------------------------------------------------------------------------

case("argsort", lambda op, x: op("argsort", x), [(WHOLE_NUMBERS,)])
for maker in ("zeros", "ones", "empty", "rand", "randn", "full", "arange"):
    case(
        maker,
        lambda op, x, name=maker: op("add", x, op(name, FP32, size=(512,) if name != "arange" else 512)),
        each_way((64, 512)),
    )
    if maker != "arange":
        case(
            f"{maker}_like",
            lambda op, x, name=maker: [op(f"{name}_like", turned(op, x), None), op(f"{name}_like", x, FP32)][0],
            each_way(QUERIES),
        )
for maker in ("zeros", "ones", "full", "empty"):
    case(
        f"new_{maker}",
        lambda op, x, name=maker: [op(f"new_{name}", x, None, size=(3, 5)), op(f"new_{name}", x, INT64, size=(3, 5))][
            0
        ],
        each_way(QUERIES),
    )
case("detach", lambda op, x: op("mul", x, op("detach", turned(op, turned(op, x)))), each_way(QUERIES))
case("lift_fresh", lambda op, x: op("mul", op("lift_fresh", x), 2), [(TRUTHS,)])

# -- in place ----------------------------------------------------------------------------------------------------------


def changed(*dims: tuple[int, ...] | Given) -> list[tuple[Given, ...]]:
    """Each way in which the first input is no parameter, which an operation in place would refuse."""
    return [way for way in each_way(*dims) if way[0].kind in ("hidden", "input")]


for change in ("add_", "sub_", "mul_", "div_", "copy_"):
    for dims in ((X, X), (X, ROW)):
        case(f"{change} {dims}", lambda op, a, b, name=change: op(name, a, b), changed(*dims))
        case(f"{change} {dims}, used", lambda op, a, b, name=change: op("mul", op(name, a, b), 2), changed(*dims))
        case(
            f"{change} {dims} of a wider one",
            lambda op, a, b, name=change: op(name, a, b),
            [(a, b._replace(dtype=FP32)) for a, b in changed(*dims)],
        )
for change in ("add_", "mul_", "div_", "fill_"):
    case(f"{change} a number", lambda op, x, name=change: op(name, x, 2.0), changed(X))
for change in (
    "relu_",
    "neg_",
    "silu_",
    "gelu_",
    "sigmoid_",
    "tanh_",
    "exp_",
    "zero_",
    "uniform_",
    "normal_",
    "exponential_",
    "bernoulli_",
):
    case(change, lambda op, x, name=change: op(name, x), changed(X))
case("clamp_", lambda op, x: op("clamp_", x, -1.0, 1.0), changed(X))
case("masked_fill_", lambda op, mask, x: op("masked_fill_", x, mask, 0.0), each_way(Given(X, BOOL, "input"), Given(X)))
case("scatter_", lambda op, x, i, y: op("scatter_", x, 1, i, y), changed((64, 512), BY_ROW, (64, 8)))
case("index_put_", lambda op, x, i, y: op("index_put_", x, [i], y), changed(X, ROWS_OF, X))
case("index_add_", lambda op, x, i, y: op("index_add_", x, 0, i, y), changed(X, ROWS_OF, X))


def copied_into(op: Any, x: Any, *parts: Any) -> Any:
    for place, part in enumerate(parts):
        op("copy_", op("select", x, 1, place), part)
    return op("mul", x, 2)


def multiplied_part(op: Any, x: Any, factor: Any) -> Any:
    op("mul_", op("slice", x, 1, 0, 4), factor)
    return op("mul", x, 2)


def added_to_view(op: Any, x: Any, other: Any) -> Any:
    op("add_", op("view", x, size=(64, 4, 1024)), other)
    return op("mul", x, 2)


WHOLE = (64, 8, 512)
case("copy_ into a part", copied_into, changed(WHOLE, (64, 512)))
case("copy_ into two parts", copied_into, changed(WHOLE, (64, 512), (64, 512)))
case("mul_ of a part", multiplied_part, changed(WHOLE, (64, 1, 512)))
case("add_ to a view", added_to_view, changed(WHOLE, (64, 4, 1024)))
case(
    "add_ to a view that is used",
    lambda op, x, other: op("mul", op("add_", op("view", x, size=(64, 4, 1024)), other), 2),
    changed(WHOLE, (64, 4, 1024)),
)

# -- parts of models ---------------------------------------------------------------------------------------------------


def rms_norm(op: Any, x: Any, weight: Any) -> Any:
    """LlamaRMSNorm.forward."""
    hidden = op("to", x, FP32)
    variance = op("mean", op("pow", hidden, 2), (-1,), True)
    hidden = op("mul", hidden, op("rsqrt", op("add", variance, 1e-6)))
    return op("mul", weight, op("to", hidden, BF16))


def mlp(op: Any, x: Any, gate: Any, up: Any, down: Any) -> Any:
    return op("linear", op("mul", op("silu", op("linear", x, gate)), op("linear", x, up)), down)


def block(op: Any, x: Any, norm: Any, gate: Any, up: Any, down: Any) -> Any:
    return op("add", x, mlp(op, rms_norm(op, x, norm), gate, up, down))


def checkpointed(op: Any, x: Any, *weights: Any) -> Any:
    return op("mul", op.checkpoint(lambda h: block(op, h, *weights), op.checkpoint(lambda h: op("exp", h), x)), 2)


def attention(op: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    """eager_attention_forward with two groups of heads."""
    q, k, v = (turned(op, op("view", x, size=(4, 64, -1, 16))) for x in (q, k, v))
    k, v = (
        op("reshape", op("expand", op("unsqueeze", x, 2), size=(4, 2, 4, 64, 16)), size=(4, 8, 64, 16)) for x in (k, v)
    )
    weights = op("mul", op("matmul", q, op("transpose", k, 2, 3)), 0.25)
    weights = op("add", weights, mask)
    weights = op("dropout", op("to", op("softmax", weights, -1, FP32), BF16), 0.1)
    return op("reshape", op("contiguous", turned(op, op("matmul", weights, v))), size=(4, 64, 128))


def experts(op: Any, x: Any, router: Any, gate_up: Any, down: Any) -> Any:
    """MixtralTopKRouter.forward, and grouped_mm_experts_forward (transformers, integrations/moe.py)."""
    probabilities = op("softmax", op("linear", x, router), -1, FP32)
    weights, chosen = op("topk", probabilities, 2, -1)
    op("div_", weights, op("sum", weights, (-1,), True))
    weights = op("to", weights, BF16)
    sample_weights, expert_ids = op("reshape", weights, size=(-1,)), op("reshape", chosen, size=(-1,))
    by_expert, perm = op("sort", expert_ids)
    selected = op("index", x, [op("floor_divide", perm, 2)])
    sample_weights = op("index", sample_weights, [perm])
    offsets = op("to", op("cumsum", op("histc", op("to", by_expert, FP32), 4, 0, 3), 0), INT32)
    gate, up = op("split", op("_grouped_mm", selected, op("transpose", gate_up, -2, -1), offsets), 48, -1)
    hidden = op("mul", op("silu", gate), up)
    hidden = op("_grouped_mm", hidden, op("transpose", down, -2, -1), offsets)
    weighted = op("mul", hidden, op("unsqueeze", sample_weights, -1))
    inverse = op("empty_like", perm)
    op("index_put_", inverse, [perm], op("arange", INT64, size=512))
    weighted = op("index", weighted, [inverse])
    return op("sum", op("view", weighted, size=(256, 2, 64)), (1,))


def rotated(op: Any, x: Any, angles: Any) -> Any:
    """Rotary embeddings by complex numbers, as in modeling_llama4.py."""
    numbers = op("polar", op("ones_like", angles, None), angles)
    x = op("view_as_complex", op("reshape", op("to", x, FP32), size=(4, 64, 8, 16, 2)))
    x = op("view_as_real", op("mul", x, op("unsqueeze", numbers, 1)))
    return op("to", op("reshape", x, size=(4, 64, 8, 32)), BF16)


RESIDUAL, NORM, GATE, DOWN = (4, 64, 32), (32,), (48, 32), (32, 48)
case("an rms norm", rms_norm, each_way(RESIDUAL, NORM))
case("an MLP", mlp, each_way(RESIDUAL, GATE, GATE, DOWN))
case("a block", block, each_way(RESIDUAL, NORM, GATE, GATE, DOWN))
case(
    "a block that is checkpointed",
    checkpointed,
    [
        (
            Given(RESIDUAL),
            *(Given(dims, BF16, kind) for dims, kind in zip((NORM, GATE, GATE, DOWN), kinds, strict=True)),
        )
        for kinds in itertools.product(("trained", "frozen"), repeat=4)
    ],
)
case(
    "eager attention",
    attention,
    each_way((4, 64, 128), (4, 64, 32), (4, 64, 32), Given((4, 1, 64, 64), BF16, "input")),
)
case("experts", experts, each_way((256, 64), (4, 64), (4, 96, 64), (4, 64, 48)))
ANGLES = Given((64, 16), FP32, "input")
case("rotary embeddings", rotated, each_way((4, 64, 8, 32), ANGLES))
case(
    "rotary embeddings of a transposed",
    lambda op, x, f: turned(op, rotated(op, turned(op, x), f)),
    each_way((4, 8, 64, 32), ANGLES),
)


@pytest.mark.parametrize("name", CASES)
def test_allocations_are_pytorch_s(name: str) -> None:
    function, ways = CASES[name]
    for way in ways:
        log, results = on_torch(function, way)
        assert on_tape(function, way, results) == log, way
