"""memplanner fit as a user types it."""

import json
import shlex
from pathlib import Path

import pytest

from memplanner.cli.main import main
from memplanner.measurement import Environment, Measurement, Outcome, WeightEvidence, save_measurement
from memplanner.plan.flags import BY_FLAG
from memplanner.settings.errors import one_of


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


LORA = ("llama-60m", "--method", "lora", "--precision", "bf16")


@pytest.mark.parametrize("axis", ["rank", "batch-size", "seq-len"])
def test_the_command_it_prints_fits_and_nothing_above_is_advisable(
    axis: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*LORA, "--gpu", "850MB" if axis == "rank" else "2GB", "--context", "0", "--batch-size", "4")
    code, out, _ = run(capsys, "fit", *words, "--maximize", axis)
    assert code == 0
    command = next(line.strip() for line in out.splitlines() if line.startswith("  memplanner check"))
    typed = shlex.split(command)[1:]
    assert run(capsys, *typed)[0] == 0
    typed[typed.index(f"--{axis}") + 1] = str(int(typed[typed.index(f"--{axis}") + 1]) + 1)
    code, out, _ = run(capsys, *typed, "--format", "json")
    assert code == 1 or json.loads(out)["squeezed"]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit", *LORA, "--gpu", "2GB", "--maximize", "batch-size", "--format", "json")
    answer = json.loads(out)
    assert code == 0
    untried = ["untried", "comfortable_untried"]
    assert list(answer) == ["schema", "axis", "value", "comfortable", *untried, "ceiling", "estimate", "next"]
    assert [answer[name] for name in untried] == [0, 0]
    assert answer["estimate"]["plan"]["step"]["batch_size"] == answer["value"]
    assert answer["comfortable"] <= answer["value"]
    assert answer["next"]["verdict"] == "does-not-fit" or answer["next"]["squeezed"]


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_it_says_where_not_every_value_was_tried(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("fit", "llama-60m", "--gpu", "rtx4090", "--maximize")
    assert "not every one was tried" in " ".join(run(capsys, *words, "seq-len", "--format", form)[1].split())
    assert "not every one was tried" not in " ".join(run(capsys, *words, "batch-size", "--format", form)[1].split())


def test_a_card_with_room_for_any_rank_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit", *LORA, "--gpu", "rtx4090")
    assert code == 0
    assert "LARGEST RANK ON rtx4090: 512, the most that makes sense" in out


def test_positions_end_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit", "gpt2", "--gpu", "h100", "--maximize", "seq-len")
    assert code == 0
    assert ": 1024, the most" in " ".join(out.split())


def test_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit", "llama-7b", "--method", "full", "--gpu", "rtx4090", "--maximize", "batch-size")
    assert code == 1
    assert out.startswith("NO BATCH SIZE FITS rtx4090: 1 already needs 65.")


def test_full_training_has_no_rank(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "fit", "llama-7b", "--method", "full")
    assert (code, out) == (2, "")
    hint = f"add --method {one_of(BY_FLAG['--rank'].methods)}"
    assert err == f"memplanner: --maximize: full training has no rank ({hint})\n"


@pytest.mark.parametrize("columns", ["80", "120"])
def test_lines_stay_within_the_page(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = run(capsys, "fit", *LORA, "--gpu", "2GB", "--maximize", "seq-len")
    lines = [line for line in out.splitlines() if not line.startswith("  memplanner check")]  # to be copied whole
    assert max(map(len, lines)) <= int(columns)


def test_ranks_by_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = [
        WeightEvidence(name=f"model.layers.{layer}.self_attn.{name}", shape=(512, 512), energy=energy)
        for layer in range(8)
        for name, energy in (("q_proj", {"1": 0.2, "8": 0.6, "64": 0.9}), ("v_proj", {"1": 0.99, "8": 1.0, "64": 1.0}))
    ]
    record = Measurement(
        schema="memplanner/measurement/1",
        id="run",
        backend="cpu",
        date="2026-01-01T00:00:00+00:00",
        plan=None,
        environment=Environment(memplanner="0.1.0", python="3.12", platform="Linux x86_64"),
        outcome=Outcome(status="completed"),
        rank_evidence=tuple(weights),
    )
    path = tmp_path / "record.json"
    save_measurement(record, path)
    device = ("--gpu", "324MB", "--context", "0")
    code, out, _ = run(capsys, "fit", *LORA, *device, "--evidence", str(path), "--format", "json")
    answer = json.loads(out)
    assert code == 0
    assert answer["schema"] == "memplanner/ranks/1"
    ranks = {module["name"]: module["rank"] for module in answer["modules"]}
    assert ranks["q_proj"] > ranks["v_proj"]
    assert answer["estimate"]["plan"]["method"]["rank_pattern"] == {"q_proj": ranks["q_proj"]}
    assert answer["share"] > answer["uniform"]["share"]
    _, text, _ = run(capsys, "fit", *LORA, *device, "--evidence", str(path))
    assert f'  [method.rank_pattern]\n  "q_proj" = {ranks["q_proj"]}\n' in text
    code, _, err = run(capsys, "fit", *LORA, "--evidence", str(path), "--maximize", "seq-len")
    assert (code, err) == (2, "memplanner: memplanner fit: --evidence requires --maximize rank\n")
