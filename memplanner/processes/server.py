"""Imported by multiprocessing's fork server before all else, so that it ends with the process that started it.

By itself the server looks after that process only once its imports are done, which takes seconds where they are large
(multiprocessing.forkserver.main), and until then an interrupt from the keyboard, which goes to all processes of a
terminal, would end it. It inherits no pipe of ours. So it calls back at a socket that only that process listens at, and
whose end the kernel tells it of.
"""

import functools
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from memplanner.processes.lifeline import CUT, tie

_VARIABLE: Final = "MEMPLANNER_FORK_SERVER"
"""The variable of the environment that has the socket's name; set while a server may be started, and in it alone."""


@contextmanager
def awaiting_server() -> Iterator[None]:
    """Listen for the server, should one be started now."""
    name = _listening()
    if name:
        os.environ[_VARIABLE] = name
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)


@functools.cache
def _listening() -> str:
    """The name of the socket that this process listens at from now on; "" where there can be none, and the server ends
    as multiprocessing has it.
    """
    if sys.platform != "linux":
        return ""
    name = f"memplanner-{os.getpid()}-{secrets.token_hex(8)}"
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"\0{name}")
        listener.listen()
    except OSError:
        listener.close()
        return ""
    listener.detach()  # it stays open for as long as this process runs
    return name


def _call_back() -> None:
    name = os.environ.pop(_VARIABLE, "")
    if not name:
        return
    caller = socket.socket(socket.AF_UNIX)
    try:
        caller.connect(f"\0{name}")
    except ConnectionRefusedError:  # nobody listens any more
        os._exit(CUT)
    tie(caller.detach())
    for number in (signal.SIGINT, signal.SIGHUP):  # who began the server ends it
        signal.signal(number, signal.SIG_IGN)


_call_back()
