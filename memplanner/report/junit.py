"""JUnit XML of checked plans, for what reads test results."""

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from memplanner.errors import printable
from memplanner.report.growth_phrases import complaints, explanation, headline
from memplanner.report.phrases import verdict_word

if TYPE_CHECKING:
    from memplanner.budgets.check import CheckedPlans
    from memplanner.report.problems import NoAnswer
    from memplanner.report.terminal import Page


def junit(checked_plans: "CheckedPlans", page: "Page") -> str:
    """A suite with a case a plan. Control characters, which XML cannot hold, are written as escapes."""
    suites, suite = _suite(tests=len(checked_plans.plans), failures=len(checked_plans.failed), errors=0)
    for checked in checked_plans.plans:
        place = {
            "name": printable(checked.named.name),
            "classname": printable(checked.where or "memplanner"),
            "time": "0",
        }
        if checked.where:
            place |= {"file": printable(checked.where), "line": str(checked.line)}
        case = ET.SubElement(suite, "testcase", place)
        properties = ET.SubElement(case, "properties")
        for name in ("device_bytes", "allocated_bytes", "limit_bytes"):
            ET.SubElement(properties, "property", {"name": name, "value": str(getattr(checked.estimate, name))})
        ET.SubElement(properties, "property", {"name": "verdict", "value": verdict_word(checked.estimate)})
        if not checked.ok:
            failure = ET.SubElement(case, "failure", {"message": printable(headline(checked)), "type": "MemoryBudget"})
            failure.text = "\n".join(map(printable, (*complaints(checked), *explanation(checked))))
    return _text(suites)


def junit_of_problems(answer: "NoAnswer", page: "Page") -> str:
    """A suite of one case in error, which says what was wrong with the plans, files or flags."""
    problems = answer.problems
    suites, suite = _suite(tests=1, failures=0, errors=1)
    case = ET.SubElement(suite, "testcase", {"name": "plans", "classname": "memplanner", "time": "0"})
    error = ET.SubElement(case, "error", {"message": str(problems[0]), "type": answer.kind})
    error.text = "\n".join(map(str, problems))
    return _text(suites)


def _suite(**counts: int) -> tuple[ET.Element, ET.Element]:
    """The root, and the one suite in it."""
    attributes = {name: str(count) for name, count in counts.items()}
    suites = ET.Element("testsuites", attributes)
    return suites, ET.SubElement(suites, "testsuite", {"name": "memplanner", **attributes})


def _text(suites: ET.Element) -> str:
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"
