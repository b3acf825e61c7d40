"""Files are written whole or not at all, and never through a link."""

import os
from pathlib import Path

import pytest

from memplanner.errors import UserError
from memplanner.files.sandbox import Gate, gated, scratch_folder
from memplanner.files.write import check_writable, new_file, write_text

WRITERS = [
    pytest.param(lambda path: write_text(path, "new"), id="write_text"),
    pytest.param(lambda path: new_file(path).close(), id="new_file"),
    pytest.param(check_writable, id="check_writable"),
]


def test_folders_are_made_and_a_file_is_replaced_with_its_mode_kept(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "one\r\ntwo\n")
    assert path.read_bytes() == b"one\r\ntwo\n"
    path.chmod(0o640)
    write_text(path, "three")
    assert (path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777) == ("three", 0o640)
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("write", WRITERS)
def test_nothing_is_written_through_a_link(write: object, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept", encoding="utf-8")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(UserError, match="is a link, and nothing is written through one"):
            write(tmp_path / name)  # type: ignore[operator]
    assert outside.read_text(encoding="utf-8") == "kept"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("write", WRITERS)
def test_what_stands_in_the_way_is_said_in_one_line(write: object, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for name, why in (
        ("folder", "is a directory"),
        ("file/below", "not a directory"),
        ("n" * 300, "cannot be written: File name too long"),
        ("nul\0", "cannot be written: "),
    ):
        with pytest.raises(UserError) as caught:
            write(tmp_path / name)  # type: ignore[operator]
        assert why.casefold() in str(caught.value).casefold()
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_cannot_be_written_to(write: object, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        write(tmp_path / "file")  # type: ignore[operator]


def test_a_new_file_takes_nobodys_place(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "first", new=True)
    with pytest.raises(UserError, match="is there already"):
        write_text(tmp_path / "a", "second", new=True)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "first"


def test_where_writing_fails_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "first")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="a: cannot be written: No space left on device"):
        write_text(tmp_path / "a", "second")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "first"


# -- the gate ------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    top = tmp_path / "repository"
    (top / ".git").mkdir(parents=True)
    (tmp_path / "other" / ".git").mkdir(parents=True)
    (tmp_path / "other" / "file").touch()
    (top / "link").symlink_to(tmp_path / "other")
    return top


def test_the_gate_admits_the_repository_and_what_was_typed(repository: Path) -> None:
    outside = repository.parent / "other" / "file"
    assert Gate(repository).admits(repository / "not" / "there")
    assert not Gate(repository).admits(outside)
    assert not Gate(repository).admits(repository / "link" / "file")
    assert not Gate(repository / "link").admits(repository.parent / "elsewhere")
    assert Gate(repository, [str(outside)]).admits(outside)
    assert not Gate(repository, ["link/file", "link", "~nobody/x", "\0", "x" * 5000]).admits(outside)


def test_a_link_to_another_repository_is_not_taken_for_one(repository: Path) -> None:
    assert not Gate(repository / "link").admits(repository / "link" / "file"), "its repository is the one it lies in"


def test_all_writing_goes_through_the_gate(repository: Path) -> None:
    with gated(Gate(repository)):
        write_text(repository / "inside", "")
        for path in (repository / "link" / "new", repository.parent / "new"):
            for write in (lambda p: write_text(p, ""), new_file, check_writable):
                with pytest.raises(UserError, match="leads out of the repository"):
                    write(path)
        with scratch_folder() as folder:
            write_text(folder / "for a moment", "")
    assert not (repository.parent / "other" / "new").exists()
    assert not folder.exists()
