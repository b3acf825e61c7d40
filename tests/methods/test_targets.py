"""Which modules a plan's target_modules and rank_pattern mean, and what is refused."""

import time
from typing import Any

import pytest

from memplanner.catalogue import find_model
from memplanner.components.architectures.registry import read_config
from memplanner.components.methods.low_rank import LowRank
from memplanner.components.methods.patterns import Work, matches_end, matches_whole
from memplanner.errors import UserError
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict

KINDS = ("lora", "dora", "galore", "gradnormlorp")
Fields = dict[str, Any]


def plan_of(method: Fields, model: str = "llama-60m") -> TrainingPlan:
    return merge({"model": model, "method": {"kind": "lora", **method}, "device": "24GiB"}, {}, where="plan.toml")


def ranks(method: Fields, model: str = "llama-60m") -> dict[str, int]:
    """The ranks of the adapted modules, by their paths."""
    low_rank = plan_of(method, model).method
    assert isinstance(low_rank, LowRank)
    profile = find_model(model)
    family, config = read_config(profile.config, profile.name)
    return dict(low_rank.ranks(family, config))


def paths(*names: str, layers: Any = range(8)) -> set[str]:
    return {f"model.layers.{i}.{name}" for i in layers for name in names}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], paths("self_attn.q_proj")),
        (["self_attn.q_proj", "v_proj"], paths("self_attn.q_proj", "self_attn.v_proj")),
        (["model.layers.3.self_attn.q_proj"], paths("self_attn.q_proj", layers=[3])),
        (["layers.3.self_attn.q_proj"], paths("self_attn.q_proj", layers=[3])),
        (r".*\.(q|v)_proj", paths("self_attn.q_proj", "self_attn.v_proj")),
        (r"model\.layers\.(0|7)\.mlp\.(?!up).*_proj", paths("mlp.gate_proj", "mlp.down_proj", layers=[0, 7])),
    ],
)
def test_names_are_the_ends_of_paths_and_a_text_is_a_pattern_for_whole_ones(targets: Any, expected: set[str]) -> None:
    assert set(ranks({"target_modules": targets})) == expected


@pytest.mark.parametrize("word", ["all-linear", "All-Linear"])
def test_a_word_stands_for_all_linear_layers(word: str) -> None:
    assert len(ranks({"target_modules": word})) == 7 * 8
    assert len(ranks({"target_modules": word}, "bert-base-uncased")) == 6 * 12 + 1
    assert len(ranks({"kind": "galore", "target_modules": word}, "bert-base-uncased")) == 6 * 12


def test_the_first_key_that_matches_gives_the_rank() -> None:
    pattern = {"layers.2.self_attn.q_proj": 4, r"layers\.[0-3]\.self_attn\.[kv].*": 5, "self_attn.q.proj": 6}
    found = ranks({"target_modules": ["q_proj"], "rank_pattern": pattern})
    assert [found[f"model.layers.{i}.self_attn.q_proj"] for i in range(8)] == [6, 6, 4, 6, 6, 6, 6, 6]
    found = ranks({"rank_pattern": {r"layers\.[1-3]\.self_attn\.(q|k)_proj": 5}})
    assert [found[f"model.layers.{i}.self_attn.q_proj"] for i in range(8)] == [8, 5, 5, 5, 8, 8, 8, 8]
    assert found["model.layers.1.self_attn.v_proj"] == 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target_modules": ["q_proj", "qproj"]}, r"target_modules: 'qproj' matches no linear layer.*'q_proj'"),
        ({"target_modules": ["layers.8.self_attn.q_proj"]}, r"'layers\.8\..*did you mean 'model\.layers\..*q_proj'"),
        (
            {"target_modules": r".*\.qq_proj"},
            r"target_modules: '.*qq_proj' matches no linear layer.*'q_proj'",
        ),
        (
            {"target_modules": "q_proj"},
            r"'q_proj' matches no .* a text is a pattern for whole paths \(a name is \['q_pr",
        ),
        (
            {"target_modules": ["norm"]},
            r"'norm' matches model\.norm, where adapters and projections are not modelled",
        ),
        ({"target_modules": r".*self_attn.*"}, r"matches model\.layers\.0\.self_attn, where .* are not modelled"),
        (
            {"rank_pattern": {"qproj": 4}},
            r"rank_pattern: 'qproj' matches no module of the model \(did you mean 'q_proj",
        ),
        ({"rank_pattern": {r"h\.\d+\.attn": 4}}, r"rank_pattern: .* matches no module of the model"),
    ],
)
def test_what_matches_nothing_is_refused(kind: str, fields: Fields, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        predict(plan_of({"kind": kind, **fields}))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["galore", "gradnormlorp"])
@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_head_and_embeddings_are_targets_of_peft_alone(kind: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' matches .*{name}, where adapters and projections are not modelled"):
        predict(plan_of({"kind": kind, "target_modules": [name]}))
    assert len(ranks({"target_modules": [name]})) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"modules_to_save": ["lmhead"]}, r"modules_to_save: 'lmhead' matches no module .*did you mean 'lm_head'"),
        ({"modules_to_save": ["model.embed"]}, r"did you mean 'model\.embed_tokens'"),
        ({"modules_to_save": ["zzz"]}, r"'zzz' matches no module of the model \(such as lm_head, embed_tokens, q_proj"),
        ({"modules_to_save": ["layers.0"]}, r"'layers\.0' matches model\.layers\.0: copies of whole blocks"),
        (
            {"modules_to_save": ["mlp", "up_proj"]},
            r"mean both model\.layers\.0\.mlp and model\.layers\.0\.mlp\.up_proj",
        ),
        (
            {"modules_to_save": ["proj"]},
            r"ends model\.layers\.0\.self_attn\.q_proj .* peft copies no module with adapt",
        ),
        ({"modules_to_save": ["q_proj"], "target_modules": ["q_proj"]}, r"matches only modules that are trained whole"),
    ],
)
def test_copies_that_cannot_be_made_are_refused(fields: Fields, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        predict(plan_of(fields))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", ["lm_head", 3, [3], [""], [".*head"], {"lm_head": 1}])
def test_names_of_copies_are_a_list_of_names(value: Any) -> None:
    with pytest.raises(UserError, match=r"plan\.toml: method\.modules_to_save: "):
        plan_of({"modules_to_save": value})


def test_a_flag_takes_names_of_copies() -> None:
    method: Any = merge({"method": "lora"}, {"--modules-to-save": "lm_head, embed_tokens"}, where="").method
    assert method.modules_to_save == ("lm_head", "embed_tokens")
    for method_of, text in (("full", "lm_head"), ("lora", ".*head")):
        with pytest.raises(UserError, match="--modules-to-save"):
            merge({"method": method_of}, {"--modules-to-save": text}, where="")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": {"target_modules": ["lm_head"]}, "step": {"loss": "fused"}}, r"leaves its adapter out"),
        ({"method": {"target_modules": ["lm_head"]}, "step": {"loss": "chunked"}}, r"leaves its adapter out"),
        ({"method": {"modules_to_save": ["mlp"]}, "quantization": "nf4"}, r"gate_proj is quantised"),
        (
            {"method": {"modules_to_save": ["lm_head"], "modules_to_save_dtype": "fp32"}, "precision": "bf16"},
            r"modules_to_save_dtype: copies in fp32 do not multiply bf16 without autocast",
        ),
    ],
)
def test_what_no_library_trains_is_refused(fields: Fields, said: str) -> None:
    table = {"model": "llama-60m", "device": "24GiB", **fields, "method": {"kind": "lora", **fields["method"]}}
    with pytest.raises(UserError, match=said):
        predict(merge(table, {}, where="plan.toml"))


def test_a_loss_that_multiplies_by_the_head_takes_its_copy() -> None:
    """What Liger does (liger_kernel/transformers/model/llama.py, lce_maybe_trainable_lm_head)."""
    table = {"model": "llama-60m", "device": "24GiB", "step": {"loss": "fused"}}
    copied = predict(merge({**table, "method": {"kind": "lora", "modules_to_save": ["lm_head"]}}, {}, where=""))
    plain = predict(merge({**table, "method": "lora"}, {}, where=""))
    assert copied.num_trainable - plain.num_trainable == 32000 * 512
    assert copied.num_parameters - plain.num_parameters == 32000 * 512


def test_a_rank_for_a_module_that_is_no_target_is_no_mistake() -> None:
    assert set(ranks({"target_modules": ["q_proj"], "rank_pattern": {"down_proj": 4, "lm_head": 2}}).values()) == {8}


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(q_proj", "is no regular expression: missing"),
        (r"(a)\1", "has groupref, which is not read"),
        ("(?i)q_proj", "has flags"),
        ("(a*+)", "has possessive repeat|is no regular expression"),
        ("(" * 400 + ")" * 400, "groups inside each other"),
        ("a" * 1001 + "+", "1002 characters is longer than 1000"),
        ("a{99999999999}", "is no regular expression"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_refused(pattern: str, said: str) -> None:
    for key, value in (("target_modules", pattern), ("rank_pattern", {pattern: 4})):
        with pytest.raises(UserError, match=rf"plan\.toml: method\.{key}: ") as caught:
            plan_of({key: value})
        assert len(str(caught.value).splitlines()) == 1
        if key == "target_modules":
            assert caught.match(said)
    with pytest.raises(UserError, match="--target-modules: "):
        merge({"method": "lora"}, {"--target-modules": pattern}, where="plan.toml")


@pytest.mark.parametrize("value", [3, [3], [""], ["x" * 201], "", ["x"] * 1001, {"q_proj": 1}])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"plan\.toml: method\.target_modules: "):
        plan_of({"target_modules": value})


def test_thousands_of_names_have_ranks_but_not_of_patterns() -> None:
    plan_of({"rank_pattern": {f"layers.{i}.q_proj": 4 for i in range(4000)}})
    with pytest.raises(UserError, match=r"method\.rank_pattern: has 257 patterns, more than 256"):
        plan_of({"rank_pattern": {f"layers.{i}.q_proj$": 4 for i in range(257)}})


def test_a_flag_takes_names_or_a_pattern() -> None:
    def typed(text: str) -> Any:
        return merge({"method": "lora"}, {"--target-modules": text}, where="").method.target_modules  # type: ignore[attr-defined]

    assert typed("q_proj, v_proj") == ("q_proj", "v_proj")
    assert typed("q_proj") == ("q_proj",)
    assert typed("all-linear") == ("all-linear",)
    assert typed(r".*\.[qv]_proj") == r".*\.[qv]_proj"


@pytest.mark.parametrize(
    "pattern", ["(.*.*)*x", "((a|[^b])*)*x", "(.?){500}" * 90 + "x", "((((.*)*)*)*)*x", "(?:.{0,4000000}){4000000}x"]
)
def test_a_hostile_pattern_ends_within_seconds(pattern: str) -> None:
    started = time.process_time()
    for fields in ({"target_modules": pattern}, {"rank_pattern": {f"{pattern}{i}": 4 for i in range(256)}}):
        with pytest.raises(UserError, match=r"matches no|takes too long to match"):
            predict(plan_of(fields, "llama-3.1-405b"))
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("pattern", "path", "whole", "end"),
    [
        (r"a|b\.c", "b.c", True, True),
        (r"(a|ab)(c|bcd)(d*)", "abcd", True, True),
        (r"\w+?\.\d{2,3}", "x.1", False, False),
        (r"[^\d.]+", "a.b", False, True),
        (r"(?<=x\.)y", "x.y", False, True),
        (r"\bx\b.*(?<!z)$", "x.zz", False, False),
        (r"^y", "x.y", False, False),
        (r"(x\.?)+", "x.x.x", True, True),
        (r"x.y", "a.x_y", False, True),
        (r"x.y", "ax_y", False, False),
    ],
)
def test_a_pattern_is_matched_as_python_does(pattern: str, path: str, whole: bool, end: bool) -> None:
    assert matches_whole(pattern, path, Work()) is whole
    assert matches_end(pattern, path, Work()) is end
