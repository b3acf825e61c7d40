"""Rows in columns are the rows that were added."""

import math

import pytest

from memplanner.validation.rows import Row, Rows, Validation, merged


def row(name: str, metric: str, predicted: int = 11, measured: int = 10, peer: int | None = None) -> Row:
    return Row(
        id=name,
        source="s",
        gpu="g",
        method="lora",
        metric=metric,
        predicted_bytes=predicted,
        measured_bytes=measured,
        in_sample=name == "b",
        peer="p" if peer is not None else "",
        peer_bytes=peer,
    )


ROWS = [
    row("a", "allocated", peer=0),
    row("a", "device", predicted=1 << 70, measured=(1 << 63) - 1),
    row("b", "allocated", predicted=0, measured=0, peer=1 << 63),
    row("b", "reserved", predicted=3, measured=0),
    row("a", "allocated", predicted=8),
]


def test_what_was_added_is_there() -> None:
    rows = Rows()
    rows += ROWS[:2]
    rows.extend(iter(ROWS[2:]))
    assert list(rows) == ROWS
    assert [rows[i] for i in range(-len(ROWS), 0)] == ROWS
    assert rows[1:-1] == ROWS[1:-1]
    assert len(rows) == len(ROWS)
    assert not Rows()
    with pytest.raises(IndexError):
        rows[len(ROWS)]


def test_summaries_are_of_the_rows() -> None:
    part, whole = Validation(), Validation()
    part.rows += ROWS
    whole = merged([part, Validation(), part])
    assert list(whole.rows) == ROWS * 2
    groups = part.groups()
    assert list(groups) == [
        "s · g · lora · allocated",
        "s · g · lora · device",
        "s · g · lora · in sample · allocated",
        "s · g · lora · in sample · reserved",
    ]
    first = groups["s · g · lora · allocated"]
    assert (first.count, first.worst, first.p95) == (2, -0.2, 0.2)
    assert first.median == pytest.approx(0.15)
    assert (first.peer_median, first.peer_worst) == (1.0, 1.0)
    assert groups["s · g · lora · in sample · reserved"].worst == math.inf
    assert groups["s · g · lora · device"].peer_worst is None
    assert {name: each.count for name, each in part.by_metric(in_sample=False).items()} == {"allocated": 2, "device": 1}
    assert part.beyond(0.05) == [ROWS[4], ROWS[0]]
