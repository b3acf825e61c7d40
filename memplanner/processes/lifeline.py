"""A process that ends with another: it holds the end of a pipe whose other end only that process has open."""

import os
import sys
import threading
from multiprocessing.connection import Connection, wait
from typing import Final

CUT: Final = 137
"""Exit code of a process whose lifeline was cut before it was tied: what a shell says of one that SIGKILL ended."""


def tie(lifeline: Connection | int) -> None:
    """Let this process be killed as soon as the other end, which it does not have, is closed, or if it is already.

    On Linux the kernel kills it (fcntl(2), F_SETSIG: the pipe sends SIGKILL instead of SIGIO), so that neither a call
    of C code that never returns nor threads that come and go can prevent it. Elsewhere a thread waits for the end.
    """
    if sys.platform == "linux":
        import fcntl
        import select
        import signal

        descriptor = lifeline if isinstance(lifeline, int) else lifeline.fileno()
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
        ends = select.poll()
        ends.register(descriptor, select.POLLIN)
        if ends.poll(0):  # it was cut before anyone was to be told
            os._exit(CUT)
    else:
        threading.Thread(target=_wait_for_end, args=(lifeline,), daemon=True).start()


def _wait_for_end(lifeline: Connection | int) -> None:
    wait([lifeline])
    os._exit(CUT)
