"""How long the terminal interface takes from a key to the repainted screen.

`python -m benchmarks.keypress [--rounds N]`. The median and the worst of N presses of → and ←, by field and size of the
terminal, with the chart's other columns being worked out in between as in use: to the changed field, which is painted
at once, and to the verdict, bar and breakdown, which follow. And of N presses of Tab, to the painted focus, and of N
moves of the timeline's cursor.
"""

import argparse
import asyncio
import gc
import statistics
import time
from pathlib import Path

from memplanner.tui.app import MemplannerApp
from memplanner.tui.screens.plan import PlanPane
from memplanner.tui.screens.timeline import TimelinePane
from memplanner.tui.state import start
from memplanner.tui.widgets.fields import Field

LIMIT_MS = 50.0
"""What a press may take."""
SIZES = ((80, 24), (160, 50))
FIELDS = ("rank", "batch-size", "method", "checkpointing", "gpu")


class Painted(asyncio.Event):
    """Something is on the screen, since when."""

    at = 0.0

    def tell(self) -> None:
        """It has just been painted."""
        if not self.is_set():
            self.at = time.perf_counter()
            self.set()

    async def since(self, began: float) -> float:
        """Milliseconds that it took, once it is there."""
        await self.wait()
        return (self.at - began) * 1e3


async def presses(size: tuple[int, int], field: str, rounds: int) -> list[tuple[float, float]]:
    """Milliseconds of each press, to the field and to the answer."""
    app = MemplannerApp(start(Path()))
    found = []
    field_painted, answer_painted = Painted(), Painted()
    show, answer = PlanPane.show, PlanPane._answer

    def show_and_tell(pane: PlanPane) -> None:
        app.screen.call_after_refresh(field_painted.tell)
        show(pane)

    def answer_and_tell(pane: PlanPane) -> None:
        answer(pane)
        app.screen.call_after_refresh(answer_painted.tell)

    PlanPane.show, PlanPane._answer = show_and_tell, answer_and_tell  # type: ignore[method-assign]
    async with app.run_test(size=size) as pilot:
        await pilot.pause(0.5)
        app.query_one(f"#field-{field}", Field).focus()
        await pilot.pause(0.5)
        for n in range(rounds):
            await asyncio.sleep(0.02 + 0.05 * (n % 7))
            field_painted.clear()
            answer_painted.clear()
            began = time.perf_counter()
            app.simulate_key("right" if n % 3 else "left")
            found.append((await field_painted.since(began), await answer_painted.since(began)))
    PlanPane.show, PlanPane._answer = show, answer  # type: ignore[method-assign]
    return found


async def moments(size: tuple[int, int], rounds: int) -> list[float]:
    """Milliseconds of each press of → and ← on the timeline, until the cursor and what is alive there are painted."""
    app = MemplannerApp(start(Path()))
    found = []
    painted, move = Painted(), TimelinePane.move_to

    def move_and_tell(pane: TimelinePane, column: int) -> None:
        move(pane, column)
        app.screen.call_after_refresh(painted.tell)

    TimelinePane.move_to = move_and_tell  # type: ignore[method-assign]
    async with app.run_test(size=size) as pilot:
        await pilot.pause(1)
        await pilot.press("2")
        await pilot.pause(1)
        for n in range(rounds):
            painted.clear()
            began = time.perf_counter()
            app.simulate_key("right" if n % 3 else "left")
            found.append(await painted.since(began))
            await asyncio.sleep(0.1)
    TimelinePane.move_to = move  # type: ignore[method-assign]
    return found


async def tabs(size: tuple[int, int], rounds: int) -> list[float]:
    """Milliseconds of each press of Tab, until the next field's focus is painted."""
    app = MemplannerApp(start(Path()))
    found = []
    async with app.run_test(size=size) as pilot:
        await pilot.pause(1)
        for _ in range(rounds):
            painted, before = Painted(), app.focused
            began = time.perf_counter()
            app.simulate_key("tab")
            while app.focused is before:
                await asyncio.sleep(0)
            app.screen.call_after_refresh(painted.tell)
            found.append(await painted.since(began))
            await asyncio.sleep(0.1)
    return found


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="presses per field (default: 30)")
    rounds = parser.parse_args().rounds
    gc.freeze()
    worst = 0.0
    print(f"{'':<28}{'the field':>22}{'the answer':>24}")
    print(f"{'terminal':<12}{'key at':<16}{'median':>11}{'worst':>11}{'median':>12}{'worst':>12}")
    for size in SIZES:
        for field in FIELDS:
            fields, answers = zip(*asyncio.run(presses(size, field, rounds)), strict=True)
            worst = max(worst, *fields)
            times = (statistics.median(fields), max(fields), statistics.median(answers), max(answers))
            print(f"{size[0]}×{size[1]}".ljust(12) + field.ljust(16) + "".join(f"{t:>8.1f} ms" for t in times))
        for what, moving in (("Tab", tabs), ("the timeline", moments)):
            moves = asyncio.run(moving(size, rounds))
            worst = max(worst, *moves)
            times = (statistics.median(moves), max(moves))
            print(f"{size[0]}×{size[1]}".ljust(12) + what.ljust(16) + "".join(f"{t:>8.1f} ms" for t in times))
    print(
        f"\nworst to the field {worst:.1f} ms, wanted below {LIMIT_MS:g} ms: {'met' if worst < LIMIT_MS else 'missed'}"
    )


if __name__ == "__main__":
    main()
