"""The pytest plugin, in pytest runs of its own."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from memplanner.budgets.keywords import budget_request

PLANS = """
device = "rtx4090"

[plans.small]
model = "llama-60m"
budget = "4GiB"

[plans.small.method]
kind = "galore"
rank = 128
"""
SMALL = 'model="llama-60m", method="lora", rank=8, gpu="rtx4090"'


def device_bytes(**keywords: object) -> int:
    return budget_request(keywords, Path(), where="test").estimate().device_bytes


def write(pytester: pytest.Pytester, marks: str, body: str = "pass", arguments: str = "") -> None:
    pytester.makepyfile(
        f"import pytest\n\n@pytest.mark.memory_budget({marks})\ndef test_it({arguments}):\n    {body}\n"
    )


def test_a_plan_that_fits_passes_and_its_test_is_run(pytester: pytest.Pytester) -> None:
    write(pytester, f'{SMALL}, budget="8GiB"')
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    write(pytester, f'{SMALL}, budget="8GiB"', "assert False, 'the body'")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the body*"])


def test_exactly_at_the_limit_passes_and_one_byte_less_fails(pytester: pytest.Pytester) -> None:
    size = device_bytes(model="llama-60m", method="lora", rank=8, gpu="rtx4090")
    write(pytester, f'{SMALL}, budget="{size}B"')
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    write(pytester, f'{SMALL}, budget="{size}B", strict=True')
    pytester.runpytest_subprocess().assert_outcomes(failed=1)
    write(pytester, f'{SMALL}, budget="{size - 1}B"')
    pytester.runpytest_subprocess().assert_outcomes(failed=1)


def test_a_failure_prints_the_breakdown_and_the_difference_to_the_lock(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", memplanner=PLANS)
    assert pytester.run(sys.executable, "-m", "memplanner", "lock").ret == 0
    write(pytester, 'plan="small", rank=512, batch_size=64')
    result = pytester.runpytest_subprocess("--junitxml=results.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "Memory budget: small is over budget",
            "DOES NOT FIT: * of 4.00 GiB budget on rtx4090, * too much",
            "since the lock: * → *",
            "activations +*: step.batch_size 1 → 64",
            "Alive at that moment",
            "* activations * GiB *%",
        ]
    )
    (case,) = ET.parse(pytester.path / "results.xml").iter("testcase")
    properties = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
    assert properties["memplanner_plan"] == "small"
    assert int(properties["memplanner_device_bytes"]) > int(properties["memplanner_limit_bytes"]) == 4 << 30
    assert "since the lock" in (case.find("failure") or case).attrib.get("message", "") + "".join(case.itertext())


def test_locked(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", memplanner=PLANS)
    write(pytester, 'plan="small", locked=True')
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*memplanner.lock.json: no such file (`memplanner lock` writes it)"])
    assert pytester.run(sys.executable, "-m", "memplanner", "lock").ret == 0
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    write(pytester, 'plan="small", locked=True, rank=256')
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["Memory budget: small is grown", "optimizer state +*: method.rank 128 → 256"])
    write(pytester, 'plan="small", locked=True, rank=256, tolerance="50%"')
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


BAD = """
import pytest

@pytest.mark.memory_budget("small")
def test_positional(): pass

@pytest.mark.memory_budget(plan="smal", rnak=8)
def test_names(): pass

@pytest.mark.memory_budget(model="llama-60m", method="galore", rank="8x", budget="22GX")
def test_values(): pass

@pytest.mark.memory_budget(gpu="rtx4090", strict=1, tolerance="lots")
def test_nothing(): pass

@pytest.mark.memory_budget(model="llama-60m", locked=True)
def test_lock(): pass

@pytest.mark.memory_budget(model="lama-60m")
def test_model(): pass

@pytest.mark.memory_budget(plan="lama")
def test_plan(): pass

@pytest.mark.memory_budget(model="llama-60m", gpu="rtx4091")
class TestClass:
    def test_one(self): pass
    def test_two(self): pass
"""
PROBLEMS = (
    'test_bad.py::test_positional: memory_budget: takes keywords only, such as plan="pretrain"',
    "test_bad.py::test_names: memory_budget: rnak: no such keyword (did you mean 'rank'*",
    "test_bad.py::test_values: memory_budget: rank: '8x' is not a whole number",
    "test_bad.py::test_values: memory_budget: budget: '22GX' is not a size such as *",
    "test_bad.py::test_nothing: memory_budget: strict: 1 is not True or False",
    "test_bad.py::test_nothing: memory_budget: tolerance: 'lots' is not a share such as '95%'",
    "test_bad.py::test_nothing: memory_budget: names neither a plan nor a model *",
    "test_bad.py::test_lock: memory_budget: locked: requires plan: the lock lists plans by name *",
    "test_bad.py::test_model: memory_budget: model: no model or file is called 'lama-60m' (did you mean *",
    "test_bad.py::test_plan: memory_budget: plan: no file or plan is called 'lama' (*",
    "test_bad.py::TestClass: memory_budget: gpu: no card is called 'rtx4091' (did you mean *",
)


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_bad_marker_is_an_error_of_its_test_and_the_others_run(
    workers: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_bad=BAD, test_good="def test_good(): pass")
    result = pytester.runpytest_subprocess(*workers)
    result.assert_outcomes(passed=1, errors=9)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines_random(list(PROBLEMS))
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*Traceback*")


def test_marks_of_a_class_hold_for_its_tests_and_xdist_runs_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.memory_budget({SMALL}, budget="8GiB")
        class TestAll:
            def test_fits(self): pass

            @pytest.mark.memory_budget({SMALL}, budget="1MiB")
            def test_does_not(self): pass
        """
    )
    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=1, failed=1)


def test_the_fixture(pytester: pytest.Pytester) -> None:
    body = f"""estimate = memory_plan.predict()
    assert estimate.plan.method.rank == 8
    assert memory_plan.assert_fits({SMALL}).device_bytes == estimate.device_bytes
    memory_plan.assert_fits(model="llama-7b", gpu="rtx4090")"""
    write(pytester, SMALL, body, "memory_plan")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["Memory budget: llama-7b is over budget"])
    write(pytester, SMALL, "memory_plan.predict(modle='llama-7b')", "memory_plan")
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(["memory_plan: modle: no such keyword (did you mean 'model'*"])


def test_a_real_step_is_measured(pytester: pytest.Pytester) -> None:
    pytest.importorskip("torch")
    pytester.makepyfile(
        """
        import torch

        def build():
            model = torch.nn.Linear(1024, 1024)
            class Summed(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.inner = model
                def forward(self, x):
                    return (self.inner(x).sum(),)
            return Summed(), torch.optim.SGD(model.parameters(), lr=0.1), (torch.ones(4, 1024),)

        def test_within(measured_budget):
            record = measured_budget(build, budget="64MiB", device="cpu")
            assert 8 << 20 <= record.peak.peak_bytes <= 9 << 20  # a weight of 4 MiB and its gradient

        def test_over(measured_budget):
            measured_budget(build, budget="6MiB", device="cpu")

        def test_no_budget(measured_budget):
            measured_budget(build, device="cpu")

        def test_no_step(measured_budget):
            measured_budget(lambda: 3, budget="6MiB", device="cpu")
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["measured_budget: entry: *"])
    result.stdout.fnmatch_lines(["Measured on cpu: 8.* MiB allocated in *, * over the budget of 6.00 MiB"])
    result.stdout.fnmatch_lines(["measured_budget(entry, *: an entry point needs a budget"])


LOADS = """
import sys
import pytest
assert pytest.main(["-q", "-p", "no:cacheprovider", "test_plain.py"]) == 0
print("LOADED", sorted(m for m in sys.modules if m.split(".")[0] in {"pydantic", "torch", "textual", "rich", "yaml"}
      or m.startswith("memplanner.")))
"""


def test_a_run_without_budgets_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", LOADS], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED ['memplanner.pytest_plugin']"


def test_reports_are_no_workflow_commands_in_a_build(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    write(pytester, f'{SMALL}, budget="##[error]forged"')
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*memory_budget: budget: '# #[[]error[]]forged' is not a size*"])
