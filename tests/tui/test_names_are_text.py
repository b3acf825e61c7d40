"""Names that come from files and keys are shown as they are: as no markup, and as nothing that drives a terminal."""

import json
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from rich.segment import Segment
from textual.pilot import Pilot
from textual.widgets import Input

from memplanner.files.sandbox import profiles_dir
from memplanner.measurement import Environment, Measurement, Outcome, PhaseRecord, save_measurement
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.tui.app import MemplannerApp
from memplanner.tui.screens.compare import Load
from memplanner.tui.widgets.ask import Ask
from tests.tui.driving import drive, notifications, press

App: TypeAlias = MemplannerApp
Keys: TypeAlias = Pilot[None]

NAMES = ("[bold red]x[/]", "[@click=app.quit]x[/]", "\x1b[31mx\x07\n[/]")

CONFIG = profiles_dir() / "models" / "llama-60m.json"


def put(path: Path, text: str) -> None:
    """A file, with the folders that a slash in its name stands for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def drawn(app: App) -> list[Segment]:
    """Everything that is on the screen, notifications as well."""
    return [segment for strip in app.screen._compositor.render_strips() for segment in strip]


def hold(app: App, what: str = "") -> None:
    """The screen shows the text, if any, and nothing that a name could have asked for."""
    segments = drawn(app)
    for segment in segments:
        style = segment.style
        assert segment.text.isprintable(), repr(segment.text)
        if style is not None:
            assert style.link is None
            assert "app.quit" not in str(style.meta)
            assert style.color is None or style.color.name not in ("red", "#ff0000", "#800000")
    text = "".join(segment.text for segment in segments)
    assert what in text, text


def model_of(folder: Path, name: str) -> str:
    """A model's file in a folder of this name."""
    put(folder / name / "config.json", CONFIG.read_text())
    return str(folder / name / "config.json")


def record(folder: Path, name: str, number: int, **changed: Any) -> None:
    """A record in which every text is the name."""
    plan = TrainingPlan.model_validate({"model": "llama-60m", "device": "rtx4090"})
    phases = tuple(
        PhaseRecord(name=p.name, peak_bytes=p.peak_bytes, end_bytes=p.end_bytes) for p in predict(plan).phases
    )
    fields = {
        "id": name,
        "backend": "cuda",
        "date": name,
        "plan": plan.model_dump(mode="json") | {"model": name} if number % 2 else plan.model_dump(mode="json"),
        "config": json.loads(CONFIG.read_text()),
        "environment": Environment(memplanner=name, python=name, platform=name, gpu=name, memory_fraction=0.5),
        "outcome": Outcome(status="failed" if number % 3 == 0 else "completed", message=name),
        "phases": phases,
        **changed,
    }
    save_measurement(Measurement.model_validate(fields), folder / f"{number}.json")


@pytest.mark.parametrize("name", NAMES)
def test_in_every_screen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model's path, a plan's file, the records' folder, and every text of a record."""
    monkeypatch.chdir(tmp_path)
    model = model_of(tmp_path, name)
    put(tmp_path / f"{name}.toml", f"model = {json.dumps(model)}\ndevice = '2GiB'\n[method]\nkind = 'lora'\n")
    records = tmp_path / f"records {name}"
    for number in range(4):
        record(records, name, number)
    put(records / f"{name}.json", "{")

    async def play(app: App, pilot: Keys) -> None:
        for tab in "12345":
            await press(app, pilot, tab)
            hold(app)
        for _ in range(4):
            await press(app, pilot, "down")
            hold(app, "x")
        await press(app, pilot, "1", "y")
        hold(app)
        assert "x" in notifications(app)[-1]
        await press(app, pilot, "e")
        hold(app)
        await press(app, pilot, "question_mark")
        hold(app)
        await press(app, pilot, "escape", "s")
        for typed in (f"{name}.yaml", f"{name}.toml", f"new {name}.toml") if name.isprintable() else ():
            app.screen.query_one(Input).value = typed
            await press(app, pilot, "enter")
            hold(app)
            if typed == f"{name}.toml":
                await press(app, pilot, "enter", "s")
        hold(app)
        assert app.is_running

    drive(play, tmp_path, model="", plan=f"{name}.toml", flags={}, records=records, size=(160, 50))


@pytest.mark.parametrize("name", NAMES)
def test_in_problems_and_questions(name: str, tmp_path: Path) -> None:
    """As what is typed into fields, into lists, and what another tab hands over."""

    async def play(app: App, pilot: Keys) -> None:
        for field in ("model", "--gpu", "--target-modules", "--optimizer", "--rank", "--budget"):
            app.set_field(field, name)
            await press(app, pilot)
            hold(app)
            app.action_ask(field)
            await press(app, pilot)
            hold(app)
            await press(app, pilot, "escape", "u")
        app.post_message(Load({"--gpu": name}))
        await press(app, pilot)
        hold(app)
        app.push_screen(Ask(name, help_text=name, value=name, problem=name))
        await press(app, pilot)
        hold(app, "x")
        assert app.is_running

    drive(play, tmp_path, size=(120, 40))
