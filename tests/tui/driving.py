"""Drives the interface without a terminal."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, Static
from textual.worker import WorkerCancelled

from memplanner.tui.app import MemplannerApp
from memplanner.tui.screens.frontier import FrontierPane
from memplanner.tui.screens.plan import PlanPane
from memplanner.tui.state import start
from memplanner.tui.widgets.fields import Field
from memplanner.tui.widgets.picture import Picture

SMALL = {"--method": "lora", "--rank": "8", "--gpu": "2GiB"}
MOST_SECONDS = 120
"""After this an interface that no longer answers is an error, and not a build that never ends."""
Play = Callable[[MemplannerApp, Pilot[None]], Awaitable[None]]


def drive(
    play: Play,
    root: Path,
    *,
    size: tuple[int, int] = (80, 24),
    model: str = "llama-60m",
    flags: dict[str, Any] | None = None,
    plan: str = "",
    records: Path | None = None,
) -> MemplannerApp:
    """Run the app in `root` and let `play` press keys; the app afterwards."""
    state = start(root, model=model, plan_file=plan, flags=SMALL if flags is None else flags)
    app = MemplannerApp(state, records=records)

    async def run() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await settle(app, pilot)
            await play(app, pilot)

    asyncio.run(asyncio.wait_for(run(), MOST_SECONDS))
    return app


async def settle(app: MemplannerApp, pilot: Pilot[None]) -> None:
    """Until nothing is being worked out and everything is drawn."""
    for _ in range(4):  # a tab is drawn after its refresh, and what it has worked out begins after that
        await pilot.pause()
        await pilot.wait_for_scheduled_animations()
        while busy := [w for w in app.workers if w.group != "run" and not w.is_finished]:
            with contextlib.suppress(WorkerCancelled):
                await app.workers.wait_for_complete(busy)


async def press(app: MemplannerApp, pilot: Pilot[None], *keys: str) -> None:
    """Keys, and what comes of them."""
    for key in keys:
        await pilot.press(key)
        if key in "12345" and len(app.screen_stack) == 1:
            await _until(pilot, lambda: app.focused is not None and app.pane in app.focused.ancestors)
    await settle(app, pilot)
    if isinstance(app.pane, FrontierPane) and len(app.screen_stack) == 1:
        pane = app.pane
        await _until(pilot, lambda: pane.result is not None)
        await settle(app, pilot)


async def _until(pilot: Pilot[None], reached: Callable[[], bool]) -> None:
    """At most half a minute."""
    for _ in range(1500):
        if reached():
            return
        await pilot.pause(0.02)
    raise AssertionError("the interface never came there")


async def type_in(app: MemplannerApp, pilot: Pilot[None], text: str, *after: str) -> None:
    """Text into the question on the screen, then keys."""
    for letter in text:
        await pilot.press({".": "full_stop", "-": "minus", "/": "slash", "_": "underscore"}.get(letter, letter))
    await press(app, pilot, *after)


def shown(app: MemplannerApp, where: str) -> str:
    """The text of a Static or a Picture."""
    widget = app.screen.query_one(where)
    if isinstance(widget, Picture):
        return widget.text
    assert isinstance(widget, Static)
    content: Any = widget.visual
    return str(content.plain if isinstance(content, Text) else content)


def field(app: MemplannerApp, name: str) -> str:
    """A field's line as it is drawn."""
    return app.query_one(PlanPane).query_one(f"#field-{name}", Field).render().plain


def rows(app: MemplannerApp, where: str) -> list[list[str]]:
    """A table's cells as text."""
    table = app.screen.query_one(where, DataTable)
    return [[str(cell) for cell in table.get_row_at(i)] for i in range(table.row_count)]


def notifications(app: MemplannerApp) -> list[str]:
    """Notifications, title and message."""
    return [f"{n.title}: {n.message}" if n.title else n.message for n in app._notifications]
