"""The vocabulary in which predictions, traces and measurements are all written: phases, categories, tensor rows."""

from typing import Literal, Protocol, get_args

from memplanner.frozen import Frozen

Phase = Literal["load", "forward", "loss", "backward", "update", "refresh", "steady"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In the order a step passes through them. "update" is a plain optimizer step, "refresh" one that also recomputes
the projection subspaces; with per-layer updates both happen inside backward."""

Category = Literal[
    "parameters",
    "adapters",
    "gradients",
    "optimizer_state",
    "projectors",
    "activations",
    "temporaries",
    "workspaces",
    "inputs",
]
CATEGORIES: tuple[Category, ...] = get_args(Category)

Verdict = Literal["fits", "tight", "does-not-fit"]


def passes(verdict: Verdict, *, strict: bool = False) -> bool:
    """Whether the verdict lets a build or a search go on. strict: a tight fit does not."""
    return verdict == "fits" or (verdict == "tight" and not strict)


class Answered(Protocol):
    """What has been found out about a plan on a device."""

    @property
    def verdict(self) -> Verdict:
        """Whether it fits."""

    @property
    def is_squeezed(self) -> bool:
        """Whether it fits only because the allocator returns unused segments to the device and asks again."""


def advisable(answer: Answered, *, strict: bool = False) -> bool:
    """Whether people should be advised to run it: it passes, and not only by squeezing the allocator."""
    return passes(answer.verdict, strict=strict) and not answer.is_squeezed


class TensorRow(Frozen):
    """A tensor, or `count` equal ones, in the ledger.

    bytes: what the rows hold in the caching allocator: each tensor rounded up to its 512-byte blocks, times count.
    shape: as PyTorch would print it, e.g. (4, 256, 512).
    born, dies: the phases in which it is allocated and freed; "dies" is "" for what outlives the step.
    why: the formula with its numbers, e.g. "4 batch × 256 seq × 512 hidden × 2 B (bf16)".
    """

    name: str
    category: Category
    shape: tuple[int, ...]
    dtype: str
    count: int
    bytes: int
    born: Phase
    dies: Phase | Literal[""]
    why: str


class PhasePeak(Frozen):
    """The most that is allocated at any moment of a phase, and what is left allocated at its end. In bytes."""

    name: Phase
    peak_bytes: int
    end_bytes: int
