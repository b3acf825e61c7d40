"""It learns: next-byte prediction on Python's documentation, and which kind of text a passage is.

The same model, data and number of steps for every method; the rivals take the better of two learning rates.
"""

import copy
import pydoc_data.topics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from torch import nn

from tests.gradnormlorp.conftest import small_llama, small_roberta
from tests.gradnormlorp.training import (
    Batch,
    Method,
    full,
    gradnormlorp,
    learn,
    next_byte_batches,
    passages,
    projected_adamw,
)

STEPS = 150


@pytest.fixture(scope="session")
def text() -> torch.Tensor:
    """Python's own documentation, as bytes: half a megabyte of English."""
    joined = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    return torch.tensor(list(joined.encode("ascii", "replace")))


def final_loss(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[Batch]) -> float:
    """The mean loss of the last tenth of the steps."""
    losses = learn(model, optimizer, batches)
    tail = losses[-len(losses) // 10 :]
    return sum(tail) / len(tail)


def lora(model: Any) -> tuple[Any, list[Any]]:
    from peft import LoraConfig, get_peft_model

    base = dict(model.named_parameters())
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=8, target_modules="all-linear"))
    for name, param in base.items():  # embeddings, head and norms learn here too: the same budget for all
        param.requires_grad_("proj" not in name and "query" not in name)
    return adapted, [p for p in adapted.parameters() if p.requires_grad]


def best(
    method: Method, model: nn.Module, batches: Callable[[], Any], optimizer: Any, rates: tuple[float, ...]
) -> float:
    losses = []
    for lr in rates:
        torch.manual_seed(0)
        adapted, params = method(copy.deepcopy(model))
        losses.append(final_loss(adapted, optimizer(params, lr=lr), batches()))
    return min(losses)


@pytest.fixture(scope="module")
def rivals(text: torch.Tensor) -> dict[str, float]:
    def batches() -> Any:
        return next_byte_batches(text, STEPS, seed=1)

    return {
        name: best(method, small_llama(), batches, torch.optim.AdamW, (3e-3, 1e-2))
        for name, method in {"full": full, "lora": lora}.items()
    }


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two-sided": ({}, {}),
    "one-sided": ({"projection": "one-sided"}, {}),
    "exact norm": ({"norm": "exact"}, {}),
    "8-bit": ({}, {"state": "8-bit"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_small_llama_learns_english_about_as_fast_as_its_rivals(
    variant: str, text: torch.Tensor, rivals: dict[str, float]
) -> None:
    fields, options = VARIANTS[variant]

    def optimizer(params: Any, lr: float) -> Any:
        return projected_adamw(params, lr, **options)

    def batches() -> Any:
        return next_byte_batches(text, STEPS, seed=1)

    loss = best(gradnormlorp(**fields), small_llama(), batches, optimizer, (1e-2,))
    assert loss < 3.0, "5.5 at the start: a uniform guess over 256 bytes"
    assert loss < 1.1 * rivals["lora"]
    assert loss < 1.1 * rivals["full"]


def prose_and_code(text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Documentation, and Python's sources."""
    library = Path(pydoc_data.__file__).parent.parent
    names = ("argparse.py", "typing.py", "tarfile.py", "ast.py")
    return text, torch.tensor(list(b"".join((library / name).read_bytes() for name in names)))


def accuracy(model: nn.Module, batches: Any) -> float:
    model.eval()
    right = total = 0
    with torch.no_grad():
        for batch in batches:
            right += int((model(**batch).logits.argmax(dim=1) == batch["labels"]).sum())
            total += len(batch["labels"])
    return right / total


def test_a_small_roberta_tells_prose_from_code_as_well_as_its_rivals(text: torch.Tensor) -> None:
    """Fine-tuning: only the adapters and the head learn, over a random encoder."""

    def tuned_lora(model: Any) -> tuple[Any, list[Any]]:
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", task_type=TaskType.SEQ_CLS)
        adapted = get_peft_model(model, config)
        return adapted, [p for p in adapted.parameters() if p.requires_grad]

    def projected(params: Any, lr: float) -> Any:
        return projected_adamw(params, lr, state="8-bit")

    texts = prose_and_code(text)
    shares = {}
    for name, method, optimizer in (
        ("one-sided", gradnormlorp(projection="one-sided", train_rest=False), projected),
        ("two-sided", gradnormlorp(projection="two-sided", train_rest=False), projected),
        ("lora", tuned_lora, torch.optim.AdamW),
        ("full", full, torch.optim.AdamW),
    ):
        torch.manual_seed(0)
        model, params = method(small_roberta())
        learn(model, optimizer(params, lr=2e-3), passages(texts, 2 * STEPS, seed=1))
        shares[name] = accuracy(model, passages(texts, 20, seed=2))
    assert shares["one-sided"] > 0.75
    assert shares["one-sided"] > min(shares["lora"], shares["full"]) - 0.05
    assert shares["two-sided"] > min(shares["lora"], shares["full"]) - 0.1, "moments of a quarter of the size"
