"""Functions run in processes of their own, whatever the program's main module and its standard error are. None of them
outlives this process, however it ends.
"""

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

from memplanner.processes.lifeline import tie
from memplanner.processes.server import awaiting_server

FRESH = "spawn"
"""The start method of a process that inherits nothing."""

SERVER: Final = "memplanner.processes.server"

_lifelines: dict[BaseProcess, Connection] = {}
"""Each process that was begun → the end of its lifeline that only this process has."""


def quickest() -> str:
    """The fastest start method of this system that does not inherit the threads of this process."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else FRESH


def begin(
    function: Callable[..., None], arguments: Sequence[object], *, method: str, preloaded: Sequence[str] = ()
) -> BaseProcess:
    """Start the function in a process that ends with this one. To be handed to `end` when it is done with.

    method: `quickest()` or FRESH. preloaded: modules that all processes of the fork server inherit; only the first
    call, which starts the server, decides which.
    """
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([SERVER, *preloaded])
    theirs, ours = context.Pipe(duplex=False)
    process: BaseProcess = context.Process(target=_tied, args=(theirs, function, tuple(arguments)), daemon=True)
    try:
        with (
            _without_main_module(),
            contextlib.redirect_stderr(sys.__stderr__),  # the child inherits sys.stderr's descriptor
            awaiting_server() if method == "forkserver" else contextlib.nullcontext(),
        ):
            process.start()
    finally:
        theirs.close()
    _lifelines[process] = ours
    return process


def _tied(lifeline: Connection, function: Callable[..., None], arguments: tuple[object, ...]) -> None:
    tie(lifeline)
    function(*arguments)


def end(process: BaseProcess) -> None:
    """Kill the process if it still runs, and release what the system holds of it."""
    if process.is_alive():
        process.kill()
    process.join()
    _lifelines.pop(process).close()  # where the fork server died, it is this that ends the process


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep multiprocessing from importing the program's main module in the child, which needs nothing from it."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        main.__spec__ = None
        if "__file__" in hidden:
            del main.__file__
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)
