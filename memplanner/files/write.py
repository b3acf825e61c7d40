"""Writes files whole or not at all: exclusively made under another name, then moved into place. Nothing is written
through a link.
"""

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from memplanner.files.parse import file_error
from memplanner.files.sandbox import refuse_outside

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_RANDOM_BYTES: Final = 6
_DRAFT: Final = re.compile(rf"\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}\.tmp")
_ABANDONED_S: Final = 60.0
"""Writing a draft takes a moment."""

MOST_NAME_BYTES: Final = 200
"""Of a file's name without its suffix; file systems take 255, or as many characters."""
_RESERVED: Final = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""What Windows, or any system, allows in no name."""
_DEVICES: Final = frozenset(
    (
        "CON",
        "PRN",
        "AUX",
        "NUL",
        "CONIN$",
        "CONOUT$",
        *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³"),
    )
)
"""What Windows takes for a device, whatever suffix follows."""


def write_text(path: Path, text: str | Iterable[str], *, new: bool = False) -> None:
    """Write a file in UTF-8, with the line ends of `text`, all of it or its pieces; otherwise as `write_bytes`."""
    _write(path, (piece.encode("utf-8") for piece in ((text,) if isinstance(text, str) else text)), new=new)


def write_bytes(path: Path, data: bytes, *, new: bool = False) -> None:
    """Write a file in the place of what may be there; folders are made.

    new: UserError where there is a file already. Nobody ever reads half a file, and where writing fails, the one that
    was there stays. UserError where it cannot be written, or is a link or a directory.
    """
    _write(path, (data,), new=new)


def _write(path: Path, pieces: Iterable[bytes], *, new: bool) -> None:
    with _errors(path):
        _check_target(path, new=new)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{os.urandom(_RANDOM_BYTES).hex()}.tmp")
        try:
            with os.fdopen(os.open(draft, _NEW, 0o666), "wb") as file:
                file.writelines(pieces)
            _place(draft, path, new=new)
        finally:
            with suppress(OSError):
                draft.unlink()


def _place(draft: Path, path: Path, *, new: bool) -> None:
    if new:
        try:
            os.link(draft, path)  # fails where there is a file, in one step
        except FileExistsError:
            raise file_error(path, "is there already") from None
        except OSError:  # a file system without hard links
            pass
        else:
            return
    elif path.exists():
        draft.chmod(stat.S_IMODE(path.stat().st_mode))
    draft.replace(path)


def check_writable(path: Path) -> None:
    """UserError where `write_text` would fail for a reason that can be known before: folders are made, and a draft of
    one byte is written beside the path and removed. To be asked before work whose result goes there.
    """
    with _errors(path):
        _check_target(path, new=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.stat(path.parent)
        with suppress(FileNotFoundError):
            path.lstat()  # a name that is too long is found here
        draft = path.with_name(f".{os.urandom(_RANDOM_BYTES).hex()}.tmp")
        try:
            with os.fdopen(os.open(draft, _NEW, 0o666), "wb") as file:
                file.write(b"\n")
        finally:
            with suppress(OSError):
                draft.unlink()


def remove_drafts(folder: Path) -> None:
    """Remove what a process that was killed while it wrote into the folder has left behind: drafts that nobody has
    written to for a while.
    """
    long_ago = time.time() - _ABANDONED_S
    with suppress(OSError):
        for draft in folder.iterdir():
            if _DRAFT.fullmatch(draft.name) and draft.lstat().st_mtime < long_ago:
                draft.unlink()


def file_name(text: str) -> str:
    """The text as the name of a file, without its suffix, that every system can have: the text itself wherever it can
    be one. Of two texts that are too long, the names differ where the texts do.
    """
    name = _RESERVED.sub("-", text.encode("utf-8", "replace").decode("utf-8")).lstrip(".").rstrip(". ")
    if name.split(".")[0].rstrip().upper() in _DEVICES:
        name = f"_{name}"
    return cut(name, MOST_NAME_BYTES) or "unnamed"


def cut(text: str, most: int) -> str:
    """The text, or as much of its beginning as `most` bytes of UTF-8 hold together with a sum of the whole."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > most:
        digest = hashlib.sha256(encoded).hexdigest()[:12]
        encoded = encoded[: most - len(digest) - 1].decode("utf-8", "ignore").encode() + b"-" + digest.encode()
    return encoded.decode("utf-8")


def new_file(path: Path) -> BinaryIO:
    """A file to write to bit by bit, such as a log, in the place of what was there; folders are made. UserError where
    it cannot be made.
    """
    with _errors(path):
        _check_target(path, new=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            path.unlink(missing_ok=True)
            try:
                return os.fdopen(os.open(path, _NEW, 0o666), "wb")
            except FileExistsError:  # another process has just made it
                continue


def _check_target(path: Path, *, new: bool) -> None:
    refuse_outside(path)
    if path.is_symlink():
        raise file_error(path, "is a link, and nothing is written through one")
    if path.is_dir():
        raise file_error(path, "is a directory")
    if new and path.exists():
        raise file_error(path, "is there already")


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        if error.filename is not None and Path(error.filename) == path.parent:
            raise file_error(path, f"cannot be written: {path.parent} is not a directory") from None
        _refuse(path, error)
    except (OSError, ValueError) as error:
        _refuse(path, error)


def _refuse(path: Path, error: Exception) -> NoReturn:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    raise file_error(path, f"cannot be written: {reason}") from None
