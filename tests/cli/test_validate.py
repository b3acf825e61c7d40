"""memplanner validate as a user meets it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from memplanner.cli.main import main
from memplanner.files.sandbox import profiles_dir

DATA = profiles_dir() / "published" / "measurements.json"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["validate", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_published_rows_in_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = answer(capsys, "--published", str(DATA))
    assert (code, err) == (0, "")
    assert re.match(r"WITHIN 2\.00% of the allocated peak: 53 runs, 367 figures, worst \d\.\d\d%; out of", out)
    assert "Peer's median" in out
    assert "a100-010: 2 GPUs: parallelism is not part of a plan yet" in out
    assert "double quantisation, as fms-acceleration" in out
    assert max(map(len, out.splitlines())) <= 80


def test_without_arguments_what_ships_is_validated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = answer(capsys, "--published", str(DATA))
    assert answer(capsys) == named


def test_beyond_the_tolerance_is_exit_code_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, "--published", str(DATA), "--tolerance", "0.05%")
    assert code == 1
    assert out.startswith("BEYOND 0.05%")


def test_json_has_fixed_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, "--published", str(DATA), "--format", "json")
    written = json.loads(out)
    assert code == 0
    assert written["schema"] == "memplanner/validation/1"
    assert written["within_tolerance"] is True
    row = written["rows"][0]
    assert row["id"] == "a6000-06"
    assert row["metric"] == "allocated"
    assert row["error"] == pytest.approx(row["predicted_bytes"] / row["measured_bytes"] - 1)
    assert row["peer"] == "vramcalc"
    group = written["summary"]["by_group"]["vramcalc 0.1.2 · NVIDIA RTX A6000 · full · in sample · allocated"]
    assert (group["count"], group["worst"] < 0.001, group["peer_worst"] > 0.04) == (5, True, True)
    assert written["summary"]["by_metric"]["allocated"]["count"] == 53
    assert len(written["skipped"]) == 6


def test_markdown_escapes_what_files_say(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = json.loads(DATA.read_text())
    table["rows"] = [{**table["rows"][0], "id": "a6000-x|<b>`"}]
    (folder / "rows.json").write_text(json.dumps(table))
    code, out, _ = answer(capsys, "--published", "rows.json", "--format", "markdown")
    assert code == 0
    assert r"a6000-x\|\<b\>\`" in out


def record(folder: Path, name: str, **changed: Any) -> None:
    """A record of llama-60m whose figures are the prediction's own."""
    from memplanner.measurement import Environment, Measurement, Outcome, PhaseRecord, save_measurement
    from memplanner.plan.training_plan import TrainingPlan
    from memplanner.prediction import predict

    plan = TrainingPlan.model_validate({"model": "llama-60m", "device": changed.pop("device", "rtx4090")})
    phases = tuple(
        PhaseRecord(name=p.name, peak_bytes=p.peak_bytes, end_bytes=p.end_bytes) for p in predict(plan).phases
    )
    fields = {
        "id": name,
        "backend": "cuda",
        "date": "2026-01-01T00:00:00+00:00",
        "plan": plan,
        "environment": Environment(memplanner="0", python="3.12", platform="Linux", gpu="a GPU", memory_fraction=0.5),
        "outcome": Outcome(status="completed"),
        "phases": phases,
        **changed,
    }
    save_measurement(Measurement.model_validate(fields), folder / "records" / f"{name}.json")


def test_records_and_their_verdicts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from memplanner.measurement import Outcome

    out_of_memory = Outcome(status="out-of-memory", phase="backward", message="no room")
    record(folder, "as-predicted")
    record(folder, "false-fit", outcome=out_of_memory, phases=())
    record(folder, "rightly-refused", outcome=out_of_memory, phases=(), device="100MiB")
    record(folder, "false-alarm", device="100MiB")
    record(folder, "crashed", outcome=Outcome(status="failed", message="exit code 1: [red]no[/red]"), phases=())
    code, out, _ = answer(capsys, "records")
    assert code == 0
    assert "2 runs" in out
    assert "worst 0.00%; 1 false fit among 2 runs that ran out of memory memplanner" in " ".join(out.split())
    assert "Predicted to fit, ran out of memory\n  - false-fit\n" in out
    assert "Predicted not to fit, did\n  - false-alarm\n" in out
    assert "crashed: failed: exit code 1: [red]no[/red]" in out


def test_records_against_fresh_traces(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from memplanner.catalogue import find_model

    record(folder, "one", config=dict(find_model("llama-60m").config))
    code, out, _ = answer(capsys, "records", "--against", "fake")
    assert code == 0
    assert "memplanner profile, fake" in out
    _, out, _ = answer(capsys, "records", "--against", "fake", "--format", "json")
    assert {row["witness"] for row in json.loads(out)["rows"]} == {"traced"}
    _, out, _ = answer(capsys, "records", "--format", "json")
    assert {row["witness"] for row in json.loads(out)["rows"]} == {"measured"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nosuch", "nosuch: no such file or directory"),
        ("empty", "holds no records"),
        ("text.json", "not valid JSON"),
        ("--published text.json", "not valid JSON"),
        ("--published nosuch.json", "no such file"),
        ("--tolerance 2 --published text.json", "'2' is not a share"),
    ],
)
def test_bad_input(words: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").mkdir()
    (folder / "text.json").write_text("no")
    code, out, err = answer(capsys, *words.split())
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": [{"name": "forward", "peak_bytes": 10**400, "end_bytes": 0}]}, "an integer of 1329 bits is above"),
        ({"num_parameters": 10**30}, "is above 1152921504606846976"),
        ({"losses": [float("inf")]}, "losses.0: inf"),
        ({"id": "\ud800"}, "Invalid JSON"),
    ],
)
def test_absurd_records_are_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    record(folder, "one")
    (path,) = (folder / "records").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    code, out, err = answer(capsys, "records")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_record_without_phases_is_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(folder, "one")
    (path,) = (folder / "records").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"phases": []}), encoding="utf-8")
    code, out, err = answer(capsys, "records")
    assert (code, err) == (1, "")
    assert "has no phases: nothing was measured" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": None, "method": "lora"}, "method.rank: None is not a whole number"),
        ({"quantization": "odd"}, "'odd' is not a known quantization"),
        ({"seq": 10**30}, "is above 16777216"),
        ({"id": "x" * 5000}, "at most 1000 characters"),
        ({"checkpointing": "x" * 5000}, "at most 1000 characters"),
        ({"measured": {"allocated_peak": 10**400}}, "an integer of 1329 bits is above"),
        ({"measured": {"allocated_peak": float("inf")}}, "inf is not a whole number"),
    ],
)
def test_odd_published_rows_are_left_out_or_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    rows = json.loads(DATA.read_text(encoding="utf-8"))["rows"]
    row = next(row for row in rows if row["method"] == "lora")
    (folder / "odd.json").write_text(json.dumps({"rows": [row | changes]}), encoding="utf-8")
    code, out, err = answer(capsys, "--published", "odd.json")
    assert code in (1, 2)
    assert message in " ".join((out + err).split())


def test_an_error_without_a_measurement_is_null_in_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(DATA.read_text(encoding="utf-8"))["rows"]
    row = next(row for row in rows if row.get("peer_predicted") and row["measured"].get("allocated_peak"))
    nothing = {"measured": {"allocated_peak": 0}}
    (folder / "odd.json").write_text(json.dumps({"rows": [row | nothing]}), encoding="utf-8")
    _, out, _ = answer(capsys, "--published", "odd.json", "--format", "json")
    (compared,) = json.loads(out, parse_constant=pytest.fail)["rows"]
    assert (compared["error"], compared["peer_error"]) == (None, None)
