"""memplanner sweep as a user types it."""

import argparse
import csv
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from memplanner.cli import sweep
from memplanner.cli.main import Answer, main
from memplanner.report.terminal import Page


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(("sweep", "llama-60m", *words))
    out, err = capsys.readouterr()
    return code, out, err


RANKS = ("--method", "lora", "--rank", "8,16,…,64", "--gpu", "1GiB,260MiB", "--context", "0")


def test_text_lists_all_of_a_few(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *RANKS)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "4 OF 8 PLANS FIT"
    assert lines[3] == "All plans"
    assert [line.split()[:2] for line in lines[5:13]] == [
        [gpu, rank] for gpu in ("1GiB", "260MiB") for rank in ("8", "16", "32", "64")
    ]
    assert "≥ " in lines[9]
    assert max(map(len, lines)) <= 80


def test_text_shows_the_frontier_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--method", "lora", "--rank", "8,512", "--batch-size", "1..30", "--gpu", "2GiB")
    assert "The frontier: " in out
    batches = [
        int(line.split()[1]) for line in out.splitlines()[5:] if line.startswith("  ") and line.split()[0].isdigit()
    ]
    assert len(batches) == 2
    assert batches[0] > batches[1]  # the larger rank has room for less


def test_csv_and_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, *RANKS, "--format", "csv")[1])))
    answer = json.loads(run(capsys, *RANKS, "--format", "json")[1])
    assert answer["schema"] == "memplanner/sweep/1"
    assert [axis["name"] for axis in answer["axes"]] == ["gpu", "rank"]
    assert len(rows) == len(answer["points"]) == 8
    assert [row["gpu"] for row in rows] == ["1GiB", "260MiB"] * 4  # as they are made: the card varies fastest
    rows.sort(key=lambda row: row["gpu"])
    for row, point in zip(rows, answer["points"], strict=True):
        assert {k: "" if v is None else str(v) for k, v in point.items() if k != "frontier"} == row
    assert [p["rank"] for p in answer["points"] if p["frontier"]] == [64]


def test_svg_is_a_picture_with_a_line_and_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, *RANKS, "--batch-size", "1,2", "--format", "svg")
    root = ET.fromstring(out)
    kinds = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert kinds.count("polyline") == 2
    assert kinds.count("circle") == 8
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"1GiB", "260MiB", "batch size 1", "batch size 2", "Rank"} <= set(texts)


def test_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, *RANKS, "--format", "markdown")[1]
    assert "| GPU | Rank |  | Device | To spare | Live | Peak in |" in out
    assert out.count("\n| ") == 10


def test_lines_are_written_while_more_are_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memplanner.cli.sweep.AWAITED", 2)
    words = ("--method", "lora", "--rank", "8,16,abc", "--gpu", "1GiB", "--format", "csv")
    code, out, err = run(capsys, *words)
    assert code == 2
    assert [line.split(",")[0] for line in out.splitlines()] == ["rank", "8", "16"]
    assert "abc" in err
    assert len(err.splitlines()) == 1
    path = tmp_path / "s.csv"
    path.write_text("before", encoding="utf-8")
    code, out, err = run(capsys, *words, "-o", str(path))
    assert (code, out) == (2, "")
    assert "abc" in err
    assert [p.read_text(encoding="utf-8") for p in tmp_path.iterdir()] == ["before"]  # and no draft
    monkeypatch.setattr("memplanner.cli.sweep.AWAITED", 1000)
    assert run(capsys, *words)[:2] == (2, "")


@pytest.mark.parametrize(("ranks", "code"), [("1,2,4", 0), ("1,512", 0), ("256,512,1024", 1)])
def test_csv_ends_as_json_does(ranks: str, code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--method", "lora", "--rank", ranks, "--gpu", "300MiB", "--context", "0", "--format")
    assert run(capsys, *words, "json")[0] == code
    assert run(capsys, *words, "csv")[0] == code
    assert run(capsys, *words, "csv", "-o", str(tmp_path / "s.csv"))[:2] == (code, "")


@pytest.mark.parametrize("ranks", ["1,2,4", "256,512,1024"])
def test_a_reader_who_has_seen_enough_ends_the_sweep(ranks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memplanner.cli.sweep.AWAITED", 0)
    answer = sweep_answer("--method", "lora", "--rank", ranks, "--gpu", "300MiB", "--context", "0", "--format", "csv")
    pieces = iter(answer.text)
    assert next(pieces).startswith("rank,")
    assert answer.exit_code == (0 if ranks == "1,2,4" else 2)  # a verdict once one fits, but no "none fits"


def sweep_answer(*words: str) -> Answer:
    parser = argparse.ArgumentParser()
    sweep.configure(parser, described=False)
    parser.add_argument("--output", default="")
    return sweep.run(parser.parse_args(["llama-60m", *words]), Page(), Path())


def test_with_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.loads(run(capsys, "--both", "per-layer-updates,keep-outputs", "--format", "json")[1])
    assert [(p["per_layer_updates"], p["keep_outputs"]) for p in answer["points"]] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--both", "per-layer-update"), "did you mean 'per-layer-updates'?"),
        (("--rank", "8,16"), "method 'full' has no rank"),
        (("--batch-size", "1..x"), "'x' is not a whole number"),
        (("--batch-size", "x"), "'x' is not a whole number"),
        (("--batch-size", "1", "2"), "several values are one word, such as 8,16,32"),
        (("--gpu", "rtx4090,rtx4091"), "no card is called 'rtx4091'"),
        (("--batch-size", "1..100000", "--seq-len", "1..1000"), "100,000,000 combinations are more than 1,000,000"),
        (("--gpu", "t4,a10", "--format", "svg"), "a picture needs an axis of numbers"),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_an_assumed_context_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--gpu", "24GiB,rtx4090")
    assert " ".join(out.split()).count("context assumed, the largest of the bundled NVIDIA cards' (710.19 MiB)") == 1
    _, out, _ = run(capsys, "--gpu", "24GiB,rtx4090", "--format", "json")
    assert [point["context_assumed"] for point in json.loads(out)["points"]] == [True, False]
    for words in (("--gpu", "rtx4090"), ("--gpu", "24GiB", "--context", "0")):
        assert "context assumed" not in run(capsys, *words)[1]


def test_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--gpu", "10MiB,20MiB")
    assert code == 1
    assert out.startswith("0 OF 2 PLANS FIT")


def test_what_a_card_cannot_run_is_left_out_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--gpu", "t4,rtx4090", "--attention", "sdpa,flash-attention-2")
    assert (code, err) == (0, "")
    assert out.startswith("3 OF 3 PLANS FIT")
    assert "1 left out: 'flash-attention-2' needs compute capability 8.0; Tesla T4 has 7.5" in " ".join(out.split())
    assert main(("check", "llama-60m", "--gpu", "t4", "--attention", "flash-attention-2")) == 2
    assert capsys.readouterr().err == (
        "memplanner: plan: step.attention: 'flash-attention-2' needs compute capability 8.0; Tesla T4 has 7.5 "
        "(sdpa runs there)\n"
    )


def test_a_config_is_the_base_that_is_swept_over(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "lora.yml"
    config.write_text("base_model: llama-60m\nadapter: lora\nlora_r: 8\nlora_target_linear: true\n", encoding="utf-8")
    words = ("--from", str(config), "--seq-len", "64", "--batch-size", "1", "--gpu", "24GiB", "--format", "json")
    assert main(("sweep", *words, "--rank", "8,16")) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    for point in points:
        assert main(("check", *words, "--rank", str(point["rank"]))) == 0
        assert json.loads(capsys.readouterr().out)["device_bytes"] == point["device_bytes"]
    assert main(("sweep", *words, "--plan", "plan.toml")) == 2
    assert "--from: cannot be combined with --plan" in capsys.readouterr().err
