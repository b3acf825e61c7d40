"""Sweeps: every combination once, the same in any order, and what each point says is what a prediction says."""

import random
import tracemalloc
from itertools import islice, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.cli.typed_values import values_of
from memplanner.errors import UserError
from memplanner.plan.merge import merge
from memplanner.prediction import Predictor, predict
from memplanner.solve.sweep import Axis, Sweep, points_of, sweep
from memplanner.timeline import advisable

BASE = {"model": "llama-60m"}


def run(axes: list[Axis], flags: dict[str, Any] | None = None) -> Sweep:
    return sweep(BASE, flags or {}, axes, Predictor(), where="test")


def axis(name: str, *values: str | bool) -> Axis:
    return Axis(name=name, values=values)


def test_every_point_is_a_prediction() -> None:
    axes = [axis("--rank", "8", "64"), axis("--gpu", "rtx4090", "t4", "1GiB"), axis("--batch-size", "1", "7")]
    result = run(axes, {"--method": "lora", "--checkpointing": "full"})
    assert [point.values for point in result.points] == list(product(*(a.values for a in axes)))
    for point in result.points:
        estimate = predict(merge(BASE, result.flags_of(point), where="test"))
        assert (point.verdict, point.live_bytes) == (estimate.verdict, estimate.live_bytes)
        assert point.limit_bytes == estimate.limit_bytes
        if point.device_bytes is None:
            assert estimate.live_bytes + estimate.context_bytes > estimate.limit_bytes
            assert point.allocated_bytes is None
            assert point.least_device_bytes <= estimate.device_bytes
        else:
            assert point.allocated_bytes == estimate.allocated_bytes
            assert point.device_bytes == point.least_device_bytes == estimate.device_bytes
    assert {point.verdict for point in result.points} == {"fits", "tight", "does-not-fit"}


def test_a_context_is_that_of_its_own_point() -> None:
    axes = [axis("--context", "0", "500MiB"), axis("--gpu", "rtx4090", "24GiB"), axis("--batch-size", "1", "7")]
    for flags in ({}, {"--checkpointing": "full"}):
        result = run(axes, flags)
        assert {point.values[0]: point.context_bytes for point in result.points} == {"0": 0, "500MiB": 500 << 20}
        for point in result.points:
            assert point.device_bytes == predict(merge(BASE, result.flags_of(point), where="test")).device_bytes
    contexts = [(point.is_context_assumed, point.context_bytes > 0) for point in run(axes[1:]).points]
    assert contexts == [(False, True), (False, True), (True, True), (True, True)]


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 30))
def test_any_order_gives_the_same(seed: int) -> None:
    rng = random.Random(seed)
    axes = [axis("--rank", "4", "8", "300"), axis("--gpu", "t4", "h100-sxm"), axis("--batch-size", "1", "16")]
    shuffled = [axis(a.name, *rng.sample(a.values, len(a.values))) for a in rng.sample(axes, len(axes))]
    flags = {"--method": "galore"}

    def facts(result: Sweep) -> dict[frozenset[tuple[str, Any]], Any]:
        return {
            frozenset(result.flags_of(p).items()): (
                p.verdict,
                p.allocated_bytes,
                p.reserved_bytes,
                p.device_bytes,
                p.limit_bytes,
            )
            for p in result.points
        }

    plain, mixed = run(axes, flags), run(shuffled, flags)
    assert facts(plain) == facts(mixed)
    assert {frozenset(plain.flags_of(p).items()) for p in plain.frontier()} == {
        frozenset(mixed.flags_of(p).items()) for p in mixed.frontier()
    }


@pytest.mark.parametrize("fast", ["--batch-size", "--budget"])
def test_of_points_that_were_taken_nothing_is_kept(fast: str) -> None:
    estimate = predict(merge(BASE, {}, where="test"))
    unit = "MiB" if fast == "--budget" else ""

    def peak(count: int) -> int:
        axes = [
            axis("--seq-len", *map(str, range(1, count // 100 + 1))),
            axis(fast, *(f"{n}{unit}" for n in range(1, 101))),
        ]
        points = points_of(BASE, {}, axes, lambda _: estimate, where="test")
        assert len(list(islice(points, 500))) == 500  # what is made once is there
        tracemalloc.start()
        try:
            assert sum(1 for _ in points) == count - 500
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(2_000)
    assert peak(20_000) < few + 32 * 1024  # less than two bytes a point


def test_a_method_without_ranks_is_one_point() -> None:
    result = run([axis("--method", "full", "lora"), axis("--rank", "8", "16")])
    assert [point.values for point in result.points] == [("full", ""), ("lora", "8"), ("lora", "16")]


def test_combinations_that_are_no_plan_are_left_out_and_counted() -> None:
    result = run([axis("--grad-accumulation", "1", "4"), axis("--per-layer-updates", False, True)])
    assert [point.values for point in result.points] == [("1", False), ("1", True), ("4", False)]
    assert list(result.skipped.values()) == [1]
    assert "grad_accumulation 4" in next(iter(result.skipped))


@pytest.mark.parametrize("bad", [axis("--rank", "8", "abc"), axis("--rank", "8", "0"), axis("model", "llama-60m", "x")])
def test_a_value_that_never_works_is_an_error(bad: Axis) -> None:
    with pytest.raises(UserError) as caught:
        run([bad, axis("--method", "lora", "full")])
    assert len(caught.value.problems) == 1


def test_moments_in_eight_bits_are_second_best() -> None:
    result = run([axis("--optimizer", "adamw-8bit", "adamw"), axis("--batch-size", "1", "2")], {"--gpu": "24GiB"})
    assert [point.values for point in result.frontier()] == [("adamw", "2")]
    others = run([axis("--optimizer", "sgd", "adamw"), axis("--batch-size", "1", "2")], {"--gpu": "24GiB"})
    assert [point.values for point in others.frontier()] == [("sgd", "2"), ("adamw", "2")]


def test_the_frontier_is_what_nothing_beats() -> None:
    axes = [
        axis("--method", "lora", "galore"),
        axis("--rank", "8", "64", "512"),
        axis("--batch-size", "1", "4", "16", "64"),
        axis("--checkpointing", "none", "every-2", "full"),
    ]
    result = run(axes, {"--gpu": "2GiB"})
    order = {"none": 3, "every-2": 2, "full": 1}

    def beats(a: Any, b: Any) -> bool:
        better = [int(x) >= int(y) for x, y in zip(a[1:3], b[1:3], strict=True)] + [order[a[3]] >= order[b[3]]]
        return bool(a != b and a[0] == b[0] and all(better))

    fitting = [point.values for point in result.points if advisable(point)]
    expected = [v for v in fitting if not any(beats(other, v) for other in fitting)]
    assert 0 < len(expected) < len(fitting) < len(result.points)
    assert [point.values for point in result.frontier()] == expected


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("8", "8"),
        ("8,16", "8 16"),
        ("8,16,…,128", "8 16 32 64 128"),
        ("8,16,...,100", "8 16 32 64 100"),
        ("4,8,12,…,24", "4 8 12 16 20 24"),
        ("1,4,…,10", "1 4 7 10"),
        ("1..5", "1 2 3 4 5"),
        ("1..10..3,64", "1 4 7 10 64"),
        ("8,8,16", "8 16"),
    ],
)
def test_lists_of_numbers(text: str, values: str) -> None:
    assert " ".join(values_of("--rank", text)) == values


@pytest.mark.parametrize(
    "text", ["", ",", "8,…", "…,8", "8,…,64", "16,8,…,64", "5..1", "1..9..0", "1..x", "1..2..3..4", "1..9999999999"]
)
def test_malformed_lists_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        values_of("--rank", text)


def test_words_are_left_as_they_are() -> None:
    assert values_of("--gpu", "rtx4090, 24GiB") == ("rtx4090", "24GiB")
