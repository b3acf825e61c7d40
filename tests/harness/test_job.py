"""What the harness takes a model's tensors for."""

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from torch import nn

from memplanner.harness.job import Job


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(16, 12)
        self.head = nn.Linear(12, 4)


@pytest.mark.parametrize(
    ("config", "added"),
    [
        (lambda: peft.LoraConfig(r=2, target_modules=["proj"]), 2 * 16 + 12 * 2),
        (lambda: peft.LoraConfig(r=2, target_modules=["proj"], modules_to_save=["head"]), 2 * 16 + 12 * 2),
        (lambda: peft.VeraConfig(r=2, target_modules=["proj"]), 2 * 16 + 12 * 2 + 2 + 12),
    ],
    ids=["lora", "lora and a head", "vera"],
)
def test_what_peft_adds_to_a_layer_is_an_adapter(config: object, added: int) -> None:
    """VeRA's matrices are buffers of the whole model, and its vectors parameters of the layer."""
    assert callable(config)
    model = peft.get_peft_model(Small(), config())
    tensors = Job(model=model, optimizers=[], batch=dict).tensors()
    assert sum(tensor.numel() for tensor in tensors["adapters"]) == added
    assert sum(tensor.numel() for tensor in tensors["parameters"]) >= 12 * 16 + 12 + 4 * 12 + 4
