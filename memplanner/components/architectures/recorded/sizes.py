"""Sizes as expressions of a model's settings and of a plan's batch, such as "num_key_value_heads*head_dim + 1"."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Final, NamedTuple

from memplanner.program.shapes import Shape


class Term(NamedTuple):
    """times · the product of the symbols / over, which divides without a rest."""

    times: int
    over: int
    symbols: tuple[str, ...]

    def __str__(self) -> str:
        factors = [*([str(self.times)] if self.times != 1 or not self.symbols else []), *self.symbols]
        return "*".join(factors) + (f"/{self.over}" if self.over != 1 else "")


Size = tuple[Term, ...]
"""A sum of terms."""


def parse_size(text: str) -> Size:
    """The size that `size_text` wrote; ValueError where it is none."""
    return tuple(_parse_term(part) for part in text.split(" + "))


def _parse_term(text: str) -> Term:
    product, _, over = text.partition("/")
    times, symbols = 1, []
    for factor in product.split("*"):
        if factor.removeprefix("-").isdecimal():
            times *= int(factor)
        elif factor.isidentifier():
            symbols.append(factor)
        else:
            raise ValueError(f"{text!r} is no product of settings")
    return Term(times, int(over or 1), tuple(symbols))


def size_text(size: Size) -> str:
    """The size as text."""
    return " + ".join(map(str, size))


def evaluate(size: Size, settings: Mapping[str, int]) -> int:
    """The number for these settings; ValueError where a division leaves a rest."""
    total = 0
    for times, over, symbols in size:
        value = times * prod([settings[symbol] for symbol in symbols]) if symbols else times
        if over != 1:
            if value % over:
                raise ValueError(f"{over} does not divide {'*'.join(symbols)}")
            value //= over
        total = value if total.__class__ is int and total == 0 else total + value
    return total


_LABELS: Final = {
    "1": "one",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "num_attention_heads*head_dim": "heads_dim",
    "num_key_value_heads*head_dim": "kv_heads_dim",
    "head_dim/2": "half_head_dim",
    "num_experts_per_tok": "experts_per_token",
}


def label_of(size: Size) -> str:
    """What a dimension of this size is called."""
    text = size_text(size)
    if text in _LABELS:
        return _LABELS[text]
    if all(not term.symbols for term in size):
        return "dim"
    words = []
    for term in size:
        names = [_LABELS.get(symbol, symbol.removesuffix("_size").removeprefix("num_")) for symbol in term.symbols]
        number = [str(term.times)] if term.times != 1 or not names else []
        words.append("·".join([*number, *names]) + (f"/{term.over}" if term.over != 1 else ""))
    return "+".join(words)


def shape_of(sizes: Iterable[Size], settings: Mapping[str, int]) -> Shape:
    """The labelled shape; equal labels are told apart by underscores."""
    dims: dict[str, int] = {}
    for size in sizes:
        label = label_of(size)
        while label in dims:
            label += "_"
        dims[label] = evaluate(size, settings)
    return Shape(**dims)
