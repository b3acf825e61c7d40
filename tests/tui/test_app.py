"""The interface as a user drives it: every path, by keys and by mouse."""

import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from textual.events import AppBlur, AppFocus
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, TabbedContent

from memplanner.catalogue import all_gpus
from memplanner.errors import Problem, UserError
from memplanner.measurement import Environment, Measurement, Outcome, UnsavedError, load_measurement
from memplanner.plan.load import load_plan
from memplanner.tui.app import MemplannerApp
from memplanner.tui.screens.timeline import Course, TimelinePane
from memplanner.tui.widgets.ask import Ask
from memplanner.tui.widgets.fields import Field
from memplanner.tui.widgets.footer import KeysFooter
from memplanner.tui.widgets.help import Help
from memplanner.units import format_bytes
from tests.tui.driving import drive, field, notifications, press, rows, settle, shown, type_in

App: TypeAlias = MemplannerApp
Keys: TypeAlias = Pilot[None]


def test_a_newcomer_picks_a_rank_and_leaves_with_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare start on the default plan; another model, another rank, saved: nothing but what the screen says."""
    monkeypatch.chdir(tmp_path)

    async def play(app: App, pilot: Keys) -> None:
        assert "FITS: 15.45 GiB of 23.52 GiB" in shown(app, "#verdict")
        await press(app, pilot, "enter")
        await type_in(app, pilot, "llama-1b", "enter")
        assert app.state.plan.model == "llama-1b"
        await press(app, pilot, "down", "down", "down", "right")
        assert "‹ 256 ›" in field(app, "rank")
        await press(app, pilot, "s", "enter")
        assert notifications(app)[-1] == "Saved; ask for it with: memplanner check --plan memplanner.toml"

    app = drive(play, tmp_path, model="", flags={})
    table = tomllib.loads((tmp_path / "memplanner.toml").read_text())
    assert (table["model"], table["method"]["rank"], table["device"]) == ("llama-1b", 256, "rtx4090")
    assert load_plan(root=tmp_path).plan == app.state.plan


def test_the_answer_follows_the_plan(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        estimate = app.state.estimate
        assert shown(app, "#verdict").startswith(f"FITS: {format_bytes(estimate.device_bytes)} of 2.00 GiB\n")
        assert f"allocated {format_bytes(estimate.allocated_bytes, decimals=1)}" in shown(app, "#bar")
        breakdown = shown(app, "#breakdown").splitlines()
        assert breakdown[0] == f"Peak in backward: {format_bytes(estimate.live_bytes)} alive"
        assert breakdown[1].split()[1:4] == ["parameters", *format_bytes(estimate.at_peak["parameters"]).split()]
        chart = shown(app, "#chart").splitlines()
        assert chart[0] == "Device memory by rank, 2GiB's limit"
        assert chart[-1].split() == ["8", "16", "32", "64", "128", "256", "512"]
        assert len(chart[-2].split()) == 1 + 7  # every rank has a column on the axis
        app.query_one("#field-batch-size", Field).focus()
        for _ in range(20):
            await pilot.press("right")
        await settle(app, pilot)
        assert app.state.plan.step.batch_size == 21
        assert shown(app, "#verdict").startswith("DOES NOT FIT: ")
        assert "too much" in shown(app, "#verdict")

    drive(play, tmp_path)


def test_full_training_charts_the_batch(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        chart = shown(app, "#chart").splitlines()
        assert chart[0].startswith("Device memory by batch size")
        assert "rank              –" in field(app, "rank")

    drive(play, tmp_path, flags={"--gpu": "2GiB"})


def test_numbers_are_typed(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        app.query_one("#field-rank", Field).focus()
        await press(app, pilot, "enter", "home", "ctrl+k")
        await type_in(app, pilot, "100", "enter")
        assert app.state.plan.method.rank == 100  # type: ignore[attr-defined]
        assert " 100 " in shown(app, "#chart").splitlines()[-1]
        await press(app, pilot, "backspace")
        assert app.state.plan.method.rank == 8  # type: ignore[attr-defined]

    drive(play, tmp_path, flags={"--method": "lora", "--gpu": "2GiB"})


@pytest.mark.parametrize(
    ("name", "typed", "message"),
    [
        ("rank", "0", "0 is below 1"),
        ("rank", "many", "'many' is not a whole number"),
        ("seq-len", "999999999", "is above 16777216"),
        ("budget", "lots", "'lots' is not a size"),
        ("gpu", "rtx4091x[red]", "no card is called"),
        ("model", "/no/such/config.json", "no such file"),
    ],
)
def test_a_bad_value_is_marked_at_its_field(name: str, typed: str, message: str, tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        before = app.state.plan
        app.query_one(f"#field-{name}", Field).focus()
        await press(app, pilot, "enter")
        app.screen.query_one(Input).value = typed
        await press(app, pilot, "enter")
        line = " ".join(field(app, name).split())
        assert "✗" in line
        assert message in line
        assert app.state.plan == before
        assert "of the last plan without problems" in shown(app, "#verdict")
        await press(app, pilot, "s")
        assert "problems" in notifications(app)[-1]
        await press(app, pilot, "u")
        assert "✗" not in field(app, name)

    drive(play, tmp_path)


def test_keys_that_come_at_once_are_taken_in_order(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        for key in ("down", "down", "down", "right", "right", "up", "left"):
            app.simulate_key(key)
        for _ in range(3):
            await settle(app, pilot)
        assert app.state.plan.model == "llama-60m"
        assert app.state.flags == {"model": "llama-60m", "--gpu": "2GiB", "--method": "full"}
        app.state.undo()
        assert app.state.plan.method.rank == 32  # type: ignore[attr-defined]

    drive(play, tmp_path)


def test_pickers_search(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        app.query_one("#field-gpu", Field).focus()
        await press(app, pilot, "enter")
        assert isinstance(app.screen, Ask)
        await type_in(app, pilot, "a100", "down", "enter")
        assert app.state.text("--gpu") == "a100-80gb"
        await press(app, pilot, "enter")
        await type_in(app, pilot, "3GiB", "enter")
        assert app.state.text("--gpu") == "3GiB"
        await press(app, pilot, "enter", "escape")
        assert app.state.text("--gpu") == "3GiB"

    drive(play, tmp_path)


def test_the_mouse_works(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        await pilot.click("#field-rank", offset=(35, 1))
        await settle(app, pilot)
        assert app.focused is app.query_one("#field-rank")
        assert app.state.plan.method.rank > 8  # type: ignore[attr-defined]
        await pilot.click("#field-method", offset=(20, 0))
        assert app.state.text("--method") == "lora"  # a first click picks the field
        await pilot.click("#field-method", offset=(19, 0))
        await settle(app, pilot)
        assert app.state.plan.method.kind == "full"
        await pilot.click("#--content-tab-timeline")
        await settle(app, pilot)
        assert app.query_one(TabbedContent).active == "timeline"
        await pilot.click("#course", offset=(20, 3))
        await settle(app, pilot)
        assert app.query_one(TimelinePane).cursor == 12

    drive(play, tmp_path)


def test_the_timeline_says_what_is_alive_at_its_cursor(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "2")
        pane = app.query_one(TimelinePane)
        estimate = app.state.estimate
        assert f"{format_bytes(estimate.live_bytes)} alive in backward" in shown(app, "#moment")
        assert estimate.rows[0].name in shown(app, "#alive")
        first = " ".join(shown(app, "#alive").split())
        assert " ".join(estimate.rows[0].why.split()) in first
        picture = shown(app, "#course")
        assert f"▲ peak {format_bytes(estimate.live_bytes)}" in picture
        assert all(f"│{phase}" in picture for phase in ("load", "forward", "loss", "backward", "update", "steady"))
        await press(app, pilot, "home")
        assert "alive in load" in shown(app, "#moment")
        await press(app, pilot, "z", "g")
        assert pane.base > 0
        assert "alive in backward" in shown(app, "#moment")

    drive(play, tmp_path)


def test_compare_lays_methods_and_cards_side_by_side(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "3")
        methods, cards = rows(app, "#methods"), rows(app, "#cards")
        assert [row[0] for row in methods] == ["full", "lora", "dora", "galore", "gradnormlorp"]
        own = app.state.estimate
        assert methods[1][1:3] == ["fits", format_bytes(own.device_bytes)]
        assert len(cards) == len(all_gpus())
        assert cards == sorted(cards, key=lambda row: [c[0] for c in cards].index(row[0]))
        app.query_one("#methods", DataTable).focus()
        await press(app, pilot, "down", "enter")
        assert app.query_one(TabbedContent).active == "plan"
        assert (app.state.plan.method.kind, app.state.text("--rank")) == ("dora", "8")
        await press(app, pilot, "3", "tab")
        await press(app, pilot, "ctrl+home", "enter")
        assert app.state.text("--gpu") == cards[0][0]

    drive(play, tmp_path)


def test_the_frontier_is_sorted_and_taken_over(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "4")
        frontier_rows = rows(app, "#frontier-table")
        assert frontier_rows
        assert shown(app, "#frontier-heading").startswith(f"The frontier on 2GiB: {len(frontier_rows)} of ")
        tokens = [int(row[2]) for row in frontier_rows]
        assert tokens == sorted(tokens, reverse=True)
        await press(app, pilot, "a")
        everything = rows(app, "#frontier-table")
        assert len(everything) > len(frontier_rows)
        assert {"fits", "tight"} >= {row[5] for row in everything}
        for _ in range(5):
            await press(app, pilot, "o")
        assert rows(app, "#frontier-table")[0][0] != ""
        first = rows(app, "#frontier-table")[0]
        await press(app, pilot, "enter")
        plan = app.state.plan
        assert [plan.method.rank, plan.step.batch_size, plan.step.checkpointing] == [  # type: ignore[attr-defined]
            int(first[0]),
            int(first[1]),
            first[4],
        ]
        assert format_bytes(app.state.estimate.device_bytes) == first[6]
        assert notifications(app)[-1].startswith("Taken over (u takes it back): rank ")

    drive(play, tmp_path)


@pytest.mark.usefixtures("in_processes")
def test_what_would_fit_is_offered_and_applied(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        assert app.state.estimate.verdict == "does-not-fit"
        await press(app, pilot, "w")
        question = app.screen
        assert isinstance(question, Ask)
        assert any(choice.value.startswith("--batch-size") for choice in question.choices)
        await press(app, pilot, "enter")
        assert app.state.estimate.verdict != "does-not-fit"

    drive(play, tmp_path, flags={"--method": "lora", "--gpu": "1GiB", "--batch-size": "16"})


def test_a_file_is_written_over_only_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.toml"
    mine.write_text("# mine\n")

    async def play(app: App, pilot: Keys) -> None:
        for last in (("enter",), ("down", "enter")):
            await press(app, pilot, "s")
            app.screen.query_one(Input).value = "mine.toml"
            await press(app, pilot, "enter")
            kept = mine.read_text() == "# mine\n"
            assert kept
            await press(app, pilot, *last)
        assert 'model = "llama-60m"' in mine.read_text()
        await press(app, pilot, "s")
        app.screen.query_one(Input).value = "mine.yaml"
        await press(app, pilot, "enter")
        assert shown(app, "#ask-problem") == "a plan file's name ends in .toml"
        await press(app, pilot, "escape")

    drive(play, tmp_path)


def test_copy_and_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "y")
        assert app.clipboard == "memplanner check llama-60m --method lora --rank 8 --gpu 2GiB"
        await press(app, pilot, "e", "e")
        assert notifications(app)[-1] == "Exported: memplanner-report-2.svg and memplanner-report-2.md"

    drive(play, tmp_path)
    assert ET.parse(tmp_path / "memplanner-report.svg").getroot().tag.endswith("svg")
    assert "**FITS: " in (tmp_path / "memplanner-report.md").read_text()


def test_help_palette_and_themes(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "question_mark")
        assert isinstance(app.screen, Help)
        await press(app, pilot, "escape", "d")
        assert not app.current_theme.dark
        assert app.ink.dark is False
        await press(app, pilot, "ctrl+p")
        assert "CommandPalette" in type(app.screen).__name__
        await press(app, pilot, "escape")
        names = [command.title for command in app.get_system_commands(app.screen)]
        assert {"Save plan", "Copy command", "What would fit", "Go to Frontier"} <= set(names)

    drive(play, tmp_path)


def test_without_colour_glyphs_tell_categories_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def play(app: App, pilot: Keys) -> None:
        assert not app.ink.colour
        marks = [line[0] for line in shown(app, "#breakdown").splitlines()[1:] if line[0] != " "]
        assert len(marks) == len(set(marks)) > 2

    drive(play, tmp_path, size=(120, 40))


def test_the_state_survives_a_resize(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        app.query_one("#field-rank", Field).focus()
        await press(app, pilot, "right")
        for size in ((160, 50), (60, 15), (20, 5), (80, 24)):
            await pilot.resize_terminal(*size)
            await settle(app, pilot)
            for tab in "23451":
                await press(app, pilot, tab)
        assert app.state.plan.method.rank == 16  # type: ignore[attr-defined]
        assert "FITS" in shown(app, "#verdict")

    drive(play, tmp_path)


def test_a_run_is_laid_over_the_prediction(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    records = tmp_path / "records"

    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "5")
        assert "0 runs" in shown(app, "#measured-status")
        await press(app, pilot, "p")
        assert isinstance(app.screen, Ask)
        await type_in(app, pilot, "fake", "enter")
        assert "Running on fake" in shown(app, "#measured-status")
        await app.workers.wait_for_complete()
        await pilot.pause()
        (row,) = rows(app, "#records")
        assert row[6] == "fake tensors"
        assert abs(float(row[3].rstrip("%"))) < 1
        text = shown(app, "#record")
        assert "completed" in text
        assert text.count(" traced") >= 6
        assert "measured" not in text
        assert text.endswith("Predictions without cuBLAS's workspaces here, which only CUDA has")

    drive(play, tmp_path, records=records)
    (path,) = records.glob("*.json")
    assert load_measurement(path).backend == "fake"

    async def again(app: App, pilot: Keys) -> None:
        await press(app, pilot, "5")
        assert len(rows(app, "#records")) == 1

    drive(again, tmp_path, records=records)


def test_a_run_whose_record_cannot_be_saved_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Measurement(
        id="r",
        backend="fake",
        date="",
        plan=None,
        environment=Environment(memplanner="0", python="3", platform="Linux"),
        outcome=Outcome(status="completed", message="the loss of step 2 of 4 is nan"),
    )

    def run(*_: object, **__: object) -> Iterator[None]:
        raise next(errors)
        yield

    problem = Problem(where="r.json", key="", message="cannot be written: No space left on device")
    errors = iter((UnsavedError(record, problem), UserError(problem)))
    said: list[list[str]] = []
    monkeypatch.setattr("memplanner.tui.screens.measured.run_cases", run)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)

    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "5")
        for _ in range(2):
            await press(app, pilot, "p")
            await type_in(app, pilot, "fake", "enter")
            await app.workers.wait_for_complete()
            await pilot.pause()
            said.append(notifications(app))
            app.clear_notifications()  # which end by themselves after some seconds
        for each in said:
            assert each.count("r.json: cannot be written: No space left on device") == 1
        assert "completed: the loss of step 2 of 4 is nan" in said[0]
        assert len(rows(app, "#records")) == 1
        assert "the loss of step 2 of 4 is nan" in shown(app, "#record")
        assert "1 run" in shown(app, "#measured-status")

    drive(play, tmp_path)


def test_a_run_can_be_cancelled(tmp_path: Path) -> None:
    pytest.importorskip("torch")

    async def play(app: App, pilot: Keys) -> None:
        await press(app, pilot, "5", "p")
        await type_in(app, pilot, "fake", "enter")
        await press(app, pilot, "x")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert notifications(app)[-1] == "Cancelled"
        assert rows(app, "#records") == []

    drive(play, tmp_path, model="llama-1b")


def test_a_key_may_come_before_the_timeline_is_drawn(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        pane = app.query_one(TimelinePane)
        pane.query_one(Course).action_zoom()
        assert pane.steps == ()
        await press(app, pilot, "2")
        assert pane.zoomed
        assert pane.base > 0

    drive(play, tmp_path)


def test_a_key_at_the_bottom_can_be_clicked(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        words = str(app.query_one(KeysFooter).render())
        assert words.startswith("←→ Change ⏎ Edit w What fits s Save ")
        await pilot.click(KeysFooter, offset=(words.index("? Help") + 3, 0))
        await settle(app, pilot)
        assert isinstance(app.screen, Help)
        await press(app, pilot, "escape", "2")
        assert str(app.query_one(KeysFooter).render()).startswith("←→ Cursor g Peak z Zoom w What fits ")
        at = app.query_one(TimelinePane).cursor
        await pilot.click(KeysFooter, offset=(1, 0))
        await settle(app, pilot)
        assert app.query_one(TimelinePane).cursor == at - 1

    drive(play, tmp_path)


def test_keys_that_there_is_no_room_for_are_left_out_whole(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        assert str(app.query_one(KeysFooter).render()) == "←→ Change ⏎ Edit w What fits "
        await pilot.click(KeysFooter, offset=(30, 0))
        await settle(app, pilot)
        assert not isinstance(app.screen, Ask)

    drive(play, tmp_path, size=(31, 24))


def test_the_keys_stay_while_the_terminal_looks_elsewhere(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        before = str(app.query_one(KeysFooter).render())
        for event in (AppBlur(), AppFocus()):
            app.post_message(event)
            await settle(app, pilot)
            assert str(app.query_one(KeysFooter).render()) == before

    drive(play, tmp_path)


def test_a_click_under_a_setting_without_use_changes_nothing(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        before = dict(app.state.flags)
        await pilot.click("#field-rank", offset=(25, 1))
        await settle(app, pilot)
        assert (app.state.flags, app.state.problems) == (before, {})

    drive(play, tmp_path, flags={"--method": "full", "--gpu": "2GiB"})


def test_what_is_drawn_can_be_marked_and_copied(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        await pilot.mouse_down("#verdict", offset=(1, 0))
        await pilot.hover("#verdict", offset=(5, 0))
        await pilot.mouse_up("#verdict", offset=(5, 0))
        await pilot.pause()
        line = app.query_one("#verdict").render_line(0)
        marked = "".join(segment.text for segment in line if segment.style and segment.style.bgcolor == marking(app))
        assert marked == app.screen.get_selected_text() == "FITS: "[1:6]

    def marking(app: App) -> object:
        return app.screen.get_component_rich_style("screen--selection").bgcolor

    drive(play, tmp_path)


def test_every_field_shows_what_was_typed_while_one_is_bad(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        app.set_field("--rank", "abc")
        app.set_field("model", "gpt2")
        await settle(app, pilot)
        assert "gpt2" in field(app, "model")
        await press(app, pilot, "w")
        await press(app, pilot, "y")
        assert notifications(app)[-2:] == ["The plan has problems: they are marked at their fields"] * 2
        assert not isinstance(app.screen, Ask)
        await press(app, pilot, "2")
        assert notifications(app)[-1] == "This is of the last plan without problems"
        app.set_field("--rank", "4")
        assert (app.state.plan.model, app.state.problems) == ("gpt2", {})

    drive(play, tmp_path)


def test_a_setting_without_use_is_not_asked_for_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    async def play(app: App, pilot: Keys) -> None:
        app.query_one("#field-rank", Field).focus()
        await press(app, pilot, "right")
        assert not isinstance(app.screen, Ask)
        app.action_ask("model")
        app.action_ask("--gpu")
        await settle(app, pilot)
        assert len(app.screen_stack) == 2

    drive(play, tmp_path, flags={"--method": "full", "--gpu": "2GiB"})
