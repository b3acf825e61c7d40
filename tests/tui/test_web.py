"""`tui --web` as a browser meets it, and as a page of somebody else's would."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from memplanner.cli.main import main
from memplanner.errors import UserError
from memplanner.tui.web import process as web_process
from memplanner.tui.web import server as web_server
from memplanner.tui.web.process import packet_of
from memplanner.tui.web.server import MOST_APPS, Door, WebServer, headers_for, listen

DOOR = Door(port=8000, token="secret-token")
SAID = b"this is what an app draws"
ECHO = f"""
import os
def put(data): os.write(1, b"D" + len(data).to_bytes(4, "big") + data)
os.write(1, b"__GANGLION__\\n")
put({SAID!r})
while data := os.read(0, 1 << 16):
    if b"quit" in data: break
    put(data)
"""
STUBBORN = f"import time\n{ECHO}\nwhile True: time.sleep(1)"
STATICS = ("page.css", "page.js", "textual.js", "xterm.css")
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@asynccontextmanager
async def serving(program: str = ECHO) -> AsyncIterator[WebServer]:
    """A server of this program at a free port."""
    server = WebServer([sys.executable, "-c", program], listen(0))
    began = asyncio.Event()
    task = asyncio.create_task(server.run(lambda _: began.set()))
    try:
        await asyncio.wait_for(began.wait(), 10)
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def served(play: Callable[[WebServer], Awaitable[None]], program: str = ECHO) -> None:
    """Run `play` with a server."""

    async def run() -> None:
        async with asyncio.timeout(60), serving(program) as server:
            await play(server)

    asyncio.run(run())


async def ask(server: WebServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """A request with these headers as they are: the status, the headers, the body. Host is the right one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.door.port)
    sent = {"Host": f"localhost:{server.door.port}"} | {name.replace("_", "-"): text for name, text in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in sent.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    status = int(head.split()[1])
    length = re.search(r"Content-Length: (\d+)", head)
    body = await reader.readexactly(int(length[1]) if length and method != "HEAD" else 0)
    writer.close()
    return status, head, body.decode()


async def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process has ended by then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        await asyncio.sleep(0.05)
    return False


# -- who is let in ---------------------------------------------------------------------------------------------------


def refusal(
    host: str | None = "localhost:8000",
    origin: str | None = None,
    path: str = "/secret-token/",
    handshake: bool = False,
) -> str:
    hosts, origins = [host] if host is not None else [], [origin] if origin is not None else []
    return DOOR.refusal(hosts, origins, path, handshake=handshake)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LocalHost"])
def test_the_own_page_is_let_in(name: str) -> None:
    host = f"{name}:8000"
    assert refusal(host) == ""
    assert refusal(host, f"http://{host}", handshake=True) == ""
    assert refusal(host, path="/secret-token") == ""
    assert DOOR.address == "http://localhost:8000/secret-token/"


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "evil.example:8000", "localhost", "localhost:8001", "localhost:80000",
     "127.0.0.1.:8000", "localhost:8000.evil.example", "evil.example#localhost:8000", "127.0.0.2:8000", "0.0.0.0:8000",
     "localhost:8000:8000"],
)  # fmt: skip
def test_no_other_name_is_answered(host: str | None) -> None:
    """DNS rebinding: the page's own name leads to this machine, and the browser sends it as the Host."""
    assert refusal(host) == "answers to http://localhost:8000 alone"
    assert DOOR.refusal(["localhost:8000", "localhost:8000"], [], "/secret-token/", handshake=False)


def test_the_port_is_left_out_where_browsers_leave_it_out() -> None:
    assert Door(port=80, token="t").refusal(["localhost"], ["http://localhost"], "/t/", handshake=True) == ""


@pytest.mark.parametrize("handshake", [False, True])
@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.example", "http://evil.example:8000", "https://localhost:8000", "http://localhost:8001",
     "http://localhost", "http://127.0.0.1:8000", "http://localhost:8000.evil.example", "http://localhost:8000/",
     "file://", "chrome-extension://abc"],
)  # fmt: skip
def test_no_other_page_is_answered(origin: str, handshake: bool) -> None:
    assert refusal(origin=origin, handshake=handshake) == "answers to no other page"
    twice = ["http://localhost:8000", origin]
    assert DOOR.refusal(["localhost:8000"], twice, "/secret-token/", handshake=handshake)


def test_a_socket_says_where_it_comes_from() -> None:
    assert refusal(handshake=True) == "wants to know which page asks (Origin)"


@pytest.mark.parametrize(
    "path", ["", "/", "*", "//", "/secret-toke/", "/secret-tokens/", "/Secret-token/", "//secret-token/", "/ws",
             "/é\udcff/", "/?token=secret-token", "/./secret-token/", "http://localhost:8000/secret-token/",
             "/static/secret-token/"]
)  # fmt: skip
def test_the_token_must_be_there(path: str) -> None:
    assert refusal(path=path) == "wants the whole address that was printed, with the token in it"


def test_tokens_cannot_be_guessed() -> None:
    tokens = set()
    for _ in range(20):
        sockets = listen(0)
        tokens.add(WebServer(["true"], sockets).door.token)
        for each in sockets:
            each.close()
    assert len(tokens) == 20
    assert all(re.fullmatch(r"[\w-]{43}", token) for token in tokens)  # 32 bytes


# -- the same over real sockets ---------------------------------------------------------------------------------------


def test_every_path_is_behind_the_same_door() -> None:
    async def play(server: WebServer) -> None:
        token, port = server.door.token, server.door.port
        for name in ("", "ws", *STATICS, "static/", "download/x", "../", "nothing"):
            for path, headers in (
                (f"/{name}", {}),
                (f"/{token[:-1]}x/{name}", {}),
                (f"/{token}/{name}", {"Host": f"evil.example:{port}"}),
                (f"/{token}/{name}", {"Origin": "http://evil.example"}),
                (f"/{token}/{name}", {"Origin": "null"}),
                (f"/{token}/{name}", {"Origin": "http://evil.example", **UPGRADE}),
                (f"/{token}/{name}", {"Origin": "null", **UPGRADE}),
                (f"/{token}/{name}", UPGRADE),
                (f"/{name}", {"Origin": f"http://localhost:{port}", **UPGRADE}),
                (f"/{token}/{name}", {"Host": f"x:{port}", "Origin": f"http://x:{port}", **UPGRADE}),
            ):
                status, head, body = await ask(server, path, **headers)
                assert status == 403, (path, headers)
                assert body.count("\n") == 1
                assert body.startswith("memplanner ")
                assert token not in head + body
        assert not server.apps

    served(play)


def test_the_page_and_its_files() -> None:
    async def play(server: WebServer) -> None:
        token, port = server.door.token, server.door.port
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            status, head, page = await ask(server, f"/{token}/?x=1", Host=host)
            assert status == 200
            assert "<title>memplanner</title>" in page
            assert f'"ws://{host}/{token}/ws"' in page
            for name, text in headers_for(host).items():
                assert f"{name}: {text}\r\n" in head
            assert set(re.findall(r"\w+://[^/\"']*", page)) == {f"ws://{host}"}  # nothing from elsewhere
            assert not re.search(r"<script>|<style>|\son\w+=|style=", page)  # nothing that the policy would not run
            assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"data:,", *STATICS}
        for name in STATICS:
            status, head, text = await ask(server, f"/{token}/{name}")
            assert (status, "Cache-Control: no-store\r\n" in head) == (200, True)
            assert not re.search(r"url\(|@import", text if name.endswith("css") else "")
        for name in (
            "static/js/textual.js",
            "download/x",
            "page.html",
            "server.py",
            "../server.py",
            "%2e%2e/server.py",
        ):
            assert (await ask(server, f"/{token}/{name}"))[0] == 404
        for method in ("POST", "PUT", "OPTIONS", "HEAD", "DELETE"):
            assert (await ask(server, f"/{token}/", method))[0] == 405
        status, head, _ = await ask(server, f"/{token}")
        assert (status, f"Location: /{token}/\r\n" in head) == (307, True)

    served(play)


def test_the_policy_lets_nothing_in_from_elsewhere() -> None:
    headers = headers_for("localhost:8000")
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; "
        "connect-src ws://localhost:8000; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert (headers["X-Frame-Options"], headers["Referrer-Policy"]) == ("DENY", "no-referrer")


# -- the app of a tab -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tab(server: WebServer) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A tab's socket, which the app has drawn something on."""
    host = f"localhost:{server.door.port}"
    async with aiohttp.ClientSession() as session:
        url, origin = f"ws://{host}/{server.door.token}/ws?width=90&height=30", f"http://{host}"
        async with session.ws_connect(url, origin=origin) as opened:
            assert await opened.receive_bytes(timeout=20) == SAID
            yield opened


def test_a_tab_has_an_app_that_ends_with_it() -> None:
    async def play(server: WebServer) -> None:
        async with tab(server) as one, tab(server) as other:
            pids = [app.pid for app in server.apps]
            assert len(pids) == 2
            await one.send_str(json.dumps(["stdin", "keys"]))
            assert await one.receive_bytes(timeout=10) == b"D\0\0\0\4keys"
            await other.send_str(json.dumps(["resize", {"width": 100, "height": 40}]))
            assert b'"width": 100' in await other.receive_bytes(timeout=10)
        assert all([await gone(pid) for pid in pids])

    served(play)


def test_the_session_ends_with_the_app() -> None:
    async def play(server: WebServer) -> None:
        async with tab(server) as one:
            await one.send_str(json.dumps(["stdin", "quit"]))
            assert (await one.receive(timeout=10)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        async with asyncio.timeout(10):
            while server.apps:
                await asyncio.sleep(0.05)

    served(play)


def test_an_app_that_will_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_process, "_PATIENCE_S", 0.2)

    async def play(server: WebServer) -> None:
        async with tab(server):
            (app,) = server.apps
        assert await gone(app.pid, seconds=5)
        async with tab(server):  # and one that is there when the server ends
            (app,) = server.apps
            pids.append(app.pid)

    pids: list[int] = []
    served(play, STUBBORN)
    assert asyncio.run(gone(pids[0], seconds=5))


def test_no_more_apps_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "_GOODBYE_S", 1)

    async def play(server: WebServer) -> None:
        tabs = [tab(server) for _ in range(MOST_APPS)]
        for each in tabs:
            await each.__aenter__()
        assert len(server.apps) == MOST_APPS
        status, _, body = await ask(server, f"/{server.door.token}/")
        assert (status, body) == (503, "memplanner is open in 4 tabs already, the most there can be: close one\n")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await tab(server).__aenter__()
        for each in tabs:
            await each.__aexit__(None, None, None)
        async with tab(server):  # at once, as a tab that is loaded anew
            assert len(server.apps) == 1

    served(play)


def test_nonsense_from_a_page_ends_nothing() -> None:
    nonsense = ["", "{", "[]", "null", "7", '["stdin"]', '["stdin", 7]', '["resize", null]',
                '["resize", {"width": "x"}]', '["quit"]', "[" * 100_000, '["resize", {"width": 1e999, "height": 2}]',
                "9" * 10_000, '["ping", "1"]']  # fmt: skip

    async def play(server: WebServer) -> None:
        async with tab(server) as one:
            for text in nonsense:
                await one.send_str(text)
            await one.send_bytes(b"\xff")
            await one.send_str(json.dumps(["stdin", "still here"]))
            assert b"still here" in await one.receive_bytes(timeout=10)

    served(play)


def test_what_a_page_may_say() -> None:
    assert packet_of('["stdin", "é"]') == b"D\0\0\0\2\xc3\xa9"
    assert packet_of('["stdin", "\\ud800"]') == b"D\0\0\0\1?"
    assert packet_of('["focus"]') == b'M\0\0\0\x11{"type": "focus"}'
    resized = packet_of('["resize", {"width": 99999999, "height": -1}]')
    assert resized is not None
    assert json.loads(resized[5:]) == {"type": "resize", "width": 1000, "height": 1}
    assert packet_of('["deliver_chunk_request", {"key": "x"}]') is None


# -- the command ------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    taken = listen(0)
    port = taken[0].getsockname()[1]
    try:
        assert main(["tui", "--web", "--port", str(port)]) == 2
        captured = capsys.readouterr()
        assert captured.err == f"memplanner: --port: {port} is taken by another program (try --port {port + 1})\n"
        assert captured.out == ""
    finally:
        for each in taken:
            each.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_nobody_else_may_have_the_newer_address() -> None:
    """A browser asks ::1 first for localhost, and would tell the token to whoever listens there."""
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(("::1", 0))
        except OSError:
            pytest.skip("no ::1")
        other.listen()
        with pytest.raises(UserError, match="is taken by another program"):
            listen(other.getsockname()[1])


def test_what_is_wrong_is_said_before_it_serves(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["tui", "no-such-model", "--web"]) == 2
    file = tmp_path / "file"
    file.write_text("")
    assert main(["tui", "--web", "--records", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def begin(folder: Path, port: int) -> tuple["subprocess.Popen[str]", str]:
    """The command in a process of its own, and the address that it printed."""
    root = str(Path(__file__).parent.parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, "-P", "-m", "memplanner", "tui", "llama-60m", "--web", "--port", str(port)]
    command = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert command.stdout is not None
    line = command.stdout.readline()
    assert re.fullmatch(rf"memplanner: http://localhost:{port}/[\w-]{{43}}/\n", line)
    return command, line.split()[1]


def free_port() -> int:
    sockets = listen(0)
    port: int = sockets[0].getsockname()[1]
    for each in sockets:
        each.close()
    return port


async def drawn(opened: aiohttp.ClientWebSocketResponse, words: str, keys: str = "") -> None:
    """Type keys, then wait until the terminal has been sent these words and is quiet."""
    if keys:
        await opened.send_str(json.dumps(["stdin", keys]))
    text = ""
    async with asyncio.timeout(30):
        while True:
            try:
                text += (await opened.receive_bytes(timeout=0.3 if words in text else 30)).decode()
            except TimeoutError:
                return


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the test looks into /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_command_serves_the_planner_until_it_is_ended(number: int, code: int, tmp_path: Path) -> None:
    """The real planner, driven over a real socket: it saves below its folder and nowhere else, and ends clean."""
    (tmp_path / "memplanner.py").write_text("raise SystemExit('a file of the folder was run')")
    command, address = begin(tmp_path, free_port())

    async def play() -> None:
        origin = address.rsplit("/", 2)[0]
        async with aiohttp.ClientSession() as session:
            url = f"{address.replace('http', 'ws', 1)}ws?width=100&height=30"
            async with session.ws_connect(url, origin=origin) as opened:
                await drawn(opened, "llama-60m")
                pids.extend(children(command.pid))
                if number == signal.SIGINT:
                    await opened.send_str(json.dumps(["focus"]))
                    await drawn(opened, "Save the plan as", "s")  # proposed is memplanner.toml
                    await drawn(opened, "leads", "/../../x.toml\r")
                    await drawn(opened, "Change", "\x1b")
                    await drawn(opened, "Save the plan as", "s")
                    await drawn(opened, "Saved in", "\r")
                    await drawn(opened, "Exported to", "e")
                command.send_signal(number)
                while (await opened.receive(timeout=20)).type is aiohttp.WSMsgType.BINARY:
                    pass

    pids: list[int] = []
    try:
        asyncio.run(play())
        assert command.wait(15) == code
        assert command.stdout is not None
        assert "Traceback" not in command.stdout.read()
        assert len(pids) == 1
        assert asyncio.run(gone(pids[0]))
    finally:
        command.kill()
        command.wait()
        if command.stdout is not None:
            command.stdout.close()
    assert not (tmp_path.parent / "x.toml").exists()
    if number == signal.SIGINT:
        assert 'model = "llama-60m"' in (tmp_path / "memplanner.toml").read_text()
        assert (tmp_path / "memplanner-report.md").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the test looks into /proc")
def test_an_app_ends_with_a_server_that_was_killed(tmp_path: Path) -> None:
    command, address = begin(tmp_path, free_port())

    async def play() -> None:
        async with aiohttp.ClientSession() as session:
            origin = address.rsplit("/", 2)[0]
            async with session.ws_connect(f"{address.replace('http', 'ws', 1)}ws", origin=origin) as opened:
                await drawn(opened, "llama-60m")
                (pid,) = children(command.pid)
                command.kill()
                assert await gone(pid)

    try:
        asyncio.run(play())
    finally:
        command.kill()
        command.wait()
        if command.stdout is not None:
            command.stdout.close()
