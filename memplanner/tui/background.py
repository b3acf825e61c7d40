"""Runs what takes too long for a key press in a process of its own, so that the interface keeps answering."""

import traceback
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Concatenate, ParamSpec, TypeVar

from memplanner.processes import begin, end, quickest

P = ParamSpec("P")
T = TypeVar("T")

POLL_S = 0.05
"""Seconds between two calls of `cancelled`."""


def in_background(
    function: Callable[Concatenate[Callable[[T], None], P], None],
    cancelled: Callable[[], bool],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Iterator[T]:
    """The results that `function(emit, ...)` emits, as they come. Once `cancelled()` is true, its process is killed.

    To be called from a worker thread. Arguments and results are pickled.
    """
    receiver, sender = Pipe(duplex=False)
    process = begin(_emit_all, (sender, function, args, kwargs), method=quickest(), preloaded=("memplanner.tui.jobs",))
    sender.close()
    try:
        while not cancelled():
            if not receiver.poll(POLL_S):
                continue
            try:
                failed, result = receiver.recv()
            except EOFError:
                return
            if failed:
                raise RuntimeError(result)
            yield result
    finally:
        end(process)
        receiver.close()


def _emit_all(
    sender: Connection, function: Callable[..., None], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    try:
        function(lambda result: sender.send((False, result)), *args, **kwargs)
    except Exception:  # raised again in the process that waits for results
        sender.send((True, traceback.format_exc()))
