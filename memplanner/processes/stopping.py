"""Requests to stop, as signals bring them: noted, so that work under way is ended in order."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

GRACE_S: Final = 1.0
"""Seconds after a request until the process ends as it is: its work may wait for something, such as a server that is
still importing its modules, or a pipe that nobody reads. With the last words, and with what a machine that has much
else to do adds to them, that is within the two seconds in which nothing may be left of it.
"""
_WORDS_S: Final = 0.2
"""Seconds that last words may take."""


class StopRequest:
    """signal: the signal that asked the process to stop; None while none has."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell says of a process that the signal has ended."""
        return 128 + (self.signal or 0)


@contextmanager
def stop_requests(last_words: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Note the first of an interrupt from the keyboard, SIGTERM and SIGHUP, instead of ending at once.

    Who asks for it looks at the request often and ends by itself; a process that has not after GRACE_S is ended, after
    `last_words`. Signals that were ignored (nohup) or handled before stay so, and outside the main thread nothing is
    changed.
    """
    request = StopRequest()

    def note(number: int, _: Any) -> None:
        if request.signal is None:
            request.signal = number
            timer.start()

    def give_up() -> None:
        words = threading.Thread(target=last_words, daemon=True)
        words.start()
        words.join(_WORDS_S)
        os._exit(request.exit_code)

    timer = threading.Timer(GRACE_S, give_up)
    timer.daemon = True
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # of which Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        default = (signal.SIG_DFL, signal.default_int_handler)
        before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) in default}
    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
