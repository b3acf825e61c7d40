"""memplanner fit as a user types it."""

import json
import shlex

import pytest

from memplanner.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


LORA = ("llama-60m", "--method", "lora", "--precision", "bf16")


@pytest.mark.parametrize("axis", ["rank", "batch-size", "seq-len"])
def test_the_command_it_prints_fits_and_one_more_does_not(axis: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*LORA, "--gpu", "850MB" if axis == "rank" else "2GB", "--batch-size", "4")
    code, out, _ = run(capsys, "fit", *words, "--maximize", axis)
    assert code == 0
    command = next(line.strip() for line in out.splitlines() if line.startswith("  memplanner check"))
    typed = shlex.split(command)[1:]
    assert run(capsys, *typed)[0] == 0
    typed[typed.index(f"--{axis}") + 1] = str(int(typed[typed.index(f"--{axis}") + 1]) + 1)
    assert run(capsys, *typed)[0] == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit", *LORA, "--gpu", "2GB", "--maximize", "batch-size", "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert list(found) == ["schema", "axis", "value", "ceiling", "estimate", "next"]
    assert found["estimate"]["plan"]["step"]["batch_size"] == found["value"]
    assert found["next"]["verdict"] == "does-not-fit"


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
    assert err == (
        "memplanner: --maximize: full training has no rank (add --method lora, dora, galore or gradnormlorp)\n"
    )


@pytest.mark.parametrize("columns", ["80", "120"])
def test_lines_stay_within_the_page(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = run(capsys, "fit", *LORA, "--gpu", "2GB", "--maximize", "seq-len")
    lines = [line for line in out.splitlines() if not line.startswith("  memplanner check")]  # to be copied whole
    assert max(map(len, lines)) <= int(columns)
