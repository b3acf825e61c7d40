"""Methods side by side, predicted for real."""

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
