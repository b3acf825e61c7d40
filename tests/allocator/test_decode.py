"""Logs in which equal blocks are written down once, as the events of all of them."""

from array import array
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.allocator.decode import decode
from memplanner.allocator.stretch import Stretch
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.tape.engine import Run


def one_by_one(stretches: Iterable[Stretch], bits: int) -> list[tuple[str, int, int]]:
    """("+" where it is allocated or "-" where it is freed, tensor, copy) of every event."""
    low = (1 << bits) - 1
    events = [event for stretch in stretches for time in stretch.each_time() for event in time]
    return [("+", e >> bits, e & low) if e >= 0 else ("-", ~e >> bits, ~e & low) for e in events]


def test_blocks_hand_their_output_to_the_next() -> None:
    """Tensor 0 enters three blocks. Each makes 1 from its input, which it then frees, and keeps 2 for backward."""
    run = Run(reps=3, start=1, input=0, end=4, output=1)
    decoded = decode((0, 1, 2, ~0, ~1, ~2), 6, [run], (1, 1, 3))
    assert decoded.bits == 2
    assert one_by_one(decoded.before, 2) == [
        ("+", 0, 0),
        *(("+", 1, 0), ("+", 2, 0), ("-", 0, 0)),
        *(("+", 1, 1), ("+", 2, 1), ("-", 1, 0)),
        *(("+", 1, 2), ("+", 2, 2), ("-", 1, 1)),
        ("-", 1, 2),  # what the last block hands on
        *(("-", 2, copy) for copy in range(3)),
    ]
    assert decoded.after == decoded.left == ()


def test_tensors_of_equally_many_blocks_are_made_block_by_block() -> None:
    """One stretch says it, whatever the number of blocks; so does one for their frees."""
    decoded = decode((0, 1, 2, 3, ~3, ~0, ~1, ~2), 4, [], (50, 50, 50, 7))
    assert decoded.before == (
        Stretch(array("i", (0, 1 << 6, 2 << 6)), 50, 1),
        Stretch(array("i", (3 << 6,)), 7, 1),
    )
    assert decoded.after == (
        Stretch(array("i", (~(3 << 6),)), 7, 1),
        Stretch(array("i", (~0, ~(1 << 6), ~(2 << 6))), 50, 1),
    )


def test_tensors_without_a_copy_are_left_out() -> None:
    assert decode((0, 1, ~0, ~1), 2, [], (0, 0)) == (0, (), (), ())


def test_what_is_left_is_freed_by_the_next_step() -> None:
    decoded = decode((0, 1, 2, 3, ~3), 3, [], (4, 4, 1, 4))
    assert decoded.left == (Stretch(array("i", (~0, ~(1 << 2))), 4, 1), Stretch(array("i", (~(2 << 2),)), 1, 1))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tensors=st.lists(st.tuples(st.integers(1, 9), st.sampled_from(("all", "last", "none"))), max_size=8))
def test_what_is_left_is_what_was_made_and_not_freed(tensors: list[tuple[int, str]]) -> None:
    """Of each tensor all copies are freed, or none, or the last alone, as that of a run's output."""
    log: list[int] = []
    runs: list[Run] = []
    for i, (count, freed) in enumerate(tensors):
        log.append(i)
        if freed == "last":
            runs.append(Run(reps=count, start=-1, input=-1, output=i))
        if freed != "none":
            log.append(~i)
    decoded = decode(log, 0, runs, [count for count, _ in tensors])
    events = one_by_one(decoded.after, decoded.bits)
    there = {event[1:] for event in events if event[0] == "+"} - {event[1:] for event in events if event[0] == "-"}
    left = one_by_one(decoded.left, decoded.bits)
    assert len(left) == len(there)
    assert {("-", *copy) for copy in there} == set(left)


@pytest.mark.parametrize("method", ["full", "lora", "galore", "gradnormlorp"])
@pytest.mark.parametrize("checkpointing", ["none", "full", "every-3"])
def test_two_steps_free_what_is_there_and_allocate_what_is_not(method: str, checkpointing: str) -> None:
    table = {"model": "llama-350m", "method": method, "step": {"checkpointing": checkpointing}}
    tape = predict(TrainingPlan.model_validate(table)).walked.tape
    update = dict(tape.phases)["update"]
    decoded = decode(tape.log, update, tape.runs, tape.reps)
    step = (*decoded.before, *decoded.after)
    there: set[tuple[int, int]] = set()
    for kind, *block in one_by_one((*step, *decoded.left, *step, *decoded.left), decoded.bits):
        copy = (block[0], block[1])
        assert (copy in there) == (kind == "-")
        there ^= {copy}
    assert not there
