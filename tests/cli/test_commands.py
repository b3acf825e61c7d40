"""Each command, end to end over the fake predict."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_bare_command_prints_help(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "usage: memplanner COMMAND" in out


def test_fits(run: Run) -> None:
    code, out, err = run("check", "--gpu", "rtx4090")
    first = "FITS: 13.00 GiB of 23.52 GiB on rtx4090, 10.52 GiB to spare"
    assert (code, err, out.splitlines()[0]) == (0, "", first)
    assert "Plan: bundled plan llama-7b-gradnormlorp-rtx4090." in out


def test_does_not_fit_offers_changes_that_work_as_typed(run: Run) -> None:
    words = ("check", "llama-7b", "--gpu", "16GiB")
    code, out, _ = run(*words)
    assert code == 1
    assert out.startswith("DOES NOT FIT: 18.00 GiB of 16.00 GiB on a 16GiB device, 2.00 GiB too much\n")
    assert "--optimizer adamw-8bit" in out
    assert "saves 3.00 GiB" in out
    assert run(*words, "--optimizer", "adamw-8bit")[0] == 0
    assert run(*words, "--checkpointing", "full")[0] == 0
    assert run(*words, "--checkpointing", "full", "--strict")[0] == 1


def test_budget(run: Run) -> None:
    assert run("check", "--budget", "10GiB")[0] == 1
    code, _, err = run("check", "--budget", "10 MBfoo")
    assert code == 2
    assert err == "memplanner: --budget: '10 MBfoo' is not a size such as '22GiB', '24 GB' or '512MiB'\n"


def test_answers_json_is_a_plan(run: Run, tmp_path: Path) -> None:
    out = run("check", "llama-1b", "--method", "lora", "--rank", "16", "--format", "json")[1]
    (tmp_path / "answer.json").write_text(out)
    again = run("check", "--plan", "answer.json", "--format", "json")[1]
    assert json.loads(again) == json.loads(out)


def test_explain(run: Run) -> None:
    code, out, _ = run("explain", "--top", "2", "--no-per-layer-updates")
    assert code == 0
    assert "▲ peak 16.00 GiB" in out or "peak 16.00 GiB ▲" in out
    assert "1 batch × 256 seq × 32000 vocab × 4 B (fp32)" in out
    assert "in all other rows" in out
    assert max(map(len, out.splitlines())) <= 80
    assert run("explain", "--top", "0")[0] == 2


def test_compare(run: Run) -> None:
    code, out, _ = run("compare", "--methods", "full,lora,galore", "--ranks", "8,64")
    assert code == 0
    lines = [line.split()[:2] for line in out.splitlines() if line.startswith("  ")]
    assert [line for line in lines if line[0] in ("full", "lora", "galore")] == [
        ["full", "–"],
        ["lora", "8"],
        ["lora", "64"],
        ["galore", "8"],
        ["galore", "64"],
    ]
    assert run("compare", "--methods", "full,lra")[0] == 2
    assert run("compare", "--ranks", "0")[0] == 2
    assert "| lora | 8 |" in run("compare", "--ranks", "8", "--format", "markdown")[1]


@pytest.mark.parametrize("command", ["gpus", "models", "paper"])
def test_lists(run: Run, command: str) -> None:
    code, out, err = run(command)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert json.loads(run(command, "--format", "json")[1])["schema"] == f"memplanner/{command}/1"


@pytest.mark.parametrize("word", ["gemma", "GEMMA", "gemma-3-12B", "mixtral", "Qwen/"])
def test_models_are_listed_by_a_word_of_a_name_or_their_type(run: Run, word: str) -> None:
    listed = json.loads(run("models", word, "--format", "json")[1])["models"]
    everything = json.loads(run("models", "--format", "json")[1])["models"]
    for model in everything:
        texts = [model["id"], model["name"], *model["aliases"], model["family"]]
        assert (model in listed) == any(word.casefold() in text.casefold() for text in texts)
    assert {model["answered"] for model in everything} == {"written", "recorded", "traced"}
    shown = run("models", word)[1].split("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in shown] == [model["id"] for model in listed]


def test_a_word_of_no_model_is_refused(run: Run) -> None:
    code, out, err = run("models", "qwen33")
    assert (code, out) == (2, "")
    assert "no bundled model has 'qwen33' in a name or in its type" in err


def test_schema(run: Run) -> None:
    schema = json.loads(run("schema")[1])
    assert schema["properties"]["headroom"]["description"].startswith("Memory of the card left free")
    assert schema["$defs"]["Step"]["properties"]["batch_size"]["minimum"] == 1
    assert {"type": "string"} in schema["properties"]["method"]["anyOf"]
    named = schema["properties"]["plans"]["additionalProperties"]["properties"]
    assert set(named) == set(schema["properties"]) - {"plans"} | {"from", "ignore_keys"}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("words", [("check",), ("check", "--gpu", "12GiB"), ("explain",), ("compare",), ("paper",)])
def test_lines_stay_within_the_page(run: Run, monkeypatch: pytest.MonkeyPatch, width: int, words: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, run(*words)[1].splitlines())) <= width


def test_colour_changes_no_letter_but_the_glyphs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    plain = run("check")[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    painted = run("check")[1]
    assert "\x1b[" in painted
    glyphs = re.compile("[█▓▒░#=~+.]")
    assert glyphs.sub("", re.sub(r"\x1b\[[\d;]*m", "", painted)) == glyphs.sub("", plain)
    monkeypatch.setenv("NO_COLOR", "1")
    assert run("check")[1] == plain


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "\x1b[31mred", "a\nb", "x" * 5000, "../nothing", "\x00", "\udcff"])
def test_hostile_names_are_one_harmless_line(run: Run, name: str) -> None:
    for words in (
        ("check", name),
        ("check", "--gpu", name),
        ("check", "--plan", name),
        (name,),
        ("check", "--" + name),
    ):
        code, out, err = run(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), words
        assert "\x1b" not in err
        assert len(err) < 6000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("chekc",), "memplanner: no command is called 'chekc' (did you mean 'check' or 'schema'?)"),
        (("check", "--gpu", "rtx4091"), "gpu: no card is called 'rtx4091' (did you mean 'rtx4090' or"),
        (
            ("check", "--batchsize", "3"),
            "memplanner check: no flag is called '--batchsize' (did you mean '--batch-size'",
        ),
        (("check", "--batch-size", "0"), "--batch-size: 0 is below 1"),
        (("check", "--batch-size", "1e3"), "--batch-size: '1e3' is not a whole number"),
        (
            ("check", "--rank", "8", "--method", "full"),
            "--rank: method 'full' has no rank (methods that have one: lora,",
        ),
        (("check", "--method", "galor"), "--method: 'galor' is not a known method (did you mean 'galore'"),
        (("check", "--checkpointing", "every-0"), "--checkpointing: 'every-0' is not 'none', 'full' or 'every-N'"),
        (("check", "--optimizer-bits", "4"), "--optimizer-bits: 4 is not 8, 16 or 32"),
        (("check", "--plan", "llama-7b-galore-rtx409"), "--plan: no file or plan is called"),
        (("check", "--plan", "plan.toml"), "--plan: no such file: 'plan.toml'"),
        (("check", "--plan", "plans/pretrain"), "--plan: no such file: 'plans/pretrain'"),
        (
            ("check", "--method", "lora", "--target-modules", r"layers\.[0-3"),
            r"--target-modules: 'layers\.[0-3' is no regular expression",
        ),
        (("check", "--format", "yaml"), "memplanner check: argument --format: invalid choice: 'yaml'"),
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"memplanner: {message}")


def test_every_problem_at_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "memplanner.toml").write_text(
        'modl = "x"\nmethod = {kind = "lora", rank = true}\n[step]\nbatch_size = "8"\nseq_len = 8.0\n'
    )
    code, _, err = run("check", "--optimizer", "adm")
    assert code == 2
    assert err.splitlines() == [
        "memplanner: --optimizer: 'adm' is not a known optimizer (did you mean 'adamw'?)",
        "memplanner: memplanner.toml: method.rank: true is not a whole number",
        "memplanner: memplanner.toml: step.batch_size: '8' is not a whole number",
        "memplanner: memplanner.toml: step.seq_len: 8.0 is not a whole number",
        "memplanner: memplanner.toml: modl: unknown key (did you mean 'model'?)",
    ]
