"""The tape's tensors, graph and log: what is born, saved and freed, in order.

Log entries: index i at the birth of tensor i, ~i at its death. A stack of equal blocks is walked once and its part of
the log is marked as a `Run` that stands for `reps` repetitions.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from memplanner.program.shapes import SCALAR, Dtype, Shape
from memplanner.program.symbolic import resolved
from memplanner.timeline import Category, Phase

BLOCK_BYTES: Final = 512
"""The caching allocator rounds every request up to this (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)."""


def block(num_bytes: int) -> int:
    """Bytes the caching allocator hands out for a request."""
    return (num_bytes + BLOCK_BYTES - 1) & -BLOCK_BYTES


class StopRecomputeError(Exception):
    """Ends a recomputation once the last tensor that backward needs exists (checkpoint's early stop)."""


class Tensor:
    """A tensor on the tape; a view shares the storage of its `base`. Dies when the last reference goes."""

    __slots__ = ("base", "dtype", "index", "node", "shape", "tape", "transposed")

    def __init__(self, tape: "Tape", index: int, shape: Shape, dtype: Dtype, base: "Tensor | None" = None) -> None:
        self.tape = tape
        self.index = index
        self.shape = shape
        self.dtype = dtype
        self.base = base
        self.node: Node | Param | None = None
        self.transposed = False

    def __del__(self) -> None:
        if self.base is None:
            self.tape.log.append(~self.index)


class Param:
    """A weight: lives through the step, and collects a gradient if it is trained.

    count: equal weights it stands for (one per repetition of its block). node: itself when trained (its
    AccumulateGrad), None when frozen.
    """

    __slots__ = ("buffer", "category", "count", "dtype", "grad", "name", "node", "shape", "tags", "trainable", "uses")

    def __init__(
        self,
        name: str,
        shape: Shape,
        dtype: Dtype,
        *,
        count: int,
        trainable: bool,
        category: Category,
        tags: Any = None,
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.count = count
        self.trainable = trainable
        self.category = category
        self.tags = tags
        self.node: Param | None = self if trainable else None
        self.uses = 0
        self.buffer: Tensor | None = None
        self.grad: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Exact bytes of one copy."""
        return self.shape.numel * self.dtype.size


Backward = Callable[["Tape", "Node", Tensor, Any], Sequence[Tensor | None]]


class Node:
    """A step of backward: `fn(tape, node, grad, saved)` gives one gradient per edge.

    casts: type of each edge's gradient, where the function computes in another.
    """

    __slots__ = ("casts", "ctx", "edges", "fn", "frame", "grad", "saved", "slot")

    def __init__(
        self,
        fn: Backward,
        edges: tuple["Node | Param | None", ...],
        saved: Any,
        ctx: Any,
        casts: tuple[Dtype, ...] = (),
    ) -> None:
        self.fn = fn
        self.edges = edges
        self.saved = saved
        self.ctx = ctx
        self.casts = casts
        self.grad: Tensor | None = None
        self.frame: Frame | None = None
        self.slot = -1


class Frame:
    """A checkpointed call (torch.utils.checkpoint, use_reentrant=False): its saved tensors come by recomputation."""

    __slots__ = ("num_saves", "recomputed", "run", "scope", "x")

    def __init__(self, run: Callable[[Tensor], Any], x: Tensor, scope: str) -> None:
        self.run = run
        self.x = x
        self.scope = scope
        self.num_saves = 0
        self.recomputed: list[Any] | None = None

    def take(self, tape: "Tape", slot: int) -> Any:
        """What the node of this slot saved, recomputing the call the first time."""
        if self.recomputed is None:
            self.recomputed = []
            outer, tape.frame = tape.frame, self
            scope, tape.scope = tape.scope, self.scope
            category, tape.category = tape.category, "activations"
            cache, tape.autocast_cache = tape.autocast_cache, {}
            with contextlib.suppress(StopRecomputeError):
                self.run(self.x)
            tape.autocast_cache = cache
            tape.category = category
            tape.frame = outer
            tape.scope = scope
        saved, self.recomputed[slot] = self.recomputed[slot], None
        return saved


_RECOMPUTED = Node(lambda tape, node, grad, saved: (), (), None, None)
"""The grad_fn of tensors made during a recomputation: only its presence matters."""


@dataclass(slots=True)
class Run:
    """A stretch of equal blocks, walked once: log[start:end] forward and log[back_start:back_end] backward.

    input, output: indices of the hidden states that enter and leave the walked block; the output of one is the input of
    the next. input_kept: each block's graph keeps its input for backward. input_held: something outside the run holds
    the walked block's input, while every further block frees its own, at the end of its forward or (input_kept) of its
    backward. grad_input, grad_output: the gradients that enter and leave it in backward.
    """

    reps: int
    start: int
    input: int
    end: int = -1
    output: int = -1
    input_kept: bool = False
    input_held: bool = False
    back_start: int = -1
    back_end: int = -1
    grad_input: int = -1
    grad_output: int = -1


@dataclass(slots=True, eq=False)
class Tape:
    """A step being written down."""

    sizes: list[int] = field(default_factory=list)
    meta: list[tuple[str, str, Shape, Dtype]] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    reps: list[int] = field(default_factory=list)
    log: list[int] = field(default_factory=list)
    nodes: list[Any] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    phases: list[tuple[Phase, int]] = field(default_factory=list)
    params: dict[str, Param] = field(default_factory=dict)
    autocast_cache: dict[str, Tensor] = field(default_factory=dict)
    category: Category = "activations"
    scope: str = ""
    current_reps: int = 1
    frame: Frame | None = None
    on_gradient: Callable[["Tape", Param], None] | None = None
    collapse: bool = True
    gradients_held: bool = False
    leaves: list[Any] = field(default_factory=list)
    """Leaves of the graph that are no weights of the model, with their gradients: both go with the graph."""
    values: Sequence[int] = ()
    """What the symbolic dimensions in `meta` stand for."""

    # -- tensors -------------------------------------------------------------------------------------------------

    def new(self, shape: Shape, dtype: Dtype, name: str) -> Tensor:
        """A fresh tensor."""
        sizes = self.sizes
        index = len(sizes)
        sizes.append((shape.numel * dtype.size + 511) & -512)
        self.meta.append((self.scope, name, shape, dtype))
        self.categories.append(self.category)
        self.reps.append(self.current_reps)
        self.log.append(index)
        return Tensor(self, index, shape, dtype)

    def described(self, index: int) -> tuple[str, str, Shape, Dtype]:
        """A tensor's scope, name, shape and type."""
        scope, name, shape, dtype = self.meta[index]
        if self.values:
            dims = (resolved(dim, self.values) for dim in shape.dims)
            shape = Shape(**dict(zip(shape.labels, dims, strict=True)))
        return scope, name, shape, dtype

    def backdate(self, x: Tensor) -> None:
        """Let the tensor, the latest on the tape, have been there before anything else."""
        assert self.log[-1] == x.index
        self.log.insert(0, self.log.pop())
        self.phases = [(phase, position + 1 if position else 0) for phase, position in self.phases]
        for run in self.runs:
            run.start += 1
            run.end += 1
            if run.back_start >= 0:
                run.back_start += 1
                run.back_end += 1

    def like(self, x: Tensor, name: str, dtype: Dtype | None = None) -> Tensor:
        """A fresh tensor of x's shape and memory order."""
        out = self.new(x.shape, dtype or x.dtype, name)
        out.transposed = x.transposed
        return out

    def view(self, x: Tensor, shape: Shape) -> Tensor:
        """x's storage under another shape, in memory order."""
        return Tensor(self, x.index, shape, x.dtype, x if x.base is None else x.base)

    @property
    def saves(self) -> bool:
        """Whether operations keep tensors for backward here: not in a checkpointed call's first run."""
        return self.frame is None or self.frame.recomputed is not None

    def phase(self, name: Phase) -> None:
        """A phase begins here."""
        self.phases.append((name, len(self.log)))

    # -- graph ---------------------------------------------------------------------------------------------------

    def record(
        self,
        fn: Backward,
        edges: tuple["Node | Param | None", ...],
        saved: Any = None,
        ctx: Any = None,
        casts: tuple[Dtype, ...] = (),
    ) -> "Node | None":
        """Enter an operation into the graph; None when no input needs a gradient.

        saved: tensors kept for backward; None when the operation saves nothing, () when it saves weights only. casts:
        the type of each edge's gradient, where it may differ from what the function gives.
        """
        for edge in edges:
            if edge is not None:
                break
        else:
            return None
        frame = self.frame
        if frame is not None and frame.recomputed is not None:
            if saved is not None:
                frame.recomputed.append(saved)
                if len(frame.recomputed) == frame.num_saves:
                    raise StopRecomputeError
            return _RECOMPUTED
        node = Node(fn, edges, saved, ctx, casts)
        for edge in edges:
            if edge.__class__ is Param:
                edge.uses += 1
        if frame is not None and saved is not None:
            node.saved = None
            node.frame = frame
            node.slot = frame.num_saves
            frame.num_saves += 1
        self.nodes.append(node)
        return node

    def checkpoint(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x), keeping only x; backward computes the rest again."""
        assert self.frame is None, "nested checkpoints are not modelled"
        self.frame = Frame(function, x, self.scope)
        out = function(x)
        self.frame = None
        return out

    def backward(self, loss: Tensor) -> None:
        """Run the graph back from the loss, freeing and allocating as autograd's engine does."""
        root = loss.node
        assert isinstance(root, Node), "nothing in this plan is trained"
        self.category = "temporaries"
        root.grad = self.new(SCALAR, loss.dtype, "gradient of the loss")
        del root
        nodes = self.nodes
        while nodes:
            node = nodes.pop()
            if node.__class__ is Run:
                self._backward_run(node)
                continue
            grad = node.grad
            if grad is None:
                node.saved = node.frame = None
                continue
            node.grad = None
            frame = node.frame
            grads = list(node.fn(self, node, grad, node.saved if frame is None else frame.take(self, node.slot)))
            grad = frame = None
            for i, dtype in enumerate(node.casts):  # Engine.cpp, validate_outputs: the incoming gradient is gone
                if grads[i] is not None and grads[i].dtype is not dtype:
                    grads[i] = self.like(grads[i], "gradient cast", dtype)
            node.saved = node.frame = None
            self._deliver(node.edges, grads)
            del grads, node
        self.scope = ""

    def _deliver(self, edges: tuple["Node | Param | None", ...], grads: list[Tensor | None]) -> None:
        """Hand each edge its gradient, and keep none."""
        weights: list[tuple[Param, Tensor]] = []
        for edge, grad in zip(edges, grads, strict=True):
            if edge is None or grad is None:
                continue
            if edge.__class__ is Param:
                weights.append((edge, grad))
            elif edge.grad is None:
                edge.grad = grad
            else:
                edge.grad = self._sum(edge, grad)
        grads.clear()
        edge = grad = None
        while weights:
            param, g = weights.pop(0)
            complete = self._accumulate(param, g)
            del g
            if complete and self.on_gradient is not None:
                self.on_gradient(self, param)

    def _sum(self, holder: Node | Param, grad: Tensor) -> Tensor:
        """The buffered gradient plus one more: in place when the buffer holds the only reference to it."""
        old = holder.grad
        assert old is not None
        holder.grad = None
        # `old` here and getrefcount's argument: two references, and one more if anyone else holds the tensor. A view
        # is never added into: its base holds the storage as well.
        if old.base is None and sys.getrefcount(old) == 2:
            return old
        return self.like(old, "sum of gradients")

    def _accumulate(self, param: Param, grad: Tensor) -> bool:
        """Add to the parameter's gradient; whether that makes it complete."""
        param.uses -= 1
        if param.buffer is not None:  # the engine's rule again: in place, unless the first to arrive is a view
            grad = param.buffer if param.buffer.base is None else self.like(param.buffer, "sum of gradients")
            param.buffer = None
        if param.uses > 0:
            param.buffer = grad
            return False
        if param.category == "temporaries":
            self.leaves.append((param.tags, grad))
            param.tags = None
            return False
        if self.gradients_held:
            del grad  # added in place into the gradient that is there already
        else:
            assert param.grad is None
            self.categories[grad.index] = "gradients"
            self.meta[grad.index] = (param.name, "gradient", param.shape, param.dtype)
            param.grad = grad
        return True

    # -- repetition ----------------------------------------------------------------------------------------------

    def stack(
        self,
        prefix: str,
        runs: Sequence[tuple[int, int]],
        layer: Callable[[int, Tensor], Tensor],
        entering: list[Tensor],
    ) -> Tensor:
        """Blocks in a row: `layer(i, h)` for each i, equal ones walked once.

        runs: (width, reps) in order: `width` blocks that come `reps` times in a row. entering: the first h, taken out.
        """
        h = entering.pop()
        i = 0
        for width, reps in runs:
            left = reps
            # What comes before the first gradient differs from what comes after, so it is walked by itself.
            while left and (left == 1 or h.node is None or not self.collapse):
                for j in range(i, i + width):
                    self.scope = f"{prefix}.{j}"
                    h = layer(j, h)
                i, left = i + width, left - 1
            if left:
                entering = [h]
                del h
                h = self._run(prefix, i, width, left, layer, entering)
                i += width * left
        self.scope = ""
        return h

    def _run(
        self,
        prefix: str,
        first: int,
        width: int,
        reps: int,
        layer: Callable[[int, Tensor], Tensor],
        entering: list[Tensor],
    ) -> Tensor:
        """Walk `width` blocks for all `reps` repetitions. entering: the hidden state, given up to this call."""
        h = out = entering.pop()
        run = Run(reps=reps, start=len(self.log), input=h.index)
        self.current_reps = reps
        self.nodes.append(run)
        mark = len(self.nodes)
        for j in range(width):
            step = f":{width}" if width > 1 else ""
            self.scope = f"{prefix}.{first + j}–{first + j + (reps - 1) * width}{step}"
            out = layer(first + j, out)
        run.input_kept = self._is_saved(h, mark)
        before = len(self.log)
        del h  # here the caller's `hidden_states = layer(hidden_states)` lets go of its input
        run.end = len(self.log)
        run.input_held = not run.input_kept and run.end == before
        run.output = out.index
        self.reps[out.index] = 1
        self.current_reps = 1
        self.runs.append(run)
        self.nodes.append(run)
        return out

    def _is_saved(self, h: Tensor, mark: int) -> bool:
        """Whether the graph built since `mark` keeps h: then each repetition keeps its own input."""
        for node in self.nodes[mark:]:
            if node.frame is not None and node.frame.x is h:
                return True
            for saved in node.saved or ():
                if saved is h or getattr(saved, "base", None) is h:
                    return True
        return False

    def _backward_run(self, run: Run) -> None:
        """Backward enters the run (its end mark comes first) or leaves it."""
        below = next((node.grad for node in reversed(self.nodes) if node.__class__ is not Run), None)
        if run.back_start < 0:
            run.back_start = len(self.log)
            run.grad_input = below.index if below is not None else -1
            self.current_reps = run.reps
            return
        run.back_end = len(self.log)
        run.input_held |= run.input_kept and ~run.input not in self.log[run.back_start :]
        self.current_reps = 1
        if below is not None:
            run.grad_output = below.index
            self.reps[below.index] = 1
