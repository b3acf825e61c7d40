"""Warm predictions: the time of one more `predict`, by itself and with all that `check` reads off it.

`python -m benchmarks.warm [--rounds N]`. Every row's smallest time over N interleaved rounds, and its ratio to the
first row's. A prediction walks equal blocks once, so depth must cost nothing: the second row is the first model with
four times as many layers. The third is a real deep one, whose grouped heads add operations to each block.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from memplanner import Estimate, TrainingPlan, predict
from memplanner.allocator.simulation import AllocatorSimulation
from memplanner.catalogue import find_model

LIMIT_MS = 1.0
"""What one prediction of LLaMA-7B may take."""
LIMIT_RATIO = 1.2
"""What a 126-layer model may take, in times of that."""
DEEP = 126


def deepened(model: str, layers: int, folder: Path) -> str:
    """The path of that model's config.json with another number of layers."""
    config = find_model(model).config | {"num_hidden_layers": layers}
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return str(path)


def plans(folder: Path) -> dict[str, TrainingPlan]:
    """What is timed, by label; ratios are to the first."""
    lora = {"method": {"kind": "lora"}, "step": {"checkpointing": "full"}}
    return {
        "llama-7b, 32 layers": TrainingPlan(model="llama-7b"),
        f"llama-7b with {DEEP} layers": TrainingPlan(model=deepened("llama-7b", DEEP, folder)),
        f"llama-3.1-405b, {DEEP} layers": TrainingPlan(model="llama-3.1-405b"),
        "llama-7b, LoRA, checkpointing": TrainingPlan.model_validate({"model": "llama-7b", **lora}),
    }


def verdict(plan: TrainingPlan) -> tuple[Estimate, object]:
    """A prediction with everything `check` shows, and with nothing remembered of the allocator's earlier answers."""
    estimate = predict(plan, simulation=AllocatorSimulation())
    return estimate, (estimate.verdict, estimate.at_peak, estimate.persistent, estimate.num_parameters)


def seconds(ask: Callable[[TrainingPlan], object], plan: TrainingPlan) -> float:
    """Time of one call."""
    start = time.perf_counter()
    ask(plan)
    return time.perf_counter() - start


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="how often each is timed (default: 300)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        asked = plans(Path(folder))
        best = {(label, ask): float("inf") for label in asked for ask in (predict, verdict)}
        gc.disable()
        for _ in range(rounds):
            for (label, ask), fastest in best.items():
                best[label, ask] = min(fastest, seconds(ask, asked[label]))
            gc.collect()
    first = next(iter(asked))
    print(f"Warm prediction, best of {rounds}\n")
    print(f"{'plan':<32}{'predict':>11}{'ratio':>8}{'and verdict':>14}{'ratio':>8}")
    for label in asked:
        one, all_ = best[label, predict], best[label, verdict]
        ratios = one / best[first, predict], all_ / best[first, verdict]
        print(f"{label:<32}{one * 1e3:>8.3f} ms{ratios[0]:>8.2f}{all_ * 1e3:>11.3f} ms{ratios[1]:>8.2f}")
    base = best[first, predict] * 1e3
    print(f"\n{first}: {base:.3f} ms, wanted below {LIMIT_MS:g} ms: {'met' if base < LIMIT_MS else 'missed'}")
    for label in list(asked)[1:3]:
        ratio = best[label, predict] / best[first, predict]
        print(f"{label}: {ratio:.2f}×, wanted at most {LIMIT_RATIO}×: {'met' if ratio <= LIMIT_RATIO else 'missed'}")


if __name__ == "__main__":
    main()
