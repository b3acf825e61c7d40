"""--method qlora: LoRA over a base in 4 bits."""

import pytest

from memplanner.errors import UserError
from memplanner.plan.flags import has_use
from memplanner.plan.merge import merge


@pytest.mark.parametrize(("typed", "quantization"), [({}, "nf4-double"), ({"--quantization": "nf4"}, "nf4")])
def test_qlora_is_lora_over_four_bits(typed: dict[str, str], quantization: str) -> None:
    base = {"model": "gpt2", "quantization": "int8"}
    plan = merge(base, {"--method": "qlora", "--rank": "4", **typed}, where="plan")
    assert plan == merge(base, {"--method": "lora", "--rank": "4", "--quantization": quantization}, where="plan")
    assert plan.quantization == quantization


@pytest.mark.parametrize("quantization", ["none", "int8", "nf5"])
def test_qlora_over_anything_else_is_refused(quantization: str) -> None:
    with pytest.raises(UserError, match=f"qlora is lora over a base in 4 bits, and --quantization is '{quantization}'"):
        merge({"model": "gpt2"}, {"--method": "qlora", "--quantization": quantization}, where="plan")


def test_qlora_has_what_lora_has() -> None:
    assert has_use("--rank", "qlora")
    assert not has_use("--projection-rank", "qlora")
