"""What a pull request wrote stays text, in every format that a build reads."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from memplanner.budgets.check import Checked, CheckedPlans, NamedPlan
from memplanner.errors import Problem
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.report.budgets_text import budgets_markdown, budgets_text
from memplanner.report.github import command, github, inert, quiet
from memplanner.report.junit import junit, junit_of_problems
from memplanner.report.markdown import problems_markdown
from memplanner.report.problems import NoAnswer
from memplanner.report.sarif import sarif, sarif_of_problems
from memplanner.report.terminal import Page

PAGE = Page()
ESTIMATE = predict(TrainingPlan(model="llama-7b"))
NASTY = "a\n::error file=x::forged\r\n##[error]forged\x1b[31m\x00\u2028|<b>`]]>&\u202e\ud800,b:c%0A@someone"
TEXTS = st.text(
    st.sampled_from("::##[]errorwarning ,%\n\r\t\x00\x1b\x85\u2028\u202e\ud800\ufffe|<>&`*_@é"), max_size=40
)


def checked_plans(name: str) -> CheckedPlans:
    """A plan of that name that does not fit."""
    return CheckedPlans(
        plans=(Checked(named=NamedPlan(name=name, plan=ESTIMATE.plan, root=Path()), estimate=ESTIMATE),)
    )


def commands(log: str) -> list[str]:
    """What GitHub's runner takes as commands: lines that begin with "::" once trimmed, unless they are switched off;
    and, in the older form, "##[" anywhere in a line that is not switched off.
    """
    taken, token = [], ""
    for line in re.split(r"\r\n|\r|\n", log):
        trimmed = line.lstrip()
        if token:
            token = "" if trimmed == f"::{token}::" else token
        elif trimmed.startswith("::stop-commands::"):
            token = trimmed.removeprefix("::stop-commands::")
        elif trimmed.startswith("::") or "##[" in line:
            taken.append(line)
    return taken


@settings(max_examples=300, deadline=None, derandomize=True)
@given(name=TEXTS)
@example(name=NASTY)
def test_no_name_forges_an_annotation(name: str) -> None:
    checked = checked_plans(name)
    log = github(checked, PAGE)
    (only,) = commands(log)
    assert only.startswith("::error title=Memory budget%3A ")
    assert only.count("::") == 2 + only.partition("::error")[2].partition("::")[2].count("::")
    properties = only.removeprefix("::error ").partition("::")[0]
    assert properties.count("=") - name.count("=") == 1
    assert "," not in properties


@settings(deadline=None, derandomize=True)
@given(text=TEXTS)
def test_a_command_is_one_line_with_its_own_properties(text: str) -> None:
    made = command("error", {"file": text, "title": text}, text)
    assert commands(made) == [made.rstrip("\n")]
    head = made.removeprefix("::error ").partition("::")[0]
    assert len(head.split(",")) == 2
    assert all(":" not in part for part in head.split(","))


@settings(deadline=None, derandomize=True)
@given(text=TEXTS)
def test_lines_for_people_are_inert(text: str) -> None:
    assert commands("\n".join(map(inert, re.split(r"\r\n|\r|\n", text)))) == []
    assert commands(quiet(text)) == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=TEXTS)
@example(name=NASTY)
def test_xml_stays_well_formed(name: str) -> None:
    text = junit(checked_plans(name), PAGE)
    root = ET.fromstring(text.encode("utf-8"))
    (case,) = root.iter("testcase")
    assert [child.tag for child in case] == ["properties", "failure"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=TEXTS)
@example(name=NASTY)
def test_sarif_is_json_with_one_result(name: str) -> None:
    (run,) = json.loads(sarif(checked_plans(name), PAGE))["runs"]
    (result,) = run["results"]
    assert result["ruleId"] == "over-budget"
    assert result["message"]["text"].encode("utf-8")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=TEXTS)
@example(name=NASTY)
def test_markdown_holds_no_markup_of_the_names(name: str) -> None:
    text = budgets_markdown(checked_plans(name), PAGE)
    bare = re.sub(r"\\.", "", text)
    assert not re.search(r"[<>`@]|\]\(", bare)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


@settings(deadline=None, derandomize=True)
@given(text=TEXTS)
@example(text=NASTY)
def test_usage_errors_hold_no_markup_either(text: str) -> None:
    problems = (Problem(where=text, key=text, message=text, hint=text), Problem(where="x", key="", message=text))
    answer = NoAnswer(problems=problems, code=2)
    (case,) = ET.fromstring(junit_of_problems(answer, PAGE).encode("utf-8")).iter("testcase")
    assert [child.tag for child in case] == ["error"]
    (run,) = json.loads(sarif_of_problems(answer, PAGE))["runs"]
    assert len(run["invocations"][0]["toolConfigurationNotifications"]) == 2
    markdown = problems_markdown(answer, PAGE)
    assert not re.search(r"[<>`@]|\]\(", re.sub(r"\\.", "", markdown))
    assert len(markdown.splitlines()) == 4


@settings(deadline=None, derandomize=True)
@given(name=TEXTS)
def test_text_drives_no_terminal(name: str) -> None:
    text = budgets_text(checked_plans(name), PAGE)
    assert all(c == "\n" or c.isprintable() for c in text)
