"""What a flag may be, which methods have a use for it, and how typed flags are written back."""

import random
import shlex
from typing import Annotated, ClassVar, Literal

import pytest

from memplanner.cli.main import main
from memplanner.errors import UserError
from memplanner.plan import moment_width
from memplanner.plan.flags import BY_FLAG, MODEL, OPTIONS, Value, command_line, command_words, has_use, useful
from memplanner.plan.merge import merge
from memplanner.plan.overlay import overlay, switch_kind
from memplanner.plan.training_plan import OPTIMIZERS, TrainingPlan
from memplanner.settings.base import Settings
from memplanner.settings.describe import choices, expand, groups, kind_of, word_for, words
from memplanner.settings.kinds import Kinds


class Plain(Settings):
    kind: Literal["plain"] = "plain"


class Spelled(Settings):
    words: ClassVar = {"spelled": {"fast": False}, "spelled-fast": {"fast": True}}
    kind: Literal["spelled"] = "spelled"
    fast: bool = False


class Holder(Settings):
    rule: Annotated[Settings, Kinds({"plain": f"{__name__}:Plain", "spelled": f"{__name__}:Spelled"})]


def test_the_words_of_a_union_come_from_its_classes() -> None:
    assert list(words(Holder, "rule")) == ["plain", "spelled", "spelled-fast"]
    assert expand(Holder, "rule", "spelled-fast") == {"kind": "spelled", "fast": True}
    assert expand(Holder, "rule", "nothing") == {"kind": "nothing"}
    assert word_for(Holder, "rule", Spelled(fast=True)) == "spelled-fast"
    assert word_for(Holder, "rule", Plain()) == "plain"


def test_every_optimizer_of_the_union_can_be_typed() -> None:
    assert set(OPTIMIZERS.homes) == {
        merge({}, {"--optimizer": word}, where="plan").optimizer.kind for word in BY_FLAG["--optimizer"].words
    }
    for word in BY_FLAG["--optimizer"].words:
        plan = merge({"optimizer": word}, {}, where="plan")
        assert plan.optimizer == merge({}, {"--optimizer": word}, where="plan").optimizer
        assert word_for(TrainingPlan, "optimizer", plan.optimizer) == word


def test_moment_widths_name_optimizers_of_the_union() -> None:
    kinds = {kind_of(member) for member in groups(TrainingPlan, "optimizer")}
    assert {table["kind"] for table in moment_width.TABLES.values()} == set(moment_width.KINDS) <= kinds
    for bits in moment_width.TABLES:
        plan = merge({}, {moment_width.FLAG: str(bits)}, where="plan")
        assert moment_width.bits_of(plan.optimizer) == str(bits)


def test_a_width_keeps_the_optimizers_other_settings_and_its_misspelt_ones() -> None:
    own = {"kind": "adamw-8bit", "update_norms": True}
    assert merge({"optimizer": own}, {moment_width.FLAG: "8"}, where="file").optimizer.update_norms  # type: ignore[attr-defined]
    with pytest.raises(Exception, match=r"^file: optimizer\.implementaton: unknown key \(did you mean"):
        merge({"optimizer": {"kind": "adamw", "implementaton": "fused"}}, {moment_width.FLAG: "16"}, where="file")


@pytest.mark.parametrize("method", choices(TrainingPlan, "method"))
def test_a_flag_has_a_use_where_the_plan_takes_it(method: str) -> None:
    numbers = {option.flag: "4" for option in OPTIONS if option.path[0] == "method" and option.values == "integer"}
    for flag, value in numbers.items():
        if has_use(flag, method):
            assert merge({}, {"--method": method, flag: value}, where="plan").method.kind == method
        else:
            with pytest.raises(Exception, match=f"^{flag}: method '{method}' has no "):
                merge({}, {"--method": method, flag: value}, where="plan")
    typed: dict[str, Value] = {MODEL: "llama-60m", "--method": method, "--batch-size": "2", **numbers}
    assert merge({}, {k: v for k, v in useful(typed, method).items() if k != MODEL}, where="plan").step.batch_size == 2


def test_what_was_typed_is_written_back(capsys: pytest.CaptureFixture[str]) -> None:
    typed: dict[str, Value] = {"--keep-outputs": False, "--gpu": "24 GiB", MODEL: "llama-60m", "--keep-gradients": True}
    written = command_words(typed)
    assert shlex.join(written) == "llama-60m --no-keep-outputs --gpu '24 GiB' --keep-gradients"
    assert main(["check", *written]) in (0, 1)
    assert "24 GiB device" in capsys.readouterr().out


def test_an_overlay_shares_no_table_with_what_it_is_made_of() -> None:
    base, over = {"a": {"b": {"c": 1}}, "list": [1]}, {"a": {"d": {"e": 2}}}
    merged = overlay(base, over)
    merged["a"]["b"]["c"] = merged["a"]["d"]["e"] = 3
    assert (base["a"], over["a"]) == ({"b": {"c": 1}}, {"d": {"e": 2}})


def test_another_kind_keeps_what_both_have() -> None:
    old = {"kind": "spelled", "fast": True, "misspelt": 1}
    assert switch_kind(old, "spelled", {"kind": "plain"}, Plain) == {"kind": "plain"}
    assert switch_kind(old, "spelled", {"kind": "spelled"}, Spelled) == old
    assert switch_kind("no table", "spelled", {"kind": "plain"}, Plain) == {"kind": "plain"}


@pytest.mark.parametrize("value", [8, True, 1.5, None, {"kind": "lora"}])
@pytest.mark.parametrize("flag", ["--method", "--optimizer", "--gpu", "--budget", "--rank", "--per-layer-updates"])
def test_values_that_are_no_text_are_refused_like_others(flag: str, value: object) -> None:
    flags = {flag: value, "--optimizer-bits": "32"}
    if (flag, value) in (("--rank", 8), ("--per-layer-updates", True)):
        merge({"method": "galore"}, flags, where="plan")
        return
    with pytest.raises(UserError) as error:
        merge({"method": "galore"}, flags, where="plan")
    assert flag in {problem.where for problem in error.value.problems}


def test_a_command_is_quoted_for_the_shell_of_the_system() -> None:
    words = ["check", "./a model.json", "--rank", "8,16", "--target-modules", r".*\.(q|v)_proj", "--gpu", "24GiB"]
    assert shlex.split(command_line(words, windows=False)) == words
    assert command_line(words, windows=True) == (
        'check "./a model.json" --rank "8,16" --target-modules ".*\\.(q|v)_proj" --gpu 24GiB'
    )


def taken_apart(typed: str) -> list[str]:
    """By the rules of Windows' C runtime: learn.microsoft.com/cpp/c-language/parsing-c-command-line-arguments."""
    words, word, quoted, begun = [], "", False, False
    while typed:
        rest = typed.lstrip("\\")
        backslashes = len(typed) - len(rest)
        typed = rest[1:]
        begun = begun or backslashes > 0 or rest[:1] not in ("", " ")
        if rest.startswith('"'):
            word += "\\" * (backslashes // 2) + '"' * (backslashes % 2)
            quoted ^= backslashes % 2 == 0
            continue
        word += "\\" * backslashes
        if rest.startswith(" ") and not quoted:
            words += [word] if begun else []
            word, begun = "", False
        else:
            word += rest[:1]
    return [*words, word] if begun else words


def test_windows_takes_a_command_line_apart_again() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        words = ["".join(rng.choices("a \\\"&|,'", k=rng.randrange(6))) for _ in range(rng.randrange(4))]
        assert taken_apart(command_line(words, windows=True)) == words
