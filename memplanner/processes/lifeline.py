"""A process that ends with another: it holds the end of a pipe whose other end only that process has open."""

import os
import sys
import threading
from typing import Final

CUT: Final = 137
"""Exit code of a process whose lifeline was cut before it was tied: what a shell says of one that SIGKILL ended."""


def tie(descriptor: int) -> None:
    """Let this process be killed as soon as the pipe has no writer any more, which may already be so.

    On Linux the kernel kills it (fcntl(2), F_SETSIG: the pipe sends SIGKILL instead of SIGIO), so that neither a call
    of C code that never returns nor threads that come and go can prevent it. Elsewhere a thread waits for the end.
    """
    if sys.platform == "linux":
        import fcntl
        import select
        import signal

        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
        ends = select.poll()
        ends.register(descriptor, select.POLLIN)
        if ends.poll(0):  # it was cut before anyone was to be told
            os._exit(CUT)
    else:
        threading.Thread(target=_wait_for_end, args=(descriptor,), daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    from multiprocessing.connection import Connection, wait

    wait([Connection(descriptor, writable=False)])
    os._exit(CUT)
