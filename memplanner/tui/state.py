"""What the interface edits: a plan file's table, the flags laid over it, and the estimate of both."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from memplanner.catalogue import all_gpus, all_models, key
from memplanner.errors import Problem, UserError
from memplanner.plan import moment_width
from memplanner.plan.flags import BY_FLAG, METHODS, MODEL, OPTIONS, Value, command_line, command_words, has_use, useful
from memplanner.plan.merge import merge
from memplanner.plan.sources import Source, find_source
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, Predictor, longest_sequence, widest_rank
from memplanner.prediction.recorded import answer_of
from memplanner.report.phrases import device_word
from memplanner.settings.base import Settings
from memplanner.settings.describe import word_for

Flags = dict[str, Value]

FIELDS: tuple[str, ...] = (MODEL, *(option.flag for option in OPTIONS))
_STEPS = {"--rank": 2, "--projection-rank": 2, "--seq-len": 2, "--batch-size": 1, "--grad-accumulation": 1}
"""Fields that keys move: by factors of two, or by ones."""
_WORDS = {
    "--checkpointing": ("none", "every-2", "every-4", "full"),
    moment_width.FLAG: tuple(map(str, moment_width.TABLES)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Something to pick: what is typed, and a few words about it."""

    value: str
    about: str = ""


def title_of(name: str) -> str:
    """A field's name on the screen."""
    words = name.removeprefix("--").replace("-", " ")
    return {"gpu": "GPU", "seq len": "sequence", "batch size": "batch", "grad accumulation": "accumulation"}.get(
        words, words
    )


def about(name: str) -> str:
    """One line of help."""
    return "A bundled model, or the path of a config.json." if name == MODEL else BY_FLAG[name].describe()


def is_switch(name: str) -> bool:
    """Whether the field is on or off."""
    return name in BY_FLAG and BY_FLAG[name].values == "switch"


def is_number(name: str) -> bool:
    """Whether the field is a whole number that keys move."""
    return name in _STEPS


def options_for(name: str) -> tuple[Choice, ...]:
    """What a field may be, for the pickers; nothing for numbers and free text."""
    if name == MODEL:
        models = (m for m in all_models() if answer_of(m.config) != "traced")  # a trace takes seconds for every change
        return tuple(Choice(value=m.id, about=m.name if m.name != m.id else "") for m in models)
    if name == "--gpu":
        return tuple(Choice(value=g.id, about=f"{g.name}, {g.total.bytes / (1 << 30):.1f} GiB") for g in all_gpus())
    if is_switch(name) or is_number(name):
        return ()
    return tuple(Choice(value=word) for word in _WORDS.get(name) or BY_FLAG[name].words)


def value_in(plan: TrainingPlan, name: str) -> str:
    """A field of a plan as it would be typed; "" where it has none."""
    if name == MODEL:
        return plan.model
    if name == "--gpu":
        return device_word(plan)
    if name == moment_width.FLAG:
        return moment_width.bits_of(plan.optimizer)
    option = BY_FLAG[name]
    value: object = plan
    for part in option.path:
        value = getattr(value, part, None)
    if isinstance(value, Settings):
        return word_for(option.owner, option.path[-1], value)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def applies(plan: TrainingPlan, name: str) -> bool:
    """Whether the plan's method, base and optimizer have such a setting."""
    if name == "--kbit-preparation":
        return plan.quantization != "none"
    if name == moment_width.FLAG:
        return plan.optimizer.kind in moment_width.KINDS
    return name == MODEL or has_use(name, plan.method.kind)


def ceiling(plan: TrainingPlan, name: str, root: Path) -> int:
    """The most that makes sense of a number in a plan."""
    if name in ("--rank", "--projection-rank"):
        return widest_rank(plan, root=root)
    if name == "--seq-len":
        return longest_sequence(plan, root=root) or 1 << 20
    return 1 << 16


@dataclass
class PlanState:
    """The plan being edited. `estimate` is of the last plan without problems; `problems` are the present ones by field.

    source: the table under everything. plan_file: what --plan names it by, "" where nothing has to.
    root: where relative model paths start.
    """

    source: Source
    plan_file: str = ""
    flags: Flags = field(default_factory=dict)
    estimate: Estimate = field(init=False)
    problems: dict[str, Problem] = field(default_factory=dict)
    _undo: list[Flags] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.predictor = Predictor(self.source.root, traces=False)
        self.estimate = self.predict(self.flags)

    @property
    def plan(self) -> TrainingPlan:
        """The last plan without problems."""
        return self.estimate.plan

    @property
    def root(self) -> Path:
        """The directory that relative model paths start from."""
        return self.source.root

    def plan_of(self, flags: Mapping[str, Value]) -> TrainingPlan:
        """The plan that the table and these flags come to; UserError with every problem."""
        table = dict(self.source.table)
        if MODEL in flags:
            table[MODEL] = flags[MODEL]
        typed = {flag: value for flag, value in flags.items() if flag != MODEL}
        return merge(table, typed, where=self.source.label)

    def predict(self, flags: Mapping[str, Value]) -> Estimate:
        """The estimate of the plan of these flags."""
        return self.predictor(self.plan_of(flags))

    def text(self, name: str) -> str:
        """A field as it stands: as typed, while anything has a problem, since the plan is an older one then."""
        if self.problems and name in self.flags:
            typed = self.flags[name]
            return typed if isinstance(typed, str) else "on" if typed else "off"
        return value_in(self.plan, name)

    def set(self, name: str, value: Value) -> None:
        """Type a value into a field. A wrong one is kept and marked, and the estimate stays that of the last plan."""
        self.change({name: value})

    def change(self, changes: Mapping[str, Value]) -> None:
        """Change several fields at once, as one step to undo."""
        before = dict(self.flags)
        self.flags = self.merged(changes)
        if self.flags != before:
            self._undo.append(before)
            self._predict_or_explain()

    def _without_useless(self, changes: Mapping[str, Value]) -> Flags:
        """The flags so far, without those that the new method or optimizer has no use for."""
        method = changes.get("--method")
        flags = useful(self.flags, str(method)) if method in METHODS else dict(self.flags)
        for flag in changes:
            flags.pop(moment_width.RIVALS.get(flag, ""), None)
        return flags

    def reset(self, name: str) -> None:
        """Reset the field to what the table says."""
        if name in self.flags:
            self._undo.append(dict(self.flags))
            del self.flags[name]
            self._predict_or_explain()

    def merged(self, changes: Mapping[str, Value]) -> Flags:
        """The flags with some changed, without changing any."""
        return {**self._without_useless(changes), **changes}

    def undo(self) -> bool:
        """Take the last change back; False where there is none."""
        if not self._undo:
            return False
        self.flags = self._undo.pop()
        self._predict_or_explain()
        return True

    def _predict_or_explain(self) -> None:
        try:
            self.estimate = self.predict(self.flags)
        except UserError as error:
            self.problems = {}
            for problem in error.problems:
                self.problems.setdefault(self._field_of(problem), problem)
        else:
            self.problems = {}

    def _field_of(self, problem: Problem) -> str:
        """The field that a problem is shown at; the last one changed where none can be told."""
        if problem.where in BY_FLAG:
            return problem.where
        if problem.where in ("model", "gpu"):
            return MODEL if problem.where == "model" else "--gpu"
        keys = tuple(problem.key.split("."))
        exact = next((o.flag for o in OPTIONS if o.path == keys), "")
        if exact:
            return exact
        changed = [name for name in self.flags if not self._undo or self._undo[-1].get(name) != self.flags[name]]
        return changed[-1] if changed else MODEL

    def moved(self, name: str, steps: int) -> Value | None:
        """The field's value `steps` further (below zero: back); None where it cannot be moved."""
        if not applies(self.plan, name):
            return None
        text = self.text(name)
        if is_switch(name):
            return text != "on"
        if is_number(name):
            if not text.isdigit():
                return None
            return str(self._moved_number(name, int(text), steps))
        values = [choice.value for choice in options_for(name)]
        if not values:
            return None
        keys = [key(value) for value in values]
        at = keys.index(key(text)) if key(text) in keys else -1 if steps > 0 else 0
        return values[(at + steps) % len(values)]

    def _moved_number(self, name: str, number: int, steps: int) -> int:
        if _STEPS[name] == 1:
            return max(1, number + steps)
        for _ in range(abs(steps)):  # to the next power of two
            number = 1 << number.bit_length() if steps > 0 else 1 << max(number - 1, 1).bit_length() - 1
        return max(1, min(number, self.ceiling(name)))

    def ceiling(self, name: str) -> int:
        """The most that makes sense of a number."""
        return ceiling(self.plan, name, self.root)

    @property
    def command(self) -> str:
        """The command line that asks `check` about this plan."""
        plan_file = {"--plan": self.plan_file} if self.plan_file else {}
        typed = {MODEL: self.flags[MODEL]} if MODEL in self.flags else {}
        return command_line(["memplanner", "check", *command_words({**typed, **plan_file, **self.flags})])


def start(root: Path, *, plan_file: str = "", model: str = "", flags: Mapping[str, Value] | None = None) -> PlanState:
    """The state that `memplanner tui` with these arguments begins in; UserError where they are wrong."""
    source = find_source(root, plan_file, default=not model)
    if model:
        source = Source(table=source.table, label=source.label, root=root)
    typed: Flags = {MODEL: model} if model else {}
    named = plan_file or source.label.removeprefix("bundled plan ") * source.label.startswith("bundled plan ")
    return PlanState(source=source, plan_file=named, flags={**typed, **(flags or {})})
