"""What `memplanner record` says: how far the recording is from traces, and where it is kept."""

from memplanner.frozen import Frozen
from memplanner.report.as_json import dump
from memplanner.report.layout import BLANK, Column, paragraph, table
from memplanner.report.terminal import Page


class Difference(Frozen):
    """A recorded step beside a traced one: plan: what was compared. worst: the largest difference of a phase's peak or
    end, as a share; phase: where. kept: whether parameters, gradients and states are equal to the byte. holds: whether
    both are as close as they have to be.
    """

    plan: str
    worst: float
    phase: str
    kept: bool
    holds: bool


class Recording(Frozen):
    """A recorded type. programs: their number. path: the file; empty where it was not kept."""

    model_type: str
    transformers: str
    torch: str
    programs: int
    differences: tuple[Difference, ...]
    path: str


def record_text(recording: Recording, page: Page) -> str:
    """A line for each plan that was compared."""
    number = "1 program" if recording.programs == 1 else f"{recording.programs} programs"
    title = (
        f"{recording.model_type}: {number}, recorded with transformers {recording.transformers} and torch "
        f"{recording.torch}"
    )
    columns = (
        Column(title="Beside a trace of a small model", shrinks=True),
        Column(title="Worst phase"),
        Column(title="Differs", right=True),
        Column(title="Parameters and states"),
    )
    rows = [(d.plan, d.phase, f"{d.worst:.4%}", "equal" if d.kept else "differ") for d in recording.differences]
    end = (
        f"Kept in {recording.path}"
        if recording.path
        else "Not kept: the recording does not give what a trace gives, and such models go on being traced."
    )
    lines = table(columns, rows, page.width)
    return page.write([*paragraph(title, page.width), BLANK, *lines, BLANK, *paragraph(end, page.width)])


def record_json(recording: Recording, page: Page) -> str:
    """The same as JSON."""
    fields = {name: getattr(recording, name) for name in ("model_type", "transformers", "torch", "programs", "path")}
    differences = [
        {name: getattr(d, name) for name in ("plan", "worst", "phase", "kept", "holds")} for d in recording.differences
    ]
    return dump({"schema": "memplanner/record/1", **fields, "differences": differences})
