"""What is fuzzed: each target makes one input from a random generator and asks the program about it.

A target may raise UserError, which is an answer, and nothing else.
"""

import contextlib
import csv
import io
import itertools
import json
import random
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree as ET

from memplanner.budgets.check import NamedPlan, check_plans, named_plans
from memplanner.budgets.keywords import budget_request
from memplanner.budgets.lock import lock_from, lock_of, lock_text
from memplanner.catalogue import find_gpu, find_model
from memplanner.cli.main import COMMANDS, main
from memplanner.cli.typed_values import values_of
from memplanner.components.architectures.registry import read_config
from memplanner.components.architectures.tasks import Task
from memplanner.components.methods.patterns import (
    TooMuchWorkError,
    Work,
    check_end_pattern,
    check_pattern,
    matches_end,
    matches_whole,
)
from memplanner.errors import Problem, UserError
from memplanner.files.lines import line_of
from memplanner.files.parse import parse_json, parse_toml
from memplanner.files.yaml_text import key_lines, parse_yaml
from memplanner.frameworks import read_framework
from memplanner.measurement import load_measurement
from memplanner.plan.flags import OPTIONS
from memplanner.plan.load import load_plan
from memplanner.plan.merge import merge
from memplanner.prediction import Estimate, predict
from memplanner.prediction.margin import margin_from
from memplanner.prediction.recorded import answer_of, read_recorded_config
from memplanner.prediction.traced import TRACER
from memplanner.report.check_text import PlanAnswer
from memplanner.report.layout import wrap
from memplanner.report.markdown import JOINER
from memplanner.report.problems import NoAnswer
from memplanner.report.terminal import Page
from memplanner.report.writers import BUDGETS, CHECK, PROBLEMS
from memplanner.suite.definition import load_suite
from memplanner.tui.export import plan_table
from memplanner.units import parse_share, parse_size
from memplanner.validation.published import InexpressibleError, load_published, plan_of
from memplanner.validation.records import compare_record
from memplanner.validation.rows import Validation
from tests.fuzz import seeds
from tests.fuzz.mutate import HOSTILE_TEXTS, as_json, as_toml, as_yaml, mutated, scalar, scrambled, written

PAGE = Page(width=80)
LONGEST_LINE = 2200


class FindingError(Exception):
    """An answer that is not as it must be."""


@dataclass(frozen=True)
class Target:
    """name: for people. ask: one input, made and asked about, in the working directory. share: of a campaign's inputs,
    fewer where an input takes long. may_trace: whether an input may be a model that is traced.
    """

    name: str
    ask: Callable[[random.Random], object]
    share: int = 8
    may_trace: bool = False


# -- what must hold of every answer ------------------------------------------------------------------------------------


def judge_error(error: UserError) -> None:
    """A line for every problem, for people and terminals alike."""
    if not error.problems:
        raise FindingError("no problem is named")
    for problem in error.problems[:60]:
        _judge_line(str(problem))


def _judge_line(line: str) -> None:
    if not line.isprintable():
        raise FindingError(f"not printable: {line[:200]!r}")
    if len(line) > LONGEST_LINE:
        raise FindingError(f"a line of {len(line)} characters: {line[:200]}")


def _no_constant(name: str) -> NoReturn:
    raise FindingError(f"{name} is no JSON")


def judge_document(form: str, text: str) -> None:
    """The text can be read back as what it is."""
    if form in ("json", "sarif"):
        json.loads(text, parse_constant=_no_constant)
        text.encode("utf-8")
    elif form in ("junit", "svg"):
        ET.fromstring(text.encode("utf-8"))
    elif form == "toml":
        tomllib.loads(text)
    elif form == "csv":
        widths = {len(row) for row in csv.reader(io.StringIO(text))}
        if len(widths) > 1:
            raise FindingError(f"rows of CSV have {widths} columns")
    if form in ("text", "markdown", "github", "csv"):
        for line in text.replace(JOINER, "").split("\n"):
            if not line.isprintable():
                raise FindingError(f"{form} holds control characters: {line[:200]!r}")


def _form(words: Sequence[str]) -> str:
    typed = [after for word, after in itertools.pairwise(words) if word == "--format"]
    return typed[-1] if typed else "text"


def command(words: Sequence[str]) -> int:
    """One command in this process; its exit code, where all that it printed is as it must be."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    if code not in (0, 1, 2):
        raise FindingError(f"exit code {code}: {err.getvalue()[:600]}")
    lines = err.getvalue().removesuffix("\n").split("\n") if err.getvalue() else []
    if (code == 2) != bool(lines) or len(lines) > 60:
        raise FindingError(f"exit code {code} with {len(lines)} lines on stderr")
    for line in lines:
        _judge_line(line)
    if out.getvalue():
        judge_document(_form(words), out.getvalue())
    return code


def _put(name: str, text: str) -> Path:
    path = Path(name)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def set_up() -> None:
    """The files that others name, in the working directory."""
    Path(".git").mkdir()
    for name, config in (seeds.small_models() | seeds.recorded_models()).items():
        _put(f"{name}.json", json.dumps(config))
    _put("axolotl.yml", as_yaml(seeds.AXOLOTL))
    _put("adapter.json", as_json(seeds.ADAPTER))
    _put("trainer.json", as_json({k: v for k, v in seeds.TRAINER.items() if "lora" not in k and k != "use_peft"}))
    _put("plan.toml", as_toml(seeds.PLAN))
    _put("record.json", as_json(seeds.record()))
    _put("memplanner.toml", as_toml(seeds.NAMED[0]))
    _put("suite.toml", as_toml(seeds.SUITES[0]))
    _put("published.json", as_json(seeds.published()[0]))
    _put("memplanner.lock.json", _lock())


class Traces:
    """How many steps have been traced, which takes longer than all else."""

    made = 0


traces = Traces()


@cache
def warm_up() -> None:
    """Import what a trace needs, where it is installed: the first input that is traced would take these seconds. From
    then on traces are counted.
    """
    _put("unwritten.json", '{"model_type": "unwritten"}')
    with contextlib.suppress(UserError):
        predict(merge({"model": "unwritten.json"}, {}, where="seed"), root=Path())
    recording = sys.modules.get(TRACER)
    if recording is not None:
        record = recording.record

        def counted(*args: Any, **named: Any) -> Any:
            traces.made += 1
            return record(*args, **named)

        vars(recording)["record"] = counted


@cache
def _estimate() -> Estimate:
    return predict(merge({**seeds.PLAN, "model": "tiny.json"}, {}, where="seed"), root=Path())


@cache
def _lock() -> str:
    return lock_text(lock_of({"a": _estimate(), "b.c": _estimate()}))


# -- readers -----------------------------------------------------------------------------------------------------------

PLAN_WORDS = ("plan/*.py", "components/methods/*.py", "components/optimizers/*.py", "components/losses/*.py")
CONFIG_WORDS = ("components/architectures/*.py", "components/architectures/recorded/*.py")
FRAMEWORK_WORDS = ("frameworks/*.py",)


def _texts(rng: random.Random) -> None:
    value = rng.choice((seeds.PLAN, seeds.AXOLOTL, seeds.ADAPTER, *seeds.NAMED))
    form, write, parse = rng.choice(
        (("toml", as_toml, parse_toml), ("json", as_json, parse_json), ("yaml", as_yaml, parse_yaml))
    )
    text = scrambled(written(value, rng, write), rng)
    if form != "toml":
        key_lines(text)
    line_of(text, ("plans", "a"), form="toml" if form == "toml" else "yaml")
    parse(text, "file")


def _plan(rng: random.Random) -> None:
    value = mutated(rng.choice(seeds.PLANS), rng, seeds.words_in(*PLAN_WORDS))
    form, write = rng.choice((("toml", as_toml), ("json", as_json)))
    path = _put(f"fuzzed.{form}", written(value, rng, write))
    typed = [option.flag for option in rng.sample(OPTIONS, rng.choice((0, 0, 1, 3)))]
    flags = {flag: rng.random() < 0.5 if _is_switch(flag) else _word(rng, flag) for flag in typed}
    load_plan(root=Path(), plan_file=str(path), flags=flags)


def _is_switch(flag: str) -> bool:
    return any(option.flag == flag and option.values == "switch" for option in OPTIONS)


def _named(rng: random.Random) -> None:
    value = mutated(rng.choice(seeds.NAMED), rng, (*seeds.words_in(*PLAN_WORDS), "from", "ignore_keys", "plans"))
    if rng.random() < 0.3:
        named_plans(Path(), str(_put("pyproject.toml", written({"tool": {"memplanner": value}}, rng, as_toml))))
    else:
        named_plans(Path(), str(_put("named.toml", written(value, rng, as_toml))))


def _predicted(rng: random.Random) -> None:
    value = mutated(rng.choice(seeds.PLANS), rng, seeds.words_in(*PLAN_WORDS), most=2)
    plan = merge(value, {}, where="plan")
    if find_model(plan.model, Path()).parameters is None:  # the bundled ones take longer
        predict(plan, root=Path())


def _config(rng: random.Random) -> None:
    words = seeds.words_in(*CONFIG_WORDS)
    value = mutated(_seed_model(rng), rng, words)
    path = _put("config-fuzzed.json", written(value, rng, as_json))
    profile = find_model(str(path), Path())
    task: Task | None = rng.choice((None, None, "sequence-classification", "question-answering"))
    if answer_of(profile.config, task) == "recorded":
        read_recorded_config(profile.config, profile.source, attention=rng.choice(("sdpa", "eager")))
    else:
        read_config(profile.config, profile.source, task=task)


def _seed_model(rng: random.Random) -> dict[str, Any]:
    models = seeds.small_models() if rng.random() < 0.5 else seeds.recorded_models()
    return rng.choice(list(models.values()))


def _model(rng: random.Random) -> None:
    value = mutated(_seed_model(rng), rng, seeds.words_in(*CONFIG_WORDS), most=2)
    _put("model-fuzzed.json", as_json(value))
    predict(merge({**rng.choice(seeds.PLANS), "model": "model-fuzzed.json"}, {}, where="plan"), root=Path())


def _framework(rng: random.Random) -> None:
    words = seeds.words_in(*FRAMEWORK_WORDS)
    config = rng.choice((seeds.AXOLOTL, seeds.AXOLOTL_FULL, seeds.FACTORY, seeds.TRAINER, seeds.ADAPTER))
    form, write = rng.choice((("yml", as_yaml), ("json", as_json)))
    path = _put(f"framework-fuzzed.{form}", written(mutated(config, rng, words), rng, write))
    paths = [path, Path("adapter.json")] if rng.random() < 0.1 else [path]
    foreign = read_framework(paths, rng.choice(("", "", "tiny.json")), rng.choice(((), (), ("lora_r",))))
    foreign.place("method.rank")
    merge(foreign.table | {"model": "tiny.json"}, {}, where="config")


def _suite(rng: random.Random) -> None:
    words = (*seeds.words_in(*PLAN_WORDS), "step.seq_len", "method.rank", "step", "device.name", "group", "grid")
    load_suite(str(_put("suite-fuzzed.toml", written(mutated(seeds.SUITES[0], rng, words), rng, as_toml))), Path())


def _record(rng: random.Random) -> None:
    words = (*seeds.words_in("measurement.py", "timeline.py"), *seeds.record())
    path = _put("record-fuzzed.json", written(mutated(seeds.record(), rng, words, most=2), rng, as_json))
    record = load_measurement(path)
    validation = Validation()
    compare_record(validation, record, Path("scratch"))
    validation.groups()
    validation.by_metric()
    validation.beyond(0.02)


def _published(rng: random.Random) -> None:
    words = seeds.words_in("validation/published.py")
    path = _put("published-fuzzed.json", written(mutated(rng.choice(seeds.published()), rng, words), rng, as_json))
    for row in load_published(path):
        with contextlib.suppress(InexpressibleError):
            plan_of(row, Path("scratch"))


def _margins(rng: random.Random) -> None:
    sources = [f"source {n}" for n in range(rng.randint(2, 12))]
    runs = {source: [rng.uniform(-0.5, 0.5) for _ in range(rng.randint(1, 5))] for source in sources}
    share = margin_from({"LoRA": runs}, rng.choice(("LoRA", "other", ""))).share
    if not 0 <= share < 100:
        raise FindingError(f"a margin of {share}")


def _locked(rng: random.Random) -> None:
    words = seeds.words_in("budgets/lock.py", "timeline.py", *PLAN_WORDS)
    text = written(mutated(json.loads(_lock()), rng, words), rng, as_json)
    if rng.random() < 0.8:
        lock_from(text, "lock")
        return
    folder = Path("locked")
    folder.mkdir(exist_ok=True)
    (folder / ".git").mkdir(exist_ok=True)
    for name in ("tiny.json", "gpt2.json"):
        (folder / name).write_bytes(Path(name).read_bytes())
    lock = folder / "memplanner.lock.json"
    lock.write_bytes(text.encode("utf-8", "surrogatepass"))
    plan = _estimate().plan
    named = NamedPlan(name="a", plan=plan, root=folder, path=folder / "memplanner.toml")
    (folder / "memplanner.toml").write_text('[plans.a]\nmodel = "tiny.json"\n', encoding="utf-8")
    checked = check_plans((named,), lock_path=lock, locked=True)
    for form in BUDGETS.formats:
        judge_document(form, BUDGETS.write(form, checked, PAGE))


def _patterns(rng: random.Random) -> None:
    atoms = (
        "a",
        ".",
        "*",
        "+",
        "?",
        "|",
        "(",
        ")",
        "[a-z]",
        "\\d",
        "\\.",
        "{2,3}",
        "^",
        "$",
        "layers",
        "(?:",
        "(?=",
        "(?<=a)",
    )
    pattern = "".join(rng.choice(atoms) for _ in range(rng.randint(1, 40)))
    for check, matches in ((check_pattern, matches_whole), (check_end_pattern, matches_end)):
        with contextlib.suppress(ValueError, TooMuchWorkError):
            check(pattern)
            matches(pattern, "model.layers.0.self_attn.q_proj", Work())


def _words(rng: random.Random) -> None:
    text = (
        rng.choice(HOSTILE_TEXTS)
        if rng.random() < 0.5
        else scrambled(rng.choice(("1..16", "8,16,…,1024", "24GiB")), rng)
    )
    for read in (parse_size, parse_share):
        with contextlib.suppress(ValueError):
            read(text)
    find = rng.choice((find_gpu, lambda name: find_model(name, Path()), lambda name: values_of("--rank", name)))
    find(text)


def _keywords(rng: random.Random) -> None:
    known = ("plan", "model", "strict", "locked", "tolerance", *(option.dest for option in OPTIONS))
    keywords: dict[str, Any] = {"model": "tiny.json"}
    for _ in range(rng.randint(1, 4)):
        keywords[rng.choice(known)] = rng.choice(("tiny.json", "lora", "8", 8, "a", scalar(rng), scalar(rng)))
    budget_request(keywords, Path(), where="test")


# -- commands ----------------------------------------------------------------------------------------------------------

GOOD = {
    "--gpu": ("rtx4090", "24GiB"),
    "--method": ("lora", "full", "galore", "gradnormlorp", "dora"),
    "--rank": ("8", "4"),
    "--batch-size": ("1", "2"),
    "--seq-len": ("32", "64"),
    "--format": ("text", "json", "markdown", "svg", "csv", "sarif", "junit", "github", "auto"),
    "--plan": ("plan.toml", "memplanner.toml", "a", "record.json"),
    "--from": ("axolotl.yml", "adapter.json", "trainer.json"),
    "--ignore-key": ("plugins",),
    "--published": ("published.json",),
    "--tolerance": ("2%", "100%"),
    "--both": ("per-layer-updates",),
    "--maximize": ("rank", "batch-size", "seq-len"),
    "--evidence": ("record.json",),
    "--ranks": ("4,8",),
    "--methods": ("lora,full",),
    "--top": ("3",),
    "--show": ("all", "fits", "frontier"),
    "--against": ("measured",),
}
"""Values that get a command to its work."""
COMMAND_FLAGS: dict[str, tuple[str, ...]] = {
    "check": ("--all", "--locked", "--strict", "--tolerance", "--plan", "--from", "--ignore-key", "--format"),
    "explain": ("--top", "--plan", "--from", "--format"),
    "compare": ("--methods", "--ranks", "--plan", "--format"),
    "fit": ("--maximize", "--evidence", "--strict", "--plan", "--format"),
    "sweep": ("--both", "--show", "--strict", "--plan", "--format"),
    "diff": ("--tolerance", "--format"),
    "validate": ("--published", "--tolerance", "--against", "--format"),
    "lock": ("--plan",),
    "gpus": ("--format",),
    "models": ("--format",),
    "paper": ("--format",),
    "schema": ("--help",),
    "tui": ("--plan", "--port", "--records", "--nope"),
    "profile": ("--suite", "--time-limit", "--again", "--steps", "--warmup", "--entry", "--nope"),
}
OF_A_PLAN = ("check", "explain", "compare", "fit", "sweep")
PEOPLE, ANYBODY = ("text", "json", "markdown"), ("text", "json", "markdown", "sarif", "junit", "github")


def _word(rng: random.Random, flag: str) -> str:
    if rng.random() < 0.5 and flag in GOOD:
        return rng.choice(GOOD[flag])
    chance = rng.random()
    if chance < 0.3:
        return rng.choice(seeds.words_in(*PLAN_WORDS))
    return rng.choice(HOSTILE_TEXTS) if chance < 0.85 else str(rng.choice((0, 1, -1, 7, 1 << 20, 1 << 63, 10**40, 1.5)))


def _model_file(rng: random.Random) -> str:
    return rng.choice(("tiny", "gpt2", *seeds.recorded_models())) + ".json"


def _argv(rng: random.Random) -> None:
    """Words that mostly end at the arguments."""
    offline = tuple(name for name in COMMANDS if name != "fetch")  # which would ask the hub
    name = rng.choice(offline) if rng.random() < 0.98 else rng.choice(HOSTILE_TEXTS)
    words = [name]
    own = COMMAND_FLAGS.get(name, ("--plan",))
    plan_flags = (
        tuple(option.flag for option in OPTIONS) if name in ("check", "explain", "compare", "fit", "sweep") else ()
    )
    for _ in range(rng.randint(0, 5)):
        flag = rng.choice(own) if rng.random() < 0.6 or not plan_flags else rng.choice(plan_flags)
        words.append(flag)
        if not _is_switch(flag) and rng.random() < 0.95:
            words.append(_word(rng, flag))
        if rng.random() < 0.2:
            words.append(_word(rng, "MODEL"))
    if name in ("tui", "profile"):  # only as far as they are refused
        words.append("--no-such-flag")
    elif not {"--plan", "--from", "--all"} & {*words} and name in OF_A_PLAN:
        words.insert(1, _model_file(rng))
    command([word for word in words if "\x00" not in word])


def _asked(rng: random.Random) -> None:
    """A file in which something is wrong, or odd, through a whole command and out as a document."""
    words: list[str]
    forms: tuple[str, ...]
    match rng.randrange(7):
        case 0 | 1:
            value = mutated(rng.choice(seeds.PLANS), rng, seeds.words_in(*PLAN_WORDS), most=2)
            path = _put("asked.toml", written(value, rng, as_toml))
            name = rng.choice(("check", "explain", "compare", "fit"))
            words = [name, _model_file(rng), "--plan", str(path)]
            forms = ANYBODY if name == "check" else PEOPLE
        case 2:
            value = mutated(rng.choice(seeds.NAMED), rng, seeds.words_in(*PLAN_WORDS), most=2)
            path = _put("asked-named.toml", written(value, rng, as_toml))
            words, forms = (
                ["check", "--all", "--plan", str(path)],
                ("text", "json", "markdown", "sarif", "junit", "github"),
            )
        case 3:
            value = mutated(seeds.AXOLOTL, rng, seeds.words_in(*FRAMEWORK_WORDS), most=2)
            path = _put("asked.yml", written(value, rng, as_yaml))
            words, forms = ["check", "tiny.json", "--from", str(path)], ANYBODY
        case 4:
            value = mutated(seeds.record(), rng, seeds.words_in("measurement.py", "timeline.py"), most=2)
            path = _put("asked-record.json", written(value, rng, as_json))
            words, forms = ["validate", str(path)], PEOPLE
        case 5:
            value = mutated(rng.choice(seeds.published()), rng, seeds.words_in("validation/published.py"), most=2)
            path = _put("asked-published.json", written(value, rng, as_json))
            words, forms = ["validate", "--published", str(path)], PEOPLE
        case _:
            value = mutated(json.loads(_lock()), rng, seeds.words_in("budgets/lock.py"), most=2)
            path = _put("asked-lock.json", written(value, rng, as_json))
            words, forms = ["diff", str(path), "memplanner.lock.json"], PEOPLE
    command([*words, "--format", rng.choice(forms)])


# -- writers -----------------------------------------------------------------------------------------------------------


def _writers(rng: random.Random) -> None:
    """Hostile names wherever an answer repeats one."""
    texts = [rng.choice(HOSTILE_TEXTS) if rng.random() < 0.7 else scrambled("a name", rng) for _ in range(4)]
    problems = tuple(Problem(where=texts[0], key=texts[1], message=texts[2], hint=texts[3]) for _ in range(2))
    for form in PROBLEMS.formats:
        judge_document(form, PROBLEMS.write(form, NoAnswer(problems=problems, code=rng.choice((2, 70))), PAGE))
    judge_error(UserError(*problems))
    answer = PlanAnswer(estimate=_estimate(), label=texts[0], changes=None, foreign=None)
    form = rng.choice(CHECK.formats)
    judge_document(form, CHECK.write(form, answer, PAGE))
    named = NamedPlan(name=texts[1], plan=_estimate().plan, root=Path())
    form = rng.choice(BUDGETS.formats)
    judge_document(form, BUDGETS.write(form, check_plans((named,)), PAGE))
    width = rng.choice((1, 12, 60, 120))
    for line in wrap(texts[2], width, rest=rng.choice(("", "  ", "    "))):
        if not line.isprintable():
            raise FindingError("a line that is not printable")


def _exported(rng: random.Random) -> None:
    """A plan that is valid, as the terminal interface saves it, is the same plan when it is read."""
    import tomli_w

    value = mutated(rng.choice(seeds.PLANS), rng, seeds.words_in(*PLAN_WORDS), most=2)
    plan = merge(value, {}, where="plan")
    table = plan_table(plan, Path())
    text = tomli_w.dumps(table)
    judge_document("toml", text)
    if merge(tomllib.loads(text), {}, where="export") != plan.model_copy(update={"model": table["model"]}):
        raise FindingError("what was saved is another plan")


TARGETS: tuple[Target, ...] = (
    Target("texts of TOML, JSON, YAML", _texts),
    Target("plan files", _plan, 12),
    Target("named plans, pyproject", _named, 8),
    Target("plans, predicted", _predicted, 2, may_trace=True),
    Target("config.json", _config, 12),
    Target("config.json, predicted", _model, 2, may_trace=True),
    Target("frameworks' configs", _framework, 8),
    Target("suites", _suite, 6),
    Target("records", _record, 4),
    Target("published rows", _published, 8),
    Target("margins", _margins, 4),
    Target("locks", _locked, 6),
    Target("patterns", _patterns, 8),
    Target("typed values", _words, 8),
    Target("keywords of the marker", _keywords, 2),
    Target("command lines", _argv, 4, may_trace=True),
    Target("commands over files", _asked, 2, may_trace=True),
    Target("writers", _writers, 4),
    Target("exported plans", _exported, 4),
)
