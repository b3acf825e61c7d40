"""The tape: tensors, the graph of backward, and the log of what is allocated and freed, in order.

An entry of the log is i where tensor i is allocated and ~i where it is freed. Of a stack of equal blocks only one is
written; its section of the log is marked and stands for all of them (program.Repeat).
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from memplanner.program.program import Carried, Repeat, Structure, TensorInfo
from memplanner.program.shapes import SCALAR, Dtype, Shape
from memplanner.tape import strides as memory_order
from memplanner.tape.projection import Projection
from memplanner.timeline import Category, Phase

_new_tuple = tuple.__new__


class StopRecomputeError(Exception):
    """Ends a recomputation as soon as every tensor that backward needs exists (torch.utils.checkpoint's early stop)."""


class BlocksDifferError(Exception):
    """A block cannot stand for the blocks after it: its input has another type than its output, or is a leaf of which
    autocast keeps a copy.

    block: its stack and number.
    """

    def __init__(self, block: tuple[str, int]) -> None:
        super().__init__(*block)
        self.block = block


class Tensor:
    """A tensor on the tape. It is freed when the last Python reference to it goes; a view keeps its `base` alive, whose
    storage it shares. A view of a parameter has that as its base, and index -1. transposed: whether memory is in
    another order than the shape; strides: in which, in elements. Where they are None, a transposed tensor (batch,
    heads, seq, dim) is laid out (batch, seq, heads, dim).
    """

    __slots__ = ("base", "dtype", "index", "node", "shape", "strides", "tape", "transposed")

    def __init__(
        self, tape: "Tape", index: int, shape: Shape, dtype: Dtype, base: "Tensor | Param | None" = None
    ) -> None:
        self.tape = tape
        self.index = index
        self.shape = shape
        self.dtype = dtype
        self.base = base
        self.node: Node | Param | None = None
        self.transposed = False
        self.strides: memory_order.Strides | None = None

    def __del__(self) -> None:
        if self.base is None:
            self.tape.log.append(~self.index)

    @property
    def expanded(self) -> bool:
        """Whether it is a view of more elements than its storage has, as expand() makes."""
        return self.base is not None and self.shape.numel > self.base.shape.numel


Role = Literal["weight", "buffer", "leaf"]


class Param:
    """A tensor of a module: it lives through the whole step, and receives a gradient if it is trained.

    count: how many equal tensors it stands for, one for each of the equal blocks. node: the parameter itself if it is
    trained, in the place of PyTorch's AccumulateGrad; None if it is frozen. role: a weight; a buffer, which is no
    parameter of the model (quantisation scales, cached norms, position tables); or a leaf, which the step itself makes
    and drops with the graph. stands_for: the shape of the weight that a packed tensor holds. projection: how the
    gradient is projected before it is used. value: a leaf's own tensor, which the graph keeps alive. is_table: whether
    it is the weight of an nn.Embedding. uses: gradients that backward has still to deliver. pending: the sum of those
    delivered so far. unused: no operation of the step takes it, so that it gets no gradient even if it is trained.
    """

    __slots__ = (
        "category",
        "count",
        "dtype",
        "grad",
        "is_table",
        "name",
        "node",
        "pending",
        "projection",
        "role",
        "shape",
        "stands_for",
        "trainable",
        "unused",
        "uses",
        "value",
    )

    def __init__(
        self,
        name: str,
        shape: Shape,
        dtype: Dtype,
        *,
        count: int,
        trainable: bool,
        category: Category = "parameters",
        role: Role = "weight",
        stands_for: Shape | None = None,
        projection: Projection | None = None,
        value: "Tensor | None" = None,
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.count = count
        self.trainable = trainable
        self.category = category
        self.role = role
        self.stands_for = stands_for or shape
        self.projection = projection
        self.value = value
        self.unused = False
        self.is_table = False
        self.node: Param | None = self if trainable else None
        self.uses = 0
        self.pending: Tensor | None = None
        self.grad: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Exact bytes of one copy."""
        return self.shape.numel * self.dtype.size

    def copied(self, *, shape: Shape | None = None, count: int | None = None) -> "Param":
        """A parameter like this one, of another shape or count, that is not part of any graph."""
        param = Param(
            self.name,
            shape or self.shape,
            self.dtype,
            count=count or self.count,
            trainable=self.trainable,
            category=self.category,
            role=self.role,
            projection=None if shape else self.projection,
        )
        param.is_table = self.is_table
        return param


Backward = Callable[["Tape", "Node", Tensor, Any], Sequence[Tensor | None]]


class Node:
    """An operation's step of backward: `fn(tape, node, grad, saved)` returns one gradient per edge.

    edges: the nodes that made the operation's inputs; None for inputs that need no gradient. saved: the tensors kept
    for backward; where `frame` is set they come from its recomputation instead, at the place `slot`. casts: the type of
    each edge's gradient, where `fn` may return another. shapes: likewise its shape, where inputs are broadcast.
    """

    __slots__ = ("casts", "ctx", "edges", "fn", "frame", "grad", "saved", "shapes", "slot")

    def __init__(
        self,
        fn: Backward,
        edges: tuple["Node | Param | None", ...],
        saved: Any,
        ctx: Any,
        casts: tuple[Dtype | None, ...] = (),
        shapes: tuple[Shape | None, ...] = (),
    ) -> None:
        self.fn = fn
        self.edges = edges
        self.saved = saved
        self.ctx = ctx
        self.casts = casts
        self.shapes = shapes
        self.grad: Tensor | None = None
        self.frame: Frame | None = None
        self.slot = -1


class Leaf(Node):
    """In the place of PyTorch's AccumulateGrad for a tensor that no operation of its graph made and that is no weight.
    It takes the gradient, and backward never runs it.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(lambda tape, node, grad, saved: (), (), None, None)


class Frame:
    """A checkpointed call (torch.utils.checkpoint, use_reentrant=False): backward obtains its saved tensors by running
    it again. x: its input, which alone is kept. num_saves: how many of its nodes save tensors.
    """

    __slots__ = ("num_saves", "recomputed", "run", "scope", "x")

    def __init__(self, run: Callable[[Tensor], Any], x: Tensor, scope: str) -> None:
        self.run = run
        self.x = x
        self.scope = scope
        self.num_saves = 0
        self.recomputed: list[Any] | None = None

    def take(self, tape: "Tape", slot: int) -> Any:
        """The tensors that the node with this slot saved; the first node to ask makes the call run again."""
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


def _reentrant_backward(tape: "Tape", node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    """CheckpointFunction.backward: run the whole function again, without an early stop, on the detached input and in a
    graph of its own, then that graph back. Input, result and the result's gradient are local names of that call and
    live until it returns; nothing is added into the gradient in place either.
    """
    function, scope = node.ctx
    (x,) = saved
    nodes, tape.nodes = tape.nodes, []
    leaves, tape.leaves = tape.leaves, []
    cache, tape.autocast_cache = tape.autocast_cache, {}
    outer, tape.scope = tape.scope, scope
    category, tape.category = tape.category, "activations"
    detached = tape.view(x, x.shape)
    detached.transposed = x.transposed
    detached.node = leaf = Leaf()
    out = function(detached)
    tape.autocast_cache, tape.scope, tape.category = cache, outer, category
    root = out.node
    assert isinstance(root, Node)
    root.grad = grad
    del root
    tape.run_graph()
    tape.nodes, tape.leaves = nodes, leaves
    assert leaf.grad is not None
    return (leaf.grad,)


_RECOMPUTED = Node(lambda tape, node, grad, saved: (), (), None, None)
"""The node of every tensor made during a recomputation. Backward never runs it: its presence alone shows
later operations that a gradient is needed."""


class RepeatedBlocks:
    """Equal blocks that are written once, as log[start:end] in forward and log[back_start:back_end] in backward.

    number: of these blocks, the same whenever the model is run again: the passes share weights, whose gradients meet.
    input, output: the hidden states that enter and leave the written block; the output of each block is the input of
    the next. input_saved: whether each block's graph keeps its input for backward. input_outlives: whether something
    outside the blocks keeps the first block's input alive. The log then does not free it, although every further block
    does free its own input: at the end of its backward pass if the graph saves it, else at the end of its forward pass.
    grad_input, grad_output: the gradients that enter and leave the written block in backward; -1 where there is none.
    """

    def __init__(self, *, number: int, times: int, start: int, input: int) -> None:  # noqa: A002  # a block's input
        self.number = number
        self.times = times
        self.start, self.end = start, -1
        self.back_start = self.back_end = -1
        self.input, self.output = input, -1
        self.input_saved = self.input_outlives = False
        self.grad_input = self.grad_output = -1

    def sections(self) -> Iterator[Repeat]:
        """The forward and the backward section in a program's form."""
        hidden = Carried(self.input, self.output, -1, self.input_outlives and not self.input_saved)
        yield Repeat(self.start, self.end, self.times, self.number, carried=(hidden,))
        if self.back_start >= 0:
            carried = [hidden._replace(freed_at_end=self.input_outlives and self.input_saved)]
            if self.grad_output >= 0:
                carried.append(Carried(self.grad_input, self.grad_output, 1))
            yield Repeat(self.back_start, self.back_end, self.times, self.number, True, tuple(carried))


class Tape:
    """A training step while it is being written down.

    collapse: write equal blocks once. alone: but these blocks by themselves; see BlocksDifferError.
    gradients_held: whether every trained weight has a gradient already, which new ones are added into. nodes: the graph
    in the order of forward; a mark of RepeatedBlocks stands before and after the nodes of a block that stands for
    several. category, scope, current_copies: what new tensors are described with. frame: the checkpointed call that is
    running, or running again. on_gradient: called as soon as a parameter's gradient is complete.
    """

    __slots__ = (
        "alone",
        "apart",
        "autocast_cache",
        "block_numbers",
        "category",
        "collapse",
        "current_copies",
        "frame",
        "grad_enabled",
        "gradients_held",
        "leaves",
        "log",
        "nodes",
        "on_gradient",
        "params",
        "phases",
        "refresh_only",
        "repeated",
        "repeating",
        "scope",
        "sizes",
        "tensors",
    )

    def __init__(
        self,
        *,
        collapse: bool = True,
        gradients_held: bool = False,
        alone: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        self.collapse = collapse
        self.gradients_held = gradients_held
        self.alone = alone
        self.sizes: list[int] = []
        self.tensors: list[TensorInfo] = []
        self.log: list[int] = []
        self.nodes: list[Any] = []
        self.repeated: list[RepeatedBlocks] = []
        self.repeating: tuple[str, int] | None = None
        """The first of the blocks that are being written once, by its stack and number."""
        self.phases: list[tuple[Phase, int]] = []
        self.params: dict[str, Param] = {}
        self.autocast_cache: dict[str, Tensor] = {}
        self.category: Category = "activations"
        self.scope = ""
        self.current_copies = 1
        self.frame: Frame | None = None
        self.grad_enabled = True
        self.on_gradient: Callable[[Tape, Param], None] | None = None
        self.apart: dict[tuple[str, int], bool] = {}
        """Which blocks have been written by themselves, by their stack and number."""
        self.block_numbers: dict[tuple[str, int], int] = {}
        """Numbers of repeated blocks, by their stack and its first of them."""
        self.leaves: list[Any] = []
        """Leaves of the graph that are no weights of the model, with their gradients: both go with the graph."""
        self.refresh_only: set[int] = set()
        """Tensors of steps that compute projections anew, and of no others."""

    # -- tensors -------------------------------------------------------------------------------------------------

    def new(self, shape: Shape, dtype: Dtype, name: str) -> Tensor:
        """Allocate a tensor."""
        sizes = self.sizes
        index = len(sizes)
        sizes.append((shape.numel * dtype.size + 511) & -512)
        # Builds the TensorInfo without calling its constructor, which would take half of this function's time.
        info = (self.scope, name, shape, dtype, self.category, self.current_copies, 0)
        self.tensors.append(_new_tuple(TensorInfo, info))
        self.log.append(index)
        return Tensor(self, index, shape, dtype)

    @contextlib.contextmanager
    def only_on_refresh(self) -> Iterator[None]:
        """Mark the tensors made within this context as ones that only a step which recomputes projections makes."""
        first = len(self.sizes)
        yield
        self.refresh_only.update(range(first, len(self.sizes)))

    def backdate(self, x: Tensor) -> None:
        """Move the allocation of the latest tensor to the very beginning of the step, and all marks with it."""
        assert self.log[-1] == x.index
        self.log.insert(0, self.log.pop())
        self.phases = [(phase, position + 1 if position else 0) for phase, position in self.phases]
        for blocks in self.repeated:
            blocks.start += 1
            blocks.end += 1
            if blocks.back_start >= 0:
                blocks.back_start += 1
                blocks.back_end += 1

    def like(self, x: Tensor, name: str, dtype: Dtype | None = None) -> Tensor:
        """Allocate a tensor of x's shape and memory order."""
        out = self.new(x.shape, dtype or x.dtype, name)
        out.transposed = x.transposed
        if x.strides is not None:
            out.strides = memory_order.like(x.shape.dims, x.strides)
            out.transposed = out.strides is not None
        return out

    def view(self, x: Tensor, shape: Shape) -> Tensor:
        """x's storage under another shape, in memory order."""
        return Tensor(self, x.index, shape, x.dtype, x if x.base is None else x.base)

    @property
    def saves(self) -> bool:
        """Whether operations keep tensors for backward now; in the first run of a checkpointed call they do not, and
        where nothing enters the graph.
        """
        return self.grad_enabled and (self.frame is None or self.frame.recomputed is not None)

    def phase(self, name: Phase) -> None:
        """Begin a phase at the present place of the log."""
        self.phases.append((name, len(self.log)))

    # -- graph ---------------------------------------------------------------------------------------------------

    def record(
        self,
        fn: Backward,
        edges: tuple["Node | Param | None", ...],
        saved: Any = None,
        ctx: Any = None,
        casts: tuple[Dtype | None, ...] = (),
        shapes: tuple[Shape | None, ...] = (),
    ) -> "Node | None":
        """Add an operation to the graph; returns None when no input needs a gradient.

        saved: the tensors to keep for backward; None when the operation saves nothing, and () when it saves nothing but
        weights, which checkpointing still counts. casts, shapes: the type and the shape of each edge's gradient, where
        `fn` may return others.
        """
        for edge in edges:
            if edge is not None:
                break
        else:
            return None
        if not self.grad_enabled:
            return None
        frame = self.frame
        if frame is not None and frame.recomputed is not None:
            if saved is not None:
                frame.recomputed.append(saved)
                if len(frame.recomputed) == frame.num_saves:
                    raise StopRecomputeError
            return _RECOMPUTED
        node = Node(fn, edges, saved, ctx, casts, shapes)
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

    def checkpoint(self, function: Callable[[Tensor], Tensor], x: Tensor, *, use_reentrant: bool = False) -> Tensor:
        """function(x) with only x kept for backward, which calls the function again."""
        assert self.frame is None, "nested checkpoints are not modelled"
        if use_reentrant:
            return self._checkpoint_reentrant(function, x)
        self.frame = Frame(function, x, self.scope)
        out = function(x)
        self.frame = None
        return out

    def _checkpoint_reentrant(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """torch.utils.checkpoint.CheckpointFunction: one operation of the graph, whose forward pass runs the function
        under no_grad, and whose result needs a gradient only if x does, whatever the function trains.
        """
        enabled, self.grad_enabled = self.grad_enabled, False
        out = function(x)
        self.grad_enabled = enabled
        out.node = self.record(_reentrant_backward, (x.node,), (x,), (function, self.scope))
        return out

    def backward(self, loss: Tensor) -> None:
        """Run the graph back from the loss."""
        root = loss.node
        assert isinstance(root, Node), "nothing in this plan is trained"
        self.category = "temporaries"
        root.grad = self.new(SCALAR, loss.dtype, "gradient of the loss")
        del root
        self.run_graph()

    def run_graph(self) -> None:
        """Run the graph back from its nodes that have a gradient, allocating and freeing as autograd's engine does.

        Names are deleted as soon as the engine would let go of their tensors: each `del` and `= None` frees something.
        """
        nodes = self.nodes
        while nodes:
            node = nodes.pop()
            if node.__class__ is RepeatedBlocks:
                self._backward_repeated(node)
                continue
            grad = node.grad
            if grad is None:
                node.saved = node.frame = None
                continue
            node.grad = None
            frame = node.frame
            grads = list(node.fn(self, node, grad, node.saved if frame is None else frame.take(self, node.slot)))
            # The engine fits gradients to the inputs while it still holds the incoming one (engine.cpp, call_function
            # and validate_outputs): it sums over what was broadcast, then casts.
            for i, dtype in enumerate(node.casts):
                if node.shapes and grads[i] is not None:
                    grads[i] = self.summed_to(grads[i], node.shapes[i])
                if grads[i] is not None and grads[i].dtype is not dtype:
                    grads[i] = self.like(grads[i], "gradient cast", dtype)
            grad = frame = None
            node.saved = node.frame = None
            self._deliver(node.edges, grads)
            del grads, node
        self.scope = ""

    def summed_to(self, grad: Tensor, shape: Shape) -> Tensor:
        """The gradient summed over the dimensions along which `shape` was broadcast (at::sum_to)."""
        if grad.shape.dims == shape.dims:
            return grad
        out = self.new(shape, grad.dtype, "gradient summed over broadcast dimensions")
        return out if len(shape.dims) in (0, len(grad.shape.dims)) else self.view(out, shape)

    def _deliver(self, edges: tuple["Node | Param | None", ...], grads: list[Tensor | None]) -> None:
        """Give each edge its gradient, and keep no reference to it: sums are made in place only without others."""
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
            param = weights[0][0]
            if self._accumulate(weights) and self.on_gradient is not None:
                self.on_gradient(self, param)

    def _sum(self, holder: Node | Param, grad: Tensor) -> Tensor:
        """The buffered gradient plus another: added in place if the buffer holds the only reference to it."""
        if isinstance(holder, Param):
            old, holder.pending = holder.pending, None
        else:
            old, holder.grad = holder.grad, None
        assert old is not None
        # The name `old` and getrefcount's argument are two references; a third means that something else uses the
        # tensor. A view is never added into, since its base refers to the storage as well.
        if old.base is None and sys.getrefcount(old) == 2:
            return old
        return self.like(old, "sum of gradients")

    def _accumulate(self, arriving: list[tuple[Param, Tensor]]) -> bool:
        """Add the first that arrives to its parameter's gradient; returns whether that is complete now."""
        param, grad = arriving.pop(0)
        param.uses -= 1
        # A gradient that something else refers to, besides `grad` and getrefcount's argument, is copied in the end, as
        # is one in another memory order than its parameter's (accumulate_grad.h).
        shared = sys.getrefcount(grad) > 2
        if param.pending is not None:
            grad = self._sum(param, grad)
            shared = False
        if param.uses > 0:
            param.pending = grad
            return False
        if param.role == "leaf":
            self.leaves.append((param.value, grad))
            param.value = None
            return False
        if self.gradients_held or param.grad is not None:
            del grad  # added in place into the gradient that exists already
        else:
            if shared or grad.strides is not None:
                grad = self.new(param.shape, param.dtype, "gradient")
            self.tensors[grad.index] = self.tensors[grad.index]._replace(
                scope=param.name, name="gradient", shape=param.shape, dtype=param.dtype, category="gradients"
            )
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
        """Apply blocks in a row, `layer(i, h)` for each i, and write equal ones once.

        runs: (width, reps) in order: a group of `width` blocks that comes `reps` times in a row. entering: a list of
        the first h, which is emptied: a reference left with the caller would keep that tensor alive.
        """
        h = entering.pop()
        i = 0
        for width, reps in runs:
            left, start = reps, i
            while left and (left == 1 or not self.collapse or self._is_apart(prefix, i, start, h)):
                for j in range(i, i + width):
                    self.scope = f"{prefix}.{j}"
                    h = layer(j, h)
                i, left = i + width, left - 1
            if left:
                entering = [h]
                del h
                h = self._repeat(prefix, i, width, left, layer, entering)
                i += width * left
        self.scope = ""
        return h

    def _is_apart(self, prefix: str, i: int, start: int, h: Tensor) -> bool:
        """Whether block i, which h enters, is written by itself. start: the first block of its run.

        What comes before the first gradient differs from what comes after. A model that is run again is divided as it
        was the first time, since a parameter stands for the blocks that were written together; a first run without
        gradients leaves the first block of every run apart, as a later one with gradients may need it.
        """
        if (prefix, i) not in self.apart:
            before_gradients = h.node is None if self.grad_enabled else i == start
            self.apart[prefix, i] = before_gradients or (prefix, i) in self.alone
        return self.apart[prefix, i]

    def _repeat(
        self,
        prefix: str,
        first: int,
        width: int,
        times: int,
        layer: Callable[[int, Tensor], Tensor],
        entering: list[Tensor],
    ) -> Tensor:
        """Write a group of `width` blocks once for the `times` times that it comes. entering: as in `stack`."""
        h = out = entering.pop()
        number = self.block_numbers.setdefault((prefix, first), len(self.block_numbers))
        blocks = RepeatedBlocks(number=number, times=times, start=len(self.log), input=h.index)
        self.current_copies, self.repeating = times, (prefix, first)
        self.nodes.append(blocks)
        mark = len(self.nodes)
        for j in range(width):
            step = f":{width}" if width > 1 else ""
            self.scope = f"{prefix}.{first + j}–{first + j + (times - 1) * width}{step}"
            out = layer(first + j, out)
        if out.dtype is not h.dtype:
            raise BlocksDifferError((prefix, first))
        blocks.input_saved = self._is_saved(h, mark)
        before = len(self.log)
        del h  # the caller's `hidden_states = layer(hidden_states)` drops the input at this point
        blocks.end = len(self.log)
        blocks.input_outlives = not blocks.input_saved and blocks.end == before
        blocks.output = out.index
        self.current_copies, self.repeating = 1, None
        self.repeated.append(blocks)
        if len(self.nodes) == mark:  # nothing for backward to enter or leave
            self.nodes.pop()
        else:
            self.nodes.append(blocks)
        return out

    def _is_saved(self, h: Tensor, mark: int) -> bool:
        """Whether a node added since `mark` keeps h, so that each of the equal blocks keeps its own input."""
        for node in self.nodes[mark:]:
            if node.frame is not None and node.frame.x is h:
                return True
            for saved in node.saved or ():
                if saved is h or getattr(saved, "base", None) is h:
                    return True
        return False

    def _backward_repeated(self, blocks: RepeatedBlocks) -> None:
        """Backward has met one of the two marks of these blocks. It meets the one at their end first and so enters
        them; at the other one it leaves them.
        """
        below = next((node.grad for node in reversed(self.nodes) if node.__class__ is not RepeatedBlocks), None)
        if blocks.back_start < 0:
            blocks.back_start = len(self.log)
            blocks.grad_input = below.index if below is not None else -1
            self.current_copies = blocks.times
            return
        blocks.back_end = len(self.log)
        # If backward has not freed a saved input, something outside the blocks keeps it alive.
        blocks.input_outlives |= blocks.input_saved and ~blocks.input not in self.log[blocks.back_start :]
        self.current_copies = 1
        if below is not None:
            blocks.grad_output = below.index

    # -- the result ----------------------------------------------------------------------------------------------

    def structure(self) -> Structure:
        """What has been written, without the sizes."""
        sections = (section for blocks in self.repeated for section in blocks.sections())
        return Structure(
            events=tuple(self.log),
            phases=tuple(self.phases),
            repeats=tuple(sorted(sections)),
            copies=tuple([tensor.copies for tensor in self.tensors]),
        )
