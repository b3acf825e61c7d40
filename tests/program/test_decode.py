"""Logs in which equal blocks are written down once, as the events of all of them."""

from array import array
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.program.decode import Decoded, decoded
from memplanner.program.program import Carried, Repeat, Structure
from memplanner.program.stretch import Stretch


def decode(
    events: Iterable[int], update: int, repeats: Iterable[Repeat], copies: Iterable[int]
) -> tuple[Decoded, tuple[Stretch, ...], tuple[Stretch, ...]]:
    """The decoded program, and its stretches before the update and from there on."""
    phases = (("forward", 0), ("update", update))
    program = decoded(Structure(tuple(events), phases, tuple(repeats), tuple(copies)))  # type: ignore[arg-type]
    before, after = program.between(None, "update"), program.between("update", None)
    return program, tuple(stretch for _, stretch in before), tuple(stretch for _, stretch in after)


def one_by_one(stretches: Iterable[Stretch], bits: int) -> list[tuple[str, int, int]]:
    """("+" where it is allocated or "-" where it is freed, tensor, copy) of every event."""
    low = (1 << bits) - 1
    events = [event for stretch in stretches for time in stretch.each_time() for event in time]
    return [("+", e >> bits, e & low) if e >= 0 else ("-", ~e >> bits, ~e & low) for e in events]


def test_blocks_hand_their_output_to_the_next() -> None:
    """Tensor 0 enters three blocks. Each makes 1 from its input, which it then frees, and keeps 2 for backward."""
    blocks = Repeat(start=1, end=4, times=3, blocks=0, carried=(Carried(input=0, output=1, offset=-1),))
    program, before, after = decode((0, 1, 2, ~0, ~1, ~2), 6, [blocks], (1, 3, 3))
    assert program.bits == 2
    assert one_by_one(before, 2) == [
        ("+", 0, 0),
        *(("+", 1, 0), ("+", 2, 0), ("-", 0, 0)),
        *(("+", 1, 1), ("+", 2, 1), ("-", 1, 0)),
        *(("+", 1, 2), ("+", 2, 2), ("-", 1, 1)),
        ("-", 1, 2),  # what the last block hands on
        *(("-", 2, copy) for copy in range(3)),
    ]
    assert after == program.left == ()


def test_tensors_of_equally_many_blocks_are_made_block_by_block() -> None:
    """One stretch says it, whatever the number of blocks; so does one for their frees."""
    _, before, after = decode((0, 1, 2, 3, ~3, ~0, ~1, ~2), 4, [], (50, 50, 50, 7))
    assert before == (
        Stretch(array("i", (0, 1 << 6, 2 << 6)), 50, 1),
        Stretch(array("i", (3 << 6,)), 7, 1),
    )
    assert after == (
        Stretch(array("i", (~(3 << 6),)), 7, 1),
        Stretch(array("i", (~0, ~(1 << 6), ~(2 << 6))), 50, 1),
    )


def test_what_is_left_is_freed_by_the_next_step() -> None:
    program, _, _ = decode((0, 1, 2, 3, ~3), 3, [], (4, 4, 1, 4))
    assert program.left == (Stretch(array("i", (~0, ~(1 << 2))), 4, 1), Stretch(array("i", (~(2 << 2),)), 1, 1))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tensors=st.lists(st.tuples(st.integers(1, 9), st.sampled_from(("all", "last", "none"))), max_size=8))
def test_what_is_left_is_what_was_made_and_not_freed(tensors: list[tuple[int, str]]) -> None:
    """Of each tensor all copies are freed, or none, or the last alone, as of an output that its reader frees."""
    events: list[int] = []
    repeats: list[Repeat] = []
    for i, (count, freed) in enumerate(tensors):
        events.append(i)
        if freed == "last":
            repeats.append(Repeat(0, 0, count, i, carried=(Carried(-1, i, -1),)))
        if freed != "none":
            events.append(~i)
    program, _, after = decode(events, 0, repeats, [count for count, _ in tensors])
    one_step = one_by_one(after, program.bits)
    there = {e[1:] for e in one_step if e[0] == "+"} - {e[1:] for e in one_step if e[0] == "-"}
    left = one_by_one(program.left, program.bits)
    assert len(left) == len(there)
    assert {("-", *copy) for copy in there} == set(left)


@pytest.mark.parametrize("method", ["full", "lora", "galore", "gradnormlorp"])
@pytest.mark.parametrize("checkpointing", ["none", "full", "every-3"])
def test_two_steps_free_what_is_there_and_allocate_what_is_not(method: str, checkpointing: str) -> None:
    table = {"model": "llama-350m", "method": method, "step": {"checkpointing": checkpointing}}
    program = decoded(predict(TrainingPlan.model_validate(table)).program.structure)
    step = [stretch for _, stretch in program.between(None, None)]
    there: set[tuple[int, int]] = set()
    for kind, tensor, copy in one_by_one((*step, *program.left, *step, *program.left), program.bits):
        assert ((tensor, copy) in there) == (kind == "-")
        there ^= {(tensor, copy)}
    assert not there
