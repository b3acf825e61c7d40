"""Methods side by side, predicted for real."""

import json
from pathlib import Path

import pytest

from memplanner.cli.main import main


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_compare_leaves_out_what_no_library_has(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """GaLore and GradNormLoRP have no SGD; the other methods are compared all the same."""
    assert main(["compare", "llama-60m", "--optimizer", "sgd", "--format", form]) == 0
    written = capsys.readouterr().out
    assert "no library trains GaLore with sgd" in written.replace("\n    ", " ")
    assert "lora" in written
    assert main(["compare", "llama-60m", "--optimizer", "sgd", "--methods", "galore"]) == 2


QLORA = ("compare", "llama-60m", "--methods")


def test_qlora_stands_beside_lora(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QLORA, "full,lora,qlora", "--ranks", "4,8", "--format", "json"]) == 0
    plans = [estimate["plan"] for estimate in json.loads(capsys.readouterr().out)["estimates"]]
    assert [(plan["method"]["kind"], plan["method"].get("rank"), plan["quantization"]) for plan in plans] == [
        ("full", None, "none"),
        ("lora", 4, "none"),
        ("lora", 8, "none"),
        ("lora", 4, "nf4-double"),
        ("lora", 8, "nf4-double"),
    ]
    assert main([*QLORA, "qlora,lora"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ") and " fits " in line] == [
        "qlora",
        "lora",
    ]
    assert "nf4-double base" not in out, "it is not equal for all"


def test_qlora_has_the_four_bits_that_all_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QLORA, "qlora,dora", "--quantization", "nf4", "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "nf4 base" in out
    assert [line.split()[1] for line in out.splitlines() if "fits" in line] == ["qlora", "dora"]


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_qlora_with_a_base_that_is_not_in_four_bits_is_refused(
    quantization: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('model = "llama-60m"\nmethod = "lora"\nquantization = "int8"\n')
    typed = ["--quantization", quantization]
    for words in ([*QLORA, "lora,qlora", *typed], ["compare", "--plan", str(path), "--methods", "lora,qlora"]):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert "qlora is lora over a base in 4 bits, and --quantization is" in err


def test_methods_that_are_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QLORA, "qlor"]) == 2
    assert "did you mean 'qlora'" in capsys.readouterr().err
    assert main([*QLORA, "full", "--quantization", "nf4"]) == 2
    assert "needs a frozen base" in capsys.readouterr().err
