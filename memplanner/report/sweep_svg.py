"""`memplanner sweep --format svg`: device memory over the numeric axis with the most values, a line per combination."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memplanner.errors import Problem, UserError
from memplanner.frozen import Frozen
from memplanner.report.svg import Line, line_chart
from memplanner.report.sweep_text import SweepAnswer, axis_title, headline, value_text

if TYPE_CHECKING:
    from memplanner.plan.flags import Value
    from memplanner.report.terminal import Page
    from memplanner.solve.sweep import Axis, Sweep

LINES = 16
"""Lines that one picture can hold."""
DEVICES = ("--gpu", "--budget", "--headroom")


class _Roles(Frozen):
    """Places of a sweep's axes: the one that is drawn across, those of devices, and the others, a line each."""

    across: int
    devices: tuple[int, ...]
    others: tuple[int, ...]


def sweep_svg(answer: SweepAnswer, page: "Page") -> str:
    """The picture. Hollow dots stand for what is needed at least. UserError where no axis is numeric."""
    sweep = answer.sweep
    roles = _roles(sweep.axes)
    lines = _lines(sweep, roles)
    count = len(lines)
    shown = lines if count <= LINES else [lines[i * (count - 1) // (LINES - 1)] for i in range(LINES)]
    title = f"Device memory: {headline(sweep)}"
    if len(shown) < count:
        title += f" ({len(shown)} of {count} lines drawn)"
    return line_chart(title, axis_title(sweep.axes[roles.across]), shown, _limits(sweep, roles))


def _roles(axes: "Sequence[Axis]") -> _Roles:
    numeric = [i for i, axis in enumerate(axes) if all(isinstance(v, str) and v.isdigit() for v in axis.values)]
    if not numeric:
        message = "a picture needs an axis of numbers"
        raise UserError(Problem(where="--format", key="", message=message, hint="such as --rank 8,16,…,1024"))
    across = max(numeric, key=lambda i: len(axes[i].values))
    devices = tuple(i for i, axis in enumerate(axes) if axis.name in DEVICES)
    others = tuple(i for i in range(len(axes)) if i != across and i not in devices)
    return _Roles(across=across, devices=devices, others=others)


def _lines(sweep: "Sweep", roles: _Roles) -> list[Line]:
    """A line for each combination of the other axes; of several cards the one with the most to say."""
    series: dict[tuple[Value, ...], dict[float, tuple[int, bool]]] = {}
    for point in sweep.points:
        if point.values[roles.across] == "":
            continue
        sizes = series.setdefault(tuple(point.values[i] for i in roles.others), {})
        x = float(point.values[roles.across])
        if x not in sizes or (sizes[x][1] and point.device_bytes is not None):
            sizes[x] = (point.least_device_bytes, point.device_bytes is None)
    names = [axis_title(sweep.axes[i]).lower() for i in roles.others]
    return [
        Line(
            name=", ".join(f"{name} {value_text(v)}" for name, v in zip(names, values, strict=True)) or "device",
            points=tuple((x, size) for x, (size, _) in sorted(sizes.items())),
            open_ended=frozenset(x for x, (_, least) in sizes.items() if least),
        )
        for values, sizes in series.items()
    ]


def _limits(sweep: "Sweep", roles: _Roles) -> list[tuple[str, int]]:
    """The limit of each device."""
    limits = {tuple(point.values[i] for i in roles.devices): point.limit_bytes for point in sweep.points}
    return [(", ".join(map(value_text, values)) or "limit", size) for values, size in limits.items()]
