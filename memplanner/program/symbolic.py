"""Whole numbers that remember how they were computed, so that a step is walked once for many batches and lengths.

What is asked of such a number decides what holds beyond the one at hand. Arithmetic is written down, to be done again
for others; a comparison becomes a guard, which must come out the same for others; and whatever needs the number itself
(a range, a dictionary's key, a text) binds the program to it. The field calls these SymInt and guards
(torch.fx.experimental.symbolic_shapes).
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

_Function = Callable[[Any, Any], int]


class Arithmetic:
    """Computations on some inputs as they were done once: a list of values, inputs first, and how each came about."""

    def __init__(self, *inputs: int) -> None:
        self.values: Final = list(inputs)
        self.inputs: Final = tuple(SymInt(self, place) for place in range(len(inputs)))
        self._constants: dict[int, int] = {}
        self._steps: dict[tuple[_Function, int, int], SymInt | bool] = {}

    def place(self, number: "int | SymInt") -> int:
        """Where the number stands among the values."""
        if number.__class__ is SymInt:
            assert number.program is self
            return number.place
        if not isinstance(number, int):
            raise TypeError(f"{number!r} is no whole number")
        known = self._constants.get(number)
        if known is None:
            known = self._constants[number] = len(self.values)
            self.values.append(number)
        return known

    def result(self, function: _Function, left: "int | SymInt", right: "int | SymInt") -> "SymInt":
        """function(left, right), written down."""
        step = function, self.place(left), self.place(right)
        known = self._steps.get(step)
        if isinstance(known, SymInt):
            return known
        found = self._steps[step] = SymInt(self, len(self.values))
        self.values.append(function(self.values[step[1]], self.values[step[2]]))
        return found

    def guard(self, function: _Function, left: "int | SymInt", right: "int | SymInt") -> bool:
        """Whether function(left, right) holds; from here on the program is for inputs alone for which it comes out
        the same.
        """
        step = function, self.place(left), self.place(right)
        outcome = self._steps[step] = bool(function(self.values[step[1]], self.values[step[2]]))
        return outcome

    def at_place(self, place: int) -> "SymInt":
        """The number that stands there."""
        if not 0 <= place < len(self.values):
            raise ValueError(f"{place} is not one of {len(self.values)} values")
        return SymInt(self, place)

    def as_table(self) -> dict[str, Any]:
        """All that it is, in lists of numbers and names; see from_table."""
        names = {function: name for name, function in OPERATIONS.items()}
        steps = [
            [names[function], left, right, result.place if isinstance(result, SymInt) else result]
            for (function, left, right), result in self._steps.items()
        ]
        return {"inputs": len(self.inputs), "values": self.values, "steps": steps}

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> "Arithmetic":
        """The arithmetic that as_table wrote down; ValueError where it is none."""
        values, count = table["values"], table["inputs"]
        if not all(type(value) is int for value in values) or not 0 <= count <= len(values):
            raise ValueError("an arithmetic's values are whole numbers, its inputs first")
        made = cls(*values[:count])
        made.values.extend(values[count:])
        computed = set(range(count))
        for name, left, right, result in table["steps"]:
            if name not in OPERATIONS:
                raise ValueError(f"{name!r} is not an operation on whole numbers")
            made.at_place(left), made.at_place(right)
            if isinstance(result, bool):
                made._steps[OPERATIONS[name], left, right] = result
            else:
                made._steps[OPERATIONS[name], left, right] = made.at_place(result)
                computed.add(result)
        made._constants.update((value, place) for place, value in enumerate(values) if place not in computed)
        return made

    def run(self, *inputs: int) -> list[int] | None:
        """All values for other inputs; None where a guard comes out differently."""
        values = [*inputs, *self.values[len(inputs) :]]
        for (function, left, right), found in self._steps.items():
            value = function(values[left], values[right])
            if found.__class__ is SymInt:
                values[found.place] = value
            elif value is not found:
                return None
        return values


class SymInt:
    """A whole number of a program's."""

    __slots__ = ("place", "program")

    def __init__(self, program: Arithmetic, place: int) -> None:
        self.program: Final = program
        self.place: Final = place

    def __add__(self, other: "int | SymInt") -> "SymInt":
        return self.program.result(operator.add, self, other)

    def __radd__(self, other: int) -> "SymInt":
        return self.program.result(operator.add, other, self)

    def __sub__(self, other: "int | SymInt") -> "SymInt":
        return self.program.result(operator.sub, self, other)

    def __rsub__(self, other: int) -> "SymInt":
        return self.program.result(operator.sub, other, self)

    def __mul__(self, other: "int | SymInt") -> "SymInt":
        return self.program.result(operator.mul, self, other)

    def __rmul__(self, other: int) -> "SymInt":
        return self.program.result(operator.mul, other, self)

    def __floordiv__(self, other: "int | SymInt") -> "SymInt":
        return self.program.result(operator.floordiv, self, other)

    def __mod__(self, other: "int | SymInt") -> "SymInt":
        return self.program.result(operator.mod, self, other)

    def __neg__(self) -> "SymInt":
        return self.program.result(operator.sub, 0, self)

    def __and__(self, other: int) -> "SymInt":
        return self.program.result(operator.and_, self, other)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, float):
            raise TypeError(f"{other!r} is no whole number")
        return isinstance(other, int | SymInt) and self.program.guard(operator.eq, self, other)

    def __lt__(self, other: "int | SymInt") -> bool:
        return self.program.guard(operator.lt, self, other)

    def __le__(self, other: "int | SymInt") -> bool:
        return self.program.guard(operator.le, self, other)

    def __gt__(self, other: "int | SymInt") -> bool:
        return self.program.guard(operator.gt, self, other)

    def __ge__(self, other: "int | SymInt") -> bool:
        return self.program.guard(operator.ge, self, other)

    def __bool__(self) -> bool:
        return self.program.guard(operator.ne, self, 0)

    def __index__(self) -> int:
        number = self.program.values[self.place]
        self.program.guard(operator.eq, self, number)
        return number

    def __hash__(self) -> int:
        return hash(self.__index__())

    def __repr__(self) -> str:
        return str(self.__index__())

    def __rlshift__(self, other: int) -> "SymInt":
        return self.program.result(operator.lshift, other, self)

    def bit_length(self) -> "SymInt":
        """int.bit_length, written down."""
        return self.program.result(_bit_length, self, 0)


def _bit_length(number: int, _: int) -> int:
    return number.bit_length()


OPERATIONS: Final[dict[str, _Function]] = {
    **{
        name: getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "mod", "and_", "lshift", "eq", "ne", "lt", "le", "gt", "ge")
    },
    "bit_length": _bit_length,
}
"""What is written down, by name."""


def resolved(number: "int | SymInt", values: Sequence[int]) -> int:
    """The number that it is among these values of its program."""
    return values[number.place] if isinstance(number, SymInt) else number
