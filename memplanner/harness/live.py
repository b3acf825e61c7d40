"""Exact live bytes of a real training step on fake tensors: every storage from birth to death."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memplanner.tape.engine import block


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage that operations make, as the caching allocator would round them.

    live: bytes alive now; peak: the most since `reset`. With `log` set, every birth and death is written down.
    """

    def __init__(self, *, log: bool = False) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.log: list[tuple[int, str]] | None = [] if log else None
        self._known: dict[int, tuple[Any, int]] = {}
        self._pending: tuple[torch.Tensor, int] | None = None
        self.in_backward = False

    def reset(self) -> None:
        """Forget the peak so far."""
        self.peak = self.live
        if self.log is not None:
            self.log = []

    def track(self, tensor: torch.Tensor, why: str = "") -> None:
        """Count a tensor's storage, unless it is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = block(storage.nbytes())
        if size == 0:
            return
        self._known[key] = (weakref.ref(storage, lambda _: self._dead(key)), size)
        self.live += size
        if self.log is not None:
            self.log.append((size, f"{why} {tuple(tensor.shape)} {str(tensor.dtype)[6:]}"))
        self.peak = max(self.peak, self.live)

    def forget(self, tensor: torch.Tensor) -> None:
        """Stop counting a tensor that lives on the host when training on a GPU."""
        self._dead(tensor.untyped_storage()._cdata)

    def _dead(self, key: int) -> None:
        size = self._known.pop(key, (None, 0))[1]
        self.live -= size
        if size and self.log is not None:
            self.log.append((-size, "free"))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.in_backward and func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled():
            # The engine summing two gradients: out of place under a dispatch mode, in place on the device when it
            # holds the only reference (torch/csrc/autograd/input_buffer.cpp, accumulate).
            return self._accumulate(*args)
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.track(leaf, str(func))
        if func is torch.ops.aten._softmax_backward_data.default:
            # CUDA's kernel materialises grad * output (ATen/native/cuda/SoftMax.cu); the CPU's does not.
            self.peak = max(self.peak, self.live + block(args[0].untyped_storage().nbytes()))
        return out

    def _accumulate(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return old.add_(new) if self._sole_owner(old) else self._tracked_add(old, new)

    def _tracked_add(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.aten.add.Tensor(old, new)
        self.track(out, "gradient accumulation")
        return out

    @staticmethod
    def _sole_owner(tensor: torch.Tensor) -> bool:
        # The engine's buffer, its call and this wrapper hold the tensor; a view's base holds the storage once more.
        holders: int = tensor._use_count()  # type: ignore[attr-defined]
        return holders <= 4 and torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) <= 2


def fake_parameters(model: torch.nn.Module, mode: Any) -> None:
    """Replace a meta model's parameters and buffers by fake CPU tensors of the same shapes, ties kept."""
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor, wrap: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if id(tensor) not in made:
            with mode:
                empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            made[id(tensor)] = wrap(empty)
        return made[id(tensor)]

    for module in model.modules():
        for name, param in module._parameters.items():
            if param is not None:
                requires_grad = param.requires_grad
                module._parameters[name] = fake(  # type: ignore[assignment]
                    param,
                    lambda t, r=requires_grad: torch.nn.Parameter(t, requires_grad=r),  # type: ignore[misc]
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer, lambda t: t)
