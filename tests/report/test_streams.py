"""Answers that can be long are written piece by piece, and read as if they were not."""

import csv
import io
import json
from itertools import repeat
from pathlib import Path

import pytest

from memplanner.cli.main import main
from memplanner.report.as_json import Lazily, json_chunks
from memplanner.report.sweep_text import PointsAnswer
from memplanner.report.terminal import Page
from memplanner.report.writers import POINTS
from memplanner.solve.sweep import Axis, Point

POINT = Point(
    values=("8",),
    verdict="fits",
    live_bytes=1,
    allocated_bytes=2,
    reserved_bytes=3,
    context_bytes=4,
    device_bytes=7,
    limit_bytes=9,
    peak_phase="backward",
    trainable=5,
)


def test_json_makes_an_item_when_it_is_its_turn() -> None:
    made: list[int] = []

    def item(number: int) -> dict[str, int]:
        made.append(number)
        return {"n": number}

    chunks = json_chunks({"first": 1, "items": Lazily(range(10_000), item), "none": Lazily((), item)})
    text = next(chunks)
    assert len(made) < 2_000
    text += "".join(chunks)
    assert len(made) == 10_000
    value = {"first": 1, "items": [{"n": number} for number in range(10_000)], "none": []}
    assert text == json.dumps(value, indent=1) + "\n"


def test_csv_is_written_line_by_line() -> None:
    axes = (Axis(name="--rank", values=("8",)),)
    lines = iter(POINTS.stream("csv", PointsAnswer(axes=axes, points=repeat(POINT, 1000)), Page()))
    assert next(lines).startswith("rank,verdict,squeezed,")
    assert next(lines) == "8,fits,False,1,2,3,4,7,7,9,backward,5,False\n"
    assert len(list(lines)) == 999
    assert POINTS.write("csv", PointsAnswer(axes=axes, points=()), Page()) == "rank\n"


def test_a_command_writes_all_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "llama-60m", "--method", "lora", "--rank", "8,16", "--gpu", "rtx4090"]
    assert main([*words, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert main([*words, "--format", "json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert [int(row["device_bytes"]) for row in rows] == [point["device_bytes"] for point in points]
    assert main([*words, "--format", "csv", "-o", "s.csv"]) == 0
    assert list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text(encoding="utf-8")))) == rows
