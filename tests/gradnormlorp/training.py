"""Training of small models, by every method: what the learning experiments and the kept loss curves share.

`python -m tests.gradnormlorp.training` writes the kept curves anew.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memplanner.gradnormlorp import GradNormLorp, GradNormLoRPAdamW, apply_gradnormlorp, parameter_groups
from tests.gradnormlorp.conftest import small_gpt2, small_llama, small_roberta

BATCH, SEQ, PASSAGE = 8, 48, 96

Batch = dict[str, torch.Tensor]
Method = Callable[[Any], tuple[Any, list[Any]]]
"""Puts a model under the method; what comes back is the model and what its optimizer is given."""


def next_byte_batches(text: torch.Tensor, steps: int, seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(0, len(text) - SEQ, (BATCH,), generator=generator)
        tokens = torch.stack([text[i : i + SEQ] for i in starts.tolist()])
        yield {"input_ids": tokens, "labels": tokens}


def passages(texts: tuple[torch.Tensor, torch.Tensor], steps: int, seed: int) -> Iterator[Batch]:
    """Passages of the first text (0) or of the second (1), half a batch each, cut anywhere."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        tokens = []
        for kind in texts:
            starts = torch.randint(0, len(kind) - PASSAGE, (BATCH,), generator=generator)
            tokens += [kind[i : i + PASSAGE].clamp_min(1) for i in starts.tolist()]
        yield {"input_ids": torch.stack(tokens), "labels": torch.tensor([0] * BATCH + [1] * BATCH)}


def library_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """As transformers computes it: of float32 logits."""
    loss: torch.Tensor = model(**batch).loss
    return loss


def plain_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """In the model's own type."""
    logits, labels = model(input_ids=batch["input_ids"]).logits, batch["labels"]
    if labels.ndim == 1:
        return nn.functional.cross_entropy(logits, labels)
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def learn(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], loss_of: Any = library_loss
) -> list[float]:
    """The loss of every step."""
    model.train()
    losses = []
    for batch in batches:
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def full(model: Any) -> tuple[Any, list[Any]]:
    return model, list(model.parameters())


def gradnormlorp(**fields: Any) -> Method:
    settings = GradNormLorp.model_validate({"rank": 8, "projection_rank": 4, "refresh_interval": 50, **fields})

    def apply(model: Any) -> tuple[Any, list[Any]]:
        return apply_gradnormlorp(model, settings), parameter_groups(model, settings)

    return apply


def projected_adamw(params: Any, lr: float, **fields: Any) -> GradNormLoRPAdamW:
    return GradNormLoRPAdamW(params, lr=lr, projection_scale=1.0, **fields)


PROSE = """The quick answer to whether a run fits is rarely the right one. A model's weights are the part that everybody
counts, and for long sequences they are the smaller part; what backward needs is kept by forward, layer after layer, and
is freed in the opposite order. Between the two lies the peak. It moves when the batch grows, when a layer is computed
again instead of kept, and when the optimizer makes copies of what it updates."""
CODE = """def peak(tensors: list[Tensor]) -> int:
    alive, most = 0, 0
    for change in sorted(changes(tensors), key=lambda change: change.time):
        alive += change.bytes if change.born else -change.bytes
        most = max(most, alive)
    assert alive >= 0, "more was freed than was made"
    return most


class Tensor:
    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        self.bytes = math.prod(shape) * width
"""
"""Texts of this file's own, since Python's documentation differs between its versions."""


def as_bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode("ascii")))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A short training whose losses are kept. lr: of the optimizer. tolerance: relative, of every loss."""

    model: str = "gpt2"
    method: Method
    optimizer: Callable[..., torch.optim.Optimizer] = projected_adamw
    options: Mapping[str, Any] = field(default_factory=lambda: {"eps": EPS})
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-9
    lr: float = 1e-2


STEPS = 16
EPS = 1e-4
"""Adam's, large enough that gradients which are nothing but rounding (GPT-2's key biases) do not steer."""
SOON: dict[str, Any] = {"refresh_interval": 6}
"""So that the projectors of a short training are refreshed twice."""
EIGHT_BIT: dict[str, Any] = {"options": {"state": "8-bit", "eps": EPS}, "dtype": torch.float32, "tolerance": 1e-4}
"""8-bit moments refuse float64, and a rounding of float32 may move a moment to the next of its 256 codes."""
CURVES: dict[str, Curve] = {
    "full": Curve(method=full, optimizer=torch.optim.AdamW, lr=3e-3),
    "llama, two-sided": Curve(model="llama", method=gradnormlorp(**SOON), tolerance=1e-5),
    "two-sided": Curve(method=gradnormlorp(**SOON)),
    "one-sided": Curve(method=gradnormlorp(projection="one-sided", **SOON)),
    "exact norm": Curve(method=gradnormlorp(norm="exact", **SOON)),
    "8-bit": Curve(method=gradnormlorp(**SOON), **EIGHT_BIT),
    "roberta, two-sided": Curve(model="roberta", method=gradnormlorp(train_rest=False, **SOON)),
    "roberta, one-sided": Curve(model="roberta", method=gradnormlorp(train_rest=False, projection="one-sided", **SOON)),
}
KEPT = Path(__file__).with_name("losses.json")


def losses_of(curve: Curve) -> list[float]:
    """Its losses, step by step: the same on every machine within its tolerance, whatever the library's own weights."""
    batches: Iterable[Batch]
    if curve.model == "roberta":  # a random encoder learns one batch in so few steps
        model = small_roberta()
        batches = list(passages((as_bytes(PROSE), as_bytes(CODE)), 1, seed=1)) * STEPS
    else:
        model = small_llama() if curve.model == "llama" else small_gpt2()
        batches = next_byte_batches(as_bytes(PROSE), STEPS, seed=1)
    _set_weights(model.to(torch.float64))
    torch.manual_seed(0)
    adapted, params = curve.method(model.to(curve.dtype))
    return learn(adapted, curve.optimizer(params, lr=curve.lr, **curve.options), batches, plain_loss)


def _set_weights(model: nn.Module) -> None:
    """Uniform matrices from a seed, in the order of their names."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, param in sorted(model.named_parameters()):
            if param.ndim > 1:
                param.uniform_(-0.035, 0.035, generator=generator)


def main() -> None:
    curves = {name: losses_of(curve) for name, curve in CURVES.items()}
    KEPT.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
