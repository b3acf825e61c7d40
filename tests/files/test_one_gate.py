"""Files are opened in two modules alone, so that what these hold of links and sizes holds of every file."""

import ast
from pathlib import Path

import memplanner

PACKAGE = Path(memplanner.__file__).parent
OPENERS = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "mkdir",
    "touch",
    "symlink_to",
    "hardlink_to",
}
"""Of Path, and the built-in function."""
ELSEWHERE = {
    "files/parse.py": "reads what users hand over",
    "files/write.py": "writes what users ask for",
    "budgets/diff.py": "marks a temporary folder as a repository",
    "cli/main.py": "os.devnull, where stdout is gone",
    "cli/profile.py": "os.devnull, where stderr is gone",
    "harness/record.py": "/proc/meminfo",
    "prediction/margin.py": "memplanner's own profile",
    "prediction/recorded.py": "memplanner's own profiles",
    "suite/runner.py": "reads the end of a log that it has just made",
    "tui/web/server.py": "memplanner's and Textual's own pages",
}


def _opens(code: ast.AST) -> bool:
    """Whether the code calls a method of these names, or open()."""
    for node in ast.walk(code):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in OPENERS:
                return True
            if isinstance(node.func, ast.Name) and node.func.id == "open":
                return True
    return False


def test_files_are_opened_in_two_modules_alone() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if _opens(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == ELSEWHERE.keys()
