"""Runs a recorded forward pass on the tape."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from memplanner.components.architectures.common import head_of, head_weight, logits_of
from memplanner.components.architectures.family import Published
from memplanner.components.architectures.recorded.program import (
    Block,
    Forward,
    Given,
    Setting,
    Step,
    Tensors,
    Type,
    Value,
    Weight,
)
from memplanner.components.architectures.recorded.reading import reading
from memplanner.components.architectures.recorded.sizes import label_of, shape_of
from memplanner.components.architectures.recorded.unused import hold_unused
from memplanner.components.context import Context, LinearSpec
from memplanner.notes import RecordedForward, TextAlone
from memplanner.program import shapes
from memplanner.program.shapes import BF16, FP16, FP32, Dtype, Shape
from memplanner.tape import nn, ops
from memplanner.tape.aten import OPERATIONS
from memplanner.tape.aten.base import promoted
from memplanner.tape.attention import Heads
from memplanner.tape.engine import Param, Tensor

DTYPES: Final[Mapping[str, Dtype]] = {
    "float32": shapes.FP32,
    "float64": shapes.INT64,
    "bfloat16": shapes.BF16,
    "float16": shapes.FP16,
    "int64": shapes.INT64,
    "int32": shapes.INT32,
    "int8": shapes.INT8,
    "uint8": shapes.UINT8,
    "bool": shapes.BOOL,
}
LOWERED: Final = frozenset({"matmul", "bmm", "baddbmm", "addbmm", "addmm", "mm", "convolution", "prelu"})
"""Operations that autocast casts to its type (aten/src/ATen/autocast_mode.h, AT_FORALL_LOWER_PRECISION_FP)."""
RAISED: Final = frozenset(
    {"pow", "exp", "log", "rsqrt", "reciprocal", "softplus", "layer_norm", "native_layer_norm", "cumsum", "cumprod"}
    | {"prod", "sum", "sinh", "cosh", "tan", "acos", "asin", "expm1", "log10", "log2", "log1p", "logsumexp"}
)
"""Operations that autocast casts to fp32 (autocast_mode.h, AT_FORALL_FP32 and AT_FORALL_FP32_SET_OPT_DTYPE)."""
PROMOTED: Final = frozenset({"cat", "stack"})
"""Operations whose parts autocast casts to the widest of their types (autocast_mode.h, AT_FORALL_PROMOTE)."""


class RecordedConfig(Published):
    """settings: the numbers of config.json that the program's sizes are made of. kinds: of every block. lora_targets:
    what peft adapts where a plan names nothing. path: of a user's file; empty for what ships.
    """

    forward: Forward
    settings: Mapping[str, Any]
    kinds: tuple[str, ...]
    lora_targets: tuple[str, ...] | str
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    tied: bool
    vocab: int
    activation: str = ""
    path: str = ""
    positions: int | None = None
    max_positions: int | None = None


Values = dict[int, Tensor | None]


class Recorded:
    """A model whose forward pass is a program."""

    def __init__(self, config: RecordedConfig, ctx: Context) -> None:
        with reading(config.path):
            self._prepare(config, ctx)

    def _prepare(self, config: RecordedConfig, ctx: Context) -> None:
        self.c, self.ctx, self.vocab = config, ctx, config.vocab
        self.forward = forward = config.forward
        self.sizes = {**config.settings, "batch": ctx.batch, "seq": ctx.seq}
        self.shapes = [shape_of(sizes, self.sizes) for sizes in forward.shapes]
        ctx.notes.append(self._note())
        self.specs: dict[tuple[str, str], LinearSpec] = {}
        head = forward.weights[forward.head]
        self.lm_head = head_of(
            self.shapes[head.shape].dims[0],
            self.shapes[head.shape].dims[1],
            tied_to=self._inner(forward.tokens) if config.tied else None,
            path=forward.head.removesuffix(".weight"),
            bias=head.bias,
        )

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Token ids to what the head takes."""
        with reading(self.c.path):
            return self._hidden_states(input_ids)

    def _hidden_states(self, input_ids: Tensor) -> Tensor:
        forward, ctx = self.forward, self.ctx
        values: Values = {0: input_ids}
        self._run(forward.before, values, (), None)

        def shared(i: int) -> Sequence[Tensor | None]:
            return [values[number] for number in forward.blocks[self.c.kinds[i]].given]

        kinds = self.c.kinds if len(forward.blocks) > 1 else ()
        entering: list[Any] = [values[forward.entering]]
        if self._is_freed_before_end(forward.entering):
            del values[forward.entering]
        values[forward.leaving] = ctx.layers(
            forward.stack,
            self.c.num_layers,
            self._block,
            entering,
            shared,
            kinds,
            sum(self.sizes[forward.repeats[path]] for path in forward.counted_before),
        )
        self._run(forward.after, values, (), None)
        self._declare({name: t for name, t in forward.weights.items() if not t.unused}, forward.head)
        self._hold_unused()
        hidden = values[forward.hidden]
        assert hidden is not None
        return hidden

    def head_weight(self) -> Param:
        """The output projection (vocab, hidden)."""
        return head_weight(self.ctx, self.lm_head)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """The output projection, and what follows it."""
        with reading(self.c.path):
            return self._logits(hidden_states)

    def _logits(self, hidden_states: Tensor) -> Tensor:
        forward = self.forward
        values: Values = {forward.projected: logits_of(self.ctx, self.lm_head, hidden_states)}
        self._run(forward.logits, values, (), None)
        logits = values[forward.made]
        assert logits is not None
        return logits

    def _note(self) -> RecordedForward:
        method, blocks = self.ctx.method, self.forward.blocks.values()
        has_experts = any(step.name == "_grouped_mm" for block in blocks for step in block.steps)
        is_packed = self.ctx.quantization is not None
        return RecordedForward(
            model_type=self.forward.model_type,
            transformers=self.forward.transformers,
            default_targets=self.c.lora_targets if method.peft_targets == () else (),
            recorded_here=bool(self.c.path),
            experts=self.ctx.weight_dtype.name if is_packed and has_experts else "",
        )

    # -- running -----------------------------------------------------------------------------------------------------

    def _is_freed_before_end(self, value: int) -> bool:
        return not any(value in step.frees for step in self.forward.after)

    def _block(self, i: int, hidden: Tensor, given: Sequence[Tensor | None]) -> Tensor:
        block = self.forward.blocks[self.c.kinds[i]]
        values: Values = {0: hidden}
        del hidden
        self._run(block.steps, values, given, block)
        self._declare(block.weights, "")
        out = values[block.leaving]
        assert out is not None
        return out

    def _run(self, steps: Sequence[Step], values: Values, given: Sequence[Tensor | None], block: Block | None) -> None:
        for step in steps:
            self._step(step, values, given, block)
            for value in step.frees:
                values.pop(value, None)

    def _step(self, step: Step, values: Values, given: Sequence[Tensor | None], block: Block | None) -> None:
        """One operation; what it makes enters `values`."""
        name = step.name
        if name == "nothing":
            return
        shapes_ = [self.shapes[shape] for shape in step.shapes]
        if name == "module":
            x = self._value(step.args[0], values, given, block)
            values[step.outs[0]] = self.ctx.linear(self._spec(step.args[1], block), x, shapes_[0])
            return
        args = [self._value(arg, values, given, block) for arg in step.args]
        match name:
            case "embedding":
                path = self._path(step.args[0], block).removesuffix(".weight")
                table = args[0].shape
                made: Any = self.ctx.embedding(path, table, args[1], shapes_[0], f"{path.rpartition('.')[2]} output")
            case "to":
                x, kind = args
                dtype = kind if isinstance(kind, Dtype) else kind.dtype
                made = x if x.dtype is dtype else OPERATIONS[name](self.ctx.tape, shapes_, x, dtype)
            case "alias":
                made = args[0]
            case "embedded":
                self.ctx.require_input_gradients(args[0])
                return
            case "mask":
                causal, window, embedded, *always = args
                attention = self.ctx.attention
                if not self.forward.has_kernels:
                    attention = attention.replaced(kind="eager")
                made = attention.mask(self.ctx, embedded.dtype, causal=causal, window=window, always=bool(always))
            case "attention":
                made = self._attention(args, shapes_[0])
            case "sdpa":
                made = self._sdpa(args)
            case "linear":
                made = (
                    self.ctx.matmul(args[0], args[1], args[2], shapes_[0], f"{step.module} output")
                    if step.lowered
                    else nn.matmul_weight(args[0], args[1], args[2], shapes_[0], f"{step.module} output")
                )
            case _:
                if step.lowered and self.ctx.autocast is not None:
                    args = self._cast(name, args)
                made = OPERATIONS[name](self.ctx.tape, shapes_, *args)
        if isinstance(made, tuple | list):
            for out, tensor in zip(step.outs, made, strict=True):
                values[out] = tensor
        else:
            values[step.outs[0]] = made

    def _cast(self, name: str, args: list[Any]) -> list[Any]:
        """The arguments as autocast casts them, from last to first."""
        autocast = self.ctx.autocast
        assert autocast is not None
        if name == "softmax":
            return [*args[:2], args[2] or FP32]
        if name in PROMOTED:
            widest = promoted(*args[0])
            return [[x if x.dtype is widest else ops.to(x, widest) for x in args[0]], *args[1:]]
        wanted = autocast if name in LOWERED else FP32 if name in RAISED else None
        if wanted is None:
            return args
        for place in reversed(range(len(args))):
            if isinstance(args[place], Tensor | Param) and args[place].dtype in (FP32, BF16, FP16):
                is_weight = isinstance(args[place], Param)
                args[place] = (
                    nn.cast_param(self.ctx.tape, args[place], wanted) if is_weight else ops.to(args[place], wanted)
                )
        return args

    def _attention(self, args: list[Any], by_token: Shape) -> tuple[Tensor, Tensor | None]:
        q, k, v, mask, causal, dropout, *_ = args
        del args[:]
        heads = _heads(q, k, v)
        out, weights = heads.attend(
            self.ctx.kernel(heads, mask, dropout, q.dtype),
            *(q, k, v),
            mask=mask,
            causal=causal,
            dropout=dropout,
            softmax="fp32",
            autocast=self.ctx.attention_type(q.dtype),
        )
        return ops.view(out, by_token), weights

    def _sdpa(self, args: list[Any]) -> Tensor:
        q, k, v, mask, causal, dropout, grouped = args
        del args[:]
        heads = _heads(q, k, v)
        broadcasts = heads.groups > 1 and not grouped
        kernel = self.ctx.kernel(heads, mask, dropout, q.dtype, broadcasts=broadcasts)
        how: dict[str, Any] = {"mask": mask, "causal": causal, "dropout": dropout}
        out, _ = heads.attend(
            kernel,
            *(q, k, v),
            **how,
            softmax="fp32",
            autocast=self.ctx.attention_type(q.dtype),
            broadcasts=broadcasts,
        )
        return ops.transpose(ops.view(out, heads.by_token), heads.out)

    # -- operands ----------------------------------------------------------------------------------------------------

    def _value(self, arg: Any, values: Values, given: Sequence[Tensor | None], block: Block | None) -> Any:
        if isinstance(arg, Value):
            return values[arg]
        if isinstance(arg, Given):
            return given[arg]
        if isinstance(arg, Weight):
            return self._param(arg, block)
        if isinstance(arg, Type):
            return self._dtype(arg)
        if isinstance(arg, Setting):
            return self.c.settings.get(arg)
        if isinstance(arg, list):
            return [self._value(item, values, given, block) for item in arg]
        return arg

    def _dtype(self, word: str) -> Dtype:
        if word == "weights":
            return self.ctx.weight_dtype
        if word == "lowered":
            return self.ctx.autocast or self.ctx.weight_dtype
        return DTYPES[word]

    def _inner(self, name: str) -> str:
        """A name without the module around the whole model, as the tape has it."""
        return name.removeprefix(f"{self.forward.root}.")

    def _path(self, name: str, block: Block | None) -> str:
        return str(name) if block is not None else self._inner(name)

    def _tensors(self, name: str, block: Block | None) -> Tensors:
        return self.forward.weights[name] if block is None else block.weights[name]

    def _param(self, name: str, block: Block | None, path: str = "") -> Param:
        tensors = self._tensors(name, block)
        path, shape = path or self._path(name, block), self.shapes[tensors.shape]
        own = DTYPES[tensors.dtype] if tensors.dtype else None
        if tensors.buffer:
            return self.ctx.param(path, shape, trainable=False, dtype=own or self.ctx.numerics.stored, role="buffer")
        dtype = own or (self.ctx.norm_dtype if "norm" in path else self.ctx.weight_dtype)
        return self.ctx.param(path, shape, trainable=False if tensors.frozen else None, dtype=dtype)

    def _spec(self, name: str, block: Block | None) -> LinearSpec:
        key = ("" if block is None else str(id(block)), name)
        spec = self.specs.get(key)
        if spec is None:
            tensors = self._tensors(name, block)
            sizes, dims = self.forward.shapes[tensors.shape], self.shapes[tensors.shape].dims
            out, in_ = (1, 0) if tensors.conv1d else (0, 1)
            labels = [label_of(sizes[place]) for place in (out, in_)]
            if labels[0] == labels[1]:
                labels[1] += "_"
            spec = self.specs[key] = LinearSpec(
                self._path(name, block).removesuffix(".weight"),
                dims[in_],
                dims[out],
                tensors.bias,
                (labels[0], labels[1]),
                conv1d=tensors.conv1d,
                in_block=block is not None,
            )
        return spec

    def _hold_unused(self) -> None:
        count = hold_unused(self.ctx, self.forward, self.sizes, self._unused, self._unused_spec)
        parts = dict.fromkeys(symbol.removesuffix("_depth") for symbol in self.forward.repeats.values())
        if parts:
            is_checkpointed = self.ctx.checkpoint_every > 0
            self.ctx.notes.append(TextAlone(parts=tuple(parts), num_parameters=count, is_checkpointed=is_checkpointed))

    def _unused(self, name: str, path: str) -> Param:
        return self._param(name, None, path)

    def _unused_spec(self, name: str, path: str) -> LinearSpec:
        return self._spec(name, None).replaced(path=path.removesuffix(".weight"))

    def _declare(self, weights: Mapping[str, Tensors], head: str) -> None:
        """Hold what no operation has used."""
        block = None if head else next(b for b in self.forward.blocks.values() if b.weights is weights)
        for name, tensors in weights.items():
            if not tensors.linear and name != head and name.removesuffix(".bias") + ".weight" not in weights:
                self._param(name, block)


def _heads(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    """The shapes of attention of these, each (batch, heads, seq, dim)."""
    batch, num_heads, seq, head_dim = q.shape.dims
    return Heads.of(
        batch=batch,
        seq=seq,
        num_heads=num_heads,
        num_kv_heads=k.shape.dims[1],
        head_dim=head_dim,
        value_dim=v.shape.dims[3],
    )
