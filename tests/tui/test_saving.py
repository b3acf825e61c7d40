"""Plans and reports as files: where they may go, and what is said where they cannot."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from memplanner.errors import Problem, UserError
from memplanner.tui.app import MemplannerApp
from memplanner.tui.export import can_be_saved, save_plan, save_report
from memplanner.tui.screens.measured import MeasuredPane
from memplanner.tui.state import start
from memplanner.tui.widgets.ask import Ask
from tests.tui.driving import drive, notifications, press, settle, shown

App: TypeAlias = MemplannerApp
Keys: TypeAlias = Pilot[None]
Fail: TypeAlias = Callable[[int], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Make the making of files fail, in every place, with an error of the system; 0 lets it succeed again."""
    number, really = 0, os.open

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if number and flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(path))
        return really(path, flags, *rest, **named)

    def begin(wanted: int) -> None:
        nonlocal number
        number = wanted

    monkeypatch.setattr("memplanner.files.write.os.open", opened)
    return begin


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a file needs a name"),
        ("plan.yaml", "a plan file's name ends in .toml"),
        ("folder.toml", "'folder.toml' is a directory"),
        ("link.toml", "'link.toml' is a link, and nothing is written through one"),
        ("dangling.toml", "'dangling.toml' is a link, and nothing is written through one"),
        ("~nobody-here/x.toml", "'~nobody-here/x.toml': Could not determine home directory."),
        ("sub/new/x.toml", ""),
        ("../x.toml", ""),
        ("/tmp/x.toml", ""),
    ],
)
def test_what_is_wrong_with_a_name(text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "file.toml").write_text("")
    (tmp_path / "link.toml").symlink_to("file.toml")
    (tmp_path / "dangling.toml").symlink_to("nothing")
    assert can_be_saved(text) == problem


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("x.toml", True),
        ("sub/new/x.toml", True),
        ("sub/../x.toml", True),
        ("inner/x.toml", True),
        ("{here}/x.toml", True),
        ("../x.toml", False),
        ("../{name}-other/x.toml", False),
        ("sub/../../x.toml", False),
        ("new/../../x.toml", False),
        ("{here}/../x.toml", False),
        ("/tmp/x.toml", False),
        ("~/.cargo/config.toml", False),
        ("outer/x.toml", False),
        ("outer/../x.toml", False),
        ("loop/x.toml", False),
    ],
)
def test_a_browser_saves_below_its_folder(
    text: str, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere/deep"
    (here / "sub").mkdir(parents=True)
    elsewhere.mkdir(parents=True)
    (here / "outer").symlink_to(elsewhere)
    (here / "inner").symlink_to("sub")
    (here / "loop").symlink_to("loop")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = text.format(here=here, name=here.name)
    said = can_be_saved(text, inside=Path())
    before = sorted(tmp_path.rglob("*"))
    plan = start(here, model="llama-60m").plan
    path = Path(text).expanduser()
    if stays:
        assert said == ""
        save_plan(plan, path, here, inside=Path())
        assert path.exists()
    else:
        assert "leads out of the folder that the planner was started in" in said or "symbolic links" in said
        with pytest.raises(UserError, match="leads out of the folder"):
            save_plan(plan, path, here, inside=Path())
        assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_has_come_in_the_meantime_stays(tmp_path: Path) -> None:
    plan, path = start(tmp_path, model="llama-60m").plan, tmp_path / "x.toml"
    path.write_text("# theirs\n")
    with pytest.raises(UserError, match="is there already"):
        save_plan(plan, path, tmp_path)
    assert path.read_text() == "# theirs\n"
    save_plan(plan, path, tmp_path, replacing=True)
    assert "llama-60m" in path.read_text()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_plan_that_cannot_be_saved_is_asked_for_again(
    number: int, fail: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.toml").write_text("# old\n")

    async def play(app: App, pilot: Keys) -> None:
        for name, keys in (("mine.toml", ("enter",)), ("old.toml", ("enter", "down", "enter"))):
            fail(number)
            await press(app, pilot, "s")
            app.screen.query_one(Input).value = name
            await press(app, pilot, *keys)
            assert isinstance(app.screen, Ask)
            assert app.screen.query_one(Input).value == name
            assert shown(app, "#ask-problem") == f"{name}: cannot be written: {os.strerror(number)}"
            assert (tmp_path / "old.toml").read_text() == "# old\n"
            fail(0)
            await press(app, pilot, *keys)
            assert notifications(app)[-1] == f"Saved; ask for it with: memplanner check --plan {name}"

    drive(play, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml", "old.toml"]


def test_names_that_no_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")

    async def play(app: App, pilot: Keys) -> None:
        for name, word in (
            (f"{'x' * 300}.toml", "File name too long"),
            ("file/x.toml", "file is not a directory"),
            ("~nobody-here/x.toml", "home directory"),
            ("[bold red]x[/].yaml", "ends in .toml"),
        ):
            await press(app, pilot, "s")
            app.screen.query_one(Input).value = name
            await press(app, pilot, "enter")
            assert isinstance(app.screen, Ask)
            assert app.screen.query_one(Input).value == name
            assert word in shown(app, "#ask-problem")
            await press(app, pilot, "escape")

    drive(play, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_with_a_space_can_be_pasted_into_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "s")
        app.screen.query_one(Input).value = "my plan.toml"
        await press(app, pilot, "enter")
        assert notifications(app)[-1] == "Saved; ask for it with: memplanner check --plan 'my plan.toml'"

    drive(play, tmp_path)


def test_reports_take_names_that_nothing_has(tmp_path: Path) -> None:
    stem, victim = tmp_path / "report", tmp_path / "victim"
    (tmp_path / "report.svg").symlink_to(victim)
    (tmp_path / "report-2.md").symlink_to(victim)
    (tmp_path / "report-3.svg").mkdir()
    (tmp_path / "report-4.md").write_text("mine")
    assert save_report("<svg/>", "# x", stem) == (tmp_path / "report-5.svg", tmp_path / "report-5.md")
    assert not victim.exists()
    assert not (tmp_path / "report-4.svg").exists()


def test_reports_at_once_take_a_name_each(tmp_path: Path) -> None:
    def save(number: int) -> tuple[Path, Path]:
        return save_report(f"{number}", f"{number}", tmp_path / "report")

    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(save, range(40)))
    assert len(set(saved)) == 40
    assert [(int(svg.read_text()), int(md.read_text())) for svg, md in saved] == [(n, n) for n in range(40)]
    assert len(list(tmp_path.iterdir())) == 80


def test_half_a_report_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str, *, new: bool) -> None:
        if path.suffix == ".md":
            raise UserError(Problem(where=str(path), key="", message="cannot be written: No space left on device"))
        path.write_text(text)

    monkeypatch.setattr("memplanner.tui.export.write_text", full)
    with pytest.raises(UserError, match="No space left"):
        save_report("<svg/>", "# x", tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_a_message(
    fail: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def play(app: App, pilot: Keys) -> None:
        fail(errno.ENOSPC)
        await press(app, pilot, "e")
        assert notifications(app)[-1] == "memplanner-report.svg: cannot be written: No space left on device"
        fail(0)
        await press(app, pilot, "e")
        assert notifications(app)[-1] == "Exported: memplanner-report.svg and memplanner-report.md"

    drive(play, tmp_path)


def test_a_browser_is_told_where_files_have_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MemplannerApp, "is_web", True)

    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "s")
        app.screen.query_one(Input).value = "../x.toml"
        await press(app, pilot, "enter")
        assert shown(app, "#ask-problem").endswith("leads out of the folder that the planner was started in")
        app.screen.query_one(Input).value = "x.toml"
        await press(app, pilot, "enter")
        assert notifications(app)[-1] == f"Saved in {tmp_path}; ask for it with: memplanner check --plan x.toml"
        await press(app, pilot, "e")
        assert notifications(app)[-1].startswith(f"Exported to {tmp_path}: ")

    drive(play, tmp_path)


def test_a_run_that_cannot_be_kept_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise UserError(Problem(where="records", key="", message="cannot be written: No space left on device"))

    monkeypatch.setattr("memplanner.tui.screens.measured.run_cases", full)

    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "5")
        app.query_one(MeasuredPane)._begin("fake")
        await app.workers.wait_for_complete()
        await settle(app, pilot)
        assert notifications(app)[-1] == "records: cannot be written: No space left on device"
        assert shown(app, "#measured-status").startswith("0 runs")

    drive(play, tmp_path, records=tmp_path / "records")
