"""The answers to 2,400 plans drawn at random are what they were, to the byte and to the letter.

An answer that changes for a reason is written anew with `python -m tests.golden.rewrite`, which says what changed.
"""

from typing import Any

import pytest

from tests.golden.answers import answer, golden

PARTS = 24


@pytest.mark.parametrize("part", range(PARTS))
def test_answers_are_what_they_were(part: int) -> None:
    changed: list[tuple[int, dict[str, Any], dict[str, Any], dict[str, Any]]] = []
    seen = 0
    for number, (plan, kept) in enumerate(golden()):
        if number % PARTS != part:
            continue
        seen += 1
        now = answer(plan)
        if now != kept:
            keys = kept.keys() | now.keys()
            was = {key: kept.get(key) for key in keys if kept.get(key) != now.get(key)}
            changed.append((number, plan, was, {key: now.get(key) for key in was}))
    assert seen >= 2000 // PARTS
    assert changed == []
