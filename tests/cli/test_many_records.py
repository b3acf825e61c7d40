"""The records of a large campaign are compared in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memplanner.catalogue import find_model
from memplanner.measurement import Environment, Measurement, Outcome, PhaseRecord, save_measurement
from memplanner.plan.training_plan import TrainingPlan
from memplanner.timeline import CATEGORIES

MEASURE = """
import sys
from memplanner.cli.main import main
sys.argv = ["memplanner", "validate", sys.argv[1], "--format", "json"]
main()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1], file=sys.stderr)
"""
"""The most that the process itself had in memory, in KiB: ru_maxrss is at least what the process had that began it."""
FEW, MANY, PLANS = 400, 1400, 100
"""Numbers of records, and of the plans that take turns in them, of which predictions remember no more after FEW."""
EACH_KIB = 4
"""Of memory for each record: of 10,000, 40 MiB. The program and what its predictions remember at most take 45 MiB."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_each_takes_a_few_kib(tmp_path: Path) -> None:
    """Of records with every figure that can be compared, whose model is a config of their own."""
    config = json.loads(json.dumps(find_model("llama-60m").config))
    for count in (FEW, MANY):
        for number in range(count):
            sizes = dict.fromkeys(CATEGORIES, 10**9 + number)
            phases = tuple(
                PhaseRecord(
                    name=name,
                    peak_bytes=10**9 + number + (name == "backward"),
                    end_bytes=10**8,
                    at_peak=sizes,
                    reserved_bytes=2 * 10**9 + number,
                    device_bytes=3 * 10**9 + number,
                )
                for name in ("load", "forward", "loss", "backward", "update", "steady")
            )
            record = Measurement(
                id=f"a-run-{number}",
                backend="cuda",
                date="",
                plan=TrainingPlan.model_validate(
                    {"model": "mine.json", "method": "lora", "step": {"seq_len": 256 + number % PLANS, "batch_size": 8}}
                ),
                config=config,
                environment=Environment(memplanner="0", python="3", platform="L", gpu="NVIDIA A100-SXM4-80GB"),
                outcome=Outcome(status="completed"),
                phases=phases,
                persistent=sizes,
            )
            save_measurement(record, tmp_path / str(count) / f"{number}.json")

    def kib(folder: Path) -> int:
        done = subprocess.run([sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True)
        rows = json.loads(done.stdout)["rows"]
        assert len({row["id"] for row in rows}) == int(folder.name)
        assert len(rows) == 23 * int(folder.name)
        return int(done.stderr.splitlines()[-1])

    few, many = kib(tmp_path / str(FEW)), kib(tmp_path / str(MANY))
    assert many - few < (MANY - FEW) * EACH_KIB, f"{few} KiB for {FEW}, {many} KiB for {MANY}"
