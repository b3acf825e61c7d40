"""What was alive when, by category: sequences worked by hand, and a snapshot as CUDA's allocator writes it."""

from typing import Any

import pytest

from memplanner.harness.history import Event, Mark, Reading, read_history
from memplanner.timeline import Category, Phase


def reading(phase: Phase, peak: dict[Category, int], end: dict[Category, int]) -> Reading:
    return Reading(phase=phase, peak_bytes=sum(peak.values()), end_bytes=sum(end.values()), at_peak=peak, at_end=end)


def test_peaks_ends_and_categories() -> None:
    initial = [Event(1, 100, "parameters")]
    events = [
        Event(2, 50, "activations"),
        Event(3, 30, "activations"),  # the forward pass's peak: 180
        Event(3, 0),
        Event(4, 40),
        Event(2, 0),
        Event(5, 20),  # stays as the gradient
        Event(4, 0),
    ]
    marks = [Mark("forward", 3, {}), Mark("backward", 7, {5: "gradients"})]
    assert read_history(initial, events, marks) == [
        reading("forward", {"parameters": 100, "activations": 80}, {"parameters": 100, "activations": 50}),
        reading(
            "backward",
            {"parameters": 100, "activations": 50, "temporaries": 40},
            {"parameters": 100, "gradients": 20},
        ),
    ]


def test_a_reused_address_is_another_tensor() -> None:
    """The temporary at 7 is not the gradient that comes to lie there later."""
    events = [Event(7, 64), Event(8, 8), Event(7, 0), Event(7, 16), Event(8, 0)]
    readings = read_history([], events, [Mark("backward", 5, {7: "gradients"})])
    assert readings == [reading("backward", {"temporaries": 72}, {"gradients": 16})]


def test_a_phase_without_events_keeps_what_there_is() -> None:
    readings = read_history([Event(1, 8, "parameters")], [], [Mark("load", 0, {}), Mark("forward", 0, {})])
    assert [(r.phase, r.peak_bytes, r.end_bytes) for r in readings] == [("load", 8, 8), ("forward", 8, 8)]


def test_a_category_from_a_mark_holds_since_birth() -> None:
    """A moment made in one phase and known as state at its end counts as state at that phase's peak."""
    events = [Event(3, 32), Event(4, 8), Event(4, 0)]
    readings = read_history([], events, [Mark("update", 3, {3: "optimizer_state"})])
    assert readings == [reading("update", {"optimizer_state": 32, "temporaries": 8}, {"optimizer_state": 32})]


def test_freeing_an_unknown_address_changes_nothing() -> None:
    readings = read_history([], [Event(9, 0), Event(1, 8)], [Mark("forward", 2, {})])
    assert readings[0].peak_bytes == 8


def entry(action: str, addr: int, size: int) -> dict[str, Any]:
    return {"action": action, "addr": addr, "size": size, "stream": 0, "time_us": 0}


def test_cuda_s_trace_becomes_events() -> None:
    """As torch.cuda.memory._snapshot() writes it: requests of any size, segments, and two entries per free."""
    pytest.importorskip("torch")
    from memplanner.harness.cuda import _active, events_of

    trace = [
        entry("segment_alloc", 4096, 2 << 20),
        entry("alloc", 4096, 1000),
        entry("alloc", 8192, 1),
        entry("free_requested", 4096, 1000),
        entry("free_completed", 4096, 1000),
    ]
    snapshot = {
        "segments": [
            {
                "address": 1 << 20,
                "blocks": [
                    {"size": 1024, "requested_size": 700, "state": "active_allocated"},
                    {"size": 512, "requested_size": 0, "state": "inactive"},
                    {"size": 8519680, "requested_size": 8519680, "state": "active_allocated"},
                ],
            }
        ]
    }
    initial = _active(snapshot, {1 << 20: "parameters"})
    assert initial == [
        Event(1 << 20, 1024, "parameters"),
        Event((1 << 20) + 1536, 8519680, "workspaces"),
    ]
    events = events_of(trace, [True, True, False, False, False])
    readings = read_history(initial, events, [Mark("forward", 2, {}), Mark("backward", 5, {8192: "gradients"})])
    assert readings[0].at_peak == {"parameters": 1024, "activations": 1024, "workspaces": 8519680}
    assert readings[1].at_peak == {"parameters": 1024, "gradients": 512, "activations": 1024, "workspaces": 8519680}
    assert readings[1].at_end == {"parameters": 1024, "gradients": 512, "workspaces": 8519680}
