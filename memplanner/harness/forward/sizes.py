"""Finds how sizes depend on a model's settings, from the same program recorded with several sets of settings."""

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Final

from memplanner.components.architectures.recorded.sizes import Size, Term
from memplanner.harness.errors import NotBuildableError

_MOST_SYMBOLS: Final = 3
_MOST_FACTOR: Final = 64
_FACTORS: Final = (1, 2, 3, 4, 6, 8, -1, -2)


class Sizes:
    """settings: of each recording, the numbers by their symbols. They are told apart by sizes that share no factors."""

    def __init__(self, settings: Sequence[Mapping[str, int]]) -> None:
        self.settings = settings
        self.products: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
        symbols = [*settings[0]]
        for count in range(1, _MOST_SYMBOLS + 1):
            for chosen in itertools.combinations(symbols, count):
                self.products.append((chosen, tuple(prod(s[symbol] for symbol in chosen) for s in settings)))
        self._found: dict[tuple[int, ...], Size] = {}

    def size(self, values: tuple[int, ...]) -> Size:
        """The expression that gives each recording's value; NotBuildableError where there is none of two terms."""
        found = self._found.get(values)
        if found is None:
            found = self._found[values] = self._search(values)
        return found

    def _search(self, values: tuple[int, ...]) -> Size:
        if len(set(values)) == 1:
            return (Term(values[0], 1, ()),)
        term = self._term(values)
        if term is not None:
            return (term,)
        for symbols, products in self.products:
            for factor in _FACTORS:
                rest = tuple(value - factor * product for value, product in zip(values, products, strict=True))
                second = Term(rest[0], 1, ()) if len(set(rest)) == 1 else self._term(rest)
                if second is not None and (second.symbols or abs(second.times) <= _MOST_FACTOR):
                    return Term(factor, 1, symbols), second
        raise NotBuildableError(f"no settings explain a size of {values}, with {list(self.settings)}")

    def _term(self, values: tuple[int, ...]) -> Term | None:
        for symbols, products in self.products:
            ratio = Fraction(values[0], products[0])
            if ratio == 0 or abs(ratio.numerator) > _MOST_FACTOR or ratio.denominator > _MOST_FACTOR:
                continue
            if all(Fraction(value, product) == ratio for value, product in zip(values, products, strict=True)):
                return Term(ratio.numerator, ratio.denominator, symbols)
        return None
