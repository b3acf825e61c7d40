"""SARIF 2.1.0 of checked plans, for code scanning (docs.oasis-open.org/sarif/sarif/v2.1.0)."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from memplanner.errors import printable
from memplanner.report.as_json import dump
from memplanner.report.growth_phrases import complaints, explanation, headline, warnings

if TYPE_CHECKING:
    from memplanner.budgets.check import Checked, CheckedPlans
    from memplanner.report.problems import NoAnswer
    from memplanner.report.terminal import Page

RULES = {
    "over-budget": (
        "A training plan needs more memory than its budget.",
        "Lower the plan's rank, batch or sequence, or raise its budget: `memplanner check --plan NAME` says what fits.",
    ),
    "grown": (
        "A training plan needs more memory than the lock allows.",
        "Where the growth is meant, write the lock anew: `memplanner lock`.",
    ),
    "not-locked": (
        "A training plan is not in the lock.",
        "Write the lock anew: `memplanner lock`.",
    ),
    "tight": (
        "A training plan fits within the estimate's error margin only.",
        "Run it once to be sure, `memplanner profile NAME`, or make room: `memplanner check --plan NAME`.",
    ),
    "squeezed": (
        "A training plan fits only because the caching allocator returns unused segments and asks again.",
        "Make room: `memplanner check --plan NAME` says what fits without.",
    ),
}
"""What each rule means, and what to do about it."""


def sarif(checked_plans: "CheckedPlans", page: "Page") -> str:
    """The log: a result for each plan that fails or is tight, at the line that makes it."""
    reported = [checked for checked in checked_plans.plans if not checked.ok or checked.estimate.verdict == "tight"]
    return _log({"results": [_result(checked) for checked in reported]})


def sarif_of_problems(answer: "NoAnswer", page: "Page") -> str:
    """The log where no plan was checked, with what was wrong with the plans, files or flags, or with memplanner."""
    said = "toolExecutionNotifications" if answer.is_defect else "toolConfigurationNotifications"
    notifications = [{"level": "error", "message": {"text": str(problem)}} for problem in answer.problems]
    invocation = {"executionSuccessful": False, "exitCode": answer.code, said: notifications}
    return _log({"invocations": [invocation], "results": []})


def _log(run: dict[str, Any]) -> str:
    driver = {
        "name": "memplanner",
        "version": version("memplanner"),
        "informationUri": "https://github.com/memplanner/memplanner",
        "rules": [
            {
                "id": rule,
                "shortDescription": {"text": meaning},
                "fullDescription": {"text": meaning},
                "help": {"text": remedy},
            }
            for rule, (meaning, remedy) in RULES.items()
        ],
    }
    log = {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, **run}],
    }
    return dump(log)


def _rule(checked: "Checked") -> str:
    tight = "squeezed" if checked.estimate.is_squeezed else "tight"
    if checked.over_budget:
        return tight if checked.estimate.verdict == "tight" else "over-budget"
    return "not-locked" if checked.is_unlocked else "grown" if checked.has_grown else tight


def _result(checked: "Checked") -> dict[str, Any]:
    why = warnings(checked) if checked.ok else complaints(checked)
    lines = [headline(checked), *why, *explanation(checked)]
    place = {"artifactLocation": {"uri": quote(checked.where)}, "region": {"startLine": checked.line}}
    return {
        "ruleId": _rule(checked),
        "level": "warning" if checked.ok else "error",
        "message": {"text": "\n".join(map(printable, lines))},
        "locations": [{"physicalLocation": place}] if checked.where else [],
        "partialFingerprints": {"plan/v1": f"{checked.named.name}:{_rule(checked)}"},
    }
