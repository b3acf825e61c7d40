"""Writes down a model's forward pass as a list of operations, as its Python code calls them.

The model runs once on fake tensors without a graph. What the plan decides is not run but noted as one operation: linear
layers, tables of rows, attention and its mask, dropout; and so is what PyTorch runs otherwise for another batch size or
another type: reshape, contiguous, matmul, softmax, layer norm, changes of type. All else is noted as ATen operations.
When a tensor's last name goes is part of the program: on a GPU that frees it.
"""

import contextlib
import sys
import unittest.mock
import weakref
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from memplanner.components.architectures.recorded.program import Setting, Type, Value, Weight
from memplanner.frozen import Frozen
from memplanner.harness.errors import NotBuildableError

WORD: Final = "memplanner"
"""The name under which transformers is given the recorder's attention."""
MASKS: Final = {
    "create_causal_mask": ("causal", None),
    "create_sliding_window_causal_mask": ("causal", "sliding_window"),
    "create_chunked_causal_mask": ("causal", "attention_chunk_size"),
    "create_bidirectional_mask": ("bidirectional", None),
    "create_bidirectional_sliding_window_mask": ("bidirectional", "sliding_window"),
}
"""transformers' functions that make masks: what a token sees, and the setting that holds the window."""


class Call(Frozen, kw_only=False):
    """One operation. outs: the tensors it makes. shapes: theirs. frees: tensors whose last name goes with it."""

    name: str
    args: tuple[Any, ...]
    outs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]
    module: str
    lowered: bool
    """Whether autocast, where there is any, is on here."""


class Free(Frozen, kw_only=False):
    """The last name of a tensor has gone."""

    value: int


class Begin(Frozen, kw_only=False):
    """A block begins: its path and the hidden state that enters it."""

    path: str
    entering: int


class End(Frozen, kw_only=False):
    """The block that began last ends. leaving: the hidden state."""

    leaving: int


Entry = Call | Free | Begin | End


class Recorder(TorchFunctionMode):
    """Notes what is called while it is active; `entries` has it in order."""

    def __init__(self, model: nn.Module, *, applies_autocast: bool = False) -> None:
        super().__init__()
        self.applies_autocast = applies_autocast
        self.entries: list[Entry] = []
        self.numbers: dict[int, int] = {}
        """Number of each live tensor, by its identity."""
        self.count = 0
        self.depth = 0
        """Above 0 while an operation that is noted whole runs."""
        self.modules: list[str] = [""]
        self.lowered = True
        """Whether autocast was on when PyTorch was last called."""
        self.weights = {id(t): Weight(name) for name, t in (*model.named_parameters(), *model.named_buffers())}
        self.linears = {id(m.weight): m for m in model.modules() if isinstance(m, nn.Linear)}
        self.dispatch = _Dispatch(self)

    # -- tensors -------------------------------------------------------------------------------------------------

    def number(self, tensor: Tensor) -> Value:
        """The number of a tensor that an operation has just made, or makes anew where it is one from outside."""
        found = self.numbers.get(id(tensor))
        if found is not None:
            return Value(found)
        number = self.count
        self.count += 1
        self.numbers[id(tensor)] = number
        weakref.finalize(tensor, self._died, id(tensor), number).atexit = False
        return Value(number)

    def _died(self, identity: int, number: int) -> None:
        if self.numbers.get(identity) == number:
            del self.numbers[identity]
        self.entries.append(Free(number))

    def also(self, tensor: Tensor, number: int) -> None:
        """Let another tensor go by a number until it dies."""
        self.numbers[id(tensor)] = number
        weakref.finalize(tensor, self.numbers.pop, id(tensor), None).atexit = False

    def operand(self, value: Any) -> Any:
        """An argument as the program has it."""
        if isinstance(value, Tensor):
            if id(value) in self.weights:
                return self.weights[id(value)]
            if id(value) not in self.numbers:
                return self._constant(value)
            return Value(self.numbers[id(value)])
        if isinstance(value, torch.dtype):
            return Type(str(value).removeprefix("torch."))
        if isinstance(value, list | tuple):
            return [self.operand(item) for item in value]
        if isinstance(value, bool | int | float | Setting | None):
            return value
        return None  # layouts, devices, memory formats and words decide no tensor here

    def _constant(self, value: Tensor) -> Value:
        """A tensor that no operation has been seen to make, such as torch.tensor(1)."""
        number = self.number(value)
        self._note("constant", (self.operand(value.dtype),), [value])
        return number

    def _note(self, name: str, args: tuple[Any, ...], made: list[Tensor]) -> None:
        outs = tuple(self.number(t) for t in made)
        shapes, types = tuple(tuple(t.shape) for t in made), tuple(self.operand(t.dtype) for t in made)
        self.entries.append(Call(name, args, outs, shapes, types, self.modules[-1], self.lowered))

    def note(self, name: str, args: tuple[Any, ...], out: Any) -> Any:
        """Add an operation that has run; returns its result."""
        operands = tuple(self.operand(arg) for arg in args)
        made = [t for t in (out if isinstance(out, list | tuple) else (out,)) if isinstance(t, Tensor)]
        self._note(name, operands, made)
        return out

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within this context nothing is noted. Autocast is off: it is applied when the program is run."""
        self.depth += 1
        try:
            with contextlib.nullcontext() if self.applies_autocast else torch.autocast("cpu", enabled=False):
                yield
        finally:
            self.depth -= 1

    # -- functions -----------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.depth:
            return func(*args, **kwargs)
        self.lowered = torch.is_autocast_enabled("cpu")
        rule = _FUNCTIONS.get(func)
        if rule is not None:
            noted = rule(self, func, args, kwargs)
            if noted is not NotImplemented:
                return noted
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Note what happens within this context."""
        with self.dispatch, self:
            yield


class _Dispatch(TorchDispatchMode):
    """Sees the ATen operations that no function of the recorder has taken."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        schema = func._schema
        if self.recorder.depth or schema.name.startswith("prim::"):
            return out
        if schema.name == "aten::_to_copy" and self.recorder.applies_autocast and id(args[0]) in self.recorder.numbers:
            self.recorder.also(out, self.recorder.numbers[id(args[0])])  # autocast's
            return out
        ordered = [*args, *(kwargs.get(a.name, a.default_value) for a in schema.arguments[len(args) :])]
        dropped = _SIZES.get(schema.name, ())
        ordered = [
            value
            for argument, value in zip(schema.arguments, ordered, strict=True)
            if argument.name not in dropped and argument.name not in _UNUSED
        ]
        while ordered and ordered[-1] is None:
            ordered.pop()
        return self.recorder.note(schema.name.removeprefix("aten::"), tuple(ordered), out)


_UNUSED: Final = ("layout", "device", "pin_memory", "memory_format", "implicit", "generator", "non_blocking", "copy")
_SIZES: Final = {
    f"aten::{name}": names
    for name, names in {
        "view": ("size",),
        "_unsafe_view": ("size",),
        "expand": ("size",),
        "zeros": ("size",),
        "ones": ("size",),
        "empty": ("size",),
        "rand": ("size",),
        "full": ("size", "fill_value"),
        "new_zeros": ("size",),
        "new_ones": ("size",),
        "new_empty": ("size",),
        "new_full": ("size", "fill_value"),
        "arange": ("start", "end", "step"),
        "slice": ("start", "end"),
        "repeat": ("repeats",),
        "constant_pad_nd": ("pad", "value"),
        "scalar_tensor": ("s",),
        "full_like": ("fill_value",),
    }.items()
}
"""Arguments that say no more than the result's shape does, or values."""


# -- functions that are noted whole ------------------------------------------------------------------------------------


def _to(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x = args[0]
    out = _run(recorder, func, args, kwargs)
    named = func in (Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.long, Tensor.int, Tensor.bool, Tensor.double)
    if not named and not any(isinstance(a, torch.dtype | Tensor) for a in (*args[1:], *kwargs.values())):
        return out  # a move between devices
    return recorder.note("to", (x, out.dtype), _own(recorder, x, out))


def _own(recorder: Recorder, x: Tensor, out: Tensor) -> Tensor:
    """A tensor object of the result's own, even if the operation changes nothing now: it may in another plan."""
    if out is not x:
        return out
    with recorder.whole():
        return x.detach()


def _linear(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, bias = _bound(args, kwargs, ("input", "weight", "bias"))
    out = _run(recorder, func, args, kwargs)
    name = "module" if id(weight) in recorder.linears and recorder.linears[id(weight)].weight is weight else "linear"
    return recorder.note(name, (x, weight, bias), out)


def _embedding(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x, weight = _bound(args, kwargs, ("input", "weight"))
    return recorder.note("embedding", (weight, x), _run(recorder, func, args, kwargs))


def _dropout(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x, p, training = _bound(args, kwargs, ("input", "p", "training"))
    if not p or training is False:
        return x
    return recorder.note("dropout", (x, float(p)), _run(recorder, func, args, kwargs))


def _softmax(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x, dim = _bound(args, kwargs, ("input", "dim"))
    dtype = kwargs.get("dtype")
    if recorder.applies_autocast and torch.is_autocast_enabled("cpu"):
        kwargs = {**kwargs, "dtype": dtype or torch.float32}
    return recorder.note("softmax", (x, dim, dtype), _run(recorder, func, args, kwargs))


def _matmul(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    a, b = args[:2]
    return recorder.note("matmul", (a, b), _run(recorder, func, args, kwargs))


def _rmatmul(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    a, b = args[:2]
    return recorder.note("matmul", (b, a), _run(recorder, func, args, kwargs))


def _reshape(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x = args[0]
    return recorder.note("reshape", (x,), _own(recorder, x, _run(recorder, func, args, kwargs)))


def _contiguous(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x = args[0]
    return recorder.note("contiguous", (x,), _own(recorder, x, _run(recorder, func, args, kwargs)))


def _layer_norm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x, _, weight, bias = _bound(args, kwargs, ("input", "normalized_shape", "weight", "bias"))
    return recorder.note("layer_norm", (x, weight, bias), _run(recorder, func, _raised(recorder, args), kwargs))


def _raising(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """A function of one tensor that autocast runs in fp32 on CUDA, and on the CPU does not."""
    return recorder.note(func.__name__.strip("_"), args, _run(recorder, func, _raised(recorder, args), kwargs))


def _raised(recorder: Recorder, args: Any) -> Any:
    """The arguments, of which autocast casts the first to fp32."""
    if not (recorder.applies_autocast and torch.is_autocast_enabled("cpu") and isinstance(args[0], Tensor)):
        return args
    with recorder.whole():
        return (args[0].float() if args[0].is_floating_point() else args[0], *args[1:])


def _sdpa(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """A model's own call, whose result (batch, heads, seq, dim) it goes on to merge."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    query, key, value, mask, dropout, causal = _bound(args, kwargs, names)
    with recorder.whole():
        out = query.new_empty(*query.shape[:3], value.shape[3])
    grouped = bool(kwargs.get("enable_gqa"))
    return recorder.note("sdpa", (query, key, value, mask, bool(causal), float(dropout or 0.0), grouped), out)


def _joined(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """cat and stack, whose parts autocast casts to one type."""
    tensors, dim = _bound(args, kwargs, ("tensors", "dim"))
    name = "stack" if func is torch.stack else "cat"
    return recorder.note(name, (list(tensors), dim or 0), _run(recorder, func, args, kwargs))


def _grouped_mm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Of bf16 alone on fake tensors, of other types as well in PyTorch."""
    rows, weight = args[:2]
    with recorder.whole():
        out = rows.new_empty(rows.shape[0], weight.shape[2])
    return recorder.note("_grouped_mm", (rows, weight, kwargs.get("offs")), out)


def _bound(args: Any, kwargs: Any, names: tuple[str, ...]) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]


def _run(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    with recorder.whole():
        return func(*args, **kwargs)


_FUNCTIONS: Final[dict[Any, Any]] = {
    **dict.fromkeys(
        (
            *(Tensor.to, Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.type, Tensor.type_as, Tensor.long),
            *(Tensor.int, Tensor.bool, Tensor.double),
        ),
        _to,
    ),
    nn.functional.linear: _linear,
    nn.functional.embedding: _embedding,
    **dict.fromkeys((nn.functional.dropout, torch.dropout), _dropout),
    **dict.fromkeys((nn.functional.softmax, torch.softmax, Tensor.softmax), _softmax),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm), _matmul),
    Tensor.__rmatmul__: _rmatmul,
    **dict.fromkeys((Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten, Tensor.reshape_as), _reshape),
    Tensor.contiguous: _contiguous,
    **dict.fromkeys(
        (
            *(torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, Tensor.rsqrt, torch.exp, Tensor.exp),
            *(torch.expm1, Tensor.expm1, torch.log, Tensor.log, torch.log1p, Tensor.log1p),
        ),
        _raising,
    ),
    nn.functional.scaled_dot_product_attention: _sdpa,
    **dict.fromkeys((torch.cat, torch.concat, torch.stack), _joined),
    **dict.fromkeys((nn.functional.grouped_mm, torch._grouped_mm), _grouped_mm),
    **dict.fromkeys((nn.functional.layer_norm, torch.layer_norm), _layer_norm),
}


# -- transformers' models ----------------------------------------------------------------------------------------------


def _attention(recorder: Recorder) -> Any:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        batch, heads, seq, _ = query.shape
        with recorder.whole():
            out = query.new_empty(batch, seq, heads, value.shape[-1])
            weights = query.new_empty(1)
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        noted = (
            *(query, key, value, attention_mask, bool(causal), float(kwargs.get("dropout") or 0.0)),
            *(kwargs.get("s_aux"), kwargs.get("softcap")),
        )
        recorder.note("attention", noted, (out, weights))
        return out, weights

    return attention


def _masking(recorder: Recorder, kind: str, window: str | None) -> Any:
    def mask(config: Any = None, inputs_embeds: Any = None, attention_mask: Any = None, *_: Any, **kwargs: Any) -> Any:
        embeds = kwargs.get("input_embeds", inputs_embeds)
        batch, seq = embeds.shape[:2]
        with recorder.whole():
            out = embeds.new_empty(batch, 1, seq, seq)
        for extra in ("or_mask_function", "and_mask_function", "block_sequence_ids", "encoder_hidden_states"):
            if kwargs.get(extra) is not None:
                raise NotBuildableError(f"a mask with {extra}")
        args = (kind == "causal", Setting(window) if window else None, embeds)
        always = (True,) if kwargs.get("allow_is_causal_skip") is False else ()
        return recorder.note("mask", (*args, *always), out)

    return mask


_BY_KIND: Final = {
    "full_attention": "create_causal_mask",
    "sliding_attention": "create_sliding_window_causal_mask",
    "chunked_attention": "create_chunked_causal_mask",
}
"""transformers' names for kinds of layers, and the functions that make their masks."""


def _masks_by_kind(recorder: Recorder) -> Any:
    """create_masks_for_generate, which models with other parts call: a mask for each kind of layer. transformers takes
    the kinds out of a set, whose order is another in each process; here it is that of the layers.
    """

    def masks(config: Any, **kwargs: Any) -> Any:
        text = config.get_text_config()
        kinds = dict.fromkeys(getattr(text, "layer_types", None) or ())
        by_kind = {}
        for kind in kinds or ("full_attention",):
            if kind not in _BY_KIND:
                raise NotBuildableError(f"a mask for layers of kind {kind}")
            by_kind[kind] = _masking(recorder, *MASKS[_BY_KIND[kind]])(text, **kwargs)
        return by_kind if kinds else by_kind["full_attention"]

    return masks


@contextlib.contextmanager
def _transformers_noted(recorder: Recorder, model: nn.Module) -> Iterator[None]:
    """Let transformers' own code call the recorder for attention, masks, blocks and the embedded tokens."""
    from transformers import AttentionInterface
    from transformers.modeling_layers import GradientCheckpointingLayer

    AttentionInterface._global_mapping[WORD] = _attention(recorder)
    blocks = {m: path for path, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)}
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    with contextlib.ExitStack() as stack:
        for name in {type(m).__module__ for m in model.modules() if "transformers.models" in type(m).__module__}:
            module = sys.modules[name]
            for function, (kind, window) in MASKS.items():
                if hasattr(module, function):
                    made = _masking(recorder, kind, window)
                    stack.enter_context(unittest.mock.patch.object(module, function, made))
            if hasattr(module, "create_masks_for_generate"):
                made = _masks_by_kind(recorder)
                stack.enter_context(unittest.mock.patch.object(module, "create_masks_for_generate", made))
        for linear in recorder.linears.values():
            if type(linear).forward is not nn.Linear.forward and linear.bias is None:
                stack.enter_context(unittest.mock.patch.object(linear, "forward", _as_module(recorder, linear)))
        handles = []
        for path, module in model.named_modules():
            handles += _named(recorder, path, module, path if module in blocks else None)
        handles.append(
            embeddings.register_forward_hook(
                lambda _, __, out: recorder._note("embedded", (recorder.operand(out),), [])
            )
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _as_module(recorder: Recorder, linear: nn.Linear) -> Any:
    """The forward function of a linear layer that writes out its product, as one operation like any other's."""
    forward = linear.forward

    def noted(x: Tensor) -> Any:
        return recorder.note("module", (x, linear.weight, None), _run(recorder, forward, (x,), {}))

    return noted


def _named(recorder: Recorder, path: str, module: nn.Module, block: str | None) -> list[Any]:
    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        recorder.modules.append(path)
        if block is not None:
            hidden = args[0] if args else kwargs["hidden_states"]
            recorder.entries.append(Begin(block, recorder.operand(hidden)))

    def leave(_: nn.Module, __: Any, out: Any) -> None:
        recorder.modules.pop()
        if block is not None:
            hidden = out[0] if isinstance(out, tuple) else out
            recorder.entries.append(End(recorder.operand(hidden)))

    return [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]


def record_forward(model: nn.Module, batch: int, seq: int, mode: Any, *, applies_autocast: bool = False) -> list[Entry]:
    """The entries of one forward pass of a causal language model, up to its logits. applies_autocast: autocast has its
    effect, which elsewhere is noted alone.
    """
    recorder = Recorder(model, applies_autocast=applies_autocast)
    with mode, torch.no_grad(), _transformers_noted(recorder, model), torch.autocast("cpu", torch.bfloat16):
        input_ids = torch.empty(batch, seq, dtype=torch.int64)
        recorder.number(input_ids)
        with recorder.recording():
            out = model(input_ids=input_ids, use_cache=False)
        logits = recorder.operand(out.logits)
        recorder.entries.append(End(logits))
        entries = list(recorder.entries)
        del out
    return entries
