"""Random keys, clicks, pastes and sizes do not crash it, and whatever they leave is a plan."""

import random
from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot

from memplanner.tui.app import MemplannerApp
from tests.tui.driving import drive, settle

KEYS = (
    *"12345wsyeud?zgoax",
    *"0123456789.-/[]abcn",
    *("up", "down", "left", "right", "enter", "escape", "tab", "shift+tab", "backspace", "home", "end", "space"),
    *("pageup", "pagedown", "ctrl+p", "delete"),
)
PASTED = ("8", "llama-1b", "[red]x[/]", "\x1b]0;evil\x07\n\n", "24GiB\n", "９" * 5000, "", "\u202e⁦")
SIZES = ((80, 24), (160, 50), (100, 30), (40, 10), (12, 4))


@pytest.mark.usefixtures("laid_out")
@pytest.mark.parametrize("seed", range(6))
def test_random_keys(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed)

    async def play(app: MemplannerApp, pilot: Pilot[None]) -> None:
        for _ in range(120):
            match rng.random():
                case chance if chance < 0.04:
                    await pilot.resize_terminal(*rng.choice(SIZES))
                case chance if chance < 0.12:
                    width, height = app.size
                    await pilot.click(offset=(rng.randrange(width), rng.randrange(height)))
                case chance if chance < 0.17:
                    app.post_message(events.Paste(rng.choice(PASTED)))
                    await pilot.pause()
                case _:
                    await pilot.press(rng.choice(KEYS))
        while len(app.screen_stack) > 1:
            app.pop_screen()
        await settle(app, pilot)
        assert app.state.plan_of({}) is not None
        if not app.state.problems:
            assert app.state.plan == app.state.plan_of(app.state.flags)

    drive(play, tmp_path)
