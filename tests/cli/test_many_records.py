"""The records of a large campaign are compared in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memplanner.catalogue import find_model
from memplanner.measurement import Environment, Measurement, Outcome, PhaseRecord, save_measurement
from memplanner.plan.training_plan import TrainingPlan

MEASURE = """
import resource, sys
from memplanner.cli.main import main
sys.argv = ["memplanner", "validate", sys.argv[1], "--format", "json"]
main()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts in KiB")
def test_each_takes_a_few_kib(tmp_path: Path) -> None:
    config = json.loads(json.dumps(find_model("llama-60m").config))
    phases = tuple(
        PhaseRecord(name=name, peak_bytes=10**9, end_bytes=10**8, at_peak={"parameters": 10**9})
        for name in ("load", "forward", "loss", "backward", "update", "steady")
    )
    for count in (20, 420):
        for number in range(count):
            table = {"model": "mine.json", "step": {"seq_len": 32 + number}}
            record = Measurement(
                id=f"r-{number}",
                backend="fake",
                date="",
                plan=TrainingPlan.model_validate(table),
                config=config,
                environment=Environment(memplanner="0", python="3", platform="L"),
                outcome=Outcome(status="completed"),
                phases=phases,
            )
            save_measurement(record, tmp_path / str(count) / f"{number}.json")

    def kib(folder: Path) -> int:
        done = subprocess.run([sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True)
        assert len({row["id"] for row in json.loads(done.stdout)["rows"]}) == int(folder.name)
        return int(done.stderr.splitlines()[-1])

    assert kib(tmp_path / "420") - kib(tmp_path / "20") < 400 * 10  # 10 KiB each: 100 MiB for 10,000
