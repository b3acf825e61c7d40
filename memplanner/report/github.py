"""GitHub Actions' workflow commands: annotations on a plan file's lines, and text that cannot be taken for commands.

The runner takes a line that begins with "::" (after any blanks) as a command, and "##[" anywhere in a line as one in
its older form (actions/runner, ActionCommand.cs). Names come from pull requests and may hold either.
"""

import secrets
from typing import TYPE_CHECKING

from memplanner.errors import printable
from memplanner.report.budgets_text import budgets_text
from memplanner.report.growth_phrases import complaints, explanation, headline, warnings

if TYPE_CHECKING:
    from memplanner.budgets.check import CheckedPlans
    from memplanner.report.terminal import Page


def github(checked_plans: "CheckedPlans", page: "Page") -> str:
    """An annotation for each failing plan and each tight one; and the report for people, its commands switched off."""
    lines = [quiet(budgets_text(checked_plans, page))]
    for checked in checked_plans.plans:
        if checked.ok and checked.estimate.verdict != "tight":
            continue
        place = {"file": checked.where, "line": str(checked.line)} if checked.where else {}
        place["title"] = headline(checked)
        body = warnings(checked) if checked.ok else [*complaints(checked), *explanation(checked)]
        lines.append(command("error" if not checked.ok else "warning", place, "\n".join(map(printable, body))))
    return "".join(lines)


def quiet(text: str) -> str:
    """The text between two commands that have the runner take nothing in it as a command."""
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{text.rstrip()}\n::{token}::\n"


def inert(text: str) -> str:
    """Text that stays what it is in a log: none of its lines is a command of either form."""
    lines = text.replace("##[", "# #[").split("\n")
    return "\n".join(f"·{line}" if line.lstrip().startswith("::") else line for line in lines)


def command(name: str, properties: dict[str, str], message: str) -> str:
    """A workflow command with everything in it escaped."""
    pairs = ",".join(f"{key}={_data(printable(value), ':,')}" for key, value in properties.items())
    return f"::{name} {pairs}::{_data(message)}\n"


def _data(text: str, also: str = "") -> str:
    for c in f"%\r\n{also}":
        text = text.replace(c, f"%{ord(c):02X}")
    return text.replace("##[", "##%5B")
