"""The same operations on PyTorch's tensors and on the tape, and what each allocates and frees, in order.

Tensors are real and on the CPU: strides are then those of the operations' own kernels, which fake tensors take from
other code. What the CPU's kernels do otherwise than CUDA's is left out of the cases, or said there.

A case is a function of `op` and of tensors: `op("mul", a, b)` calls torch's function or the tape's rule of this name. A
size is given by keyword, `op("view", x, size=(4, 8))`, since rules are given the shapes of results instead.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
import torch.utils.checkpoint

from memplanner.harness.live_bytes import LiveBytes
from memplanner.program.shapes import BF16, BOOL, COMPLEX64, FP16, FP32, INT32, INT64, Dtype, Shape
from memplanner.tape.aten import OPERATIONS
from memplanner.tape.aten.base import strides_of
from memplanner.tape.engine import Param, Tape, Tensor

TYPES = {
    FP32: torch.float32,
    BF16: torch.bfloat16,
    FP16: torch.float16,
    INT64: torch.int64,
    INT32: torch.int32,
    BOOL: torch.bool,
    COMPLEX64: torch.complex64,
}
aten = torch.ops.aten
functional = torch.nn.functional

TORCH: dict[str, Callable[..., Any]] = {
    "to": lambda x, dtype: x.to(dtype),
    "softmax": lambda x, dim, dtype=None: torch.softmax(x, dim, dtype=dtype),
    "log_softmax": lambda x, dim: torch.log_softmax(x, dim),
    "reshape": lambda x, size: x.reshape(size),
    "view": lambda x, size: x.view(size),
    "expand": lambda x, size: x.expand(size),
    "repeat": lambda x, size: x.repeat(*size),
    "unfold": lambda x, *args: x.unfold(*args),
    "contiguous": lambda x: x.contiguous(),
    "dropout": lambda x, p: torch.native_dropout(x, p, True)[0],
    "linear": functional.linear,
    "layer_norm": lambda x, weight=None, bias=None: functional.layer_norm(x, x.shape[-1:], weight, bias),
    "slice": lambda x, dim, start, end, step=1: aten.slice(x, dim, start, end, step),
    "sum": lambda x, dims=None, keepdim=False: x.sum() if dims is None else x.sum(dims, keepdim),
    "mean": lambda x, dims=None, keepdim=False: x.mean() if dims is None else x.mean(dims, keepdim),
    "cumsum": lambda x, dim, dtype=None: x.cumsum(dim, dtype=dtype),
    "linalg_vector_norm": torch.linalg.vector_norm,
    "linalg_solve_triangular": lambda a, b, upper: torch.linalg.solve_triangular(a, b, upper=upper),
    "index": lambda x, indices: x[tuple(slice(None) if i is None else i for i in indices)],
    "embedding": lambda weight, indices: functional.embedding(indices, weight),
    "native_layer_norm": lambda x, weight, bias: aten.native_layer_norm(x, x.shape[-1:], weight, bias, 1e-5),
    "native_group_norm": lambda x, w, b: aten.native_group_norm(x, w, b, *x.shape[:2], x[0, 0].numel(), 4, 1e-5),
    "arange": lambda dtype, size: torch.arange(size, dtype=dtype),
    **{
        name: lambda dtype, size, name=name: getattr(torch, name)(size, dtype=dtype)
        for name in ("zeros", "ones", "empty", "rand", "randn")
    },
    "full": lambda dtype, size: torch.full(size, 1, dtype=dtype),
    **{
        f"{name}_like": lambda x, dtype=None, name=name: getattr(torch, f"{name}_like")(x, dtype=dtype)
        for name in ("zeros", "ones", "empty", "rand", "randn")
    },
    "full_like": lambda x, dtype=None: torch.full_like(x, 1, dtype=dtype),
    **{
        f"new_{name}": lambda x, dtype, size, name=name: getattr(x, f"new_{name}")(size, dtype=dtype)
        for name in ("zeros", "ones", "empty")
    },
    "new_full": lambda x, dtype, size: x.new_full(size, 1, dtype=dtype),
    "gelu_": aten.gelu_,
    "lift_fresh": aten.lift_fresh,
    "silu_": lambda x: functional.silu(x, inplace=True),
    "baddbmm": lambda x, a, b, beta, alpha: torch.baddbmm(x, a, b, beta=beta, alpha=alpha),
    "constant_pad_nd": lambda x, size: functional.pad(x, size),
    "alias": aten.alias,
    "scatter": aten.scatter,
    "convolution": aten.convolution,
}
"""The function that is called by a rule's name, where it is not a function of torch, of torch.nn.functional or a method
of tensors with the same arguments.
"""


def function_of(name: str) -> Callable[..., Any]:
    """torch's function of this name."""
    for place in (torch, functional, torch.Tensor):
        if hasattr(place, name):
            return getattr(place, name)  # type: ignore[no-any-return]
    raise LookupError(name)


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


class Result(NamedTuple):
    """What an operation returned: its type, shape and memory order."""

    dtype: torch.dtype
    shape: Shape
    strides: tuple[int, ...]

    @classmethod
    def of(cls, x: torch.Tensor) -> "Result":
        shape = Shape(**{f"dim{place}": size for place, size in enumerate(x.shape)})
        return cls(x.dtype, shape, x.stride())

    def is_like(self, x: Tensor | Param) -> bool:
        """Whether a rule's result has this type, shape and order; strides of dimensions of one mean nothing."""
        steps = zip(strides_of(x), self.strides, self.shape.dims, strict=True)
        same_order = all(ours == theirs for ours, theirs, size in steps if size != 1)
        return TYPES[x.dtype] is self.dtype and x.shape.dims == self.shape.dims and same_order


class OnTorch:
    """Calls torch's functions, and notes what each returns."""

    def __init__(self) -> None:
        self.results: list[list[Result]] = []

    def __call__(self, name: str, *args: Any, size: Any = None) -> Any:
        given = tuple([TYPES[arg] if isinstance(arg, Dtype) else arg for arg in args])
        function = TORCH.get(name) or function_of(name)
        out = function(*given) if size is None else function(*given, size)
        self.results.append([Result.of(x) for x in ((out,) if isinstance(out, torch.Tensor) else out)])
        return out

    def checkpoint(self, function: Callable[..., Any], x: Any) -> Any:
        """function(x), of which only x is kept for backward."""
        runs = itertools.count()

        def run(x: Any) -> Any:
            known = len(self.results)
            try:
                return function(x)
            finally:
                if next(runs):  # it is the same forward pass again
                    del self.results[known:]

        return torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)


class OnTape:
    """Calls the tape's rules for these results, one after the other."""

    def __init__(self, tape: Tape, results: list[list[Result]]) -> None:
        self.tape = tape
        self.results = results
        self.next = 0

    def __call__(self, name: str, *args: Any, size: Any = None) -> Any:
        expected = self.results[self.next]
        self.next += 1
        out = OPERATIONS[name](self.tape, tuple([result.shape for result in expected]), *args)
        outs = out if isinstance(out, tuple) else (out,)
        for x, result in zip(outs, expected, strict=True):
            assert result.is_like(x), (name, result, x.dtype, x.shape.dims, strides_of(x))
        del outs
        return out

    def checkpoint(self, function: Callable[..., Any], x: Any) -> Any:
        first = self.next

        def run(x: Any) -> Any:
            self.next = first
            return function(x)

        return self.tape.checkpoint(run, x)


def on_torch(case: Callable[..., Any], inputs: Sequence[Given]) -> tuple[Log, list[list[Result]]]:
    """What PyTorch allocates and frees; and the results of each operation."""
    meter, op = Bytes(), OnTorch()
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
        return _numbered(meter), op.results


def _made(given: Given) -> torch.Tensor:
    tensor = torch.zeros(given.dims, dtype=TYPES[given.dtype])
    return tensor.requires_grad_(given.kind in ("hidden", "trained"))


def _numbered(meter: LiveBytes) -> Log:
    numbers: dict[int, int] = {}
    births = itertools.count()
    log = []
    for event in meter.events:
        if event.size:
            numbers[event.address] = next(births)
        log.append((numbers[event.address], event.size))
    return log


def on_tape(case: Callable[..., Any], inputs: Sequence[Given], results: list[list[Result]]) -> Log:
    """What the tape's rules allocate and free."""
    tape = Tape()
    op = OnTape(tape, results)
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
    assert op.next == len(results)
    outs = [x for x in ((out,) if isinstance(out, Tensor) else out) if x.node is not None]
    if outs:
        grads = [tape.new(x.shape, x.dtype, "gradient") for x in outs]
        for x, grad in zip(outs, grads, strict=True):
            assert x.node is not None
            x.node.grad = grad
        tape.run_graph()
    return [(i - num_inputs, tape.sizes[i]) if i >= 0 else (~i - num_inputs, 0) for i in tape.log]
