"""Functions run in processes of their own, whatever the program's main module and its standard error are."""

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

FRESH = "spawn"
"""How a process starts that inherits nothing."""


def quickest() -> str:
    """How a process starts soonest here without inheriting this one's threads."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else FRESH


def begin(
    function: Callable[..., None], arguments: Sequence[object], *, method: str, preloaded: Sequence[str] = ()
) -> BaseProcess:
    """Start the function in a process that ends with this one.

    method: `quickest()` or FRESH. preloaded: modules that all processes of a fork server inherit; the first call says
    which.
    """
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(list(preloaded))
    process: BaseProcess = context.Process(target=function, args=tuple(arguments), daemon=True)
    with _importable_main(), contextlib.redirect_stderr(sys.__stderr__):  # multiprocessing hands on its descriptor
        process.start()
    return process


def end(process: BaseProcess) -> None:
    """Kill the process if it runs, and see it off."""
    if process.is_alive():
        process.kill()
    process.join()


@contextlib.contextmanager
def _importable_main() -> Iterator[None]:
    """multiprocessing would import the program's main module again in the child; there is nothing in it for it."""
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        main.__spec__ = None
        if "__file__" in kept:
            del main.__file__
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)
