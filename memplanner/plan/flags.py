"""The flags of every command that takes a plan: each is a field of TrainingPlan under another name.

The field's annotation gives the values, its docstring the help; nothing is said twice.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from memplanner.errors import Problem
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.describe import choices, field_docs, kind_of, owners
from memplanner.settings.errors import show

_INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A flag and the field it sets.

    path: the field, from TrainingPlan down, e.g. ("method", "rank").
    values: how the typed text is read; "switch" options take no text and have a --no- form.
    metavar: what the help shows for the value; "" to derive it from the field.
    """

    flag: str
    path: tuple[str, ...]
    values: Literal["text", "integer", "switch"] = "text"
    metavar: str = ""

    @property
    def dest(self) -> str:
        """The flag as argparse names its value."""
        return self.flag.removeprefix("--").replace("-", "_")

    def read(self, text: str) -> Any:
        """The typed text as a plan value; a Problem when it is not even of the right type."""
        if self.values != "integer":
            return text
        if _INTEGER.fullmatch(text) is None:
            return Problem(where=self.flag, key="", message=f"{show(text)} is not a whole number")
        return int(text)

    def describe(self) -> str:
        """One line of help, from the docstring of the field, with the methods that have it when not all do."""
        classes = owners(TrainingPlan, self.path)
        docs = (field_docs(cls).get(self.path[-1], "") for cls in classes)
        doc = _EXTRA_HELP.get(self.flag) or next(filter(None, docs), "")
        if len(self.path) > 1 and self.path[0] == "method":
            doc += f" ({', '.join(kind_of(cls) for cls in classes)})"
        return doc

    def placeholder(self) -> str:
        """What the help shows for the value."""
        if self.metavar or self.values == "switch":
            return self.metavar
        words = choices(owners(TrainingPlan, self.path)[0], self.path[-1])
        return "|".join(words) or ("N" if self.values == "integer" else self.dest.upper())


OPTIMIZERS = ("adamw", "adamw-fused", "adamw-8bit", "sgd", "adafactor")

OPTIONS: tuple[Option, ...] = (
    Option(flag="--gpu", path=("device",), metavar="CARD|SIZE"),
    Option(flag="--method", path=("method",)),
    Option(flag="--rank", path=("method", "rank"), values="integer"),
    Option(flag="--projection-rank", path=("method", "projection_rank"), values="integer"),
    Option(flag="--target-modules", path=("method", "target_modules"), metavar="NAME,NAME"),
    Option(flag="--precision", path=("precision",)),
    Option(flag="--quantization", path=("quantization",)),
    Option(flag="--optimizer", path=("optimizer",), metavar="|".join(OPTIMIZERS)),
    Option(flag="--optimizer-bits", path=("optimizer", "state_dtype"), values="integer", metavar="8|16|32"),
    Option(flag="--batch-size", path=("step", "batch_size"), values="integer"),
    Option(flag="--seq-len", path=("step", "seq_len"), values="integer"),
    Option(flag="--grad-accumulation", path=("step", "grad_accumulation"), values="integer"),
    Option(flag="--checkpointing", path=("step", "checkpointing"), metavar="none|full|every-N"),
    Option(flag="--attention", path=("step", "attention")),
    Option(flag="--loss", path=("step", "loss")),
    Option(flag="--per-layer-updates", path=("step", "per_layer_updates"), values="switch"),
    Option(flag="--keep-gradients", path=("step", "keep_gradients"), values="switch"),
    Option(flag="--keep-outputs", path=("step", "keep_outputs"), values="switch"),
    Option(flag="--budget", path=("budget",), metavar="SIZE|SHARE"),
    Option(flag="--headroom", path=("headroom",), metavar="SIZE|SHARE"),
)
BY_FLAG = {option.flag: option for option in OPTIONS}

_EXTRA_HELP = {
    "--gpu": "A card of `memplanner gpus`, or a size such as 24GiB.",
    "--method": "How the model is trained.",
    "--optimizer": "adamw is torch's (foreach); adamw-fused what recent Trainers pick.",
    "--optimizer-bits": "Width of AdamW's moments: 8 is adamw-8bit, 16 is bf16, 32 is fp32.",
}
