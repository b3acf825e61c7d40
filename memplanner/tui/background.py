"""What takes longer than a key may: worked out in a process of its own, so that the interface is not held up."""

import traceback
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Concatenate, ParamSpec, TypeVar

from memplanner.processes import begin, end, quickest

P = ParamSpec("P")
T = TypeVar("T")

POLL_S = 0.05
"""Seconds between looks at whether it has been cancelled."""


def beside(
    function: Callable[Concatenate[Callable[[T], None], P], None],
    cancelled: Callable[[], bool],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Iterator[T]:
    """What `function(tell, ...)` tells, as it comes; nothing more once it is cancelled, when its process is killed.

    To be called from a worker thread. All that goes in and comes out is pickled.
    """
    here, there = Pipe(duplex=False)
    process = begin(_tell, (there, function, args, kwargs), method=quickest(), preloaded=("memplanner.tui.jobs",))
    there.close()
    try:
        while not cancelled():
            if not here.poll(POLL_S):
                continue
            try:
                failed, found = here.recv()
            except EOFError:
                return
            if failed:
                raise RuntimeError(found)
            yield found
    finally:
        end(process)
        here.close()


def _tell(
    there: Connection, function: Callable[..., None], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    try:
        function(lambda found: there.send((False, found)), *args, **kwargs)
    except Exception:  # to be raised where somebody sees it
        there.send((True, traceback.format_exc()))
