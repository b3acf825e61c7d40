"""The public surface, letter by letter: changing it breaks someone's CI, so it must be changed here as well."""

import argparse
import json

from memplanner.cli import check
from memplanner.cli.exit_code import ExitCode
from memplanner.cli.main import COMMANDS
from tests.cli.conftest import Run

CHECK_FLAGS = (
    "--all --attention --batch-size --budget --checkpointing --context --expandable-segments --format --from --gpu "
    "--grad-accumulation --headroom --ignore-key --kbit-preparation --keep-gradients --keep-outputs --locked --loss "
    "--method --modules-to-save --no-expandable-segments --no-keep-gradients --no-keep-outputs --no-per-layer-updates "
    "--num-labels --optimizer --optimizer-bits --per-layer-updates --plan --precision --projection-rank --quantization "
    "--rank --seq-len --strict --target-modules --task --tolerance --torch"
)


def test_flags_of_check() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    check.configure(parser, described=False)
    assert " ".join(sorted(f for a in parser._actions for f in a.option_strings)) == CHECK_FLAGS


def test_commands() -> None:
    assert list(COMMANDS) == [
        "tui",
        "check",
        "lock",
        "diff",
        "explain",
        "fit",
        "sweep",
        "compare",
        "profile",
        "validate",
        "gpus",
        "models",
        "fetch",
        "record",
        "schema",
        "paper",
    ]


def test_exit_codes() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "DOES_NOT_FIT": 1,
        "USAGE_ERROR": 2,
        "SOFTWARE_ERROR": 70,
    }


def test_json_of_check(run: Run) -> None:
    code, out, err = run("check", "--gpu", "rtx4090", "--format", "json")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert list(answer) == [
        "schema",
        "verdict",
        "squeezed",
        "gpu",
        "live_bytes",
        "allocated_bytes",
        "fragmentation_bytes",
        "reserved_bytes",
        "wanted_bytes",
        "context_bytes",
        "context_assumed",
        "device_bytes",
        "limit_bytes",
        "peak_phase",
        "phases",
        "at_peak",
        "persistent",
        "parameters",
        "margin_bytes",
        "plan",
    ]
    assert answer["schema"] == "memplanner/estimate/1"
    assert list(answer["gpu"]) == ["name", "total_bytes"]
    assert [list(phase) for phase in answer["phases"]] == [["name", "peak_bytes", "live_bytes"]] * len(answer["phases"])
    assert list(answer["persistent"]) == ["parameters", "adapters", "gradients", "optimizer_state", "projectors"]
    assert list(answer["parameters"]) == ["total", "trainable"]
    assert list(answer["at_peak"]) == [
        "parameters",
        "adapters",
        "gradients",
        "optimizer_state",
        "projectors",
        "activations",
        "temporaries",
        "workspaces",
        "inputs",
    ]
    assert all(type(answer[key]) is int for key in answer if key.endswith("_bytes"))
