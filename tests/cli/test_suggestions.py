"""How `check` offers changes, and how cards are listed and named, with real predictions."""

from pathlib import Path

import pytest

from memplanner.catalogue import all_gpus
from memplanner.cli.main import main


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    main(words)
    return capsys.readouterr().out.splitlines()


def test_sizes_of_changes_stand_under_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    out = lines(capsys, "check", "llama-7b", "--method", "lora", "--gpu", "rtx3060", "--seq-len", "2048")
    saving = [line for line in out if "  saves " in line]
    assert {line.split()[-1] for line in saving} == {"GiB"}
    assert any("MiB  →" in line for line in saving)
    assert len({line.index("  saves ") for line in saving}) == len({line.index("→") for line in saving}) == 1
    assert "No single change makes it fit; these save most" in out
    assert "Together these make it fit" in out


def test_markdown_has_what_is_enough_together(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("check", "llama-7b", "--method", "lora", "--gpu", "rtx3060", "--seq-len", "2048", "--format", "markdown")
    assert any(line.startswith("Together: `--checkpointing full --") for line in lines(capsys, *words))


def test_where_several_changes_are_not_enough_either(capsys: pytest.CaptureFixture[str]) -> None:
    out = lines(capsys, "check", "llama-3.1-405b", "--method", "lora", "--gpu", "rtx4090")
    assert "No single change makes it fit, nor do several together; these save most" in out


def test_a_squeezed_plan_is_told_how_to_fit_without(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("llama-3.1-8b", "--method", "lora", "--checkpointing", "full", "--seq-len", "2048", "--batch-size", "2")
    out = lines(capsys, "check", *words, "--gpu", "rtx4090")
    assert out[0].startswith("TIGHT, squeezed: ")
    assert "Any one of these makes it fit without squeezing, the least intrusive first" in out
    assert any(line.startswith("  --loss fused ") for line in out)
    assert main(("check", *words, "--gpu", "rtx4090")) == 0, "it passes all the same"


def test_a_name_of_several_cards_says_which_was_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, said in (("v100", "v100 (v100-16gb)"), ("a100", "a100 (a100-80gb)"), ("RTX 4090", "RTX 4090")):
        assert f" on {said}, " in lines(capsys, "check", "llama-60m", "--gpu", typed)[0]


def test_every_card_is_told_apart_on_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = lines(capsys, "gpus")
    assert max(map(len, out)) <= 80
    assert sum("…" in line for line in out) <= 2
    assert out[0].split() == ["Name", "Card", "Total", "Context"]
    assert [line.split()[0] for line in out[1:-3]] == [card.id for card in all_gpus()]
    monkeypatch.setenv("COLUMNS", "120")
    assert lines(capsys, "gpus")[0].split() == ["Name", "Card", "Total", "Context", "nvidia-smi"]


def test_the_place_in_a_rank_pattern_is_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('model = "llama-60m"\nmethod = {kind = "lora", rank_pattern = {"q_proj|[" = 4}}\n')
    assert main(("check", "--plan", str(plan))) == 2
    assert "'q_proj|[' is no regular expression: unterminated character set at position 7" in capsys.readouterr().err
