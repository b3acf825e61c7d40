"""Files as they are in a git revision."""

import os
import subprocess
from pathlib import Path

from memplanner.files.parse import MAX_FILE_BYTES, file_error

TIMEOUT_S = 30


def prefix_in_repository(root: Path, where: str) -> str:
    """The path of `root` from its repository's top, with a slash behind it; "" at the top. where: for messages."""
    return _git(root, where, "rev-parse", "--show-prefix").decode("utf-8", "replace").rstrip("\n")


def read_blob(root: Path, revision: str, name: str) -> bytes:
    """A file's content in a revision, as git keeps it: no filter or text conversion runs. name: from the top."""
    data = _git(root, f"{revision}:{name}", "cat-file", "blob", f"{revision}:{name}")
    if len(data) > MAX_FILE_BYTES:
        raise file_error(f"{revision}:{name}", "is larger than 1 MiB: not a file of settings")
    return data


def _git(root: Path, where: str, *words: str) -> bytes:
    """What git prints; UserError with its own complaint where it fails. where: the file that is asked for."""
    env = {**os.environ, "GIT_NO_LAZY_FETCH": "1"}  # what a partial clone lacks is not fetched
    try:
        done = subprocess.run(["git", *words], cwd=root, env=env, capture_output=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise file_error(where, f"git cannot be asked: {error}") from None
    if done.returncode:
        complaint = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = complaint[-1][:200] if complaint else f"exit code {done.returncode}"
        raise file_error(where, f"git has no such file: {last}")
    return done.stdout
