"""A page of text for a terminal or a pipe: how wide it is, and how lines are written on it."""

import os
from collections.abc import Iterable, Mapping
from typing import Literal, TextIO

from memplanner.frozen import Frozen
from memplanner.report.layout import Line, Span

Depth = Literal["none", "256", "truecolor"]
MIN_WIDTH, MAX_WIDTH = 60, 120


class Page(Frozen):
    """How wide lines may be and how colours are written."""

    width: int = 80
    depth: Depth = "none"

    def write(self, lines: Iterable[Line]) -> str:
        """The lines as text, without the blanks at their ends."""
        return "".join(f"{self._line(line)}\n" for line in lines)

    def _line(self, line: Line) -> str:
        if self.depth == "none":
            return "".join(span.plain or span.text for span in line).rstrip()
        spans = list(line)
        while spans and not spans[-1].text.rstrip():
            spans.pop()
        if spans:
            spans[-1] = spans[-1]._replace(text=spans[-1].text.rstrip())
        return "".join(self._painted(span) for span in spans)

    def _painted(self, span: Span) -> str:
        codes = [code for code, on in (("1", span.bold), ("2", span.dim), ("7", span.reverse)) if on]
        if span.colour:
            red, green, blue = (int(span.colour[i : i + 2], 16) for i in (1, 3, 5))
            if self.depth == "256":
                codes.append(f"38;5;{16 + 36 * _sixth(red) + 6 * _sixth(green) + _sixth(blue)}")
            else:
                codes.append(f"38;2;{red};{green};{blue}")
        return f"\x1b[{';'.join(codes)}m{span.text}\x1b[0m" if codes and span.text else span.text


def is_size(text: str) -> bool:
    """Whether a text is the number of a terminal's columns or lines."""
    return text.isascii() and text.isdigit() and len(text) < 6


def page_for(stream: TextIO, env: Mapping[str, str] = os.environ) -> Page:
    """The page that suits a stream: a terminal's width, 80 when piped; colour on a terminal unless NO_COLOR is set."""
    terminal = stream.isatty()
    width = int(env["COLUMNS"]) if is_size(env.get("COLUMNS", "")) else 0
    if not width and terminal:
        try:
            width = os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError):
            width = 0
    depth: Depth = "none"
    if not env.get("NO_COLOR") and (env.get("FORCE_COLOR") or (terminal and env.get("TERM") != "dumb")):
        depth = "truecolor" if env.get("COLORTERM") in ("truecolor", "24bit") else "256"
    return Page(width=min(max(width or 80, MIN_WIDTH), MAX_WIDTH), depth=depth)


def _sixth(level: int) -> int:
    """The nearest step of the 6×6×6 colour cube (0, 95, 135, 175, 215, 255)."""
    return min(range(6), key=lambda step: abs((0, 95, 135, 175, 215, 255)[step] - level))
