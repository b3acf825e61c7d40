"""The same operations on PyTorch's fake tensors and on the tape, and what each allocates and frees, in order.

A case is a function of `op` and of tensors: `op("mul", a, b)` calls torch's function or the tape's rule of this name. A
size is given by keyword, `op("view", x, size=(4, 8))`, since rules are given the shapes of results instead.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memplanner.harness.live_bytes import LiveBytes
from memplanner.program.shapes import BF16, BOOL, FP16, FP32, INT32, INT64, Dtype, Shape
from memplanner.tape.aten import OPERATIONS
from memplanner.tape.engine import Param, Tape, Tensor

TYPES = {
    FP32: torch.float32,
    BF16: torch.bfloat16,
    FP16: torch.float16,
    INT64: torch.int64,
    INT32: torch.int32,
    BOOL: torch.bool,
}
aten = torch.ops.aten
functional = torch.nn.functional

TORCH: dict[str, Callable[..., Any]] = {
    "to": lambda x, dtype: x.to(dtype),
    "softmax": lambda x, dim, dtype=None: torch.softmax(x, dim, dtype=dtype),
    "reshape": lambda x, size: x.reshape(size),
    "view": lambda x, size: x.view(size),
    "expand": lambda x, size: x.expand(size),
    "contiguous": lambda x: x.contiguous(),
    "dropout": lambda x, p: torch.native_dropout(x, p, True)[0],
    "linear": functional.linear,
    "layer_norm": lambda x, weight=None, bias=None: functional.layer_norm(x, x.shape[-1:], weight, bias),
    "slice": lambda x, dim, start, end, step=1: aten.slice(x, dim, start, end, step),
    "transpose": lambda x, a, b: x.transpose(a, b),
    "permute": lambda x, dims: x.permute(dims),
    "sum": lambda x, dims=None, keepdim=False: x.sum() if dims is None else x.sum(dims, keepdim),
    "mean": lambda x, dims=None, keepdim=False: x.mean() if dims is None else x.mean(dims, keepdim),
    "index": lambda x, indices: x[tuple(slice(None) if i is None else i for i in indices)],
    "embedding": lambda weight, indices: functional.embedding(indices, weight),
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "softplus": functional.softplus,
    "clamp": lambda x, low, high: torch.clamp(x, low, high),
    "constant_pad_nd": lambda x, size: functional.pad(x, size),
}


class Bytes(LiveBytes):
    """Counts storages; what derivatives do in place on a device, they do here as well: under a dispatch mode they make
    a new tensor instead (FunctionsManual.cpp, areAnyTensorSubclassLike).
    """

    IN_PLACE: Final = {
        aten.index_put.default: aten.index_put_.default,
        aten.index_add.default: aten.index_add_.default,
        aten.scatter.src: aten.scatter_.src,
        aten.scatter_add.default: aten.scatter_add_.default,
    }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.in_backward and not (func is aten.index_put.default and args[3:] != (True,)):  # of index_put itself
            func = self.IN_PLACE.get(func, func)
        return super().__torch_dispatch__(func, types, args, kwargs)


class Given(NamedTuple):
    """An input. kind: "hidden" for a tensor that needs a gradient, "input" for one that needs none, "trained" and
    "frozen" for parameters.
    """

    dims: tuple[int, ...]
    dtype: Dtype = BF16
    kind: str = "hidden"


Log = list[tuple[int, int]]
"""(number of the tensor by birth, its bytes) where it is allocated, (number, 0) where it is freed."""


def each_way(*dims: tuple[int, ...] | Given) -> Iterator[tuple[Given, ...]]:
    """These inputs with every combination of which are trained, frozen, hidden or given; those that are Given stay."""
    kinds = [(d,) if isinstance(d, Given) else tuple(Given(d, BF16, k) for k in KINDS) for d in dims]
    return itertools.product(*kinds)


KINDS = ("hidden", "trained", "input", "frozen")


def on_torch(case: Callable[..., Any], inputs: Sequence[Given], *, fake: bool = False) -> tuple[Log, list[list[Shape]]]:
    """What PyTorch allocates and frees; and the shapes of each operation's results."""
    mode, meter = FakeTensorMode() if fake else contextlib.nullcontext(), Bytes()
    shapes: list[list[Shape]] = []

    def op(name: str, *args: Any, size: Any = None) -> Any:
        args = tuple(TYPES[arg] if isinstance(arg, Dtype) else arg for arg in args)
        function = TORCH.get(name) or getattr(torch, name)
        out = function(*args) if size is None else function(*args, size)
        shapes.append([_shape(x) for x in ((out,) if isinstance(out, torch.Tensor) else out)])
        return out

    with mode:
        made = [_made(given) for given in inputs]
        with meter:
            for tensor in made:
                meter.track(tensor)
            meter.events = []
            out = case(op, *[x.clone() if given.kind == "hidden" else x for x, given in zip(made, inputs, strict=True)])
            outs = [x for x in ((out,) if isinstance(out, torch.Tensor) else out) if x.requires_grad]
            if outs:
                meter.in_backward = True
                grads = [torch.zeros(x.shape, dtype=x.dtype) for x in outs]
                torch.autograd.backward(outs, grads)
            log = _numbered(meter)
    return log, shapes


def _made(given: Given) -> torch.Tensor:
    tensor = torch.zeros(given.dims, dtype=TYPES[given.dtype])
    return tensor.requires_grad_(given.kind in ("hidden", "trained"))


def _shape(x: torch.Tensor) -> Shape:
    return Shape(**{f"dim{place}": size for place, size in enumerate(x.shape)})


def _numbered(meter: LiveBytes) -> Log:
    numbers: dict[int, int] = {}
    births = itertools.count()
    log = []
    for event in meter.events:
        if event.size:
            numbers[event.address] = next(births)
        log.append((numbers[event.address], event.size))
    return log


def on_tape(case: Callable[..., Any], inputs: Sequence[Given], shapes: list[list[Shape]]) -> Log:
    """What the tape's rules allocate and free."""
    tape = Tape()
    left = list(shapes)

    def op(name: str, *args: Any, size: Any = None) -> Any:
        return OPERATIONS[name](tape, tuple(left.pop(0)), *args)

    made: list[Any] = []
    for place, given in enumerate(inputs):
        shape = Shape(**{f"dim{i}": n for i, n in enumerate(given.dims)})
        if given.kind == "input":
            made.append(tape.new(shape, given.dtype, "input"))
        else:
            learns = given.kind != "frozen"
            made.append(Param(str(place), shape, given.dtype, count=1, trainable=learns))
    num_inputs = len(tape.sizes)
    tape.log.clear()
    clone = OPERATIONS["clone"]
    out = case(op, *[clone(tape, (), x) if g.kind == "hidden" else x for x, g in zip(made, inputs, strict=True)])
    outs = [x for x in ((out,) if isinstance(out, Tensor) else out) if x.node is not None]
    if outs:
        grads = [tape.new(x.shape, x.dtype, "gradient") for x in outs]
        for x, grad in zip(outs, grads, strict=True):
            assert x.node is not None
            x.node.grad = grad
        tape.run_graph()
    log = [(i - num_inputs, tape.sizes[i]) if i >= 0 else (~i - num_inputs, 0) for i in tape.log]
    return log
