"""JUnit XML of checked plans, for what reads test results."""

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from memplanner.errors import printable
from memplanner.report.growth_words import complaints, explanation, headline

if TYPE_CHECKING:
    from memplanner.budgets.check import CheckedPlans


def junit(found: "CheckedPlans") -> str:
    """A suite with a case a plan. Control characters, which XML cannot hold, are written as escapes."""
    counts = {"tests": str(len(found.plans)), "failures": str(len(found.failed)), "errors": "0"}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": "memplanner", **counts})
    for checked in found.plans:
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
        if not checked.ok:
            failure = ET.SubElement(case, "failure", {"message": printable(headline(checked)), "type": "MemoryBudget"})
            failure.text = "\n".join(map(printable, (*complaints(checked), *explanation(checked))))
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"
