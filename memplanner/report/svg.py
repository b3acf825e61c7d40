"""A line chart as SVG: values over one axis, limits as dashed lines. Text is escaped; nothing in it is interpreted."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from memplanner.errors import printable
from memplanner.frozen import Frozen
from memplanner.units import GIB

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333", "#999999")
"""Okabe and Ito's, which stay apart under colour blindness; the dash patterns tell lines apart without any."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")
INK, RULE, LIMIT = "#333333", "#DDDDDD", "#B00020"
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 420, 64, 40, 200, 52


class Line(Frozen):
    """Points (x, bytes) in ascending order; `open_ended`: bytes that are only known to be at least that."""

    name: str
    points: tuple[tuple[float, int], ...]
    open_ended: frozenset[float] = frozenset()


def text(x: float, y: float, content: str, anchor: str = "start", colour: str = INK) -> str:
    """One SVG text element, its content made printable and escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(printable(content))}</text>'


class _Frame(Frozen):
    """Where values stand in the picture. places: of every x a share of the width; top: the bytes at its upper end."""

    places: Mapping[float, float]
    top: float

    def at_x(self, value: float) -> float:
        """Pixels from the left."""
        return LEFT + self.places[value] * (WIDTH - LEFT - RIGHT)

    def at_y(self, size: float) -> float:
        """Pixels from above."""
        return HEIGHT - BOTTOM - size / self.top * (HEIGHT - TOP - BOTTOM)

    def across(self, size: float, style: str) -> str:
        """A line from side to side."""
        y = f"{self.at_y(size):.1f}"
        return f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" {style}/>'


def line_chart(title: str, x_title: str, lines: Sequence[Line], limits: Sequence[tuple[str, int]]) -> str:
    """The whole picture. limits: (name, bytes) drawn across it."""
    sizes = [size for line in lines for _, size in line.points] + [size for _, size in limits]
    xs = sorted({x for line in lines for x, _ in line.points}) or [0.0]
    frame = _Frame(places={x: i / max(len(xs) - 1, 1) for i, x in enumerate(xs)}, top=max([*sizes, 1]) * 1.05)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 22, title),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_title, "middle"),
        *_axes(frame),
    ]
    for name, size in limits:
        parts.append(frame.across(size, f'stroke="{LIMIT}" stroke-dasharray="4 4"'))
        parts.append(text(LEFT + 4, frame.at_y(size) - 4, name, colour=LIMIT))
    for number, line in enumerate(lines):
        parts += _line(number, line, frame)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(frame: _Frame) -> list[str]:
    """Rules at round sizes, and the values below."""
    steps = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1 << 40)
    step = next(s for s in steps if frame.top / GIB / s <= 8)
    parts = []
    for n in range(int(frame.top / GIB / step) + 1):
        size = n * step * GIB
        parts.append(frame.across(size, f'stroke="{RULE}"'))
        parts.append(text(LEFT - 6, frame.at_y(size) + 4, f"{n * step:g} GiB", "end"))
    xs = list(frame.places)
    shown = xs if len(xs) <= 12 else xs[:: -(-len(xs) // 12)]
    return parts + [text(frame.at_x(x), HEIGHT - BOTTOM + 18, f"{x:g}", "middle") for x in shown]


def _line(number: int, line: Line, frame: _Frame) -> list[str]:
    """A line with its dots, and what it is called at the right."""
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
    places = [
        (f"{frame.at_x(x):.1f}", f"{frame.at_y(size):.1f}", "white" if x in line.open_ended else colour)
        for x, size in line.points
    ]
    path = " ".join(f"{x},{y}" for x, y, _ in places)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    y = TOP + 16 * number
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashed}/>',
        *(f'<circle cx="{x}" cy="{y}" r="3" fill="{fill}" stroke="{colour}"/>' for x, y, fill in places),
        f'<line x1="{WIDTH - RIGHT + 12}" x2="{WIDTH - RIGHT + 34}" y1="{y}" y2="{y}" stroke="{colour}" '
        f'stroke-width="2"{dashed}/>',
        text(WIDTH - RIGHT + 40, y + 4, line.name),
    ]
