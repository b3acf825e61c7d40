"""The same plan asked for in every way there is gives the same figures: `python -m tests.cli.answers COUNT [SEED]`.

The ways: predict(); check of a plan file in TOML; of an earlier answer in JSON; of the plan that the interface saves; a
point of a sweep; explain; a lock. And what any answer must hold: device ≥ reserved ≥ allocated ≥
live ≥ what is alive at the peak, each category of which is no less than nothing.
"""

import contextlib
import io
import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import tomli_w

from memplanner.budgets.lock import LOCK_FILE
from memplanner.cli.main import main as memplanner
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.tui.export import save_plan
from tests.golden.draw import draw_plan


def ask(*words: str) -> tuple[int, Any]:
    """A command's exit code and the JSON that it answers with."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = memplanner(words)
    text = out.getvalue()
    return code, json.loads(text) if text.startswith("{") else text


def answers(fields: dict[str, Any], folder: Path) -> dict[str, int]:
    """The device bytes of a plan by each way of asking; AssertionError where an answer cannot be."""
    plan = TrainingPlan.model_validate(fields)
    estimate = predict(plan)
    alive = estimate.at_peak
    assert min(alive.values()) >= 0
    assert estimate.live_bytes == sum(alive.values())
    assert estimate.device_bytes >= estimate.reserved_bytes >= estimate.allocated_bytes >= estimate.live_bytes
    found = {"predict": estimate.device_bytes}

    (folder / "plan.toml").write_text(tomli_w.dumps(fields), encoding="utf-8")
    save_plan(plan, folder / "saved.toml", folder)
    code, first = ask("check", "--plan", "plan.toml", "--format", "json")
    (folder / "answer.json").write_text(json.dumps(first), encoding="utf-8")
    found["check"] = first["device_bytes"]
    for name in ("answer.json", "saved.toml"):
        again, second = ask("check", "--plan", name, "--format", "json")
        assert (again, second["plan"]) == (code, first["plan"])
        found[f"check {name}"] = second["device_bytes"]
    assert first["verdict"] == estimate.verdict
    explained = ask("explain", "--plan", "plan.toml", "--format", "json")[1]
    assert explained["allocated_bytes"] == first["allocated_bytes"] == estimate.allocated_bytes

    batch = plan.step.batch_size
    swept = ask("sweep", "--plan", "plan.toml", "--batch-size", f"{batch},{batch + 1}", "--format", "json")[1]
    point = swept["points"][0]
    assert (point["verdict"], point["live_bytes"]) == (estimate.verdict, estimate.live_bytes)
    if point["device_bytes"] is not None:  # far too large a plan's is not worked out
        found["sweep"] = point["device_bytes"]

    (folder / "memplanner.toml").write_text(tomli_w.dumps({"plans": {"a": fields}}), encoding="utf-8")
    (folder / LOCK_FILE).unlink(missing_ok=True)
    assert ask("lock")[0] == 0
    lock = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
    found["lock"] = lock["plans"]["a"]["device_bytes"]
    assert ask("check", "--all", "--locked", "--format", "json")[0] in (0, 1)
    return found


def differing(count: int, seed: int, folder: Path) -> list[tuple[dict[str, Any], object]]:
    """The plans among `count` drawn ones whose answers are not all one, with what they are."""
    rng = random.Random(seed)
    bad: list[tuple[dict[str, Any], object]] = []
    for _ in range(count):
        fields = draw_plan(rng)
        try:
            found = answers(fields, folder)
        except Exception as error:  # whatever it is, it is a finding
            bad.append((fields, repr(error)))
            continue
        if len(set(found.values())) > 1:
            bad.append((fields, found))
    return bad


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        bad = differing(count, seed, Path(folder))
    for fields, found in bad[:20]:
        print(json.dumps(fields), found, sep="\n  ")
    print(f"{count} plans, {len(bad)} with answers that differ", dict(Counter(str(f)[:60] for _, f in bad)))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
