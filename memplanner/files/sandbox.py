"""Paths in files that a pull request may have written: none may lead out of the repository, links followed.

`Gate` is what every file is opened through where memplanner runs in continuous integration: it knows where files may
lie, and `read_text` and `write_text`, which alone open files, ask it.
"""

import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from memplanner.errors import Problem, UserError
from memplanner.settings.errors import show


@functools.cache
def profiles_dir() -> Path:
    """profiles/: inside an installed package, or beside the package in the repository."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_profiles"
    return installed if installed.is_dir() else package.parent / "profiles"


def running_in_ci() -> bool:
    """Whether this runs in continuous integration, on files that others wrote: CI services set CI."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def repository_of(folder: Path) -> Path:
    """The nearest folder above that has a .git, else the folder itself. Judged by its name: a folder that is a link is
    not taken for another repository.
    """
    folder = Path(os.path.abspath(folder))
    above = (folder, *folder.parents)
    return next((each for each in above if (each / ".git").exists() and not each.is_symlink()), folder)


def path_in_repository(path: Path) -> str:
    """A file's path from its repository's top, with slashes."""
    path = Path(os.path.abspath(path))
    return path.relative_to(repository_of(path.parent)).as_posix()


def resolve_inside(root: Path, word: str, *, where: str, key: str, top: Path | None = None) -> Path:
    """The path that a file names, if it stays in the file's repository (without one: in its directory); UserError else.

    Links are followed before the path is judged. top: the directory to stay in, where it is not the repository.
    """
    try:
        path = root / Path(word).expanduser()
        if path.resolve().is_relative_to((top or repository_of(root)).resolve()):
            return path
    except (OSError, ValueError, RuntimeError):
        pass
    raise UserError(Problem(where=where, key=key, message=f"{show(word)} leads out of the repository"))


class Gate:
    """Where files may lie: in the repository that `root` is in.

    typed: words of the command line, which no file wrote. A path among them that is outside may be opened, and what
    lies in its own repository with it.
    """

    def __init__(self, root: Path, typed: Iterable[str] = ()) -> None:
        repository = repository_of(root)
        self._inside = [repository.resolve()]
        for word in typed:
            with suppress(OSError, ValueError, RuntimeError):  # of a word that is no path
                path = Path(os.path.abspath(root / Path(word).expanduser()))
                if not path.is_relative_to(repository) and (path.exists() or path.parent.is_dir()):
                    self.admit(path if path.is_dir() else repository_of(path.parent))

    def admit(self, folder: Path) -> None:
        """Let files in a folder be opened."""
        self._inside.append(folder.resolve())

    def admits(self, path: Path) -> bool:
        """Whether the file may be opened, links followed."""
        real = path.resolve()
        return any(real.is_relative_to(folder) for folder in self._inside)


_gate: ContextVar[Gate | None] = ContextVar("gate", default=None)


@contextmanager
def gated(gate: Gate | None) -> Iterator[None]:
    """Open files through the gate, where there is one."""
    token = _gate.set(gate)
    try:
        yield
    finally:
        _gate.reset(token)


def refuse_outside(path: Path) -> None:
    """UserError where a file may not be opened, or written. Without a gate, as where memplanner is called from Python,
    a link of the repository that leads out of it is refused in continuous integration. memplanner's own files may be
    links, as some installers make them.
    """
    gate = _gate.get()
    if gate is None and not running_in_ci():
        return
    try:
        absolute = Path(os.path.abspath(path))
        if absolute.is_relative_to(profiles_dir()):
            return
        if (gate or Gate(absolute.parent)).admits(path):
            return
    except (OSError, ValueError, RuntimeError):
        pass
    raise UserError(Problem(where=str(path), key="", message="leads out of the repository"))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for files that are needed for a moment, and removed with all that is in it."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="memplanner-") as name:
        folder = Path(name)
        gate = _gate.get()
        if gate is not None:
            gate.admit(folder)
        yield folder
