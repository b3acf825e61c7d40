"""memplanner profile as a user meets it: fake tensors and the CPU, suites, entry points, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.cli.main import main
from memplanner.errors import Problem, UserError
from memplanner.measurement import load_measurement

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 500,
}

ENTRY = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(128, 128), nn.Linear(128, 1)
    def forward(self, x):
        return self.second(torch.relu(self.first(x))).square().mean()

def build():
    import beside_entry_points  # only when it is called
    return Model(), None, torch.randn(64, 128)

def named():
    model = Model()
    return model, torch.optim.SGD(model.parameters(), lr=0.1), {"x": torch.randn(8, 128)}

def three():
    return 3

def broken():
    raise ValueError("[red]no[/red]")

def lossless():
    return nn.Linear(4, 4), None, (torch.randn(2, 4),)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    (tmp_path / "entry_points_here.py").write_text(ENTRY)
    (tmp_path / "beside_entry_points.py").write_text("")
    monkeypatch.setattr("sys.path", [*sys.path])
    return tmp_path


SHORT = ("--precision", "fp32", "--batch-size", "2", "--seq-len", "16")


def test_a_run_is_laid_over_its_prediction(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "tiny.json", "--device", "fake", "--method", "gradnormlorp", *SHORT]) == 0
    out = capsys.readouterr().out
    assert out.startswith("COMPLETED on fake tensors: ")
    assert out.count("Traced") == 2
    assert "easured" not in out
    rows = {line.split("  ")[1]: line.split() for line in out.splitlines() if line.startswith("  ")}
    for phase in ("forward", "loss", "backward", "update", "update with subspace refresh", "between steps"):
        assert abs(float(rows[phase][-1].removesuffix("%"))) <= 0.05, phase
    assert "leave out cuBLAS's workspaces" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--precision bf16",
        "--precision bf16 --gpu h100-sxm",
        "--precision fp16 --gpu t4",
        "--attention eager",
        "--torch 2.14",
    ],
)
def test_whatever_kernel_takes_padded_batches_a_trace_is_made(
    words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "plan.toml").write_text('model = "tiny.json"\n[step]\npadding = true\n')
    assert main(["profile", "plan.toml", "--device", "fake", *SHORT, *words.split()]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith("%")]
    assert len(rows) == 6
    assert max(abs(float(row[-1].removesuffix("%"))) for row in rows) <= 0.5


def test_flash_attn_is_traced_but_not_run_where_it_is_not_installed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["profile", "tiny.json", *SHORT, "--precision", "bf16", "--attention", "flash-attention-2"]
    assert main([*words, "--device", "fake"]) == 0
    assert main([*words, "--device", "cpu"]) == 1
    assert "CANNOT RUN on the CPU in load: attention 'flash-attention-2': its package" in capsys.readouterr().out


def test_json_is_the_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", "tiny.json", "--device", "cpu", *SHORT, "--format", "json", "--out", "records"]
    assert main([*words, "--rank-evidence", "--steps", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "memplanner/measurement/1"
    assert record["backend"] == "cpu"
    assert record["plan"]["precision"] == "fp32"
    assert [p["name"] for p in record["phases"]] == ["load", "forward", "loss", "backward", "update", "steady"]
    assert record["rank_evidence"][0]["energy"]["64"] == 1.0
    assert json.loads((folder / "records" / "tiny.json").read_text()) == record


def test_several_plans_run_each_in_its_own_process(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plan.toml").write_text('model = "tiny.json"\nmethod = "lora"\n')
    assert main(["profile", "tiny.json", "plan.toml", "--device", "fake", *SHORT]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].startswith("tiny ")
    assert out.splitlines()[2].startswith("plan-2 ")
    assert "2 completed." in out


def test_a_suite_goes_on_where_it_stopped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "s.toml").write_text(
        '[plan]\nmodel = "tiny.json"\n[[group]]\nname = "a"\n[group.grid]\nmethod = ["full", "lora"]\n'
    )
    words = ["profile", "--suite", "s.toml", "--device", "fake", "--out", "o"]
    assert main([*words, "--time-limit", "0s"]) == 1
    assert "Nothing ran, 2 left for another run." in capsys.readouterr().out
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "2 completed." in captured.out
    assert [line.split()[-1] for line in captured.err.splitlines()] == ["a-full", "a-lora"]
    assert main([*words, "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("has a record") == 2
    assert [record["id"] for record in json.loads(captured.out)] == ["a-full", "a-lora"]


HALF = (
    '[plan]\nmodel = "tiny.json"\nprecision = "fp16"\nstep = { batch_size = 2, seq_len = 16 }\n'
    '[[group]]\nname = "h"\nsteps = 3\nrank_evidence = true\n[group.grid]\nmethod = ["full", "gradnormlorp", "lora"]\n'
)
"""AdamW's eps is 0 in fp16: the loss of the second step is no number."""


def test_a_loss_that_is_not_finite_is_a_result_and_the_suite_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "s.toml").write_text(HALF)
    words = ["profile", "--suite", "s.toml", "--device", "cpu", "--out", "o"]
    assert main(words) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "Completed, but - h-full: no rank evidence of 14 of 14 weights, whose gradients are not finite; the loss "
        in out
    )
    assert "the loss of step 2 of 5 is nan, and of 3 later steps not finite" in out
    assert "h-gradnormlorp: linalg.svd: The algorithm failed to converge" in out
    record = load_measurement(folder / "o" / "h-full.json")
    assert (record.outcome.status, record.losses[1:]) == ("completed", (None,) * 4)
    assert [phase.name for phase in record.phases][-1] == "steady"
    assert load_measurement(folder / "o" / "h-lora.json").outcome.status == "completed"
    assert main(["validate", "o/h-full.json", "--format", "json"]) == 0
    remarks = json.loads(capsys.readouterr().out)["remarks"]
    assert [remark["id"] for remark in remarks] == ["h-full"]
    assert main(["validate", "o/h-full.json"]) == 0
    assert "Remarks" in capsys.readouterr().out
    assert main(["profile", "tiny.json", *SHORT[2:], "--precision", "fp16", "--device", "cpu"]) == 0
    assert "the loss of step 2 of 4 is nan" in " ".join(capsys.readouterr().out.split())


ONE = '[[group]]\nname = "a"\nplan = { model = "tiny.json" }\n'


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("o/a.json/", "o/a.json: is a directory"),
        ("o/logs/a.log/", "o/logs/a.log: is a directory"),
        ("o/logs", "is not a directory"),
        ("o/a.json", "o/a.json: is no record of a run"),
    ],
)
def test_what_stands_in_a_record_s_place_is_said_before_the_run(
    place: str, why: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "s.toml").write_text(ONE)
    path = folder / place
    if place.endswith("/"):
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        path.write_text("{}")
    monkeypatch.setattr("memplanner.suite.runner.begin", None)
    assert main(["profile", "--suite", "s.toml", "--device", "fake", "--out", "o"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert why in captured.err


@pytest.mark.parametrize("out", ["n" * 300, "tiny.json", "tiny.json/below"])
def test_a_folder_that_there_cannot_be_is_said_before_the_run(
    out: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "s.toml").write_text(ONE)
    monkeypatch.setattr("memplanner.harness.record.measure", None)
    monkeypatch.setattr("memplanner.suite.runner.begin", None)
    for words in (["tiny.json"], ["--entry", "entry_points_here:build"], ["--suite", "s.toml"]):
        assert main(["profile", *words, "--device", "cpu", "--out", out]) == 2
        captured = capsys.readouterr()
        assert (captured.out, len(captured.err.splitlines())) == ("", 1)


@pytest.mark.parametrize("words", [["tiny.json", *SHORT], ["--suite", "s.toml"]])
def test_a_measurement_that_cannot_be_saved_is_printed(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise UserError(Problem(where=str(path), key="", message="cannot be written: No space left on device"))

    (folder / "s.toml").write_text(ONE)
    monkeypatch.setattr("memplanner.measurement.write_text", full)
    assert main(["profile", *words, "--device", "fake", "--out", "o"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["outcome"]["status"] == "completed"
    assert captured.err.endswith(".json: cannot be written: No space left on device\n")
    assert captured.err.count("memplanner: ") == 1


def test_a_measurement_whose_file_cannot_be_written_any_more_is_printed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise UserError(Problem(where=str(path), key="", message="cannot be written: No space left on device"))

    monkeypatch.setattr("memplanner.files.write.write_text", full)
    words = ["profile", "tiny.json", *SHORT, "--device", "fake", "--format", "json", "-o", "record.json"]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["outcome"]["status"] == "completed"
    assert captured.err == "memplanner: record.json: cannot be written: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's")
@pytest.mark.parametrize("stderr", ["/dev/full", "closed", "broken"])
def test_a_suite_goes_on_where_nobody_reads_how_far_it_is(stderr: str, folder: Path) -> None:
    (folder / "s.toml").write_text(ONE)
    words = [sys.executable, "-m", "memplanner", "profile", "--suite", "s.toml", "--device", "fake", "--out", "o"]
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=full if stderr == "/dev/full" else writer,
            preexec_fn=(lambda: os.close(2)) if stderr == "closed" else None,
            check=False,
        )
    os.close(writer)
    assert done.returncode == 0
    assert b"1 completed." in done.stdout
    assert load_measurement(folder / "o" / "a.json").outcome.status == "completed"


def test_records_that_are_not_up_to_date_are_said_and_run_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "s.toml").write_text(ONE)
    words = ["profile", "--suite", "s.toml", "--device", "fake", "--out", "o"]
    assert main(words) == 0
    path = folder / "o" / "a.json"
    record = json.loads(path.read_text())
    current = record["environment"]["libraries"]["torch"]
    record["environment"]["libraries"]["torch"] = "2.12.0"
    path.write_text(json.dumps(record))
    capsys.readouterr()
    assert main([*words, "--keep-stale"]) == 0
    captured = capsys.readouterr()
    assert captured.err == " kept, stale  a\n"
    assert f"Records that were not up to date\n  - a: torch 2.12.0 → {current} (kept)" in captured.out
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == f"       stale  a: torch 2.12.0 → {current}"
    assert f"a: torch 2.12.0 → {current} (run again)" in captured.out
    assert json.loads(path.read_text())["environment"]["libraries"]["torch"] == current
    (folder / "tiny.json").write_text(json.dumps(TINY | {"vocab_size": 501}))
    assert main([*words, "--keep-stale"]) == 0
    assert "a: model's vocab_size 500 → 501" in capsys.readouterr().err


def test_plans_of_one_name_have_records_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "Tiny-2.toml").write_text('model = "tiny.json"\n')
    (folder / f"{'n' * 240}.toml").write_text('model = "tiny.json"\n')
    words = ["Tiny-2.toml", "tiny.json", f"{'n' * 240}.toml"]
    assert main(["profile", *words, "--device", "fake", "--out", "o", *SHORT]) == 0
    names = sorted(path.stem for path in (folder / "o").glob("*.json"))
    assert [len(name) for name in names] == [6, 200, 8]
    assert (names[0], names[2]) == ("Tiny-2", "tiny-2-2")


def test_an_entry_point_is_the_user_s_own_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for function in ("build", "named"):
        assert main(["profile", "--entry", f"entry_points_here:{function}"]) == 0
        out = capsys.readouterr().out
        assert "16.641 K parameters" in out
        assert "forward and loss" in out
        assert f"Of: entry point entry_points_here:{function}." in out


def test_what_does_not_complete_is_exit_code_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "tiny.json", "--device", "fake", "--loss", "fused"]) == 1
    assert capsys.readouterr().out.startswith("CANNOT RUN on fake tensors in load: loss 'fused'")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--entry entry_points_here", "--entry: 'entry_points_here' is not package.module:function"),
        ("--entry entry_points_here:nothing", "has no function 'nothing'"),
        ("--entry not_there:f", "'not_there' cannot be imported"),
        ("--entry entry_points_here:three", "returned int, not (model, optimizer or None, batch)"),
        ("--entry entry_points_here:broken", "failed: ValueError: [red]no[/red]"),
        ("--entry entry_points_here:lossless", "the model's answer holds no loss"),
        ("--entry entry_points_here:build --device fake", "an entry point makes real tensors"),
        ("tiny.json --entry entry_points_here:build", "brings its own model"),
        ("--suite nosuch --out o", "no file or bundled suite is called 'nosuch'"),
        ("--suite smok --out o", "did you mean 'smoke'?"),
        ("--suite smoke", "--suite requires --out"),
        ("--suite smoke --out tiny.json", "'tiny.json' is not a directory"),
        ("--suite smoke --out o --rank 4", "--rank: cannot be combined with --suite"),
        ("--suite smoke --out o --time-limit 9", "'9' is not a time"),
        ("tiny.json --suite smoke --out o", "names its own plans"),
        ("tiny.json --time-limit 9s", "--time-limit requires --suite"),
        ("tiny.json --steps many", "'many' is not a number from 0 to 1000"),
        ("tiny.json --warmup 0", "'0' is not a number from 1 to 1000"),
        ("nosuch.toml", "no such file: 'nosuch.toml'"),
        ("llama-7c", "no model or file is called 'llama-7c' (did you mean 'llama-7b'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


def test_another_plans_record_is_not_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def profile(*words: str) -> list[str]:
        assert main(("profile", "tiny.json", "--device", "fake", "--out", "records", *words)) == 0
        return sorted(path.name for path in (folder / "records").iterdir())

    assert profile("--method", "lora") == ["tiny.json"]
    assert profile("--method", "dora") == ["tiny-2.json", "tiny.json"]
    assert profile("--method", "lora") == ["tiny-2.json", "tiny.json"]  # the same plan again
    capsys.readouterr()
    assert main(("validate", "records", "--format", "json")) == 0
    assert {row["id"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"tiny", "tiny-2"}


def test_one_of_several_plans_is_run_by_its_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = "model = 'tiny.json'\n[plans.long.step]\nseq_len = 64\n[plans.short.step]\nseq_len = 32\n"
    (folder / "memplanner.toml").write_text(plans)
    assert main(["profile", "short", "--device", "fake", "--out", "records"]) == 0
    assert capsys.readouterr().err == ""
    record = json.loads((folder / "records" / "short.json").read_text())
    assert record["plan"]["step"]["seq_len"] == 32


def test_none_of_several_is_run_where_one_is_no_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["tiny.json", "nosuch"], ["--warmup", "1", "--", "--steps", "[", "--no-such-flag"]):
        assert main(["profile", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert "no model or file is called" in err
