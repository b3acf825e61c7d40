"""The order of memory: strides, in elements, of views and of what operations make from strided inputs.

Strides are a tuple as long as the dimensions; None stands for those of memory in the shape's order. Every function that
returns strides returns None where they are that (`normal`).
"""

from collections.abc import Sequence

Dims = tuple[int, ...]
Strides = tuple[int, ...]


def contiguous(dims: Dims) -> Strides:
    """The strides of memory in the shape's order."""
    strides = []
    step = 1
    for size in reversed(dims):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def is_contiguous(dims: Dims, strides: Strides) -> bool:
    """Whether memory is in the shape's order; the stride of a dimension of one is ignored."""
    step = 1
    for size, stride in zip(reversed(dims), reversed(strides), strict=True):
        if size == 1:
            continue
        if stride != step:
            return False
        step = step * size
    return True


def normal(dims: Dims, strides: Strides) -> Strides | None:
    """The strides; None if memory is in the shape's order."""
    return None if is_contiguous(dims, strides) else strides


def is_dense(dims: Dims, strides: Strides) -> bool:
    """Whether the elements fill their memory without overlaps (c10/core, is_non_overlapping_and_dense)."""
    step = 1
    for stride, size in sorted(zip(strides, dims, strict=True)):
        if size == 1:
            continue
        if stride != step:
            return False
        step = step * size
    return True


# -- views -------------------------------------------------------------------------------------------------------------


def permute(dims: Dims, strides: Strides, order: Sequence[int]) -> Strides | None:
    """Of x.permute(order)."""
    return normal(tuple([dims[place] for place in order]), tuple([strides[place] for place in order]))


def expand(dims: Dims, strides: Strides, sizes: Dims) -> Strides | None:
    """Of x.expand(sizes)."""
    leading = len(sizes) - len(dims)
    out: list[int] = []
    for place in range(len(sizes) - 1, -1, -1):
        if place >= leading:
            size, stride = dims[place - leading], strides[place - leading]
        else:
            size, stride = 1, sizes[place + 1] * out[-1] if out else 1
        out.append(0 if size == 1 and sizes[place] != 1 else stride)
    return normal(sizes, tuple(reversed(out)))


def view(dims: Dims, strides: Strides, sizes: Dims) -> Strides | None:
    """Of x.view(sizes); ValueError where that needs a copy (aten/src/ATen/TensorUtils.cpp, computeStride)."""
    if not dims:
        return None
    out = [0] * len(sizes)
    place = len(sizes) - 1
    chunk = strides[-1]
    numel = viewed = 1
    for old in range(len(dims) - 1, -1, -1):
        numel = numel * dims[old]
        if old and (dims[old - 1] == 1 or strides[old - 1] == numel * chunk):
            continue
        while place >= 0 and (viewed < numel or sizes[place] == 1):
            out[place] = viewed * chunk
            viewed = viewed * sizes[place]
            place -= 1
        if viewed != numel:
            raise ValueError("no view has this shape")
        if old:
            chunk = strides[old - 1]
            numel = viewed = 1
    if place >= 0:
        raise ValueError("no view has this shape")
    return normal(sizes, tuple(out))


# -- what operations make ----------------------------------------------------------------------------------------------


def like(dims: Dims, strides: Strides) -> Strides | None:
    """Of empty_like, clone and a cast of such a tensor: its own if it is dense, else dense ones in the same order."""
    return normal(dims, strides) if is_dense(dims, strides) else elementwise(dims, [(dims, strides)])


def elementwise(dims: Dims, operands: Sequence[tuple[Dims, Strides]]) -> Strides | None:
    """Of the result of an elementwise operation, which broadcasts its operands to `dims`.

    Source: aten/src/ATen/TensorIterator.cpp, reorder_dimensions and allocate_or_resize_outputs.
    """
    first_dims, first = operands[0]
    if first_dims == dims and is_dense(dims, first):  # its strides differ, so that no other operand is asked
        return normal(dims, first)
    spread = [_broadcast(dims, *operand) for operand in operands]
    order = list(range(len(dims) - 1, -1, -1))
    for i in range(1, len(order)):
        at = i
        for before in range(i - 1, -1, -1):
            comes = _compare(dims, spread, order[before], order[at])
            if comes < 0:
                break
            if comes > 0:
                order[before], order[at] = order[at], order[before]
                at = before
    out = [0] * len(dims)
    step = 1
    for place in order:
        out[place] = step
        step = step * dims[place]
    return normal(dims, tuple(out))


def _broadcast(dims: Dims, own: Dims, strides: Strides) -> list[int]:
    """The strides of an operand over all dimensions: 0 along those over which it is broadcast."""
    leading = len(dims) - len(own)
    spread = [
        0 if size == 1 and whole != 1 else stride
        for size, stride, whole in zip(own, strides, dims[leading:], strict=True)
    ]
    return [0] * leading + spread


def _compare(dims: Dims, spread: list[list[int]], inner: int, outer: int) -> int:
    """1 if dimension `inner` belongs outside of `outer`, -1 if not, 0 if no operand tells."""
    for strides in spread:
        a, b = strides[inner], strides[outer]
        if (a.__class__ is int and a == 0) or (b.__class__ is int and b == 0):
            continue
        if a < b:
            return -1
        if a > b or dims[inner] > dims[outer]:
            return 1
    return 0
