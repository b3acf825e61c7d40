"""CUDA kernels re-enacted on fake CPU tensors: the same outputs, saved tensors and temporaries, no arithmetic.

Where PyTorch's CPU path keeps other tensors than its CUDA path, the trace must follow CUDA. The differences:

* flash attention: pads head dims to a multiple of 8; saves q, k, v, the output (laid out as q is) and a float32
  log-sum-exp; backward makes the three gradients, a float32 query accumulator and row sums, and expanded key/value
  gradients under grouped-query attention (aten/src/ATen/native/transformers/attention.cpp, pad_last_dim;
  cuda/flash_attn/flash_api.cpp, mha_fwd and mha_bwd);
* memory-efficient attention: expands keys and values first, pads the log-sum-exp to 32 rows, and turns a boolean mask
  into one of the query's type in each layer, padded to rows of 8 (attention.cpp, convert_boolean_attn_mask and
  preprocess_mask; cuda/attention.cu, cuda/attention_backward.cu);
* cuDNN's attention: saves what flash does, with a mask as above (ATen/native/cudnn/MHA.cpp, run_cudnn_SDP_fprop);
* dropout: native_dropout's mask of one byte per element (ATen/native/Dropout.cpp, is_fused_kernel_acceptable);
* softmax of float16 into float32: makes no float32 copy of the input (ATen/native/SoftMax.cpp, half_to_float);
* singular value decomposition: cuSOLVER destroys its input, so the gradient is copied in column-major order first
  (ATen/native/BatchLinearAlgebra.cpp, linalg_svd_out); its own workspace is in no source;
* products of half matrices with a float32 result: cuBLAS makes them in one call, the CPU casts (torch.mm, out_dtype);
* autocast on CUDA casts what goes into pow, exp, layer_norm and the like to float32, and asks softmax for a float32
  result, which is no cast of a float16 input (ATen/autocast_mode.h, AT_FORALL_FP32 and AT_FORALL_FP32_SET_OPT_DTYPE);
  on the CPU it does neither.
"""

import contextlib
import unittest.mock
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from memplanner.components.attention import Attention, Call
from memplanner.gradnormlorp import norm
from memplanner.program.shapes import BF16, FP16, FP32

_HALVES = (torch.float16, torch.bfloat16)


def _ceil(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _by_token(like: Tensor, dim: int | None = None) -> Tensor:
    """An empty (batch, heads, seq, dim) tensor laid out (batch, seq, heads, dim). dim: another width than like's."""
    batch, heads, seq, own = like.shape
    return torch.empty(batch, seq, heads, dim or own, dtype=like.dtype, device=like.device).transpose(1, 2)


class FlashAttention(torch.autograd.Function):
    """Allocates and saves what the flash kernel does."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        lse = torch.empty(q.shape[:3], dtype=torch.float32)
        seed = torch.empty(2, dtype=torch.int64)
        ctx.save_for_backward(q, k, v, out, lse, seed)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        q, k, v = (saved := ctx.saved_tensors)[:3]
        batch, heads, seq, dim = q.shape
        rounded = _ceil(dim, 32) if dim <= 128 else _ceil(dim, 64)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        sums = torch.empty(batch, heads, _ceil(seq, 128), dtype=torch.float32)
        accumulator = torch.empty(batch, _ceil(seq, 128), heads, rounded, dtype=torch.float32)
        if k.shape[1] != heads:
            expanded = [torch.empty_like(q), torch.empty_like(q)]
            del expanded
        del sums, accumulator, saved
        return dq, dk, dv


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    """What the package flash-attn offers under this name, for tensors laid out (batch, seq, heads, dim)."""
    out: Tensor = FlashAttention.apply(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


class CudnnAttention(torch.autograd.Function):
    """Allocates and saves what cuDNN's kernel does, but for the workspace of its own plan, which is in no source."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        seed, offset = torch.empty(1, dtype=torch.int64), torch.empty(1, dtype=torch.int64)
        out = torch.empty_like(q) if v.shape[3] == q.shape[3] else _by_token(q, v.shape[3])
        lse = torch.empty(*q.shape[:3], 1, dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, lse, seed, offset, bias)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v = (saved := ctx.saved_tensors)[:3]
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        accumulator_and_sums = q.shape[:3].numel() * (q.shape[3] + 1)
        workspace = torch.empty(accumulator_and_sums, dtype=torch.float32)
        del workspace, saved
        return dq, dk, dv, None


class EfficientAttention(torch.autograd.Function):
    """Allocates and saves what the memory-efficient kernel does; keys and values come expanded to all heads, or grouped
    as torch 2.14 takes them.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        out = _by_token(q, v.shape[3])
        lse = torch.empty(*q.shape[:2], _ceil(q.shape[2], 32), dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, lse, bias)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v = (saved := ctx.saved_tensors)[:3]
        dq, dk, dv = _by_token(q), _by_token(k), _by_token(v)
        sums = torch.empty(q.shape[:3], dtype=torch.float32)
        tiles = (*q.shape[:2], _ceil(q.shape[2], 64), _ceil(q.shape[3], 64))
        accumulator = torch.empty(tiles, dtype=torch.float32)
        if k.shape[1] != q.shape[1]:
            expanded = [torch.empty_like(q), q.new_empty(*q.shape[:3], v.shape[3])]
            del expanded
        del accumulator
        del sums, saved
        return dq, dk, dv, None


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A boolean mask in the query's type (attention.cpp, convert_boolean_attn_mask)."""
    if mask is None:
        return None
    return torch.where(mask.logical_not(), float("-inf"), torch.zeros((), dtype=dtype))


def _attention(attention: Attention) -> Any:
    """scaled_dot_product_attention with the kernel that runs for each call's tensors."""
    from transformers.integrations.sdpa_attention import repeat_kv

    functional = torch.nn.functional

    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        lowered = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
        groups = query.shape[1] // key.shape[1] if enable_gqa else 1
        call = Call(
            dtype=_DTYPES[lowered],
            seq=key.shape[2],
            groups=groups,
            head_dim=query.shape[3],
            value_dim=value.shape[3],
            masked=attn_mask is not None,
            dropout=dropout_p,
            broadcasts=not enable_gqa and key.shape[1] != query.shape[1],
        )
        kernel = attention.kernel(call)
        if kernel == "math":
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                return _sdpa(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        query, key, value = query.to(lowered), key.to(lowered), value.to(lowered)
        bias = _additive(attn_mask, lowered)
        if kernel == "cudnn":
            return CudnnAttention.apply(query, key, value, bias)  # type: ignore[no-any-return]
        if kernel in ("efficient", "efficient-grouped"):
            if groups > 1 and kernel == "efficient":
                key, value = (repeat_kv(t, groups) for t in (key, value))
            if bias is not None and bias.shape[3] % 8:  # pad_bias
                bias = functional.pad(bias, (0, -bias.shape[3] % 8))[..., : bias.shape[3]]
            return EfficientAttention.apply(query, key, value, bias)  # type: ignore[no-any-return]
        assert bias is None, "flash takes no mask"
        dim = query.shape[3]
        if dim % 8:  # pad_last_dim
            query, key, value = (functional.pad(t, (0, -dim % 8)) for t in (query, key, value))
        out: Tensor = FlashAttention.apply(query, key, value)
        return out if out.shape[3] == dim else out[..., :dim]

    return scaled_dot_product_attention


_sdpa = torch.nn.functional.scaled_dot_product_attention
_DTYPES: Final = {torch.float32: FP32, torch.bfloat16: BF16, torch.float16: FP16}


def _dropout(input: Tensor, p: float, train: bool) -> Tensor:
    return torch.native_dropout(input, p, train)[0] if train and p else input


class _HalfToFloatSoftmax(torch.autograd.Function):
    """softmax from float16 to float32; in backward CUDA's kernel makes a temporary product of gradient and output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.empty(x.shape, dtype=torch.float32)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        out = torch.empty(grad.shape, dtype=torch.float16)
        product = torch.empty(grad.shape, dtype=torch.float32)
        del product
        return out


_softmax = torch.nn.functional.softmax


def _cuda_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    if dtype is None and torch.is_autocast_enabled("cpu") and input.dtype in _HALVES:
        dtype = torch.float32
    if input.dtype == torch.float16 and dtype == torch.float32:
        return _HalfToFloatSoftmax.apply(input)  # type: ignore[no-any-return]
    return _softmax(input, dim, _stacklevel, dtype)


_RAISED = ("exp", "expm1", "log", "log10", "log1p", "log2", "reciprocal", "rsqrt")


def _cuda_raised(function: Any) -> Any:
    """A function of one tensor that autocast on CUDA runs in fp32."""

    def raised(input: Tensor, **kwargs: Any) -> Tensor:
        promoted = torch.is_autocast_enabled("cpu") and input.dtype in _HALVES
        return function(input.float() if promoted else input, **kwargs)  # type: ignore[no-any-return]

    return raised


_pow = torch.pow


_autocast_enabled = torch.is_autocast_enabled


def _is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Without a device it asks for CUDA's autocast, as peft's layers do over a quantised weight."""
    return _autocast_enabled(device_type)


def _cuda_pow(input: Any, exponent: Any) -> Tensor:
    promoted = torch.is_autocast_enabled("cpu") and isinstance(input, Tensor) and input.dtype in _HALVES
    return _pow(input.float() if promoted else input, exponent)


def _cuda_square(input: Tensor) -> Tensor:
    """square is pow within ATen, which autocast sees."""
    return _cuda_pow(input, 2)


_layer_norm = torch.nn.functional.layer_norm


def _cuda_layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    if torch.is_autocast_enabled("cpu") and input.dtype in _HALVES:
        input = input.float()
    return _layer_norm(input, normalized_shape, weight, bias, eps)


class GroupedProduct(torch.autograd.Function):
    """Products of grouped rows in types other than bf16, which PyTorch multiplies group by group into one result
    (aten/src/ATen/native/GroupedMMUtils.h, _grouped_mm_fallback) and refuses on fake tensors. Either factor is kept for
    the other's gradient (tools/autograd/derivatives.yaml, _grouped_mm).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, offs: Tensor | None) -> Tensor:
        of_rows, of_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(rows if of_weight else None, weight if of_rows else None, offs)
        ctx.layouts = (rows.shape, rows.stride()), (weight.shape, weight.stride())
        return rows.new_empty(rows.shape[0], weight.shape[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        needed = zip(ctx.layouts, ctx.needs_input_grad, strict=False)
        return *(grad.new_empty_strided(*layout) if is_needed else None for layout, is_needed in needed), None


_grouped_mm = torch.nn.functional.grouped_mm


def _cuda_grouped_mm(rows: Tensor, weight: Tensor, *, offs: Tensor | None = None, **kwargs: Any) -> Tensor:
    if rows.dtype is torch.bfloat16:
        return _grouped_mm(rows, weight, offs=offs, **kwargs)
    return GroupedProduct.apply(rows, weight, offs)  # type: ignore[no-any-return]


_svd = torch.linalg.svd


def _cuda_svd(matrix: Tensor, full_matrices: bool = True) -> Any:
    column_major = matrix.mT.contiguous().mT.clone(memory_format=torch.preserve_format)
    factors = _svd(matrix, full_matrices=full_matrices)
    del column_major
    return factors


def _cuda_cross_product(weight: Tensor, factor_j: Tensor) -> Tensor:
    dtype = norm.wide(weight.dtype)
    if weight.dtype != dtype and factor_j.dtype == weight.dtype:
        return torch.mm(weight, factor_j.t(), out_dtype=dtype)
    return _cross_product(weight, factor_j)


_cross_product = norm.cross_product


def _whole_moments(name: str, g: Tensor, p: Tensor, *args: Any, max_unorm: float = 0.0, **kwargs: Any) -> None:
    """bitsandbytes' update of moments that are not quantised. It works in place; only where a norm of updates is kept
    does it copy the parameter to float32, to take the norm (functional.py, optimizer_update_32bit).
    """
    if max_unorm > 0:
        torch.norm(p.data.float())


def _state_buffer(self: Any, p: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """bitsandbytes' get_state_buffer (optim/optimizer.py) as on CUDA: a paged optimizer has the states of parameters
    from 1e5 elements on in managed memory (functional.py, get_paged).
    """
    buffer = torch.zeros_like(p, dtype=dtype)
    if self.is_paged and p.numel() >= 1e5:
        buffer.is_paged = True  # type: ignore[attr-defined]
    return buffer


def _code_book(*_: Any, **__: Any) -> Tensor:
    """An empty code book: bitsandbytes computes the real one on the host, number by number."""
    return torch.empty(256, dtype=torch.float32)


@contextlib.contextmanager
def cuda_memory(attention: Attention) -> Iterator[None]:
    """Within this context transformers' models on fake CPU tensors allocate as they would on CUDA.

    attention: which attention kernels run.
    """
    import bitsandbytes
    import transformers
    import transformers.masking_utils as masks
    import transformers.modeling_flash_attention_utils as flash_attn

    functional = torch.nn.functional
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context
        patch(unittest.mock.patch.object(functional, "scaled_dot_product_attention", _attention(attention)))
        # Registered with the dispatcher, since the math kernel calls dropout in C++.
        patch(torch.library._scoped_library("aten", "IMPL")).impl("dropout", _dropout, "AutogradCPU")
        patch(unittest.mock.patch.object(functional, "softmax", _cuda_softmax))
        patch(unittest.mock.patch.object(functional, "layer_norm", _cuda_layer_norm))
        patch(unittest.mock.patch.object(torch, "pow", _cuda_pow))
        patch(unittest.mock.patch.object(torch, "square", _cuda_square))
        for name in _RAISED:
            patch(unittest.mock.patch.object(torch, name, _cuda_raised(getattr(torch, name))))
        patch(unittest.mock.patch.object(functional, "grouped_mm", _cuda_grouped_mm))
        patch(unittest.mock.patch.object(torch, "is_autocast_enabled", _is_autocast_enabled))
        patch(unittest.mock.patch.object(torch.linalg, "svd", _cuda_svd))
        patch(unittest.mock.patch.object(bitsandbytes.functional, "create_dynamic_map", _code_book))
        patch(unittest.mock.patch.dict(bitsandbytes.functional.name2qmap, clear=True))  # its cache of code books
        patch(unittest.mock.patch.object(bitsandbytes.optim.optimizer.Optimizer8bit, "get_state_buffer", _state_buffer))
        patch(unittest.mock.patch.object(bitsandbytes.functional, "prefetch_tensor", lambda *_, **__: None))
        patch(unittest.mock.patch.object(bitsandbytes.functional, "optimizer_update_32bit", _whole_moments))
        patch(unittest.mock.patch.object(norm, "cross_product", _cuda_cross_product))
        # transformers takes fake tensors for tracing, and would build masks that a real step skips.
        patch(unittest.mock.patch.object(masks, "is_tracing", lambda *_: False))
        # transformers skips a mask that masks nothing, which fake values cannot show: a mask that is given is used.
        skip = masks._ignore_bidirectional_mask_sdpa
        patch(unittest.mock.patch.object(masks, "fast_all", lambda *_: False))
        patch(
            unittest.mock.patch.object(
                masks, "_ignore_bidirectional_mask_sdpa", lambda mask, *rest: mask is None and skip(mask, *rest)
            )
        )
        patch(unittest.mock.patch.object(masks, "find_packed_sequence_indices", lambda *_: None))
        # The package flash-attn, which needs no installation here.
        model = transformers.PreTrainedModel
        patch(unittest.mock.patch.object(model, "_flash_attn_can_dispatch", lambda *_, **__: True))
        functions = (flash_attn_func, None, None, None, None)
        loaded = (functions, (flash_attn._lazy_define_process_function(flash_attn_func), dict))
        for module in (flash_attn, transformers.modeling_utils):
            patch(unittest.mock.patch.object(module, "lazy_import_flash_attention", lambda *_, **__: loaded))
        patch(unittest.mock.patch.object(flash_attn, "_is_packed_sequence", lambda *_: False))
        yield
