"""In which order the tensors that outlive a step are made, and what comes and goes meanwhile.

A model without quantised weights is made block by block. A quantised base is read as transformers 5 reads it
(core_model_loading.py, convert_and_load_state_dict_in_model; integrations/bitsandbytes.py):

- One block of half a byte per quantised weight (of one byte in 8 bits), and of the checkpoint's type for all others, is
  allocated and freed again, so that the weights find a segment of their own (caching_allocator_warmup).
- Weights come one by one, in the order of their names, numbers by value. One that is quantised comes whole, is packed
  on the card, and is freed. One that the checkpoint has quantised comes as it is kept, with its scales.
- k-bit preparation then casts what is left, weight by weight (peft, prepare_model_for_kbit_training).

Before its pull request 44576 (March 2026), worker threads read weights on the card ahead of their packing, which left
other gaps from one run to the next.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final, NamedTuple

from memplanner.program.program import Persistent, PersistentTensor, round_to_block
from memplanner.program.shapes import INT8, UINT8
from memplanner.timeline import Category

MADE_LATE: Final[tuple[Category, ...]] = ("gradients", "optimizer_state", "projectors")
"""Persistent tensors that the first step makes, before its update."""
_PACKED: Final = {UINT8: 2, INT8: 1}
"""Types of quantised weights, and how many weights there are in a byte."""


class Making(NamedTuple):
    """Allocations and frees before a step.

    sizes: bytes of each tensor, or of each of its copies, in equal blocks of the model. spans: for how many blocks, and
    what happens in each of them: i where tensor i is allocated, ~i where it is freed.
    """

    sizes: tuple[int, ...]
    spans: tuple[tuple[int, tuple[int, ...]], ...]


def made_early(persistent: Persistent) -> Making:
    """What is there before the first step."""
    early = [tensor for tensor in persistent if tensor.category not in MADE_LATE]
    if persistent.checkpoint is None:
        return _Writer(early).making()
    return _read(early, persistent.checkpoint.size, is_packed=persistent.is_packed)


def made_late(persistent: Persistent) -> Making:
    """What the first step makes before its update."""
    return _Writer([tensor for tensor in persistent if tensor.category in MADE_LATE]).making()


class _Writer:
    def __init__(self, tensors: Iterable[PersistentTensor] = ()) -> None:
        self.sizes: list[int] = []
        self.spans: list[tuple[int, tuple[int, ...]]] = []
        self.all(tensors)

    def all(self, tensors: Iterable[PersistentTensor]) -> None:
        """Make these, block by block."""
        for copies, alike in groupby(tensors, lambda tensor: tensor.copies):
            self.span(copies, [self.tensor(tensor) for tensor in alike])

    def new(self, size: int) -> int:
        """A tensor of so many bytes, still to be allocated."""
        self.sizes.append(round_to_block(size))
        return len(self.sizes) - 1

    def tensor(self, tensor: PersistentTensor) -> int:
        return self.new(tensor.block_bytes // tensor.copies)

    def span(self, copies: int, events: Iterable[int]) -> None:
        self.spans.append((copies, tuple(events)))

    def making(self) -> Making:
        return Making(tuple(self.sizes), tuple(self.spans))


def _read(early: list[PersistentTensor], width: int, *, is_packed: bool) -> Making:
    """A quantised base, read from a checkpoint of `width` bytes per weight, and what is made after it. is_packed: what
    is quantised is read as it is kept.
    """
    modules = list(_modules(early))
    writer = _Writer()
    warmup = writer.new(sum(first.copies * _warmed_up(first, width) for first, *_ in modules))
    writer.span(1, (warmup, ~warmup))
    whole = {id(first): writer.new(_weights(first) * width) for first, *_ in modules}
    in_order = sorted(modules, key=lambda module: _by_name(module[0].name))
    for copies, alike in groupby(in_order, lambda module: module[0].copies):
        events: list[int] = []
        for first, *scales in alike:
            if is_packed and first.dtype in _PACKED:
                events += map(writer.tensor, (first, *scales))
                continue
            events.append(whole[id(first)])
            if first.dtype in _PACKED:  # quantize_4bit makes the scales first
                made = [*map(writer.tensor, scales[:1]), writer.tensor(first), *map(writer.tensor, scales[1:])]
                events += [*made, ~whole[id(first)]]
        writer.span(copies, events)
    for first, *_ in modules:
        if first.dtype not in _PACKED and first.dtype.size != width:
            writer.span(first.copies, (writer.tensor(first), ~whole[id(first)]))
    read = {id(tensor) for module in modules for tensor in module}
    writer.all(tensor for tensor in early if id(tensor) not in read)
    return writer.making()


def _warmed_up(weight: PersistentTensor, width: int) -> int:
    per_byte = _PACKED.get(weight.dtype)
    return _weights(weight) * width if per_byte is None else _weights(weight) // per_byte


def _modules(early: Iterable[PersistentTensor]) -> Iterator[list[PersistentTensor]]:
    """The weights that a checkpoint has, each with its scales where it is quantised."""
    module: list[PersistentTensor] = []
    for tensor in early:
        is_weight = tensor.category == "parameters" and tensor.role == "weight"
        if module and module[0].dtype in _PACKED and tensor.role == "buffer" and _module(tensor) == _module(module[0]):
            module.append(tensor)
            continue
        if module:
            yield module
        module = [tensor] if is_weight else []
    if module:
        yield module


def _module(tensor: PersistentTensor) -> str:
    """The path of the module that a tensor is of; "" for what all share, such as a code book."""
    return tensor.name.rpartition(".")[0]


def _weights(tensor: PersistentTensor) -> int:
    return (tensor.stands_for or tensor.shape).numel


def _by_name(name: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    """A key for the order of a sorted checkpoint. The head's name comes before those that begin with the model's.

    Of blocks that are written together ("0–20:2") the first one's number counts.
    """
    parts = (part.partition("–")[0] for part in name.split("."))
    return not name.startswith("lm_head"), [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]
