"""What the interface has worked out in processes of their own is worked out in threads here."""

import asyncio
import contextlib
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import pytest


@pytest.fixture
def in_processes() -> None:
    """For tests of the whole: the interface's work is done in processes, as it is for users."""


@pytest.fixture(autouse=True)
def _in_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes a second of importing, and a test of the interface begins several."""
    if "in_processes" not in request.fixturenames:
        monkeypatch.setattr("memplanner.tui.background.begin", _begin)
        monkeypatch.setattr("memplanner.tui.background.end", lambda thread: None)


def _begin(
    function: Callable[..., None], arguments: Sequence[Any], *, method: str, preloaded: Sequence[str] = ()
) -> threading.Thread:
    """A thread that gets what a process would get: copies, and an end of the pipe of its own."""
    there, *others = arguments
    copies = pickle.loads(pickle.dumps(others))
    own = Connection(os.dup(there.fileno()), readable=False)

    def run() -> None:
        with own, contextlib.suppress(BrokenPipeError):  # where the interface has stopped listening
            function(own, *copies)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def laid_out() -> None:
    """For tests that press and click at random: every key finds a screen that has been laid out, as a person's does."""


@pytest.fixture(autouse=True)
def _no_waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Textual takes the interface to be done when its process is idle for a while; here when the event loop is."""
    if "laid_out" in request.fixturenames:
        return
    for module in ("pilot", "app"):
        monkeypatch.setattr(f"textual.{module}.wait_for_idle", _until_nothing_is_ready)


async def _until_nothing_is_ready(*_: float) -> None:
    loop: Any = asyncio.get_running_loop()
    idle = 0
    while idle < 3:
        await asyncio.sleep(0)
        idle = 0 if loop._ready else idle + 1
