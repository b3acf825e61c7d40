"""Where the plan comes from, what flags do to it, and what is said about a wrong one."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplanner.catalogue import stems
from memplanner.components.methods.full import Full
from memplanner.components.methods.lora import Lora
from memplanner.components.optimizers.adamw import AdamW
from memplanner.components.optimizers.adamw8bit import AdamW8bit
from memplanner.errors import UserError
from memplanner.plan.flags import OPTIONS
from memplanner.plan.load import load_plan
from memplanner.plan.merge import merge
from memplanner.plan.sources import DEFAULT_PLAN
from memplanner.plan.training_plan import GpuDevice, SizeDevice, TrainingPlan


def plan_of(table: dict[str, Any], **flags: Any) -> TrainingPlan:
    return merge(table, {f"--{name.replace('_', '-')}": value for name, value in flags.items()}, where="file")


def refusal(table: dict[str, Any], **flags: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        plan_of(table, **flags)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", stems("plans", ".toml"))
def test_bundled_plans_are_valid(name: str, tmp_path: Path) -> None:
    loaded = load_plan(root=tmp_path, plan_file=name)
    assert loaded.plan.model in name


def test_sources_are_looked_up_in_order(tmp_path: Path) -> None:
    assert load_plan(root=tmp_path).label == f"bundled plan {DEFAULT_PLAN}"
    assert load_plan(root=tmp_path, model="gpt2").label == "defaults"
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n')
    assert load_plan(root=tmp_path).label == f"bundled plan {DEFAULT_PLAN}"
    project.write_text('[tool.memplanner]\nmodel = "gpt2"\n')
    assert load_plan(root=tmp_path).plan.model == "gpt2"
    (tmp_path / "memplanner.toml").write_text('model = "llama-1b"\nmethod = "lora"\n')
    assert load_plan(root=tmp_path).plan.method == Lora()
    assert load_plan(root=tmp_path, model="gpt2").plan.model == "gpt2"
    (tmp_path / "other.toml").write_text('model = "llama-60m"\n')
    assert load_plan(root=tmp_path, plan_file="other.toml").plan.model == "llama-60m"
    assert load_plan(root=tmp_path, plan_file="pyproject.toml").plan.model == "gpt2"


def test_model_path_starts_from_the_file_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "plans"
    folder.mkdir()
    (folder / "p.toml").write_text('model = "./config.json"\n')
    assert load_plan(root=tmp_path, plan_file="plans/p.toml").root == folder
    assert load_plan(root=tmp_path, plan_file="plans/p.toml", model="./config.json").root == tmp_path


def test_flags_beat_the_file_only_when_typed() -> None:
    table = {"step": {"batch_size": 4, "per_layer_updates": True}, "device": "a40"}
    assert plan_of(table).step.batch_size == 4
    assert plan_of(table, batch_size="2").step.batch_size == 2
    assert plan_of(table).step.per_layer_updates
    assert not plan_of(table, per_layer_updates=False).step.per_layer_updates
    assert plan_of(table).device == GpuDevice(name="a40")
    assert plan_of(table, gpu="24GiB").device == SizeDevice(memory="24GiB")


@pytest.mark.parametrize(
    ("table", "flags", "device"),
    [
        ({}, {"context": "0"}, GpuDevice(context="0")),
        ({"device": "a40"}, {"context": "1GiB"}, GpuDevice(name="a40", context="1GiB")),
        ({"device": "24GiB"}, {"context": "0"}, SizeDevice(memory="24GiB", context="0")),
        ({"device": {"memory": "24GiB"}}, {}, SizeDevice(memory="24GiB")),
        ({"device": {"name": "a40"}}, {}, GpuDevice(name="a40")),
        ({"device": {"context": "0"}}, {}, GpuDevice(context="0")),
        ({"device": {"memory": "24GiB", "context": "0"}}, {}, SizeDevice(memory="24GiB", context="0")),
        (
            {"device": {"memory": "24GiB", "context": "0"}},
            {"context": "1GB"},
            SizeDevice(memory="24GiB", context="1GB"),
        ),
        # another device than the one whose context the file states
        ({"device": {"memory": "24GiB", "context": "0"}}, {"gpu": "16GiB"}, SizeDevice(memory="16GiB")),
        ({"device": {"memory": "24GiB", "context": "0"}}, {"gpu": "a40"}, GpuDevice(name="a40")),
        ({"device": "a40"}, {"context": "0", "gpu": "16GiB"}, SizeDevice(memory="16GiB", context="0")),
        ({"device": "a40"}, {"gpu": "16GiB", "context": "0"}, SizeDevice(memory="16GiB", context="0")),
    ],
)
def test_a_device_and_its_context(table: dict[str, Any], flags: dict[str, Any], device: object) -> None:
    assert plan_of(table, **flags).device == device


def test_a_wrong_context_is_the_flags_or_the_files() -> None:
    assert refusal({}, context="lots")[0].startswith("--context: 'lots' is not a size such as")
    assert refusal({"device": {"memory": "24GiB", "context": "50%"}})[0].startswith(
        "file: device.context: '50%' is not"
    )
    assert refusal({"device": {"memory": "24GiB", "context": 0}}) == ["file: device.context: 0 is not text"]
    assert refusal({"device": {"memory": "24GiB", "contxt": "0"}}) == [
        "file: device.contxt: unknown key (did you mean 'context'?)"
    ]
    assert refusal({}, gpu="0") == ["--gpu: '0' is no memory at all"]


def test_changing_the_method_carries_over_what_it_shares() -> None:
    table = {"method": {"kind": "gradnormlorp", "rank": 64, "projection_rank": 4, "target_modules": ["q_proj"]}}
    assert plan_of(table, method="lora").method == Lora(rank=64, target_modules=("q_proj",))
    assert plan_of(table, method="full").method == Full()
    assert plan_of({"method": "lora"}, target_modules="q_proj, v_proj").method == Lora(
        target_modules=("q_proj", "v_proj")
    )


def test_optimizer_flags() -> None:
    fused = {"optimizer": "adamw-fused"}
    assert plan_of(fused).optimizer == AdamW(implementation="fused")
    assert plan_of({}, optimizer="adamw-fused").optimizer == AdamW(implementation="fused")
    assert plan_of(fused, optimizer="adamw").optimizer == AdamW(implementation="foreach")
    assert plan_of(fused, optimizer_bits="16").optimizer == AdamW(implementation="fused", state_dtype="bf16")
    assert plan_of(fused, optimizer_bits="32").optimizer == AdamW(implementation="fused", state_dtype="fp32")
    assert plan_of(fused, optimizer_bits="8").optimizer == AdamW8bit()
    assert plan_of({"optimizer": "adamw-8bit"}, optimizer_bits="32").optimizer == AdamW(state_dtype="fp32")
    assert refusal({}, optimizer="adamw-8bit", optimizer_bits="32") == [
        "--optimizer-bits: 32 contradicts --optimizer adamw-8bit"
    ]
    assert "sgd" in refusal({}, optimizer="sgd", optimizer_bits="8")[0]


@pytest.mark.parametrize("value", [True, "8", 8.0, None, [8], 0, -1, 1 << 40])
def test_toml_numbers_are_not_guessed(value: Any) -> None:
    assert len(refusal({"step": {"batch_size": value}})) == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"method": {"rank": 8}},
            "file: method: its kind is missing (kind = one of full, lora, dora, galore, gradnorm",
        ),
        ({"method": {"kind": "lora", "rnk": 1}}, "file: method.rnk: unknown key (did you mean 'rank'?)"),
        ({"step": {"seq-len": 1}}, "file: step.seq-len: unknown key (did you mean 'seq_len'?)"),
        ({"precision": "bf61"}, "file: precision: 'bf61' is not a known precision (did you mean 'bf16'"),
        ({"quantization": "nf4"}, "file: quantization 'nf4' needs a frozen base"),
        (
            {"method": "lora", "quantization": "nf4", "kbit_preparation": "norms", "precision": "fp16"},
            "file: kbit_preparation 'norms' needs autocast",
        ),
        ({"step": 5}, "file: step: 5 is not a table of settings"),
        ({"step": {"loss": {"kind": "chunked", "chunks": 0}}}, "file: step.loss.chunks: 0 is below 1"),
        ({"method": {"kind": "lora", "dropout": float("nan")}}, "file: method.dropout: nan"),
    ],
)
def test_a_wrong_table_is_refused_with_one_message(table: dict[str, Any], message: str) -> None:
    problems = refusal(table)
    assert len(problems) == 1
    assert problems[0].startswith(message)


def test_an_error_names_the_flag_only_if_the_flag_is_wrong() -> None:
    assert refusal({"method": {"kind": "lora", "rank": 0}}, method="dora") == ["file: method.rank: 0 is below 1"]
    assert refusal({"method": "lora"}, rank="0") == ["--rank: 0 is below 1"]


def test_every_option_sets_a_documented_field() -> None:
    for option in OPTIONS:
        assert option.describe(), option.flag
        assert option.placeholder() or option.values == "switch"


def test_json_round_trip() -> None:
    plan = plan_of({}, method="lora", target_modules="q_proj", budget="80%", loss="chunked", gpu="24GiB")
    assert merge(json.loads(plan.model_dump_json()), {}, where="file") == plan


_words = ["kind", "lora", "full", "rank", "method", "step", "loss", "optimizer", "device", "model", "budget", "adamw"]
_keys = st.sampled_from([*TrainingPlan.model_fields, *_words, "batch_size", "target_modules"]) | st.text(max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)
tables = st.dictionaries(_keys, json_values | st.sampled_from(_words), max_size=6)
typed = st.dictionaries(
    st.sampled_from([o.flag for o in OPTIONS if o.values != "switch"]),
    st.sampled_from(["1", "-1", "8", "x", "", "lora", "full", "adamw", "sgd", "chunked"]) | st.text(max_size=6),
    max_size=4,
)


@given(tables, typed)
def test_any_table_and_flags_make_a_plan_or_a_user_error(table: dict[str, Any], flags: dict[str, str]) -> None:
    try:
        merge(table, flags, where="file")
    except UserError as error:
        assert error.problems
        assert all("\n" not in str(problem) for problem in error.problems)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from([".toml", ".json"]))
def test_any_bytes_make_a_plan_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, data: bytes, end: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{end}"
    path.write_bytes(data)
    try:
        load_plan(root=path.parent, plan_file=path.name)
    except UserError as error:
        assert error.problems


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "a = " + "[" * 100_000, "\ufeff{}"])
@pytest.mark.parametrize("end", [".toml", ".json"])
def test_pathological_files_are_refused_briefly(tmp_path: Path, text: str, end: str) -> None:
    (tmp_path / f"p{end}").write_text(text)
    try:
        load_plan(root=tmp_path, plan_file=f"p{end}")
    except UserError as error:
        assert len(str(error)) < 500
