"""Writes profiles/margins.json: how far above its prediction each published run was, for memplanner.prediction.margin.

python -m memplanner.validation.margins
"""

import json
from typing import Final

from memplanner.errors import UserError
from memplanner.files.sandbox import profiles_dir, scratch_folder
from memplanner.files.write import write_text
from memplanner.prediction import predict
from memplanner.prediction.margin import FILE, kind_of_plan
from memplanner.validation.published import (
    InexpressibleError,
    load_published,
    plan_of,
    published_files,
    short_source,
)

_ABOUT: Final = (
    "Of each published run with a figure for the device: (measured - predicted) / predicted. "
    "Written by python -m memplanner.validation.margins"
)
_DIGITS: Final = 5


def excesses() -> dict[str, dict[str, list[float]]]:
    """Kind of plan → source → of each of its runs, in the order of their files, (measured − predicted) / predicted."""
    kinds: dict[str, dict[str, list[float]]] = {}
    with scratch_folder() as scratch:
        for row in (row for path in published_files() for row in load_published(path)):
            if row.measured.process is None:
                continue
            try:
                plan, _ = plan_of(row, scratch)
                predicted = predict(plan).device_bytes
            except (InexpressibleError, UserError):
                continue
            excess = round(row.measured.process / predicted - 1, _DIGITS)
            kinds.setdefault(kind_of_plan(plan), {}).setdefault(short_source(row), []).append(excess)
    return {kind: dict(sorted(sources.items())) for kind, sources in sorted(kinds.items())}


def text() -> str:
    """The file as it should be."""
    return json.dumps({"about": _ABOUT, "kinds": excesses()}, indent=1) + "\n"


if __name__ == "__main__":
    write_text(profiles_dir() / FILE, text())
