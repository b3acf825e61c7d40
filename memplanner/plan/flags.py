"""The flags of every command that takes a plan: each is a field of TrainingPlan under another name.

The field's annotation gives the values, its docstring the help; nothing is said twice.
"""

import functools
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from memplanner.components.methods.base import Method
from memplanner.components.methods.patterns import is_name
from memplanner.errors import Problem
from memplanner.frozen import Frozen
from memplanner.plan import qlora
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.base import Settings
from memplanner.settings.describe import choices, field_docs, kind_of, owners, words
from memplanner.settings.errors import one_of, show

_INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)

MODEL: Final = "model"
"""The model among typed values: the one that is typed without a flag."""
Value = str | bool
"""What is typed: a text, or True and False for a switch."""


class Option(Frozen):
    """A flag and the field it sets.

    path: the field, from TrainingPlan down, e.g. ("method", "rank").
    values: how the typed text is read; "switch" options take no text and have a --no- form, "names" are names with
    commas between them, or else a pattern as it is.
    metavar: what the help shows for the value; "" to derive it from the field.
    """

    flag: str
    path: tuple[str, ...]
    values: Literal["text", "integer", "switch", "names"] = "text"
    metavar: str = ""

    @property
    def dest(self) -> str:
        """The flag as argparse names its value."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def owner(self) -> type[Settings]:
        """The settings class whose field the flag sets; the first of them, where several methods have it."""
        return owners(TrainingPlan, self.path)[0]

    @property
    def words(self) -> tuple[str, ...]:
        """The words that the value may be, as they are typed; none where it is no choice among words."""
        return _words(self.path)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that have the setting; all of them, where it is not a method's own."""
        return _methods(self.path)

    def read(self, text: str) -> Any:
        """The typed text as a plan value; a Problem when it is not even of the right type."""
        if self.values == "names":
            return read_names(text)
        if self.values != "integer":
            return text
        if _INTEGER.fullmatch(text) is None:
            return Problem(where=self.flag, key="", message=f"{show(text)} is not a whole number")
        return int(text)

    def describe(self) -> str:
        """One line of help, from the docstring of the field, with the methods that have it when not all do."""
        docs = (field_docs(cls).get(self.path[-1], "") for cls in owners(TrainingPlan, self.path))
        doc = _EXTRA_HELP.get(self.flag) or next(filter(None, docs), "")
        if len(self.path) > 1 and self.path[0] == "method":
            doc += f" ({', '.join(self.methods)})"
        return doc

    def placeholder(self) -> str:
        """What the help shows for the value."""
        if self.metavar or self.values == "switch":
            return self.metavar
        return "|".join(self.words) or ("N" if self.values == "integer" else self.dest.upper())


def read_names(text: str) -> tuple[str, ...] | str:
    """The names in a typed text; the text itself where anything in it is more than a name, for it is a pattern then."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return names if all(map(is_name, names)) else text


@functools.cache
def _words(path: tuple[str, ...]) -> tuple[str, ...]:
    owner = owners(TrainingPlan, path)[0]
    return tuple(words(owner, path[-1])) or choices(owner, path[-1])


@functools.cache
def _methods(path: tuple[str, ...]) -> tuple[str, ...]:
    if len(path) == 1 or path[0] != "method":
        return choices(TrainingPlan, "method")
    return tuple(kind_of(cls) for cls in owners(TrainingPlan, path))


OPTIONS: tuple[Option, ...] = (
    Option(flag="--gpu", path=("device",), metavar="CARD|SIZE"),
    Option(flag="--method", path=("method",)),
    Option(flag="--rank", path=("method", "rank"), values="integer"),
    Option(flag="--projection-rank", path=("method", "projection_rank"), values="integer"),
    Option(flag="--target-modules", path=("method", "target_modules"), values="names", metavar="NAME,NAME"),
    Option(flag="--modules-to-save", path=("method", "modules_to_save"), values="names", metavar="NAME,NAME"),
    Option(flag="--precision", path=("precision",)),
    Option(flag="--quantization", path=("quantization",)),
    Option(flag="--kbit-preparation", path=("kbit_preparation",)),
    Option(flag="--optimizer", path=("optimizer",)),
    Option(flag="--optimizer-bits", path=("optimizer", "state_dtype"), values="integer", metavar="8|16|32"),
    Option(flag="--batch-size", path=("step", "batch_size"), values="integer"),
    Option(flag="--seq-len", path=("step", "seq_len"), values="integer"),
    Option(flag="--grad-accumulation", path=("step", "grad_accumulation"), values="integer"),
    Option(flag="--checkpointing", path=("step", "checkpointing"), metavar="none|full|every-N"),
    Option(flag="--attention", path=("step", "attention")),
    Option(flag="--torch", path=("torch",)),
    Option(flag="--loss", path=("step", "loss")),
    Option(flag="--per-layer-updates", path=("step", "per_layer_updates"), values="switch"),
    Option(flag="--keep-gradients", path=("step", "keep_gradients"), values="switch"),
    Option(flag="--keep-outputs", path=("step", "keep_outputs"), values="switch"),
    Option(flag="--expandable-segments", path=("allocator", "expandable_segments"), values="switch"),
    Option(flag="--task", path=("task",)),
    Option(flag="--num-labels", path=("num_labels",), values="integer"),
    Option(flag="--budget", path=("budget",), metavar="SIZE|SHARE"),
    Option(flag="--headroom", path=("headroom",), metavar="SIZE|SHARE"),
    Option(flag="--context", path=("device", "context"), metavar="SIZE"),
)
BY_FLAG = {option.flag: option for option in OPTIONS}

_EXTRA_HELP = {
    "--gpu": "A card of `memplanner gpus`, or a size such as 24GiB.",
    "--context": "What a process takes outside the caching allocator (CUDA context, kernels), such as 500MiB or 0; "
    "unset: the card's own, and for a size the largest of the bundled NVIDIA cards'.",
    "--method": "How the model is trained; qlora is lora over a base in nf4-double.",
    "--optimizer": "adamw is torch's (foreach); adamw-fused what recent Trainers pick.",
    "--optimizer-bits": "Width of AdamW's moments: 8 is adamw-8bit, 16 is bf16, 32 is fp32.",
}


METHODS: Final = (*choices(TrainingPlan, "method"), qlora.QLORA)
"""The words of --method."""


def spelled_out(flags: Mapping[str, Any]) -> dict[str, Any] | Problem:
    """The flags with --method qlora as the two settings that it stands for; a Problem where a typed format is not 4
    bits.
    """
    if not qlora.is_qlora(flags.get("--method")):
        return dict(flags)
    quantization = flags.get("--quantization", qlora.FORMATS[0])
    if quantization not in qlora.FORMATS:
        message = f"qlora is lora over a base in 4 bits, and --quantization is {show(quantization)}"
        hint = f"leave --quantization out, or type {one_of(qlora.FORMATS)}; --method lora takes any format"
        return Problem(where="--method", key="", message=message, hint=hint)
    return {**flags, "--method": qlora.UNDER, "--quantization": quantization}


def has_use(flag: str, method: str) -> bool:
    """Whether a plan with this method has the setting that the flag sets."""
    return (qlora.UNDER if method == qlora.QLORA else method) in BY_FLAG[flag].methods


def no_rank(method: Method) -> tuple[str, str]:
    """That the method has no rank to choose, and which methods have one."""
    return f"{method.label} has no rank", f"add --method {one_of(BY_FLAG['--rank'].methods)}"


def useful(typed: Mapping[str, Value], method: str) -> dict[str, Value]:
    """What is typed, without the flags that the method has no use for."""
    return {name: value for name, value in typed.items() if name not in BY_FLAG or has_use(name, method)}


def command_words(typed: Mapping[str, Value]) -> list[str]:
    """What is typed as words of a command line, the model first; for the shell, `command_line` joins them."""
    written = [str(typed[MODEL])] if MODEL in typed else []
    for flag, value in typed.items():
        if isinstance(value, bool):
            written.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif flag != MODEL:
            written += [flag, value]
    return written


def command_line(words: Sequence[str], *, windows: bool = sys.platform == "win32") -> str:
    """The words as they are typed into a shell. On Windows, where an apostrophe quotes nothing for cmd, all but the
    simplest are in quotation marks, which cmd and PowerShell both know, and in which PowerShell splits no list.
    """
    if windows:
        return " ".join(word if _PLAIN.fullmatch(word) else _in_quotation_marks(word) for word in words)
    import shlex  # for what is said at the end

    return shlex.join(words)


_PLAIN: Final = re.compile(r"[\w.:=/\\+-]+", re.ASCII)


def _in_quotation_marks(word: str) -> str:
    """As the C runtime takes a command line apart: a backslash counts twice before a quotation mark."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', word)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'
