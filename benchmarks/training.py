"""Learning curves: next-byte prediction on Python's own documentation, the same model, data and steps for every method.

Two regimes. Pre-training: everything outside the blocks' linear layers learns under every method. Fine-tuning: a model
is first trained whole on Python's sources, then each method adapts it to the documentation, adapters alone. Every
method takes the best of four learning rates; what counts is the loss on text held out.

    python -m benchmarks.training [--steps 300] [--regime pretrain|finetune|both]
"""

import argparse
import copy
import pydoc_data.topics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memplanner.gradnormlorp import GradNormLorp, GradNormLoRPAdamW, apply_gradnormlorp, fold_every, parameter_groups
from memplanner.harness.builders.models import quiet_libraries

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
BATCH, SEQ, RANK, PROJECTION_RANK = 16, 64, 16, 8
POINTS = 10

Made = tuple[Any, torch.optim.Optimizer]


def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=3,
            num_attention_heads=4,
            use_cache=False,
        )
    )


def documentation() -> torch.Tensor:
    topics = pydoc_data.topics.topics
    return torch.tensor(list("\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")))


def sources() -> torch.Tensor:
    folder = Path(argparse.__file__).parent
    return torch.tensor(list(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))[:60])))


def batches(text: torch.Tensor, steps: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(0, len(text) - SEQ, (BATCH,), generator=generator)
        yield torch.stack([text[i : i + SEQ] for i in starts.tolist()])


def learn(made: Made, text: torch.Tensor, steps: int) -> list[float]:
    """The loss of every step; linear warm-up over a tenth of them, then cosine decay."""
    net, optimizer = made
    net.train()
    curve = []
    warmup = max(1, steps // 10)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup),
        ],
        [warmup],
    )
    for tokens in batches(text, steps, seed=1):
        loss = net(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        curve.append(loss.item())
    return curve


@torch.no_grad()
def held_out(net: Any, text: torch.Tensor) -> float:
    net.eval()
    losses = [net(input_ids=tokens, labels=tokens).loss.item() for tokens in batches(text, 20, seed=2)]
    return sum(losses) / len(losses)


def full(net: Any, lr: float, *, rest: bool) -> Made:
    return net, torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0)


def peft(net: Any, lr: float, *, rest: bool, dora: bool) -> Made:
    from peft import LoraConfig, get_peft_model

    base = dict(net.named_parameters())
    adapted = get_peft_model(net, LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", use_dora=dora))
    if rest:
        for name, param in base.items():
            param.requires_grad_("_proj" not in name)
    return adapted, torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)


def galore(net: Any, lr: float, *, rest: bool) -> Made:
    """GaLore: the same optimizer over the whole weights, their short side projected."""
    targets = [p for name, p in net.named_parameters() if "_proj" in name]
    known = {id(p) for p in targets}
    groups = [
        {"params": targets, "projection_rank": RANK, "projection": "one-sided", "refresh_interval": 50},
        {"params": [p for p in net.parameters() if id(p) not in known]},
    ]
    return net, GradNormLoRPAdamW(groups, lr=lr, projection_scale=0.25)


def ours(net: Any, lr: float, *, rest: bool, state: Any = "param", folds: int = 0, **fields: Any) -> Made:
    chosen = {"rank": RANK, "projection_rank": PROJECTION_RANK, "refresh_interval": 50, "train_rest": rest, **fields}
    settings = GradNormLorp.model_validate(chosen)
    apply_gradnormlorp(net, settings)
    optimizer = GradNormLoRPAdamW(parameter_groups(net, settings), lr=lr, state=state, projection_scale=1.0)
    if folds:
        fold_every(folds, net, optimizer)
    return net, optimizer


def rivals(steps: int) -> dict[str, Callable[..., Made]]:
    return {
        "full AdamW": full,
        "LoRA": lambda net, lr, rest: peft(net, lr, rest=rest, dora=False),
        "DoRA": lambda net, lr, rest: peft(net, lr, rest=rest, dora=True),
        "GaLore": galore,
        "GradNormLoRP two-sided": ours,
        "GradNormLoRP one-sided": lambda net, lr, rest: ours(net, lr, rest=rest, projection="one-sided"),
        "GradNormLoRP unprojected": lambda net, lr, rest: ours(net, lr, rest=rest, projection_rank=1 << 10),
        "GradNormLoRP exact norm": lambda net, lr, rest: ours(net, lr, rest=rest, norm="exact"),
        "GradNormLoRP 8-bit": lambda net, lr, rest: ours(net, lr, rest=rest, state="8-bit"),
        "GradNormLoRP folded": lambda net, lr, rest: ours(net, lr, rest=rest, folds=max(1, steps // 4)),
    }


def report(title: str, start: nn.Module, text: torch.Tensor, steps: int, *, rest: bool) -> None:
    train, test = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    print(f"\n{title}: rank {RANK}, projection rank {PROJECTION_RANK}, {steps} steps of {BATCH} × {SEQ} bytes")
    print(f"start {held_out(start, test):.3f} held out\n")
    marks = [round((i + 1) * steps / POINTS) for i in range(POINTS)]
    print(f"{'':<26}{'rate':>7}  {'held out':>8}   training loss after {', '.join(map(str, marks))} steps")
    for name, method in rivals(steps).items():
        if name == "GaLore" and not rest:
            continue  # it trains the weights whole
        found = []
        for lr in RATES:
            torch.manual_seed(0)
            made = method(copy.deepcopy(start), lr, rest=rest)
            curve = learn(made, train, steps)
            found.append((held_out(made[0], test), lr, curve))
        loss, lr, curve = min(found)
        means = [sum(curve[max(0, m - steps // POINTS) : m]) / (steps // POINTS) for m in marks]
        print(f"{name:<26}{lr:>7g}  {loss:>8.3f}   {' '.join(f'{m:.2f}' for m in means)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--regime", choices=("pretrain", "finetune", "both"), default="both")
    args = parser.parse_args()
    quiet_libraries()
    if args.regime != "finetune":
        report("Pre-training", model(), documentation(), args.steps, rest=True)
    if args.regime != "pretrain":
        start = model()
        learn((start, torch.optim.AdamW(start.parameters(), lr=3e-3)), sources(), 2 * args.steps)
        report("Fine-tuning", start, documentation(), args.steps, rest=False)


if __name__ == "__main__":
    main()
