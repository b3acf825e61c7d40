"""A line chart as SVG: values over one axis, limits as dashed lines. Text is escaped; nothing in it is interpreted."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from memplanner.errors import printable
from memplanner.units import GIB

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333", "#999999")
"""Okabe and Ito's, which stay apart under colour blindness; the dash patterns tell lines apart without any."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")
INK, RULE, LIMIT = "#333333", "#DDDDDD", "#B00020"
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 420, 64, 40, 200, 52


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points (x, bytes) in ascending order; `open_ended`: bytes that are only known to be at least that."""

    name: str
    points: tuple[tuple[float, int], ...]
    open_ended: frozenset[float] = frozenset()


def text(x: float, y: float, content: str, anchor: str = "start", colour: str = INK) -> str:
    """One SVG text element, its content made printable and escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(printable(content))}</text>'


def line_chart(title: str, x_title: str, lines: Sequence[Line], limits: Sequence[tuple[str, int]]) -> str:
    """The whole picture. limits: (name, bytes) drawn across it."""
    xs = sorted({x for line in lines for x, _ in line.points}) or [0.0]
    top = max([size for line in lines for _, size in line.points] + [size for _, size in limits] + [1]) * 1.05
    place = {x: i / max(len(xs) - 1, 1) for i, x in enumerate(xs)}

    def at_x(value: float) -> float:
        return LEFT + place[value] * (WIDTH - LEFT - RIGHT)

    def at_y(size: float) -> float:
        return HEIGHT - BOTTOM - size / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 22, title),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_title, "middle"),
    ]
    step = next(s for s in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1 << 40) if top / GIB / s <= 8)
    for n in range(int(top / GIB / step) + 1):
        y = at_y(n * step * GIB)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{RULE}"/>')
        parts.append(text(LEFT - 6, y + 4, f"{n * step:g} GiB", "end"))
    shown = xs if len(xs) <= 12 else xs[:: -(-len(xs) // 12)]
    parts += [text(at_x(x), HEIGHT - BOTTOM + 18, f"{x:g}", "middle") for x in shown]
    for name, size in limits:
        y = at_y(size)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{LIMIT}" '
            'stroke-dasharray="4 4"/>'
        )
        parts.append(text(LEFT + 4, y - 4, name, colour=LIMIT))
    for n, line in enumerate(lines):
        colour, dash = COLOURS[n % len(COLOURS)], DASHES[n // len(COLOURS) % len(DASHES)]
        path = " ".join(f"{at_x(x):.1f},{at_y(size):.1f}" for x, size in line.points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashed}/>')
        for x, size in line.points:
            fill = "white" if x in line.open_ended else colour
            parts.append(f'<circle cx="{at_x(x):.1f}" cy="{at_y(size):.1f}" r="3" fill="{fill}" stroke="{colour}"/>')
        y = TOP + 16 * n
        parts.append(
            f'<line x1="{WIDTH - RIGHT + 12}" x2="{WIDTH - RIGHT + 34}" y1="{y}" y2="{y}" stroke="{colour}" '
            f'stroke-width="2"{dashed}/>'
        )
        parts.append(text(WIDTH - RIGHT + 40, y + 4, line.name))
    return "\n".join([*parts, "</svg>"]) + "\n"
