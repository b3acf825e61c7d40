"""`memplanner sweep --format svg`: device memory over the numeric axis with the most values, a line per combination."""

from typing import TYPE_CHECKING

from memplanner.errors import Problem, UserError
from memplanner.report.svg import Line, line_chart
from memplanner.report.sweep_text import axis_title, headline, value_text

if TYPE_CHECKING:
    from memplanner.plan.flags import Value
    from memplanner.solve.sweep import Sweep

LINES = 16
"""Lines that one picture can hold."""
DEVICES = ("--gpu", "--budget", "--headroom")


def sweep_svg(found: "Sweep") -> str:
    """The picture. Hollow dots stand for what is needed at least. UserError where no axis is numeric."""
    numeric = [i for i, axis in enumerate(found.axes) if all(isinstance(v, str) and v.isdigit() for v in axis.values)]
    if not numeric:
        message = "a picture needs an axis of numbers"
        raise UserError(Problem(where="--format", key="", message=message, hint="such as --rank 8,16,…,1024"))
    across = max(numeric, key=lambda i: len(found.axes[i].values))
    device = [i for i, axis in enumerate(found.axes) if axis.name in DEVICES]
    series: dict[tuple[Value, ...], dict[float, tuple[int, bool]]] = {}
    limits: dict[tuple[Value, ...], int] = {}
    for point in found.points:
        limits[tuple(point.values[i] for i in device)] = point.limit_bytes
        if point.values[across] == "":
            continue
        rest = tuple(v for i, v in enumerate(point.values) if i != across and i not in device)
        at = series.setdefault(rest, {})
        x = float(point.values[across])
        # of several cards the one with the most to say
        if x not in at or (at[x][1] and point.device_bytes is not None):
            at[x] = (point.least_device_bytes, point.device_bytes is None)
    names = [axis for i, axis in enumerate(found.axes) if i != across and i not in device]
    keys = list(series)
    shown = keys if len(keys) <= LINES else [keys[i * (len(keys) - 1) // (LINES - 1)] for i in range(LINES)]
    title = f"Device memory: {headline(found)}"
    if len(shown) < len(keys):
        title += f" ({len(shown)} of {len(keys)} lines drawn)"
    return line_chart(
        title,
        axis_title(found.axes[across]),
        [
            Line(
                name=", ".join(
                    f"{axis_title(axis).lower()} {value_text(value)}" for axis, value in zip(names, key, strict=True)
                )
                or "device",
                points=tuple((x, size) for x, (size, _) in sorted(series[key].items())),
                open_ended=frozenset(x for x, (_, least) in series[key].items() if least),
            )
            for key in shown
        ],
        [(", ".join(value_text(v) for v in key) or "limit", size) for key, size in limits.items()],
    )
