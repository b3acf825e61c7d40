"""What each entry point may import, proved in a fresh interpreter on sys.modules."""

import subprocess
import sys

import pytest

CHECK = "from memplanner.cli.main import main; main(['check', '--gpu', 'rtx4090'])"
HEAVY = ("torch", "textual", "rich", "transformers", "numpy", "click", "typer")


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        (CHECK, HEAVY),
        ("from memplanner.cli.main import main; main(['explain'])", HEAVY),
        ("from memplanner.prediction import predict", (*HEAVY, "argparse", "memplanner.report", "memplanner.cli")),
        (
            "import memplanner.catalogue, memplanner.plan.sources",
            (*HEAVY, "memplanner.prediction", "memplanner.report"),
        ),
        ("import memplanner.measurement, memplanner.suite.runner", (*HEAVY, "memplanner.harness", "memplanner.report")),
        ("import memplanner.gradnormlorp", ("transformers", "peft", "bitsandbytes", "memplanner.harness", "rich")),
        ("import memplanner.report.check_text", (*HEAVY, "memplanner.prediction", "memplanner.cli")),
    ],
)
def test_imports(code: str, forbidden: tuple[str, ...]) -> None:
    tail = f"; import sys; print('LOADED', [m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "LOADED []"
