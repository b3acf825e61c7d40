"""The screens as they are shown in the README and held by a test: `python -m tests.tui.screens` draws them anew."""

import asyncio
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from memplanner.report.palette import ACCENT, BAD, CATEGORY_COLOURS, MUTED, VERDICT_COLOURS
from memplanner.tui.app import MemplannerApp
from memplanner.tui.state import start
from tests.tui.driving import MOST_SECONDS, press, settle

FOLDER = Path(__file__).parents[2] / "docs" / "screens"
SIZES = ((80, 24), (120, 36), (160, 50))
KEYS = {"plan": ("down", "down", "down"), "timeline": ("2", "z"), "compare": ("3",), "frontier": ("4",)}


def names() -> Iterator[tuple[str, tuple[int, int]]]:
    """Every tab at every size."""
    for size in SIZES:
        for tab in KEYS:
            yield tab, size


def path_of(tab: str, size: tuple[int, int]) -> Path:
    """Where a screen is kept."""
    return FOLDER / f"{tab}-{size[0]}x{size[1]}.svg"


def draw(tab: str, size: tuple[int, int], expected: list[str] | None = None) -> str:
    """The tab of a default start, as SVG, once it says what is expected, or has not changed for a while."""
    app = MemplannerApp(start(FOLDER))

    async def run() -> str:
        async with app.run_test(size=size) as pilot:
            await settle(app, pilot)
            await press(app, pilot, *KEYS[tab])
            shot, same = "", 0
            for _ in range(40):  # tables measure their columns in idle moments
                last, shot = shot, app.export_screenshot(title="memplanner")
                same = same + 1 if text_of(shot) == text_of(last) else 0
                if text_of(shot) == expected or (expected is None and same == 4):
                    break
                await pilot.pause(0.25)
            return shot

    return asyncio.run(asyncio.wait_for(run(), MOST_SECONDS))


def text_of(svg: str) -> list[str]:
    """What a screen says, line by line, whatever its styles are called."""
    return ["".join(text for text, _ in parts).rstrip() for parts in _lines(svg)]


def ink_of(svg: str) -> list[dict[str, str]]:
    """What a screen says in the palette's colours, line by line: colour and weight, and all that is said in them. The
    other colours are the theme's, which is Textual's.
    """
    styles = dict(re.findall(r"\.(\S+) {\s*fill: ([^}]*?)\s*}", svg))
    palette = {colour.lower() for colour in (*CATEGORY_COLOURS.values(), *VERDICT_COLOURS.values(), ACCENT, MUTED, BAD)}
    lines: list[dict[str, str]] = []
    for parts in _lines(svg):
        ink: dict[str, str] = {}
        for text, name in parts:
            if styles[name][:7] in palette:
                ink[styles[name]] = ink.get(styles[name], "") + text.replace(" ", "")
        lines.append(ink)
    return lines


def _lines(svg: str) -> Iterator[list[tuple[str, str]]]:
    """A screen's lines from left to right: the text and the name of its style."""
    lines: dict[float, list[tuple[float, str, str]]] = {}
    for attributes, content in re.findall(r"<text ([^>]*)>(.*?)</text>", svg, re.DOTALL):
        at = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
        if "clip-path" in attributes:
            part = float(at["x"]), unescape(content).replace("\xa0", " "), at["class"]
            lines.setdefault(float(at["y"]), []).append(part)
    for _, parts in sorted(lines.items()):
        yield [(text, name) for _, text, name in sorted(parts)]


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for tab, size in names():
        path_of(tab, size).write_text(draw(tab, size), encoding="utf-8")


if __name__ == "__main__":
    main()
