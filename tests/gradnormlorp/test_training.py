"""It learns: next-byte prediction on Python's documentation, and which kind of text a passage is.

The same model, data and number of steps for every method; the rivals take the better of two learning rates.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from torch import nn

from memplanner.gradnormlorp import GradNormLorp, GradNormLoRPAdamW, apply_gradnormlorp, parameter_groups
from tests.gradnormlorp.conftest import small_llama, small_roberta

STEPS, BATCH, SEQ = 150, 8, 48


def next_byte_batches(text: torch.Tensor, steps: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(0, len(text) - SEQ, (BATCH,), generator=generator)
        tokens = torch.stack([text[i : i + SEQ] for i in starts.tolist()])
        yield {"input_ids": tokens, "labels": tokens}


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> float:
    """The mean loss of the last tenth of the steps."""
    model.train()
    losses = []
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    tail = losses[-len(losses) // 10 :]
    return float(sum(tail) / len(tail))


def full(model: Any) -> tuple[Any, list[Any]]:
    return model, list(model.parameters())


def lora(model: Any) -> tuple[Any, list[Any]]:
    from peft import LoraConfig, get_peft_model

    base = dict(model.named_parameters())
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=8, target_modules="all-linear"))
    for name, param in base.items():  # embeddings, head and norms learn here too: the same budget for all
        param.requires_grad_("proj" not in name and "query" not in name)
    return adapted, [p for p in adapted.parameters() if p.requires_grad]


def ours(**fields: Any) -> Callable[[Any], tuple[Any, list[Any]]]:
    settings = GradNormLorp.model_validate({"rank": 8, "projection_rank": 4, "refresh_interval": 50, **fields})

    def apply(model: Any) -> tuple[Any, list[Any]]:
        return apply_gradnormlorp(model, settings), parameter_groups(model, settings)

    return apply


def best(method: Any, model: nn.Module, batches: Callable[[], Any], optimizer: Any, rates: tuple[float, ...]) -> float:
    found = []
    for lr in rates:
        torch.manual_seed(0)
        adapted, params = method(copy.deepcopy(model))
        found.append(learn(adapted, optimizer(params, lr=lr), batches()))
    return min(found)


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
    fields, made = VARIANTS[variant]

    def optimizer(params: Any, lr: float) -> Any:
        return GradNormLoRPAdamW(params, lr=lr, projection_scale=1.0, **made)

    def batches() -> Any:
        return next_byte_batches(text, STEPS, seed=1)

    loss = best(ours(**fields), small_llama(), batches, optimizer, (1e-2,))
    assert loss < 3.0, "5.5 at the start: a uniform guess over 256 bytes"
    assert loss < 1.1 * rivals["lora"]
    assert loss < 1.1 * rivals["full"]


def passages(text: torch.Tensor, steps: int, seed: int, length: int = 96) -> Any:
    """Passages of documentation (0) or of Python's sources (1), half a batch each, cut anywhere."""
    import pydoc_data
    from pathlib import Path

    library = Path(pydoc_data.__file__).parent.parent
    source = b"".join((library / name).read_bytes() for name in ("argparse.py", "typing.py", "tarfile.py", "ast.py"))
    texts = text, torch.tensor(list(source))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        tokens = []
        for kind in texts:
            starts = torch.randint(0, len(kind) - length, (BATCH,), generator=generator)
            tokens += [kind[i : i + length].clamp_min(1) for i in starts.tolist()]
        yield {"input_ids": torch.stack(tokens), "labels": torch.tensor([0] * BATCH + [1] * BATCH)}


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

    def tuned(projection: Any) -> Callable[[Any], tuple[Any, list[Any]]]:
        settings = GradNormLorp(rank=8, projection_rank=4, projection=projection, refresh_interval=50, train_rest=False)
        return lambda model: (apply_gradnormlorp(model, settings), parameter_groups(model, settings))

    def tuned_lora(model: Any) -> tuple[Any, list[Any]]:
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", task_type=TaskType.SEQ_CLS)
        adapted = get_peft_model(model, config)
        return adapted, [p for p in adapted.parameters() if p.requires_grad]

    def projected(params: Any, lr: float) -> Any:
        return GradNormLoRPAdamW(params, lr=lr, projection_scale=1.0, state="8-bit")

    shares = {}
    for name, method, optimizer in (
        ("one-sided", tuned("one-sided"), projected),
        ("two-sided", tuned("two-sided"), projected),
        ("lora", tuned_lora, torch.optim.AdamW),
        ("full", full, torch.optim.AdamW),
    ):
        torch.manual_seed(0)
        model, params = method(small_roberta())
        learn(model, optimizer(params, lr=2e-3), passages(text, 2 * STEPS, seed=1))
        shares[name] = accuracy(model, passages(text, 20, seed=2))
    assert shares["one-sided"] > 0.75
    assert shares["one-sided"] > min(shares["lora"], shares["full"]) - 0.05
    assert shares["two-sided"] > min(shares["lora"], shares["full"]) - 0.1, "moments of a quarter of the size"
