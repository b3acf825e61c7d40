"""A dispatch mode that follows every storage from allocation to release, for the exact live bytes of a real step."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memplanner.harness.history import Event
from memplanner.program.program import round_to_block
from memplanner.timeline import Category


class Birth(NamedTuple):
    """What is known of a tensor when its storage is allocated. module: the path of the module whose forward pass makes
    it, "" elsewhere.
    """

    operation: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    module: str = ""

    def __str__(self) -> str:
        return f"{self.operation} {self.shape} {str(self.dtype)[6:]}"


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage that operations make, rounded as the caching allocator rounds them.

    live: bytes alive now. events: every birth and death so far, each with its storage's address. Whoever runs the step
    sets in_forward (also during a recomputed forward pass), which decides the category of what is born, and
    in_backward, which decides how sums of gradients are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.events: list[Event] = []
        self.names: dict[int, Birth] | None = None
        """Index of a birth in `events` → the tensor; None where nobody asked for names."""
        self.modules: list[str] = []
        """Paths of the modules whose forward passes are running, the innermost last."""
        self.in_forward = False
        self.in_backward = False
        self._storages: dict[int, tuple[Any, Event]] = {}

    def alive(self) -> list[Event]:
        """Everything alive now, as the events of its births."""
        return [event for _, event in self._storages.values()]

    def track(self, tensor: torch.Tensor, why: object = "") -> None:
        """Count a tensor's storage, unless it is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = round_to_block(storage.nbytes())
        if size == 0:
            return
        event = Event(key, size, "activations" if self.in_forward else "temporaries")
        self._storages[key] = (weakref.ref(storage, lambda _: self._dead(key)), event)
        self.live += size
        if self.names is not None:
            module = self.modules[-1] if self.modules else ""
            self.names[len(self.events)] = Birth(str(why), tuple(tensor.shape), tensor.dtype, module)
        self.events.append(event)

    def label(self, tensor: torch.Tensor, category: Category) -> None:
        """Set the category of a tensor that is counted already."""
        counted = self._storages.get(tensor.untyped_storage()._cdata)
        if counted is not None:
            counted[1].category = category

    def untrack(self, tensor: torch.Tensor) -> None:
        """Stop counting a tensor, such as one that stays on the host when training on a GPU."""
        self._dead(tensor.untyped_storage()._cdata)

    def _dead(self, key: int) -> None:
        counted = self._storages.pop(key, None)
        if counted is not None:
            self.live -= counted[1].size
            self.events.append(Event(key, 0))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.in_backward and func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled():
            # The autograd engine sums two gradients. Under a dispatch mode it always makes a new tensor; on a device it
            # adds in place where it holds the only reference (torch/csrc/autograd/input_buffer.cpp, accumulate).
            return self._accumulate(*args)
        out = func(*args, **kwargs) if kwargs else func(*args)
        for leaf in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.track(leaf, func)
        if func is torch.ops.aten._softmax_backward_data.default:
            # CUDA's kernel makes a temporary of grad * output (ATen/native/cuda/SoftMax.cu), the CPU's does not.
            self.events += [Event(-1, round_to_block(args[0].untyped_storage().nbytes())), Event(-1, 0)]
        return out

    def _accumulate(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return old.add_(new) if self._sole_owner(old) else self._tracked_add(old, new)

    def _tracked_add(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.aten.add.Tensor(old, new)
        self.track(out, "gradient accumulation")
        return out

    @staticmethod
    def _sole_owner(tensor: torch.Tensor) -> bool:
        # Up to four references belong to the engine, its call and this wrapper; any other tensor that shares the
        # storage, such as the base of a view, shows in the storage's own count.
        holders: int = tensor._use_count()  # type: ignore[attr-defined]
        return holders <= 4 and torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) <= 2


def addresses(roles: Mapping[Category, Iterable[torch.Tensor]]) -> dict[int, Category]:
    """Address of each tensor's storage → the category it is listed under."""
    return {t.untyped_storage()._cdata: category for category, tensors in roles.items() for t in tensors}


def fake_parameters(model: torch.nn.Module, mode: Any) -> None:
    """Replace a meta model's parameters and buffers by fake CPU tensors of the same shapes; tied ones stay tied."""
    fakes: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor, wrap: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if id(tensor) not in fakes:
            with mode:
                empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            fakes[id(tensor)] = wrap(empty)
        return fakes[id(tensor)]

    for module in model.modules():
        for name, param in module._parameters.items():
            if type(param) is torch.nn.Parameter:  # bitsandbytes' own kinds are quantised elsewhere
                requires_grad = param.requires_grad
                module._parameters[name] = fake(  # type: ignore[assignment]
                    param,
                    lambda t, r=requires_grad: torch.nn.Parameter(t, requires_grad=r),  # type: ignore[misc]
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer, lambda t: t)
