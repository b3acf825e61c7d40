"""Processes end with the one that began them, however it ends and whatever they do."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from memplanner.processes import FRESH, begin, end, quickest
from memplanner.processes.lifeline import CUT
from memplanner.processes.stopping import stop_requests

BEGIN = """
import time
from memplanner.processes import begin
from tests.processes.test_processes import {function}
process = begin({function}, ("{path}",), method="{method}", preloaded=("tests.processes.slow",) if {slow} else ())
time.sleep(60)
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def say_and_wait(path: str) -> None:
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(60)


def say_and_hang(path: str) -> None:
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    re.match(r"(a+)+$", "a" * 40 + "b")  # in C, where no other thread of Python runs


def _alive(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text(encoding="utf-8").replace("\0", " "))
        except OSError:
            continue
    return found


def _begun(code: str, mark: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "MARK": mark})


def _none_alive(mark: str) -> list[str]:
    """Those still alive after two seconds."""
    until = time.monotonic() + 2
    left = _alive(mark)
    while left and time.monotonic() < until:
        time.sleep(0.02)
        left = _alive(mark)
    return left


@on_linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("function", ["say_and_wait", "say_and_hang"])
@pytest.mark.parametrize("method", [quickest(), FRESH])
def test_a_process_does_not_outlive_its_parent(method: str, function: str, number: int, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = BEGIN.format(function=function, path=path, method=method, slow=False)
    parent = _begun(code, str(tmp_path))
    until = time.monotonic() + 60
    while not (path.exists() and path.read_text(encoding="utf-8")) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(_alive(str(tmp_path))) >= 2
    parent.send_signal(number)
    parent.wait()
    assert _none_alive(str(tmp_path)) == []


@on_linux
@pytest.mark.parametrize("after", [0.4, 1.5])
def test_nor_does_a_fork_server_that_still_imports(after: float, tmp_path: Path) -> None:
    parent = _begun(
        BEGIN.format(function="say_and_wait", path=tmp_path / "pid", method=quickest(), slow=True), str(tmp_path)
    )
    time.sleep(after)
    parent.kill()
    parent.wait()
    assert _none_alive(str(tmp_path)) == []


@pytest.mark.skipif(sys.platform == "win32", reason="hands a file descriptor on")
def test_where_the_kernel_does_not_a_thread_looks_after_the_parent() -> None:
    reader, writer = os.pipe()
    code = f"from memplanner.processes.lifeline import _wait_for_end; _wait_for_end({reader})"
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=(reader,))
    os.close(reader)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    os.close(writer)
    assert process.wait(20) == CUT


def test_what_was_begun_is_ended(tmp_path: Path) -> None:
    process = begin(say_and_wait, (str(tmp_path / "pid"),), method=quickest())
    end(process)
    assert process.exitcode == -signal.SIGKILL


def test_a_request_to_stop_is_noted_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as request:
        assert not request
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # the first counts
        assert request
        assert (request.signal, request.exit_code) == (signal.SIGTERM, 143)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not request
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_changed() -> None:
    seen = []

    def ask() -> None:
        with stop_requests() as request:
            seen.append((bool(request), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGTERM))]


@on_linux
def test_who_does_not_stop_is_ended(tmp_path: Path) -> None:
    code = """
import os, signal, time
from memplanner.processes.lifeline import CUT
from memplanner.processes.stopping import stop_requests
reader, writer = os.pipe()
with stop_requests(lambda: os.write(2, b"so far")):
    print("ready", flush=True)
    while True:
        os.write(writer, bytes(1 << 20))  # nobody reads
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.terminate()
    begun = time.monotonic()
    assert process.wait(20) == 143
    assert time.monotonic() - begun < 10
    assert process.stderr.read() == b"so far"
    process.stdout.close()
    process.stderr.close()
