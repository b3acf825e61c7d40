"""Symbolic integers (SymInt) with guards, so that a step is written once for many batch sizes and sequence lengths.

A SymInt is a whole number that remembers how it was computed from inputs; the idea is that of
torch.fx.experimental.symbolic_shapes. Sums, products and the like are recorded, and can be computed again for other
inputs. A comparison has to give a definite answer, so its outcome is recorded as a guard: the record holds for other
inputs only if every guard has the same outcome for them. Code that needs the number itself (for a range, as a
dictionary's key, in a text) adds the guard that the number is this very one.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

_Function = Callable[[Any, Any], int]


class Arithmetic:
    """A record of computations on some inputs: a list of values, inputs first, and the operation behind each."""

    def __init__(self, *inputs: int) -> None:
        self.values: Final = list(inputs)
        self.inputs: Final = tuple(SymInt(self, place) for place in range(len(inputs)))
        self._constants: dict[int, int] = {}
        self._steps: dict[tuple[_Function, int, int], SymInt | bool] = {}

    def place(self, number: "int | SymInt") -> int:
        """The index of the number in `values`; a constant is added if it is new."""
        if number.__class__ is SymInt:
            assert number.program is self
            return number.place
        if not isinstance(number, int):
            raise TypeError(f"{number!r} is no whole number")
        place = self._constants.get(number)
        if place is None:
            place = self._constants[number] = len(self.values)
            self.values.append(number)
        return place

    def result(self, function: _Function, left: "int | SymInt", right: "int | SymInt") -> "SymInt":
        """function(left, right), recorded; the same operation on the same numbers is recorded once."""
        step = function, self.place(left), self.place(right)
        known_result = self._steps.get(step)
        if isinstance(known_result, SymInt):
            return known_result
        result = self._steps[step] = SymInt(self, len(self.values))
        self.values.append(function(self.values[step[1]], self.values[step[2]]))
        return result

    def guard(self, function: _Function, left: "int | SymInt", right: "int | SymInt") -> bool:
        """Whether function(left, right) holds. From here on the record is valid only for inputs for which the outcome
        is the same.
        """
        step = function, self.place(left), self.place(right)
        outcome = self._steps[step] = bool(function(self.values[step[1]], self.values[step[2]]))
        return outcome

    def at_place(self, place: int) -> "SymInt":
        """The number at this index of `values`."""
        if not 0 <= place < len(self.values):
            raise ValueError(f"{place} is not one of {len(self.values)} values")
        return SymInt(self, place)

    def as_table(self) -> dict[str, Any]:
        """The record as lists of numbers and names, which `from_table` reads."""
        names = {function: name for name, function in OPERATIONS.items()}
        steps = [
            [names[function], left, right, result.place if isinstance(result, SymInt) else result]
            for (function, left, right), result in self._steps.items()
        ]
        return {"inputs": len(self.inputs), "values": self.values, "steps": steps}

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> "Arithmetic":
        """The record that `as_table` wrote; ValueError where the table is none."""
        values, count = table["values"], table["inputs"]
        if not all(type(value) is int for value in values) or not 0 <= count <= len(values):
            raise ValueError("an arithmetic's values are whole numbers, its inputs first")
        arithmetic = cls(*values[:count])
        arithmetic.values.extend(values[count:])
        computed = set(range(count))
        for name, left, right, result in table["steps"]:
            if name not in OPERATIONS:
                raise ValueError(f"{name!r} is not an operation on whole numbers")
            arithmetic.at_place(left), arithmetic.at_place(right)
            if isinstance(result, bool):
                arithmetic._steps[OPERATIONS[name], left, right] = result
            else:
                arithmetic._steps[OPERATIONS[name], left, right] = arithmetic.at_place(result)
                computed.add(result)
        arithmetic._constants.update((value, place) for place, value in enumerate(values) if place not in computed)
        return arithmetic

    def run(self, *inputs: int) -> list[int] | None:
        """All values for other inputs; None where a guard has another outcome for them."""
        values = [*inputs, *self.values[len(inputs) :]]
        for (function, left, right), outcome in self._steps.items():
            value = function(values[left], values[right])
            if outcome.__class__ is SymInt:
                values[outcome.place] = value
            elif value is not outcome:
                return None
        return values


class SymInt:
    """A whole number recorded by an Arithmetic, at `place` among its values."""

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
        """int.bit_length, recorded."""
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
"""Every operation that can be recorded, by name."""


def resolved(number: "int | SymInt", values: Sequence[int]) -> int:
    """The number itself, or a SymInt's number among these values of its arithmetic."""
    return values[number.place] if isinstance(number, SymInt) else number
