"""Strides of views and of results against PyTorch's, for shapes and views drawn at random."""

import random

import pytest

pytest.importorskip("torch")

import torch

from memplanner.tape import strides


def draw_tensor(rng: random.Random) -> torch.Tensor:
    """A tensor of some dimensions, permuted, sliced, expanded or none of these."""
    x = torch.zeros([rng.choice((1, 2, 3, 4, 6)) for _ in range(rng.randint(1, 4))])
    for _ in range(rng.randint(0, 3)):
        dim = rng.randrange(x.dim())
        match rng.choice(("permute", "slice", "select", "unsqueeze", "expand")):
            case "permute":
                x = x.permute(rng.sample(range(x.dim()), x.dim()))
            case "slice":
                x = x.narrow(dim, 0, max(1, x.shape[dim] - 1))
            case "select" if x.dim() > 1:
                x = x.select(dim, 0)
            case "unsqueeze":
                x = x.unsqueeze(dim)
            case "expand":
                x = x.expand([size if size > 1 else rng.randint(1, 3) for size in x.shape])
    return x


def of(x: torch.Tensor) -> tuple[tuple[int, ...], strides.Strides]:
    return tuple(x.shape), x.stride()


def same(order: strides.Strides | None, x: torch.Tensor) -> bool:
    """Whether these are x's strides, but for dimensions of one."""
    known = order or strides.contiguous(tuple(x.shape))
    return all(a == b for a, b, size in zip(known, x.stride(), x.shape, strict=True) if size != 1)


@pytest.mark.parametrize("seed", range(4))
def test_views(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        x = draw_tensor(rng)
        dims, order = of(x)
        assert (strides.normal(dims, order) is None) == x.is_contiguous()
        assert strides.is_dense(dims, order) == torch.ops.aten.is_non_overlapping_and_dense(x)
        axes = rng.sample(range(x.dim()), x.dim())
        assert same(strides.permute(dims, order, axes), x.permute(axes))
        wider = (rng.randint(1, 3), *[size if size > 1 else rng.randint(1, 3) for size in dims])
        assert same(strides.expand(dims, order, wider), x.expand(wider))


@pytest.mark.parametrize("seed", range(4))
def test_a_view_of_another_shape_or_none(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        x = draw_tensor(rng)
        left = x.numel()
        sizes: list[int] = []
        while left > 1 and len(sizes) < 4:
            sizes.append(rng.choice([n for n in range(1, left + 1) if left % n == 0]))
            left //= sizes[-1]
        sizes.append(left)
        rng.shuffle(sizes)
        try:
            expected = x.view(sizes)
        except RuntimeError:
            with pytest.raises(ValueError, match="no view"):
                strides.view(*of(x), tuple(sizes))
            continue
        assert same(strides.view(*of(x), tuple(sizes)), expected)


@pytest.mark.parametrize("seed", range(4))
def test_what_operations_make(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        x = draw_tensor(rng)
        assert same(strides.like(*of(x)), torch.empty_like(x))
        assert same(strides.like(*of(x)), x.clone())
        assert same(strides.like(*of(x)), x.to(torch.float64))
        assert same(strides.elementwise(tuple(x.shape), [of(x)]), x * 2)
        axes = rng.sample(range(x.dim()), x.dim())
        back = sorted(range(x.dim()), key=axes.__getitem__)
        other = torch.zeros([x.shape[axis] for axis in axes]).permute(back)
        narrow = torch.zeros([rng.choice((1, size)) for size in x.shape[rng.randrange(x.dim()) :]])
        for a, b in ((x, other), (other, x), (x, narrow), (narrow, x), (other, narrow)):
            out = a + b
            assert same(strides.elementwise(tuple(out.shape), [of(a), of(b)]), out), (of(a), of(b))
