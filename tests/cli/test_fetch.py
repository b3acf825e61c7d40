"""memplanner fetch against a hub of our own on this machine."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from memplanner.files.sandbox import profiles_dir
from tests.cli.conftest import Run

CONFIG = (profiles_dir() / "models" / "llama-60m.json").read_bytes()
FILES = {"/someone/tiny": CONFIG, "/someone/broken": b"{"}


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for a small file: HEAD tells its commit and digest, GET sends it."""

    asked: list[str]

    def do_HEAD(self) -> None:  # http.server's name
        self._answer(sends=False)

    def do_GET(self) -> None:  # http.server's name
        self._answer(sends=True)

    def _answer(self, *, sends: bool) -> None:
        self.asked.append(self.path)
        body = FILES.get(self.path.removesuffix("/resolve/main/config.json"))
        if body is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "b" * 40)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if sends:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: stderr is the test's."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(folder: Path, hub: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "CI", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment["NO_PROXY"] = "127.0.0.1"
    command = [sys.executable, "-m", "memplanner", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_config_is_fetched_once_and_then_there(tmp_path: Path, hub: str) -> None:
    assert ask(tmp_path, hub, "check", "someone/tiny", "--gpu", "24GiB").returncode == 2
    assert not Hub.asked, "only fetch asks the hub"
    fetched = ask(tmp_path, hub, "fetch", "someone/tiny")
    assert (fetched.returncode, fetched.stderr) == (0, "")
    assert fetched.stdout.endswith("Ask about it with: memplanner check someone/tiny\n")
    assert Path(fetched.stdout.splitlines()[0]).read_bytes() == CONFIG
    Hub.asked.clear()
    checked = ask(tmp_path, hub, "check", "someone/tiny", "--gpu", "24GiB", "--format", "json")
    assert checked.returncode == 0
    assert not Hub.asked
    kept = ask(tmp_path, hub, "fetch", "someone/tiny", "--to", "mine")
    assert (tmp_path / "mine" / "config.json").read_bytes() == CONFIG
    assert kept.stdout.endswith("memplanner check ./mine\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [("someone/nothing", "cannot be fetched: RepositoryNotFoundError"), ("someone/broken", "not valid JSON")],
)
def test_what_does_not_come_is_one_line(tmp_path: Path, hub: str, name: str, message: str) -> None:
    answer = ask(tmp_path, hub, "fetch", name)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert message in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "../x", "https://huggingface.co/Qwen/Qwen3-8B", ""])
def test_what_is_no_id_is_not_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("CI", raising=False)
    code, out, err = run("fetch", name)
    assert (code, out) == (2, "")
    assert "is not an id on the hub" in err


def test_builds_fetch_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    code, out, err = run("fetch", "Qwen/Qwen3-8B")
    assert (code, out) == (2, "")
    assert "nothing is fetched in continuous integration" in err
