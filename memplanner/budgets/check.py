"""Checks the named plans of a repository against their budgets and against the lock."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from memplanner.budgets.growth import Growth, growth
from memplanner.budgets.lock import LOCK_FILE, Lock, read_lock, snapshot
from memplanner.catalogue import is_bundled, model_inside
from memplanner.errors import Problem, UserError
from memplanner.files.lines import line_of
from memplanner.files.parse import file_error, read_text
from memplanner.files.sandbox import path_in_repository, resolve_inside
from memplanner.frameworks import Foreign
from memplanner.plan.merge import merge
from memplanner.plan.named import NamedTable
from memplanner.plan.sources import PLANS, find_named
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, Predictor
from memplanner.timeline import passes
from memplanner.units import MAX_BYTES, format_bytes

TOLERANCE: Final = 0.01
"""The growth over the lock that passes, as a share of what is locked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPlan:
    """A valid plan. path: its file as the user named it, if any. alone: whether the file holds no other plan. foreign:
    the other framework's config that it starts from, if any.
    """

    name: str
    plan: TrainingPlan
    root: Path
    path: Path | None = None
    alone: bool = False
    foreign: Foreign | None = None

    def place(self, key: str = "") -> tuple[Path | None, int]:
        """The file and line (from 1) that set a key of the plan: in its own table, else in the config that it starts
        from, else in the file's settings for all plans. A key that none of them sets is placed where the plan begins.
        """
        if self.path is None:
            return None, 1
        top = ("tool", "memplanner") if self.path.name == "pyproject.toml" else ()
        own = top if self.alone else (*top, PLANS, self.name)
        keys = key.split(".") if key else []
        text = read_text(self.path) if self.path.suffix == ".toml" else ""
        if keys and (line := line_of(text, (*own, *keys))):
            return self.path, line
        if keys and self.foreign is not None and (place := self.foreign.place(key)):
            return place
        if keys and (line := line_of(text, (*top, *keys))):
            return self.path, line
        above = ((*own, *keys)[:n] for n in range(len(own) + len(keys), 0, -1))
        return self.path, next((line for path in above if (line := line_of(text, path))), 1)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A plan and the result of checking it. needs_lock: whether growth over the lock beyond `tolerance` fails."""

    named: NamedPlan
    estimate: Estimate
    strict: bool = False
    growth: Growth | None = None
    """From the lock to now; None where there is no lock."""
    needs_lock: bool = False
    tolerance: float = TOLERANCE

    @property
    def over_budget(self) -> bool:
        """Whether the plan does not fit, or with `strict` fits tightly."""
        return not passes(self.estimate.verdict, strict=self.strict)

    @property
    def is_unlocked(self) -> bool:
        """Whether the plan must be in the lock and is not."""
        return self.needs_lock and (self.growth is None or self.growth.before is None)

    @property
    def has_grown(self) -> bool:
        """Whether the plan takes more than the lock and the tolerance allow."""
        return self.needs_lock and self.growth is not None and self.growth.share > self.tolerance

    @property
    def where(self) -> str:
        """The file to point at, from the repository's top; "" where the plan has none."""
        path, _ = self._place
        return "" if path is None else path_in_repository(path)

    @property
    def line(self) -> int:
        """The line to point at."""
        return self._place[1]

    @cached_property
    def _place(self) -> tuple[Path | None, int]:
        """The place of the setting that has added most, or where the plan begins."""
        rows = self.growth.rows if self.growth is not None else ()
        key = next((row.causes[0][0].key for row in rows if row.bytes > 0 and row.causes), "")
        if not key and self.growth is not None:
            key = next((change.key for change in self.growth.limits), "")
        return self.named.place(key)

    @property
    def ok(self) -> bool:
        """Whether the plan passes."""
        return not (self.over_budget or self.is_unlocked or self.has_grown)


@dataclass(frozen=True, kw_only=True)
class CheckedPlans:
    """All of a file's plans. gone: names that are in the lock and no longer in the file."""

    plans: tuple[Checked, ...]
    lock: Lock | None = None
    gone: tuple[str, ...] = ()

    @cached_property
    def failed(self) -> tuple[Checked, ...]:
        """The plans that do not pass."""
        return tuple(checked for checked in self.plans if not checked.ok)


def named_plans(root: Path, plan_file: str = "", flags: Mapping[str, Any] | None = None) -> tuple[NamedPlan, ...]:
    """The plans of memplanner.toml or of another file, with the flags laid over each; UserError with every problem."""
    source, tables = find_named(root, plan_file)
    assert source.path is not None, "what comes with memplanner holds one plan a file"
    plans: list[NamedPlan] = []
    problems: dict[str, Problem] = {}
    for named in tables:
        try:
            plans.append(_valid(named, source.root, source.path, flags or {}))
        except UserError as error:
            problems.update(
                (str(problem), problem) for problem in error.problems
            )  # a bad flag is reported once, not for every plan
    if problems:
        raise UserError(*problems.values())
    return tuple(plans)


def _valid(named: NamedTable, root: Path, path: Path, flags: Mapping[str, Any]) -> NamedPlan:
    plan = merge(named.table, flags, where=named.label)
    model_inside(root, plan.model, where=named.label)
    return NamedPlan(name=named.name, plan=plan, root=root, path=path, foreign=named.foreign)


def predicted(plans: tuple[NamedPlan, ...]) -> dict[str, Estimate]:
    """An estimate of each plan; UserError with the problems of all that cannot be predicted."""
    estimates: dict[str, Estimate] = {}
    problems: list[Problem] = []
    predictors: dict[Path, Predictor] = {}
    for named in plans:
        try:
            estimate = predictors.setdefault(named.root, Predictor(named.root))(named.plan)
            if estimate.device_bytes > MAX_BYTES:
                message = f"needs {format_bytes(estimate.device_bytes)}, which is more memory than any device has"
                raise UserError(Problem(where="plan", key="", message=message))
            estimates[named.name] = estimate
        except UserError as error:
            problems += error.problems if named.path is None else (_placed(named, p) for p in error.problems)
    if problems:
        raise UserError(*problems)
    return estimates


def _placed(named: NamedPlan, problem: Problem) -> Problem:
    """A problem that a prediction raised, placed at the file and table of its plan."""
    where = str(named.path) if named.alone else f"{named.path}: {PLANS}.{named.name}"
    message = problem.message if problem.where == "plan" else f"{problem.where}: {problem.message}"
    return Problem(where=where, key=problem.key, message=message, hint=problem.hint)


def confined_predictor(root: Path) -> Callable[[TrainingPlan], Estimate]:
    """A Predictor that refuses models outside the repository, since a plan from a lock may be hostile."""
    predict = Predictor(root)

    def predict_inside(plan: TrainingPlan) -> Estimate:
        model_inside(root, plan.model, where=LOCK_FILE)
        return predict(plan)

    return predict_inside


def _verify(lock: Lock, plans: tuple[NamedPlan, ...], estimates: Mapping[str, Estimate]) -> None:
    """UserError where a lock of this version has other figures than its own plans need: somebody has changed them. Of
    models that do not come with memplanner nobody can say, since their config.json may have changed.
    """
    if lock.memplanner != version("memplanner"):
        return
    problems = []
    for named in plans:
        kept = lock.plans.get(named.name)
        if kept is None or not is_bundled(str(kept.plan.get("model"))):
            continue
        estimate = estimates[named.name]
        if estimate.plan.model_dump(mode="json") != kept.plan:
            try:
                plan = TrainingPlan.model_validate(kept.plan)
                estimate = confined_predictor(named.root)(plan)
            except (ValidationError, UserError):  # of a model that has changed, or is gone
                continue
        now = snapshot(estimate)
        if kept.model_copy(update={"plan": now.plan}) != now:
            message = f"has other figures than its plan needs (device {format_bytes(now.device_bytes)}, "
            message += f"not {format_bytes(kept.device_bytes)}): they were changed by hand"
            where, key = LOCK_FILE, f"plans.{named.name}"
            problems.append(Problem(where=where, key=key, message=message, hint="`memplanner lock` writes it anew"))
    if problems:
        raise UserError(*problems)


def lock_beside(plans: tuple[NamedPlan, ...]) -> Path:
    """The path of the lock that belongs to the plans' file."""
    path = plans[0].path
    assert path is not None, "named plans come from a file"
    return path.parent / LOCK_FILE


def check_plans(
    plans: tuple[NamedPlan, ...],
    *,
    lock_path: Path | None = None,
    locked: bool = False,
    tolerance: float = TOLERANCE,
    strict: bool = False,
) -> CheckedPlans:
    """Check each plan against its budget and, where there is a lock, against the lock.

    lock_path: where a lock may be. locked: whether it must exist and hold every plan; growth beyond the tolerance then
    fails.
    """
    estimates = predicted(plans)
    if lock_path is not None:
        resolve_inside(lock_path.parent, lock_path.name, where=str(lock_path), key="")
    if locked and lock_path is not None and not lock_path.exists():
        raise file_error(lock_path, "no such file", "`memplanner lock` writes it")
    lock = read_lock(lock_path) if lock_path is not None and (locked or lock_path.exists()) else None
    if lock is not None:
        _verify(lock, plans, estimates)
    checked = []
    for named in plans:
        estimate = estimates[named.name]
        change_since_lock = None
        if lock is not None:
            before = lock.plans.get(named.name)
            versions = (lock.memplanner, version("memplanner"))
            change_since_lock = growth(
                named.name, before, snapshot(estimate), confined_predictor(named.root), versions=versions
            )
        checked.append(
            Checked(
                named=named,
                estimate=estimate,
                strict=strict,
                growth=change_since_lock,
                needs_lock=locked,
                tolerance=tolerance,
            )
        )
    gone = tuple(name for name in lock.plans if name not in estimates) if lock is not None else ()
    return CheckedPlans(plans=tuple(checked), lock=lock, gone=gone)
