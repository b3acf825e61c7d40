"""One app process for each browser tab, spoken to as textual/drivers/web_driver.py describes: packets of a letter, a
length in four bytes (big-endian) and a payload. D is the terminal's data, M a message in JSON.
"""

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

_BEGINNING: Final = b"__GANGLION__\n"
"""What the driver writes before its first packet."""
_PATIENCE_S: Final = 3
"""For an app to take what it is sent, and for it to end by itself."""
_LONGEST_SIZE: Final = 100
"""Of what is said of a size: too short to be nested deeply."""
_MOST_CELLS: Final = 1000
"""The widest and the highest terminal."""

Draw: TypeAlias = Callable[[bytes], Awaitable[object]]


def packet_of(message: str) -> bytes | None:
    """The packet for a message of the page's script; None for one that means nothing to an app."""
    kind, _, rest = message.removeprefix("[").removesuffix("]").partition(",")
    try:
        if kind == '"stdin"' and rest.lstrip().startswith('"'):
            return _packet(b"D", str(json.loads(rest)).encode("utf-8", "replace"))
        if kind == '"resize"' and len(rest) < _LONGEST_SIZE:
            size = json.loads(rest)
            return _message(type="resize", width=cells(int(size["width"])), height=cells(int(size["height"])))
        if kind in ('"focus"', '"blur"'):
            return _message(type=json.loads(kind))
    except (ArithmeticError, LookupError, TypeError, ValueError):
        pass
    return None


def cells(number: int) -> int:
    """A width or a height that a terminal can have."""
    return min(max(number, 1), _MOST_CELLS)


def _message(**fields: str | int) -> bytes:
    return _packet(b"M", json.dumps(fields).encode())


def _packet(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


class AppProcess:
    """The process that shows the interface to one tab."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._drawing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @classmethod
    async def begin(cls, command: Sequence[str], width: int, height: int) -> "AppProcess":
        """Start the command with a terminal of this size. What it writes to stderr goes to the server's."""
        environment: dict[str, str] = {
            **os.environ,
            "TEXTUAL_DRIVER": "memplanner.tui.web.driver:Driver",
            "TEXTUAL_FPS": "60",
            "TEXTUAL_COLOR_SYSTEM": "truecolor",
            "TERM_PROGRAM": "textual",
            "COLUMNS": str(cells(width)),
            "ROWS": str(cells(height)),
        }
        return cls(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env=environment))

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    async def send(self, packet: bytes) -> None:
        """Hand over a packet; TimeoutError where the app takes none."""
        assert self._process.stdin is not None
        with suppress(ConnectionError, RuntimeError):  # it has just ended
            self._process.stdin.write(packet)
            async with asyncio.timeout(_PATIENCE_S):
                await self._process.stdin.drain()

    def draw(self, draw: Draw, ended: Callable[[], Awaitable[object]]) -> None:
        """Hand on what the terminal is to show, until the app ends, which `ended` is told. An app may ask for nothing
        else, such as for pages to be opened.
        """
        self._drawing = asyncio.create_task(self._draw(draw, ended))

    async def _draw(self, draw: Draw, ended: Callable[[], Awaitable[object]]) -> None:
        stdout: Any = self._process.stdout
        with suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
            await stdout.readuntil(_BEGINNING)
            while True:
                head = await stdout.readexactly(5)
                payload = await stdout.readexactly(int.from_bytes(head[1:], "big"))
                if head[:1] == b"D":
                    await draw(payload)
                elif head[:1] == b"M" and json.loads(payload).get("type") == "exit":
                    break
        await ended()

    async def end(self) -> None:
        """Let the app end, and kill it if it does not. May be called again, and from several tasks."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
            await asyncio.gather(self._drawing, return_exceptions=True)
        assert self._process.stdin is not None
        self._process.stdin.close()  # which ends it
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._process.communicate()  # takes what it still says
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
