"""Serves the page and its socket to a browser on this machine. Any page that is open in that browser can send requests
here, and so every request is judged before anything is done: by its Host, its Origin and the token in its path.
"""

import asyncio
import errno
import hmac
import logging
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from string import Template
from typing import Final

from aiohttp import WSMsgType, web

from memplanner.errors import Problem, UserError
from memplanner.frozen import Frozen
from memplanner.tui.web.process import AppProcess, packet_of

MOST_APPS: Final = 4
"""Tabs at once; each has a process of its own."""
NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
"""What this machine calls itself. A page whose own name was made to lead here (DNS rebinding) comes with that name."""
_MOST_BYTES: Final = 1 << 20
"""The longest message of a page."""
_HEARTBEAT_S: Final = 15
_GOODBYE_S: Final = 5
"""For a session to end when the server does."""
_OWN: Final = files("memplanner.tui.web")
_TEXTUAL: Final = files("textual_serve") / "static"
_FILES: Final = {
    "page.css": (_OWN / "page.css", "text/css"),
    "page.js": (_OWN / "page.js", "text/javascript"),
    "textual.js": (_TEXTUAL / "js" / "textual.js", "text/javascript"),
    "xterm.css": (_TEXTUAL / "css" / "xterm.css", "text/css"),
}
"""All that there is besides the page, with where it lies and what it is."""
_SILENT: Final = logging.getLogger("memplanner.web")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class Door(Frozen):
    """Who is let in: a page that this server has served, at an address with the token."""

    port: int
    token: str

    @property
    def address(self) -> str:
        """What is printed."""
        return f"http://localhost:{self.port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The Host headers of requests that meant this server."""
        return (*(f"{name}:{self.port}" for name in NAMES), *(NAMES if self.port == 80 else ()))

    def refusal(self, hosts: Sequence[str], origins: Sequence[str], path: str, *, handshake: bool) -> str:
        """Why a request is refused, in one line, or "". hosts, origins: its headers of these names.

        handshake: whether it opens a socket. Browsers say then in any case where the page comes from, which they leave
        out where a page is opened and where it asks for a script of its own.
        """
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if host not in self.hosts:
            return f"answers to http://localhost:{self.port} alone"
        if len(origins) > 1 or any(origin.lower() != f"http://{host}" for origin in origins):
            return "answers to no other page"
        if handshake and not origins:
            return "wants to know which page asks (Origin)"
        first = path[1:].partition("/")[0].encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(first, self.token.encode()):
            return "wants the whole address that was printed, with the token in it"
        return ""


def headers_for(host: str) -> dict[str, str]:
    """What every answer says: nothing from elsewhere, in no other page's frame, kept nowhere, told to nobody.

    Styles may be inline: xterm.js writes its own as it runs.
    """
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "data:",
        "connect-src": f"ws://{host}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Server": "memplanner",
    }


class WebServer:
    """Shows the command, which runs the interface, to every tab that comes with the token.

    sockets: bound already, all to the same port.
    """

    def __init__(self, command: Sequence[str], sockets: Sequence[socket.socket]) -> None:
        self.door = Door(port=sockets[0].getsockname()[1], token=secrets.token_urlsafe(32))
        self.apps: dict[AppProcess, web.WebSocketResponse] = {}
        self._command = tuple(command)
        self._sockets = tuple(sockets)
        self._num_open = 0

    async def run(self, began: Callable[[str], None]) -> None:
        """Serve until cancelled, then end every app. began: told the address once it can be opened."""
        runner = web.ServerRunner(
            web.Server(self._answer, access_log=None, logger=_SILENT), handle_signals=False, shutdown_timeout=_GOODBYE_S
        )
        await runner.setup()
        try:
            for each in self._sockets:
                await web.SockSite(runner, each).start()
            began(self.door.address)
            await asyncio.Event().wait()
        finally:
            await asyncio.gather(*(tab.close() for tab in self.apps.values()))
            await runner.cleanup()  # waits for the sessions, each of which ends its app

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every request comes through here."""
        headers = headers_for(self.door.hosts[0])
        refusal = self.door.refusal(
            request.headers.getall("Host", []),
            request.headers.getall("Origin", []),
            request.raw_path.partition("?")[0],
            handshake="Upgrade" in request.headers,
        )
        if refusal:
            return _line(403, refusal, headers)
        host = request.host.lower()
        headers = headers_for(host)
        if request.method != "GET":
            return _line(405, "only shows things", headers)
        _, slash, name = request.raw_path.partition("?")[0][1:].partition("/")
        if not slash:  # without the slash the page would look for its files in the wrong place
            return web.Response(status=307, headers={**headers, "Location": f"/{self.door.token}/"})
        if name in _FILES:
            file, kind = _FILES[name]
            return web.Response(body=file.read_bytes(), content_type=kind, charset="utf-8", headers=headers)
        if name not in ("", "ws"):
            return _line(404, "has no such page", headers)
        if not await self._has_room():
            return _line(503, f"is open in {MOST_APPS} tabs already, the most there can be: close one", headers)
        return self._page(host, headers) if name == "" else await self._session(request, headers)

    async def _has_room(self) -> bool:
        """Whether one more app may begin. A tab that is loaded anew asks before its old app has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                while self._num_open >= MOST_APPS:
                    await asyncio.sleep(0.05)
        return self._num_open < MOST_APPS

    def _page(self, host: str, headers: dict[str, str]) -> web.StreamResponse:
        template = Template((_OWN / "page.html").read_text(encoding="utf-8"))
        page = template.substitute(websocket=f"ws://{host}/{self.door.token}/ws")
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def _session(self, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        """The socket of a tab, and its app for as long as both are there."""
        tab = web.WebSocketResponse(heartbeat=_HEARTBEAT_S, max_msg_size=_MOST_BYTES, compress=False, timeout=1)
        tab.headers.update(headers)
        if not tab.can_prepare(request):
            return _line(400, "speaks WebSocket here", headers)
        self._num_open += 1
        try:
            await tab.prepare(request)
            app = await AppProcess.begin(self._command, _number(request, "width", 80), _number(request, "height", 24))
            self.apps[app] = tab
            app.draw(tab.send_bytes, tab.close)
            try:
                async for message in tab:
                    packet = packet_of(message.data) if message.type is WSMsgType.TEXT else None
                    if packet is not None:
                        await app.send(packet)
            except TimeoutError:  # the app takes nothing more
                pass
            finally:
                await app.end()
                del self.apps[app]
                await tab.close()
        finally:
            self._num_open -= 1
        return tab


def _line(status: int, text: str, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, text=f"memplanner {text}\n", headers=headers)


def _number(request: web.BaseRequest, name: str, default: int) -> int:
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else default


def listen(port: int) -> list[socket.socket]:
    """Sockets bound to the port on this machine's own addresses, the old and the new, whichever a browser tries first;
    UserError where another program has it. port 0 is any free one.
    """
    bound: list[socket.socket] = []
    try:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                bound.append(_bound(family, host, port))
            except OSError as error:
                if family == socket.AF_INET6 and error.errno != errno.EADDRINUSE:
                    continue  # a machine without IPv6
                raise
            port = bound[0].getsockname()[1]
    except OSError as error:
        for each in bound:
            each.close()
        taken = error.errno == errno.EADDRINUSE
        message = f"{port} is taken by another program" if taken else f"{port} cannot be had: {error.strerror}"
        raise UserError(
            Problem(where="--port", key="", message=message, hint=f"try --port {port % 65535 + 1}")
        ) from None
    return bound


def _bound(family: int, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # where the other option would share a port with whoever asks
            made.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
        made.listen()
    except OSError:
        made.close()
        raise
    return made


def serve(command: Sequence[str], port: int, began: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, which is a KeyboardInterrupt, or until a signal that ends programs, which is a SystemExit."""
    server = WebServer(command, listen(port))
    ended_by: list[int] = []

    async def until_ended() -> None:
        task = asyncio.ensure_future(server.run(began))

        def leave(number: int) -> None:
            ended_by.append(number)
            task.cancel()

        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                number = getattr(signal, name)
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    with suppress(NotImplementedError):  # Windows
                        asyncio.get_running_loop().add_signal_handler(number, leave, number)
        await task

    try:
        asyncio.run(until_ended())
    except asyncio.CancelledError:
        raise SystemExit(128 + ended_by[0]) from None
