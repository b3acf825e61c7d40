"""Scaled dot product attention on the tape: the eager formula and PyTorch's kernels, as each saves and allocates.

Shapes: heads (batch, heads, seq, dim), kv_heads (batch, kv_heads, seq, dim), scores (batch, heads, seq, seq).
"""

from typing import Any, Final, Literal

from memplanner.frozen import Frozen
from memplanner.program.shapes import BOOL, FP32, INT64, SCALAR, Dtype, Shape
from memplanner.tape import ops
from memplanner.tape.engine import Node, Tape, Tensor

Softmax = Literal["fp32", "value", "scores"]
"""Type of the softmax in eager attention. "fp32": computed in fp32 and cast to the query's type (LLaMA). "value": in
the scores' own type and cast to the value's (GPT-2). "scores": in the scores' own type, without a cast (BERT). Under
autocast softmax always runs in fp32."""

Kernel = Literal["eager", "flash", "cudnn", "efficient", "efficient-grouped", "math"]
"""Which kernel computes attention. "efficient-grouped": the memory-efficient one over grouped heads, as torch 2.14 has
it; "efficient" is given keys and values of all heads."""


WIDEST_GROUPED: Final = 256
"""The widest head whose grouped keys and values transformers leaves to SDPA."""


class Heads(Frozen):
    """The shapes of one attention layer. value_dim: the width of values and the output, head_dim: of the others."""

    batch: int
    seq: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    tokens: Shape
    q: Shape
    kv: Shape
    out: Shape
    half_q: Shape
    half_kv: Shape
    by_token: Shape
    scores: Shape
    lse: Shape

    @classmethod
    def of(
        cls, *, batch: int, seq: int, num_heads: int, num_kv_heads: int, head_dim: int, value_dim: int | None = None
    ) -> "Heads":
        """All shapes from these numbers. value_dim: head_dim by default."""
        wide = head_dim if value_dim is None else value_dim
        width = {"head_dim": wide} if wide == head_dim else {"value_dim": wide}
        return cls(
            batch=batch,
            seq=seq,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            value_dim=wide,
            tokens=Shape(batch=batch, seq=seq, heads_dim=num_heads * wide),
            q=Shape(batch=batch, heads=num_heads, seq=seq, head_dim=head_dim),
            kv=Shape(batch=batch, kv_heads=num_kv_heads, seq=seq, head_dim=head_dim),
            out=Shape(batch=batch, heads=num_heads, seq=seq, **width),
            half_q=Shape(batch=batch, heads=num_heads, seq=seq, half_head_dim=head_dim // 2),
            half_kv=Shape(batch=batch, kv_heads=num_kv_heads, seq=seq, half_head_dim=head_dim // 2),
            by_token=Shape(batch=batch, seq=seq, heads=num_heads, **width),
            scores=Shape(batch=batch, heads=num_heads, seq=seq, keys=seq),
            lse=Shape(batch=batch, heads=num_heads, seq=seq),
        )

    def attend(
        self,
        kernel: Kernel,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None,
        causal: bool,
        dropout: float,
        softmax: Softmax,
        autocast: Dtype | None,
        broadcasts: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output of attention by this kernel, merged to (batch, seq, heads·dim), and the attention weights. Eager
        attention alone returns weights: they live until the forward pass of the block ends. broadcasts: keys and values
        of fewer heads are left to matmul, which the math kernel alone does.
        """
        if kernel == "eager":
            out, weights = eager(q, k, v, self, mask=mask, dropout=dropout, softmax=softmax, autocast=autocast)
            return ops.reshape(out, self.tokens), weights
        # Like sdpa_attention_forward, this holds on to what is expanded until the kernel is done.
        if not broadcasts and (kernel == "efficient" or self.is_expanded(masked=mask is not None)):
            k, v = repeat_kv(k, self), repeat_kv(v, self)
        if kernel == "math":
            how: dict[str, Any] = {"mask": mask, "causal": causal, "dropout": dropout, "autocast": autocast}
            return ops.reshape(math(q, k, v, self, broadcasts=broadcasts, **how), self.tokens), None
        if kernel in ("efficient", "efficient-grouped"):
            return efficient(q, k, v, self, autocast, mask), None
        if kernel == "cudnn":
            return cudnn(q, k, v, self, autocast, mask), None
        return flash(q, k, v, self, autocast), None

    def with_head_dim(self, head_dim: int) -> "Heads":
        """The same layer with heads of another width."""
        return Heads.of(
            batch=self.batch,
            seq=self.seq,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=head_dim,
        )

    def expanded(self, x: Tensor) -> Shape:
        """The shape of keys or values x once every query head has its own."""
        return self.q if x.shape.dims[3] == self.head_dim else self.out

    def is_expanded(self, *, masked: bool) -> bool:
        """Whether transformers gives every query head its own keys and values before it calls SDPA: it leaves grouped
        heads to it only without a mask (integrations/sdpa_attention.py, use_gqa_in_sdpa).
        """
        return masked or self.head_dim > WIDEST_GROUPED

    @property
    def groups(self) -> int:
        """Query heads per key/value head."""
        return self.num_heads // self.num_kv_heads


def repeat_kv(x: Tensor, heads: Heads) -> Tensor:
    """transformers' repeat_kv, expand() and reshape(), gives every query head its own keys and values: a copy, but of a
    single key/value head a view. Backward sums over each group.
    """
    if heads.groups == 1 or heads.num_kv_heads > 1:
        return repeat_interleave(x, heads)
    node = x.tape.record(_repeat_backward, (x.node,), None, x.shape)
    out = x.tape.view(x, heads.expanded(x))
    out.node = node
    return out


def repeat_interleave(x: Tensor, heads: Heads) -> Tensor:
    """torch.repeat_interleave over the heads, which always copies, of keys or values that are not expanded yet."""
    if x.shape.dims[1] == heads.num_heads:
        return x
    node = x.tape.record(_repeat_backward, (x.node,), None, x.shape)
    out = x.tape.new(heads.expanded(x), x.dtype, "key/value heads expanded")
    out.node = node
    return out


def _repeat_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.new(node.ctx, grad.dtype, "gradient summed over expanded heads"),)


def eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: Heads,
    *,
    mask: Tensor | None,
    dropout: float,
    softmax: Softmax,
    autocast: Dtype | None,
) -> tuple[Tensor, Tensor]:
    """transformers' eager_attention_forward, which allocates the scores several times."""
    k = repeat_kv(k, heads)
    v = repeat_kv(v, heads)
    weights = ops.scale(_matmul(q, k, heads.scores, "attention scores", autocast), "scaled scores")
    if mask is not None:
        weights = ops.add_constant(weights, mask, "masked scores")
    weights = ops.to(
        ops.softmax(weights, FP32 if softmax == "fp32" or autocast else weights.dtype),
        FP32 if softmax == "scores" and autocast else v.dtype if softmax == "value" else q.dtype,
        "attention weights",
    )
    weights = ops.dropout(weights, dropout)
    out = ops.view(_matmul(weights, v, heads.out, "attention output", autocast), heads.out)
    by_token = ops.transpose(out, heads.by_token)
    del out
    return ops.contiguous(by_token), weights


def _matmul(a: Tensor, b: Tensor, shape: Shape, name: str, autocast: Dtype | None) -> Tensor:
    """torch.matmul of 4-D tensors. bmm takes 3-D ones: joining batch and heads may need a copy of each."""
    a, b = lowered(autocast, a, b)
    left, right = (a, b) if a.shape.dims[0] == 1 else (ops.contiguous(a), ops.contiguous(b))
    return ops.bmm(left, right, shape, name)


def lowered(autocast: Dtype | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The arguments of an operation, cast to autocast's type from last to first, as C++ evaluates them."""
    if autocast is None:
        return tensors
    return tuple(reversed([ops.to(x, autocast, "cast by autocast") for x in reversed(tensors)]))


def math(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: Heads,
    *,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    autocast: Dtype | None,
    broadcasts: bool = False,
) -> Tensor:
    """PyTorch's fallback without a fused kernel, in fp32 (_scaled_dot_product_attention_math). broadcasts: it is matmul
    that expands grouped heads.
    """
    tape = q.tape
    q, k, v = lowered(autocast, q, k, v)
    dtype = q.dtype
    bias = None if mask is None else additive_mask(mask, dtype)
    q32, k32, v32 = (ops.to(t, FP32, "in fp32") for t in (q, k, v))
    scaled_q = ops.scale(q32, "scaled query")
    if mask is None and causal:
        square = Shape(queries=heads.seq, keys=heads.seq)
        ones = tape.new(square, BOOL, "ones")
        allowed = tape.new(square, BOOL, "causal mask (bool)")
        del ones
        zero, minus = tape.new(SCALAR, FP32, "zero"), tape.new(SCALAR, FP32, "minus infinity")
        bias = tape.new(square, FP32, "causal mask")
        del zero, minus, allowed
    keys, values = (k32, v32) if broadcasts else (repeat_interleave(k32, heads), repeat_interleave(v32, heads))
    scaled_k = ops.scale(keys, "scaled key")
    if broadcasts:
        scaled_k = _broadcast(scaled_k, heads)
    scores = _matmul(scaled_q, scaled_k, heads.scores, "attention scores", None)
    del scaled_k
    if bias is not None:
        scores = ops.add_constant(scores, bias, "masked scores")
    weights = ops.softmax(scores)
    del scores
    weights = ops.dropout(weights, dropout)
    returned = ops.to(weights, dtype, "attention weights") if dtype is not FP32 else None
    values = _broadcast(values, heads) if broadcasts else values
    out = ops.view(_matmul(weights, values, heads.out, "attention output", None), heads.out)
    out = ops.to(out, dtype, "attention output")
    del returned, weights, q32, k32, v32, keys, values, scaled_q, bias
    by_token = ops.transpose(out, heads.by_token)
    del out
    return ops.contiguous(by_token)


def _broadcast(x: Tensor, heads: Heads) -> Tensor:
    """Keys or values as torch.matmul expands them to all heads: a copy, but of a single sequence a view."""
    if heads.batch > 1:
        return repeat_interleave(x, heads)
    node = x.tape.record(_repeat_backward, (x.node,), None, x.shape)
    out = x.tape.view(x, heads.expanded(x))
    out.node = node
    return out


def flash(q: Tensor, k: Tensor, v: Tensor, heads: Heads, autocast: Dtype | None) -> Tensor:
    """The flash kernel of PyTorch or of flash-attn. It saves q, k, v, its output and one fp32 number per query row.

    The output and the gradients are laid out as q, k and v are, in the models here by token, so that merging the heads
    needs no copy. Head dims that are no multiple of 8 are padded to one before, and those copies are what is saved
    (aten/src/ATen/native/transformers/attention.cpp, pad_last_dim and post_process_flash_output).
    """
    tape = q.tape
    q, k, v = lowered(autocast, q, k, v)
    padded = heads
    if heads.head_dim % 8:
        padded = heads.with_head_dim(_up(heads.head_dim, 8))
        q = ops.pad_last(q, padded.q, "padded query")
        k = ops.pad_last(k, padded.kv, "padded key")
        v = ops.pad_last(v, padded.kv, "padded value")
    out = tape.like(q, "attention output")
    lse = tape.new(heads.lse, FP32, "log-sum-exp")
    seed = tape.new(Shape(philox=2), INT64, "random state")
    node = tape.record(_flash_backward, (q.node, k.node, v.node), (q, k, v, out, lse, seed), padded)
    out.node = node
    return _merge(out if padded is heads else ops.slice_last(out, heads.q), heads)


def _flash_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, ...]:
    # aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_bwd
    heads: Heads = node.ctx
    dq, dk, dv = _gradients_like(tape, grad.dtype, *saved[:3])
    seq = _up(heads.seq, 128)
    rounded = _up(heads.head_dim, 32 if heads.head_dim <= 128 else 64)
    delta = tape.new(Shape(batch=heads.batch, heads=heads.num_heads, seq=seq), FP32, "softmax gradient sums")
    accumulator = tape.new(
        Shape(batch=heads.batch, seq=seq, heads=heads.num_heads, head_dim=rounded), FP32, "query gradient in fp32"
    )
    if heads.groups > 1:
        dk_expanded = tape.new(heads.q, grad.dtype, "key gradient of all heads")
        dv_expanded = tape.new(heads.q, grad.dtype, "value gradient of all heads")
        del dk_expanded, dv_expanded
    del delta, accumulator
    return dq, dk, dv


def cudnn(q: Tensor, k: Tensor, v: Tensor, heads: Heads, autocast: Dtype | None, mask: Tensor | None) -> Tensor:
    """cuDNN's kernel. It saves what flash does, with the seed and the offset of its dropout apart, and the mask in the
    query's type.

    Source: aten/src/ATen/native/cudnn/MHA.cpp, run_cudnn_SDP_fprop and run_cudnn_SDP_bprop.
    """
    tape = q.tape
    q, k, v = lowered(autocast, q, k, v)
    bias = None if mask is None else additive_mask(mask, q.dtype)
    seed = tape.new(Shape(seed=1), INT64, "random seed")
    offset = tape.new(Shape(offset=1), INT64, "random offset")
    out = tape.like(q, "attention output") if heads.value_dim == heads.head_dim else _by_token(tape, heads.out, q.dtype)
    lse = tape.new(heads.lse, FP32, "log-sum-exp")
    saved = (q, k, v, out, lse, seed, offset, bias)
    out.node = tape.record(_cudnn_backward, (q.node, k.node, v.node), saved, heads)
    return _merge(out, heads)


def _cudnn_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, ...]:
    # The workspace that cudnn-frontend asks for (scaled_dot_product_flash_attention.h, CompositeSDPABackwardNode,
    # get_fe_workspace_size_node). What cuDNN's own plan adds to it is in no source.
    heads: Heads = node.ctx
    dq, dk, dv = _gradients_like(tape, grad.dtype, *saved[:3])
    columns = Shape(batch=heads.batch, heads=heads.num_heads, seq=heads.seq, head_dim_and_sum=heads.head_dim + 1)
    workspace = tape.new(columns, FP32, "query gradient and softmax gradient sums in fp32")
    del workspace
    return dq, dk, dv


def efficient(q: Tensor, k: Tensor, v: Tensor, heads: Heads, autocast: Dtype | None, mask: Tensor | None) -> Tensor:
    """The memory-efficient kernel. Keys and values are those of all heads, or, from torch 2.14 on, of grouped ones."""
    tape = q.tape
    q, k, v = lowered(autocast, q, k, v)
    bias = None if mask is None else additive_mask(mask, q.dtype, multiple=8)
    out = _by_token(tape, heads.out, q.dtype)
    padded = _up(heads.seq, 32)
    lse = tape.new(Shape(batch=heads.batch, heads=heads.num_heads, seq=padded), FP32, "log-sum-exp")
    node = tape.record(_efficient_backward, (q.node, k.node, v.node), (q, k, v, out, lse, bias), heads)
    out.node = node
    return _merge(out, heads)


def _efficient_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, ...]:
    # aten/src/ATen/native/transformers/cuda/attention_backward.cu, _efficient_attention_backward
    heads: Heads = node.ctx
    keys, values = saved[1].shape, saved[2].shape
    dq = _by_token(tape, heads.q, grad.dtype, "query gradient")
    dk = _by_token(tape, keys, grad.dtype, "key gradient")
    dv = _by_token(tape, values, grad.dtype, "value gradient")
    delta = tape.new(heads.lse, FP32, "softmax gradient sums")
    # kernel_backward.h: kNeedsAccumGradQ holds from compute capability 7.0 on, in tiles of 64 rows and 64 columns.
    rows, width = _up(heads.seq, 64), _up(heads.head_dim, 64)
    tiles = Shape(batch=heads.batch, heads=heads.num_heads, seq=rows, head_dim=width)
    accumulator = tape.new(tiles, FP32, "query gradient in fp32")
    if keys.dims[1] != heads.num_heads:
        # pytorch/pytorch#191085: each query head writes its own, a second kernel sums them.
        dk_expanded = tape.new(heads.q, grad.dtype, "key gradient of all heads")
        dv_expanded = tape.new(heads.out, grad.dtype, "value gradient of all heads")
        del dk_expanded, dv_expanded
    del accumulator
    del delta
    return dq, dk, dv


def additive_mask(mask: Tensor, dtype: Dtype, *, multiple: int = 1) -> Tensor:
    """A boolean mask as one in the query's type, which each layer makes and keeps for backward; multiple: of its rows,
    which are padded to it (attention.cpp, convert_boolean_attn_mask and pad_bias).
    """
    tape, keys = mask.tape, mask.shape.dims[3]
    inverted = tape.new(mask.shape, BOOL, "attention mask inverted")
    zero = tape.new(SCALAR, dtype, "zero")
    bias = tape.new(mask.shape, dtype, "attention mask of this layer")
    del inverted, zero
    if keys % multiple == 0:
        return bias
    batch, one, queries, _ = mask.shape.dims
    rows = Shape(batch=batch, one=one, queries=queries, keys=_up(keys, multiple))
    return tape.new(rows, dtype, "attention mask of this layer, padded")


def _up(number: int, multiple: int) -> int:
    """The next multiple that is not below the number."""
    return -(-number // multiple) * multiple


def _gradients_like(tape: Tape, dtype: Dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Gradients of q, k and v, laid out as these are (empty_like)."""
    names = ("query gradient", "key gradient", "value gradient")
    return tuple(tape.like(x, name, dtype) for x, name in zip(tensors, names, strict=True))


def _by_token(tape: Tape, shape: Shape, dtype: Dtype, name: str = "attention output") -> Tensor:
    """A new (batch, heads, seq, dim) tensor whose memory is ordered by token."""
    out = tape.new(shape, dtype, name)
    out.transposed = True
    return out


def _merge(out: Tensor, heads: Heads) -> Tensor:
    """A (batch, heads, seq, dim) tensor as (batch, seq, heads·dim): a view where its memory is ordered by token."""
    return ops.reshape(ops.transpose(out, heads.by_token), heads.tokens)
