"""SARIF 2.1.0 of checked plans, for code scanning (docs.oasis-open.org/sarif/sarif/v2.1.0)."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from memplanner.errors import printable
from memplanner.report.growth_words import complaints, explanation, headline

if TYPE_CHECKING:
    from memplanner.budgets.check import Checked, CheckedPlans

RULES = {
    "over-budget": "A training plan needs more memory than its budget.",
    "grown": "A training plan needs more memory than the lock allows.",
    "not-locked": "A training plan is not in the lock.",
    "tight": "A training plan fits within the estimate's error margin only.",
}


def sarif(found: "CheckedPlans") -> dict[str, Any]:
    """The log's object: a result for each plan that fails or is tight, at the line that makes it."""
    told = [checked for checked in found.plans if not checked.ok or checked.estimate.verdict == "tight"]
    driver = {
        "name": "memplanner",
        "version": version("memplanner"),
        "rules": [{"id": rule, "shortDescription": {"text": text}} for rule, text in RULES.items()],
    }
    return {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [_result(checked) for checked in told]}],
    }


def _rule(checked: "Checked") -> str:
    if checked.over_budget:
        return "over-budget"
    return "not-locked" if checked.is_unlocked else "grown" if checked.has_grown else "tight"


def _result(checked: "Checked") -> dict[str, Any]:
    lines = [headline(checked), *complaints(checked), *explanation(checked)]
    place = {"artifactLocation": {"uri": quote(checked.where)}, "region": {"startLine": checked.line}}
    return {
        "ruleId": _rule(checked),
        "level": "warning" if checked.ok else "error",
        "message": {"text": "\n".join(map(printable, lines))},
        "locations": [{"physicalLocation": place}] if checked.where else [],
        "partialFingerprints": {"plan/v1": f"{checked.named.name}:{_rule(checked)}"},
    }
