"""Configs that people have, as plans; and that every key of one is accounted for."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.components.optimizers.adamw import AdamW
from memplanner.errors import UserError
from memplanner.frameworks import Foreign, read_framework
from memplanner.plan.load import load_plan
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict

AXOLOTL_QLORA = """
base_model: NousResearch/Llama-2-7b-hf
model_type: LlamaForCausalLM
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
sequence_len: 4096
sample_packing: true
micro_batch_size: 2
gradient_accumulation_steps: 4
optimizer: paged_adamw_8bit
lr_scheduler: cosine
bf16: auto
tf32: false
gradient_checkpointing: true
flash_attention: true
wandb_project:
datasets:
  - path: mhenrichsen/alpaca_2k_test
    type: alpaca
special_tokens:
  pad_token: "<pad>"
"""
AXOLOTL_FULL = """
base_model: TinyLlama/TinyLlama-1.1B-Chat-v1.0
sequence_len: 2048
micro_batch_size: 4
bf16: true
optimizer: galore_adamw_8bit_layerwise
optim_args: "rank=64,update_proj_gap=100,scale=0.1"
optim_target_modules: [attn, mlp]
plugins: [axolotl.integrations.liger.LigerPlugin]
liger_fused_linear_cross_entropy: true
"""
FACTORY_LORA = """
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""
FACTORY_FULL = """
model_name_or_path: Qwen/Qwen2.5-0.5B
stage: pt
finetuning_type: full
dataset: c4_demo
cutoff_len: 1024
per_device_train_batch_size: 2
bf16: true
optim: adamw_torch_fused
flash_attn: fa2
disable_gradient_checkpointing: true
"""
FACTORY_GALORE = """
model_name_or_path: meta-llama/Llama-3.2-1B
stage: sft
finetuning_type: full
use_galore: true
galore_layerwise: true
galore_target: mlp.down_proj,self_attn.q_proj
galore_rank: 128
galore_scale: 2.0
template: llama3
pure_bf16: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 1
"""
ARGUMENTS = {
    "output_dir": "out",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "bf16": True,
    "optim": "adamw_bnb_8bit",
    "learning_rate": 2e-4,
    "fsdp": "",
}
ADAPTER = {
    "peft_type": "LORA",
    "base_model_name_or_path": "mistralai/Mistral-7B-v0.1",
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "use_dora": True,
    "bias": "none",
    "rank_pattern": {"q_proj": 4},
    "modules_to_save": None,
}


def write(folder: Path, text: str | dict[str, Any], name: str = "config.yml") -> Path:
    path = folder / name
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def plan_of(*paths: Path) -> tuple[TrainingPlan, Foreign]:
    foreign = read_framework(paths)
    return merge(foreign.table, {}, where=str(paths[0])), foreign


def accounted(foreign: Foreign) -> list[str]:
    left_out = [text.partition(" = ")[0] for text in foreign.not_modelled]
    return sorted([*foreign.used, *left_out, *foreign.ignored, *foreign.irrelevant])


def test_axolotl_qlora(tmp_path: Path) -> None:
    plan, foreign = plan_of(write(tmp_path, AXOLOTL_QLORA))
    assert (plan.model, plan.method.kind, plan.method.rank) == ("llama-2-7b", "lora", 32)  # type: ignore[attr-defined]
    assert plan.method.target_modules == ("all-linear",)  # type: ignore[attr-defined]
    assert (plan.quantization, plan.precision, plan.master_weights) == ("nf4-double", "bf16-mixed", False)
    assert (plan.optimizer.kind, plan.step.attention) == ("adamw-8bit", "flash-attention-2")
    assert plan.optimizer.is_paged  # type: ignore[attr-defined]
    assert (plan.step.batch_size, plan.step.seq_len, plan.step.grad_accumulation) == (2, 4096, 4)
    assert plan.step.checkpointing == "full"
    assert [text.partition(" = ")[0] for text in foreign.not_modelled] == ["sample_packing"]
    assert "wandb_project" in foreign.irrelevant, "what is null is not set"
    assert "special_tokens" in foreign.irrelevant


def test_axolotl_full_with_galore(tmp_path: Path) -> None:
    plan, foreign = plan_of(write(tmp_path, AXOLOTL_FULL))
    assert (plan.model, plan.method.kind, plan.method.rank) == ("tinyllama-1.1b", "galore", 64)  # type: ignore[attr-defined]
    assert plan.method.refresh_interval == 100  # type: ignore[attr-defined]
    assert (plan.optimizer.kind, plan.step.per_layer_updates, plan.step.loss.kind) == ("adamw-8bit", True, "fused")
    assert foreign.not_modelled == ()


def test_llama_factory_lora(tmp_path: Path) -> None:
    plan, foreign = plan_of(write(tmp_path, FACTORY_LORA))
    assert (plan.model, plan.method.kind, plan.method.rank) == ("llama-3-8b", "lora", 8)  # type: ignore[attr-defined]
    assert (plan.precision, plan.master_weights) == ("bf16-mixed", False), "the base stays in half precision"
    assert plan.step.checkpointing == "full"
    assert "gradient checkpointing, which LLaMA-Factory switches on" in foreign.assumed
    assert foreign.not_modelled == ()


def test_llama_factory_full(tmp_path: Path) -> None:
    plan, _ = plan_of(write(tmp_path, FACTORY_FULL))
    assert (plan.method.kind, plan.precision, plan.master_weights) == ("full", "bf16-mixed", True)
    assert (plan.step.checkpointing, plan.step.attention) == ("none", "flash-attention-2")
    assert isinstance(plan.optimizer, AdamW)
    assert plan.optimizer.implementation == "fused"


def test_llama_factory_galore(tmp_path: Path) -> None:
    plan, foreign = plan_of(write(tmp_path, FACTORY_GALORE))
    assert (plan.method.kind, plan.method.rank, plan.precision) == ("galore", 128, "bf16")  # type: ignore[attr-defined]
    assert plan.method.target_modules == ("mlp.down_proj", "self_attn.q_proj")  # type: ignore[attr-defined]
    assert plan.step.per_layer_updates
    assert "cutoff_len 2048, LLaMA-Factory's default" in foreign.assumed


def test_training_arguments_with_an_adapter(tmp_path: Path) -> None:
    paths = write(tmp_path, ARGUMENTS, "training_args.json"), write(tmp_path, ADAPTER, "adapter_config.json")
    for order in (paths, paths[::-1]):
        plan, foreign = plan_of(*order)
        assert foreign.framework == "transformers TrainingArguments and peft adapter"
        assert (plan.model, plan.method.kind, plan.method.rank) == ("mistral-7b-v0.1", "dora", 16)  # type: ignore[attr-defined]
        assert plan.method.rank_pattern == {"q_proj": 4}  # type: ignore[attr-defined]
        assert (plan.precision, plan.master_weights) == ("bf16-mixed", False)
        assert "weights loaded in bf16, as the model is published: TrainingArguments does not say" in foreign.assumed
        assert (plan.optimizer.kind, plan.step.batch_size) == ("adamw-8bit", 4)
        assert accounted(foreign) == sorted([*ARGUMENTS, *ADAPTER])


def test_every_field_of_the_real_classes_is_understood(tmp_path: Path) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    arguments = transformers.TrainingArguments(output_dir="x", use_cpu=True).to_dict() | {"use_cpu": False}
    foreign = read_framework([write(tmp_path, json.dumps(arguments, default=str), "training_args.json")], "llama-60m")
    assert foreign.not_modelled == ()
    lora = peft.LoraConfig(r=4, target_modules=["q_proj"]).to_dict()
    lora = {key: sorted(value) if isinstance(value, set) else value for key, value in lora.items()}
    foreign = read_framework([write(tmp_path, json.dumps(lora, default=str), "adapter_config.json")], "llama-60m")
    assert foreign.not_modelled == ()


@pytest.mark.parametrize("beside", ["axolotl", "peft"])
def test_galore_beside_an_adapter_is_no_plan(tmp_path: Path, beside: str) -> None:
    if beside == "axolotl":
        paths = [write(tmp_path, "base_model: llama-60m\nadapter: lora\nlora_dropout: 0.1\noptimizer: galore_adamw\n")]
    else:
        arguments = write(tmp_path, ARGUMENTS | {"optim": "galore_adamw"}, "training_args.json")
        paths = [arguments, write(tmp_path, ADAPTER, "adapter_config.json")]
    with pytest.raises(UserError, match="'galore_adamw' beside an adapter is not modelled"):
        read_framework(paths)


def test_every_nth_block_is_checkpointed(tmp_path: Path) -> None:
    for prefix in ("activation", "gradient"):
        config = ARGUMENTS | {"model_name_or_path": "llama-60m", f"{prefix}_checkpointing": True}
        config |= {f"{prefix}_checkpointing_kwargs": {"every_n_layers": 3}}
        plan, _ = plan_of(write(tmp_path, config, "training_args.json"))
        assert plan.step.checkpointing == "every-3"


@pytest.mark.parametrize("text", [AXOLOTL_QLORA, AXOLOTL_FULL, FACTORY_LORA, FACTORY_FULL, FACTORY_GALORE])
def test_every_key_is_accounted_for_once_and_the_plan_can_be_predicted(tmp_path: Path, text: str) -> None:
    plan, foreign = plan_of(write(tmp_path, text))
    assert accounted(foreign) == sorted(yaml.safe_load(text))
    assert predict(plan).allocated_bytes > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_model: x\nmicro_batch_size: two", "micro_batch_size: 'two' is not a whole number above zero"),
        ("base_model: x\nadapter: lora\nlora_dropout: 2", "lora_dropout: 2 is not a number from 0 to below 1"),
        ("base_model: x\nadapter: ia3", "adapter: 'ia3' is not modelled (lora and qlora are)"),
        ("base_model: x\nrl: dpo", "rl: 'dpo' is not modelled"),
        ("base_model: x\noptimizer: adamw_trch", "'adamw_trch' is not modelled (did you mean 'adamw_torch'"),
        ("base_model: x\noptimizer: lion_8bit", "the optimizer 'lion_8bit' is not modelled"),
        ("base_model: x\nload_in_4bit: yes please", "load_in_4bit: 'yes please' is not true or false"),
        ("model_name_or_path: x\nstage: dpo", "stage: 'dpo' is not modelled (modelled: sft, pt)"),
        ("model_name_or_path: x\nfinetuning_type: freeze", "finetuning_type: 'freeze' is not modelled"),
        ("peft_type: IA3", "peft_type: 'IA3' is not modelled (LORA is)"),
        ("optim: galore_adamw\noptim_args: rank=0", "optim_args: rank='0' is not a whole number above zero"),
        ("colour: blue", "is not a config of a known framework (known: Axolotl (base_model)"),
        ("- a\n- b", "holds ['a', 'b'], not a mapping of settings"),
        ("1: 2", "has the key 1, which is not text"),
        ("a: [", "not valid YAML at line 1, column 5"),
        ("!!python/object/apply:os.system ['touch x']", "not valid YAML at line 1"),
        ("a: b\n---\nc: d", "not valid YAML at line 2"),
        ("", "is empty"),
        ("\x00", "not usable YAML"),
        ("[" * 5000, "not"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_framework([write(tmp_path, text)])
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "config.yml"))
    assert len(str(caught.value).splitlines()) == 1


def test_configs_that_cannot_be_combined_are_refused(tmp_path: Path) -> None:
    axolotl, factory = write(tmp_path, AXOLOTL_QLORA, "a.yml"), write(tmp_path, FACTORY_LORA, "b.yml")
    with pytest.raises(UserError, match="configs of Axolotl and LLaMA-Factory cannot be combined"):
        read_framework([axolotl, factory])
    with pytest.raises(UserError, match="is another config of Axolotl"):
        read_framework([axolotl, axolotl])


def test_an_alias_bomb_is_data_like_any_other(tmp_path: Path) -> None:
    lines = ["base_model: llama-60m", "a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(UserError, match=r"config\.yml: 12 keys are not understood, and may bear on memory: a0, a1, a2"):
        read_framework([write(tmp_path, "\n".join(lines))])
    bomb = "\n".join(lines).replace("a11:", "sample_packing:")
    foreign = read_framework([write(tmp_path, bomb)], ignored=[f"a{n}" for n in range(11)])
    assert len(foreign.not_modelled[0]) < 400


def test_a_models_path_outside_the_repository_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "base_model: ../../elsewhere/config.json")
    with pytest.raises(UserError, match="leads out of the repository"):
        load_plan(root=tmp_path, configs=["config.yml"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(
    {key for text in (AXOLOTL_QLORA, AXOLOTL_FULL, FACTORY_LORA, FACTORY_GALORE) for key in yaml.safe_load(text)}
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    base=st.sampled_from([AXOLOTL_QLORA, AXOLOTL_FULL, FACTORY_LORA, FACTORY_FULL, FACTORY_GALORE]),
    changes=st.dictionaries(st.sampled_from([*KEYS, *ARGUMENTS, *ADAPTER]), VALUES, max_size=4),
    as_json=st.booleans(),
)
def test_a_changed_config_is_a_plan_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, base: str, changes: dict[str, Any], as_json: bool
) -> None:
    config = yaml.safe_load(base) | changes
    folder = tmp_path_factory.mktemp("fuzz")
    text = json.dumps(config) if as_json else yaml.safe_dump(config, allow_unicode=True)
    try:
        foreign = read_framework([write(folder, text, "c.json" if as_json else "c.yml")])
        assert accounted(foreign) == sorted(config)
        merge(foreign.table, {}, where="fuzz")
    except UserError as error:
        assert all(line for line in str(error).splitlines())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.text(max_size=200) | st.text(st.sampled_from("base_model: \n-[]{}&*!|>'\"%@`,?#x"), max_size=60))
def test_any_text_is_a_config_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "c.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(UserError):
        read_framework([path])
