"""Numbers that remember how they came about."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplanner.program.symbolic import Arithmetic, resolved

COMPUTED: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda x, y: x + y + 3 + (4 + x),
    "difference": lambda x, y: x - y - 1 + (7 - x),
    "product": lambda x, y: x * y * 5 * (6 * y),
    "rounded up": lambda x, y: -(-x // 128) * 128 + y,
    "in blocks": lambda x, y: (x * y + 511) & -512,
    "remainder": lambda x, y: x % 7 + x % y,
    "power of two": lambda x, y: 1 << (x - 1).bit_length(),
}


@pytest.mark.parametrize("formula", COMPUTED.values(), ids=COMPUTED)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000))
def test_recorded_arithmetic_is_computed_for_other_inputs(
    formula: Callable[[Any, Any], Any], a: int, b: int, c: int, d: int
) -> None:
    program = Arithmetic(a, b)
    number = formula(*program.inputs)
    assert resolved(number, program.values) == formula(a, b)
    again = program.run(c, d)
    assert again is not None
    assert resolved(number, again) == formula(c, d)
    assert resolved(number, program.values) == formula(a, b), "the program's own values stay"


ASKED: dict[str, Callable[[Any], Any]] = {
    "equal": lambda x: x == 8,
    "unequal": lambda x: x != 8,
    "less": lambda x: x < 8,
    "at most": lambda x: x <= 8,
    "more": lambda x: x > 8,
    "at least": lambda x: x >= 8,
    "from the other side": lambda x: x < 9,
    "true": lambda x: bool(x - 8),
}


@pytest.mark.parametrize("question", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("first", [7, 8, 9])
@pytest.mark.parametrize("other", [7, 8, 9])
def test_other_inputs_must_give_comparisons_the_same_outcome(
    question: Callable[[Any], Any], first: int, other: int
) -> None:
    program = Arithmetic(first)
    (x,) = program.inputs
    assert question(x) == question(first)
    assert (program.run(other) is not None) == (question(other) == question(first))


def test_min_holds_while_the_same_operand_is_smaller() -> None:
    program = Arithmetic(100)
    (x,) = program.inputs
    number: Any = min(256, x)  # type: ignore[call-overload]
    assert [resolved(number, program.run(n) or ()) for n in (1, 255)] == [1, 255]
    assert program.run(257) is None


BOUND: dict[str, Callable[[Any], Any]] = {
    "range": lambda x: list(range(x)),
    "text": lambda x: f"{x} tokens",
    "text of a tuple": lambda x: f"{(x,)}",
    "key": lambda x: {x: 1},
    "index": lambda x: "abcdefgh"[x],
}


@pytest.mark.parametrize("use", BOUND.values(), ids=BOUND)
def test_an_operation_that_needs_the_number_binds_the_program_to_it(use: Callable[[Any], Any]) -> None:
    program = Arithmetic(5)
    (x,) = program.inputs
    assert len(use(x)) == len(use(5))
    assert program.run(5) is not None
    assert program.run(6) is None


def test_operations_that_cannot_be_recorded_are_refused() -> None:
    (x,) = Arithmetic(5).inputs
    number: Any = x
    for use in (
        lambda: number / 2,
        lambda: number**2,
        lambda: f"{number:,}",
        lambda: number | 1,
        lambda: 0.5 * number,
        lambda: number == 5.0,
    ):
        with pytest.raises(TypeError):
            use()


def test_numbers_of_two_programs_do_not_mix() -> None:
    (x,), (y,) = Arithmetic(1).inputs, Arithmetic(2).inputs
    with pytest.raises(AssertionError):
        x + y


def test_operations_that_a_guard_rules_out_are_not_computed() -> None:
    program = Arithmetic(7)
    (x,) = program.inputs
    number = (x + 5) // (x - 5) if x > 5 else 0
    assert resolved(number, program.values) == 6
    assert program.run(5) is None
