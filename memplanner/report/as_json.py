"""Machine-readable answers. Each object names its schema; bytes are integers; keys only ever get added."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from memplanner.report.phrases import device_word
from memplanner.timeline import CATEGORIES

if TYPE_CHECKING:
    from memplanner.budgets.check import CheckedPlans
    from memplanner.budgets.growth import Growth
    from memplanner.frameworks import Foreign
    from memplanner.prediction.estimate import Estimate
    from memplanner.report.check_text import PlanAnswer
    from memplanner.report.compare_text import Comparison
    from memplanner.report.explain_text import Explanation
    from memplanner.report.fit_text import FitAnswer
    from memplanner.report.terminal import Page

Item = TypeVar("Item")
PERSISTENT = ("parameters", "adapters", "gradients", "optimizer_state", "projectors")


def estimate_object(estimate: "Estimate") -> dict[str, Any]:
    """The object of `check --format json`."""
    return {
        "schema": "memplanner/estimate/1",
        "verdict": estimate.verdict,
        "squeezed": estimate.is_squeezed,
        "gpu": {
            "name": estimate.gpu.name if estimate.gpu is not None else device_word(estimate.plan),
            "total_bytes": estimate.total_bytes,
        },
        "live_bytes": estimate.live_bytes,
        "allocated_bytes": estimate.allocated_bytes,
        "fragmentation_bytes": estimate.fragmentation_bytes,
        "reserved_bytes": estimate.reserved_bytes,
        "wanted_bytes": estimate.wanted_bytes,
        "context_bytes": estimate.context_bytes,
        "context_assumed": estimate.is_context_assumed,
        "device_bytes": estimate.device_bytes,
        "limit_bytes": estimate.limit_bytes,
        "peak_phase": estimate.peak_phase,
        "phases": [
            {"name": live.name, "peak_bytes": allocated.peak_bytes, "live_bytes": live.peak_bytes}
            for live, allocated in zip(estimate.live_phases, estimate.phases, strict=True)
        ],
        "at_peak": {category: estimate.at_peak.get(category, 0) for category in CATEGORIES},
        "persistent": {name: estimate.persistent.get(name, 0) for name in PERSISTENT},
        "parameters": {"total": estimate.num_parameters, "trainable": estimate.num_trainable},
        "margin_bytes": estimate.margin_bytes,
        "plan": estimate.plan.model_dump(mode="json"),
    }


def check_json(answer: "PlanAnswer", page: "Page") -> str:
    """The answer of `check --format json`."""
    extra = {} if answer.foreign is None else {"from": foreign_object(answer.foreign)}
    return dump(estimate_object(answer.estimate) | extra)


def explain_json(answer: "Explanation", page: "Page") -> str:
    """The answer of `explain --format json`: every row alive at the peak and the curve."""
    estimate = answer.estimate
    value = {
        "schema": "memplanner/explanation/1",
        "live_bytes": estimate.live_bytes,
        "allocated_bytes": estimate.allocated_bytes,
        "peak_phase": estimate.peak_phase,
        "rows": [
            {
                "name": row.name,
                "category": row.category,
                "shape": list(row.shape),
                "dtype": row.dtype,
                "count": row.count,
                "bytes": row.bytes,
                "born": row.born,
                "dies": row.dies,
                "why": row.why,
            }
            for row in estimate.rows
        ],
        "curve": [{"phase": phase, "bytes": size} for phase, size, _ in estimate.timeline.points()],
        "plan": estimate.plan.model_dump(mode="json"),
    }
    return dump(value)


def fit_json(answer: "FitAnswer", page: "Page") -> str:
    """The answer of `fit --format json`. value: 0 where nothing fits; untried: the largest of those larger ones that
    were not tried and may fit, 0 where there are none; next: one unit more, null at the ceiling.
    """
    largest = answer.largest
    value = {
        "schema": "memplanner/fit/1",
        "axis": largest.axis,
        "value": largest.value,
        "comfortable": largest.comfortable,
        "untried": largest.untried,
        "comfortable_untried": largest.comfortable_untried,
        "ceiling": largest.ceiling,
        "estimate": estimate_object(largest.estimate),
        "next": None if largest.above is None else estimate_object(largest.above),
    }
    return dump(value)


def compare_json(answer: "Comparison", page: "Page") -> str:
    """The answer of `compare --format json`."""
    estimates = [estimate_object(estimate) for estimate in answer.estimates]
    left_out = [{"method": method, "reason": why} for method, why in answer.left_out.items()]
    return dump({"schema": "memplanner/comparison/1", "estimates": estimates, "left_out": left_out})


def foreign_object(foreign: "Foreign") -> dict[str, Any]:
    """How another framework's config was read: what became of every key of it."""
    return {
        "framework": foreign.framework,
        "used": dict(foreign.used),
        "assumed": list(foreign.assumed),
        "not_modelled": list(foreign.not_modelled),
        "ignored": list(foreign.ignored),
        "irrelevant": list(foreign.irrelevant),
    }


def growth_object(growth: "Growth") -> dict[str, Any]:
    """What a plan has grown by. before_bytes, after_bytes: null for a plan that is new, or gone."""
    return {
        "name": growth.name,
        "before_bytes": None if growth.before is None else growth.before.device_bytes,
        "after_bytes": None if growth.after is None else growth.after.device_bytes,
        "grown_bytes": growth.bytes,
        "changes": [{"key": c.key, "before": c.before, "after": c.after} for c in growth.changes],
        "rows": [
            {
                "part": row.part.replace(" ", "_"),
                "bytes": row.bytes,
                "causes": [{"key": change.key, "bytes": size} for change, size in row.causes],
            }
            for row in growth.rows
        ],
        "memplanner": None if growth.version is None else list(growth.version),
    }


def budgets_json(checked_plans: "CheckedPlans", page: "Page") -> str:
    """The answer of `check --all --format json`."""
    value = {
        "schema": "memplanner/budgets/1",
        "ok": not checked_plans.failed,
        "plans": [
            {
                "name": checked.named.name,
                "file": checked.where,
                "line": checked.line,
                "ok": checked.ok,
                "over_budget": checked.over_budget,
                "grown": checked.has_grown,
                "not_locked": checked.is_unlocked,
                "estimate": estimate_object(checked.estimate),
                "growth": None if checked.growth is None else growth_object(checked.growth),
            }
            for checked in checked_plans.plans
        ],
        "gone": list(checked_plans.gone),
    }
    return dump(value)


def diff_json(growths: Sequence["Growth"], page: "Page") -> str:
    """The answer of `diff --format json`."""
    return dump({"schema": "memplanner/diff/1", "plans": [growth_object(growth) for growth in growths]})


def dump(value: dict[str, Any]) -> str:
    """The object as indented JSON text, in which GitHub's runner finds no command (report.github)."""
    return json.dumps(value, indent=2).replace("##[", "#\\u0023[") + "\n"


def indented_json(value: Any) -> str:
    """What is long, as JSON text."""
    return "".join(json_chunks(value))


_PIECES = 4096
"""Of text, each a few characters, that are put together before they are handed on."""


def json_chunks(value: Any) -> Iterator[str]:
    """The same, piece by piece: what is in it `Lazily` is never there as a whole."""
    pieces = json.JSONEncoder(indent=1).iterencode(value)
    while chunk := "".join(itertools.islice(pieces, _PIECES)):
        yield chunk
    yield "\n"


class Lazily(list[Any]):
    """A list, to json, of what `of` makes of each item when it is its turn."""

    def __init__(self, items: Sequence[Item], of: Callable[[Item], Any]) -> None:
        super().__init__()
        self._items, self._of = items, of

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return map(self._of, self._items)
