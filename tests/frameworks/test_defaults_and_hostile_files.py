"""What frameworks do where a config is silent, and files that were made to hurt."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from memplanner.errors import UserError
from memplanner.frameworks import Foreign, read_framework
from memplanner.plan.merge import merge
from memplanner.prediction import predict

AXOLOTL = "base_model: llama-60m\n"
FACTORY = "model_name_or_path: llama-60m\ncutoff_len: 64\n"
TRAINER = "output_dir: out\n"
CUT = "plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]\n"
LIGER = "plugins: [axolotl.integrations.liger.LigerPlugin]\n"
BOTH = f"{CUT[:-2]}, {LIGER.partition('[')[2]}"
PEFT = "peft_type: LORA\n"


@pytest.fixture(autouse=True)
def at_most_ten_seconds() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("the file is read for too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def read(folder: Path, text: str, model: str | None = None, *, ignored: tuple[str, ...] = ()) -> Foreign:
    """The config; where it names no model, one that nobody knows is taken unless `model` says otherwise."""
    if model is None:
        model = "" if "model_name_or_path" in text else "./a-model-of-ours"
    path = folder / "config.yml"
    path.write_text(text, encoding="utf-8")
    return read_framework([path], model, ignored)


def bomb(levels: int = 11) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels + 1)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("start", "key"),
    [
        *((AXOLOTL, key) for key in ("rl", "adapter", "bf16", "gradient_checkpointing", "optimizer", "sequence_len")),
        *((AXOLOTL, key) for key in ("flash_attention", "load_in_4bit", "attn_implementation")),
        *((FACTORY, key) for key in ("stage", "finetuning_type", "flash_attn", "quantization_bit", "lora_target")),
        (FACTORY, "double_quantization"),
        *((TRAINER, key) for key in ("attn_implementation", "optim", "bf16", "gradient_checkpointing_kwargs")),
        ("", "peft_type"),
        ("", "base_model"),
        *((PEFT, key) for key in ("r", "target_modules", "base_model_name_or_path")),
    ],
)
def test_an_alias_bomb_anywhere_is_a_short_refusal(tmp_path: Path, start: str, key: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, f"{start}{bomb()}{key}: *a11\n")
    assert len(str(caught.value)) < 1000
    assert f"{key}: " in str(caught.value)


def test_merge_keys_are_read_until_they_multiply(tmp_path: Path) -> None:
    found = read(tmp_path, f"shared: &s {{optimizer: sgd}}\n{AXOLOTL}<<: *s\n", ignored=("shared",))
    assert found.table["optimizer"] == {"kind": "sgd"}
    shared = "&a {" + ", ".join(f"key{n}: 1" for n in range(200)) + "}"
    many = "\n".join(f"b{n}: {{<<: *a}}" for n in range(100))
    with pytest.raises(UserError, match="too much is merged"):
        read(tmp_path, f"{AXOLOTL}a: {shared}\n{many}\n")


def test_nested_merge_keys_of_few_settings_are_no_bomb(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 10)]
    names = ("a", *(f"a{n}" for n in range(10)))
    assert read(tmp_path, AXOLOTL + "\n".join(lines) + "\na: &a {<<: *a}\n", ignored=names)


@pytest.mark.parametrize(
    ("lines", "optimizer"),
    [
        ("<<: [*one, *two]", "sgd"),
        ("<<: [*two, *one]", "adafactor"),
        ("optimizer: adamw_torch\n<<: *one", "adamw"),
        ("<<: *one\noptimizer: adamw_torch", "adamw"),
    ],
)
def test_a_mappings_own_settings_win_then_those_merged_first(tmp_path: Path, lines: str, optimizer: str) -> None:
    shared = "one: &one {optimizer: sgd}\ntwo: &two {optimizer: adafactor}\n"
    config = read(tmp_path, f"{shared}{AXOLOTL}{lines}\n", ignored=("one", "two"))
    assert config.table["optimizer"]["kind"] == optimizer


def test_merging_anything_but_a_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"not valid YAML at line \d+, column 1: << merges something that is not a mapping"
    ):
        read(tmp_path, f"{AXOLOTL}<<: 3\n")


def test_a_setting_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at line \d+, column 1: 'rank' is set twice, first on line \d+"):
        read(tmp_path, f"rank: 8\n{AXOLOTL}rank: 16\n")


def test_a_config_larger_than_128_kib_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is larger than 128 KiB"):
        read(tmp_path, AXOLOTL + "#" * 128 * 1024)


@pytest.mark.parametrize("value", ["[x]", "{a: b}", "3"])
def test_an_attention_that_is_no_text_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"attn_implementation: .* is not text"):
        read(tmp_path, f"{TRAINER}attn_implementation: {value}\n")


def test_no_file_that_a_config_names_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "some-model").mkdir()
    (tmp_path / "some-model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for name in ("someone/config.json", "someone/some-model", "x/../config.json"):
        assert read(tmp_path, f"base_model: {name}\n").table["model"] == name


def test_axolotls_defaults_are_assumed(tmp_path: Path) -> None:
    foreign = read(tmp_path, AXOLOTL)
    assert (foreign.table["precision"], foreign.table["step"]["seq_len"]) == ("bf16-mixed", 512)
    assert "sequence_len 512, Axolotl's default" in foreign.assumed
    assert read(tmp_path, AXOLOTL + "bf16: false\n").table["precision"] == "fp32"
    assert read(tmp_path, AXOLOTL + "bf16:\n").table["precision"] == "fp32", "null is not the default"
    assert read(tmp_path, AXOLOTL + "bf16:\nfp16: true\n").table["precision"] == "fp16-mixed"


@pytest.mark.parametrize(
    ("text", "preparation"),
    [
        (AXOLOTL + "adapter: qlora\nload_in_4bit: true\nlora_r: 8\n", "none"),
        (FACTORY + "quantization_bit: 4\nbf16: true\n", "none"),
        (FACTORY + "quantization_bit: 8\nbf16: true\nupcast_layernorm: true\n", "norms"),
        (FACTORY + "bf16: true\n", None),
    ],
)
def test_what_goes_to_fp32_over_a_quantised_base(tmp_path: Path, text: str, preparation: str | None) -> None:
    assert read(tmp_path, text).table.get("kbit_preparation") == preparation


@pytest.mark.parametrize("precision", ["pure_bf16: true\n", "bf16: true\npure_bf16: true\n", ""])
def test_llama_factorys_norms_in_fp32_want_autocast(tmp_path: Path, precision: str) -> None:
    with pytest.raises(UserError, match="upcast_layernorm: the head, in bf16, cannot multiply"):
        read(tmp_path, FACTORY + "quantization_bit: 4\nupcast_layernorm: true\n" + precision)


def test_llama_factory_without_autocast_keeps_a_frozen_base_in_half(tmp_path: Path) -> None:
    assert read(tmp_path, FACTORY).table["precision"] == "bf16"
    assert read(tmp_path, FACTORY + "finetuning_type: full\n").table["precision"] == "fp32"


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        ("[attn]", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]),
        ("[q_proj, mlp]", ["q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
        ("[attn, mlp]", ["all-linear"]),
        ("['.*attn.*', '.*mlp.*']", ["all-linear"]),
        ("[attn, mlp, lm_head]", ["all-linear", "lm_head"]),
    ],
)
def test_galore_projects_what_has_the_word_in_its_path(tmp_path: Path, words: str, targets: list[str]) -> None:
    foreign = read(tmp_path, f"{TRAINER}optim: galore_adamw\noptim_target_modules: {words}\n")
    assert foreign.table["method"]["target_modules"] == targets
    text = f"{FACTORY}finetuning_type: full\nuse_galore: true\ngalore_update_interval: 50\ngalore_target: {words}\n"
    method = read(tmp_path, text).table["method"]
    assert (method["target_modules"], method["refresh_interval"]) == (targets, 50)


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        (FACTORY + "enable_liger_kernel: true\n", "fused"),
        (TRAINER + "use_liger_kernel: true\n", "fused"),
        (TRAINER + "use_liger_kernel: true\nliger_kernel_config: {fused_linear_cross_entropy: false}\n", None),
        (TRAINER + "model_name_or_path: gpt2\nuse_liger_kernel: true\n", None),
        (TRAINER + "use_liger_kernel: false\n", None),
    ],
)
def test_ligers_switch_fuses_the_loss_where_it_has_kernels(tmp_path: Path, text: str, loss: str | None) -> None:
    config = read(tmp_path, text)
    assert config.table["step"].get("loss") == loss
    assert config.not_modelled == ()


EVERY_KERNEL = ("liger-rms-norm", "liger-rope", "liger-swiglu")


@pytest.mark.parametrize(
    ("text", "kernels"),
    [
        (FACTORY + "enable_liger_kernel: true\n", EVERY_KERNEL),
        (TRAINER + "model_name_or_path: llama-60m\nuse_liger_kernel: true\n", EVERY_KERNEL),
        (
            TRAINER + "model_name_or_path: qwen3-0.6b\nuse_liger_kernel: true\nliger_kernel_config: {rope: false}\n",
            EVERY_KERNEL[::2],
        ),
        (TRAINER + "model_name_or_path: gpt2\nuse_liger_kernel: true\n", ()),
        (AXOLOTL + LIGER, ()),
        (AXOLOTL + LIGER + "liger_rope: true\nliger_rms_norm: true\nliger_swiglu: true\n", EVERY_KERNEL),
        (AXOLOTL + LIGER + "liger_glu_activation: true\nliger_layer_norm: true\n", EVERY_KERNEL[2:]),
        (AXOLOTL + "liger_rope: true\n", ()),
        ("base_model: gpt2\nadapter: lora\n" + LIGER + "liger_rope: true\n", ()),
    ],
)
def test_ligers_kernels_are_read(tmp_path: Path, text: str, kernels: tuple[str, ...]) -> None:
    config = read(tmp_path, text)
    plan = merge(config.table, {}, where="")
    assert plan.step.kernels == kernels
    assert config.not_modelled == ()
    assert predict(plan).allocated_bytes > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FACTORY + "use_galore: true\n", "use_galore: needs finetuning_type full"),
        (FACTORY + "quantization_bit: 4\nquantization_method: hqq\n", "quantization_method: 'hqq' is not modelled"),
        (FACTORY + "quantization_bit: 4\ndouble_quantization: maybe\n", "'maybe' is not true or false"),
        (PEFT + "rank_pattern: {q_proj: x}\n", "rank_pattern: 'q_proj' = 'x' is not a whole number above zero"),
    ],
)
def test_values_that_cannot_be_modelled_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_what_a_trainers_config_says_of_its_model(tmp_path: Path) -> None:
    foreign = read(tmp_path, TRAINER + "model_name_or_path: Qwen/Qwen2.5-0.5B\nbf16: true\n", "")
    assert foreign.framework == "transformers TrainingArguments"
    expected: dict[str, Any] = {"model": "qwen2.5-0.5b", "precision": "bf16-mixed", "master_weights": False}
    assert expected.items() <= foreign.table.items()
    foreign = read(tmp_path, TRAINER + "bf16: true\n", "qwen2.5-0.5b")
    assert expected.items() <= foreign.table.items(), "the model that the plan names says how its weights are loaded"
    for text in (TRAINER, PEFT):
        with pytest.raises(UserError, match=r"config\.yml: names no model \(MODEL on the command line, or"):
            read(tmp_path, text, "")


def test_what_looks_like_a_date_is_text(tmp_path: Path) -> None:
    dates = "wandb_name: 2024-13-45\nwandb_run_id: 2024-01-02\n"
    assert read(tmp_path, AXOLOTL + dates).irrelevant == ("wandb_name", "wandb_run_id")
    with pytest.raises(UserError, match="2024-01-02"):
        read(tmp_path, AXOLOTL + "sequence_len: 2024-01-02\n")


def test_offloaded_checkpoints_are_said(tmp_path: Path) -> None:
    found = read(tmp_path, AXOLOTL + "gradient_checkpointing: offload\n")
    assert found.table["step"]["checkpointing"] == "full"
    assert found.not_modelled[0].startswith("gradient_checkpointing = 'offload': ")


@pytest.mark.parametrize("text", [PEFT + "target_modules: {}\n", AXOLOTL + "adapter: lora\nlora_target_modules: {}\n"])
def test_a_text_of_targets_is_handed_to_peft_as_it_is(tmp_path: Path, text: str) -> None:
    def targets(value: str) -> Any:
        return read(tmp_path, text.format(value)).table["method"]["target_modules"]

    assert targets(r"'.*\.(q|v)_proj'") == r".*\.(q|v)_proj"
    assert targets("q_proj") == "q_proj", "a pattern, which no path is"
    assert targets("'q_proj,v_proj'") == "q_proj,v_proj"
    assert targets("all-linear") == "all-linear"
    assert targets("[q_proj, v_proj]") == ["q_proj", "v_proj"]


def test_llama_factory_splits_a_text_of_targets(tmp_path: Path) -> None:
    table = read(tmp_path, FACTORY + "lora_target: q_proj, v_proj\n").table
    assert table["method"]["target_modules"] == ["q_proj", "v_proj"]
    assert read(tmp_path, FACTORY + "lora_target: all\n").table["method"]["target_modules"] == "all-linear"


def test_patterns_of_ranks_are_read(tmp_path: Path) -> None:
    table = read(tmp_path, PEFT + "rank_pattern: {'.*q_proj$': 3}\n").table
    assert table["method"]["rank_pattern"] == {".*q_proj$": 3}


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (AXOLOTL + "made_up_key: 3\n", "made_up_key", "is not understood, and may bear on memory"),
        (TRAINER + "load_in_4bit: true\n", "load_in_4bit", "is not understood"),
        (TRAINER + "beta: 0.1\n", "beta", "is not understood"),
        (TRAINER + "lora_r: 8\n", "lora_r", "is not understood"),
        (TRAINER + "loss_type: dft\n", "loss_type", "'dft' is not modelled: another loss"),
        (TRAINER + "do_predict: true\n", "do_predict", "it asks for no training"),
        (TRAINER + "label_smoothing_factor: 0.1\n", "label_smoothing_factor", "would be another one"),
        (TRAINER + "use_cpu: true\n", "use_cpu", "it trains on the processor"),
        (FACTORY + "export_dir: merged\n", "export_dir", "it asks for no training"),
        (FACTORY + "infer_backend: vllm\n", "infer_backend", "it asks for no training"),
        (FACTORY + "do_eval: true\n", "do_eval", "it asks for no training"),
        (AXOLOTL + "deepspeed: zero2.json\n", "deepspeed", "'zero2.json' is not modelled: several GPUs"),
        (AXOLOTL + "fsdp_config: {activation_checkpointing: true}\n", "fsdp_config", "several GPUs"),
        (AXOLOTL + "gptq: true\n", "gptq", "quantised already"),
        (AXOLOTL + "reward_model: true\n", "reward_model", "a head of its own"),
        (AXOLOTL + "unfrozen_parameters: [lm_head]\n", "unfrozen_parameters", "which weights are frozen"),
        (AXOLOTL + "lisa_n_layers: 4\n", "lisa_n_layers", "which blocks are trained"),
        (AXOLOTL + "plugins: [axolotl.integrations.kd.KDPlugin]\n", "plugins", "what such a plugin changes"),
        (AXOLOTL + BOTH + "liger_fused_linear_cross_entropy: true\n", "plugins", "asks for another loss"),
        (AXOLOTL + LIGER + "liger_use_token_scaling: true\n", "liger_use_token_scaling", "a chunk's logits"),
        (FACTORY + "use_badam: true\n", "use_badam", "another optimizer"),
        (FACTORY + "use_apollo: true\n", "use_apollo", "another optimizer"),
        (FACTORY + "ray_num_workers: 4\n", "ray_num_workers", "several GPUs"),
        (FACTORY + "new_special_tokens: <a>,<b>\n", "new_special_tokens", "copies of embeddings and head"),
        (PEFT + "ensure_weight_tying: true\n", "ensure_weight_tying", "counted twice"),
        (PEFT + "bias: all\n", "bias", "trained biases"),
    ],
)
def test_a_key_that_decides_the_figures_and_is_not_read_bars_an_answer(
    tmp_path: Path, text: str, key: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    (problem,) = caught.value.problems
    assert (problem.key, problem.hint) == (key, f"--ignore-key {key} answers as if it were not there")
    assert said in problem.message
    assert read(tmp_path, text, ignored=(key,)).ignored == (key,)


EVERY_LORA_KERNEL = ("mlp", "o", "qkv")


@pytest.mark.parametrize(
    ("text", "kernels"),
    [
        ("adapter: lora\n", EVERY_LORA_KERNEL),
        ("adapter: lora\nlora_dropout: 0.1\npeft_use_rslora: true\n", EVERY_LORA_KERNEL),
        ("adapter: qlora\nload_in_4bit: true\n", EVERY_LORA_KERNEL),
        ("adapter: lora\nbf16: false\nfp16: true\n", EVERY_LORA_KERNEL),
        ("adapter: lora\nbf16: false\n", EVERY_LORA_KERNEL),
        ("adapter: qlora\nbfloat16: true\nlora_mlp_kernel: null\n", EVERY_LORA_KERNEL),
        ("adapter: lora\nload_in_8bit: true\n", ()),
        ("adapter: lora\nlora_mlp_kernel: false\n", ()),
        ("adapter: lora\nlora_embedding_kernel: false\n", ()),
        ("adapter: lora\nlora_o_kernel: true\nlora_mlp_kernel: true\n", EVERY_LORA_KERNEL[:2]),
        ("adapter: lora\ntrust_remote_code: true\n", ()),
        ("adapter: lora\ntrust_remote_code: true\nlora_qkv_kernel: false\n", ()),
        ("base_model: gpt2\nadapter: lora\n", ()),
        ("adapter: lora\npeft_use_dora: true\n", ()),
        ("", ()),
    ],
)
def test_axolotls_kernels_for_lora_are_read(tmp_path: Path, text: str, kernels: tuple[str, ...]) -> None:
    config = read(tmp_path, text if "base_model" in text else AXOLOTL + text)
    plan = merge(config.table, {}, where="")
    assert plan.method.lora_kernels == kernels
    assert config.not_modelled == ()
    assert predict(plan).allocated_bytes > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adapter: lora\n", "method.kernels mlp, qkv, o, which Axolotl switches on by itself for LoRA"),
        (
            "adapter: lora\nlora_dropout: 0.1\n",
            "method.kernels mlp, qkv, o, which Axolotl switches on by itself for LoRA; ",
        ),
        ("adapter: lora\npeft_use_dora: true\n", "DoRA as peft computes it, which needs more than Axolotl's kernels"),
        ("adapter: lora\nlora_target_modules: [embed_tokens]\n", "the embeddings' adapter as peft computes it"),
        ("base_model: gpt2\nadapter: lora\n", "lora_mlp_kernel, lora_qkv_kernel, lora_o_kernel false"),
    ],
)
def test_what_axolotl_switches_on_by_itself_is_said(tmp_path: Path, text: str, said: str) -> None:
    config = read(tmp_path, text if "base_model" in text else AXOLOTL + text)
    assert sum(sentence.startswith(said) for sentence in config.assumed) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora_mlp_kernel: true\n", "needs an adapter"),
        ("optimizer: galore_adamw\nlora_mlp_kernel: true\n", "needs an adapter"),
        ("adapter: lora\nload_in_8bit: true\nlora_o_kernel: true\n", "does not go with load_in_8bit"),
        ("adapter: lora\ntrust_remote_code: true\nlora_o_kernel: true\n", "does not go with trust_remote_code"),
        ("base_model: gpt2\nadapter: lora\nlora_qkv_kernel: true\n", "has no place in this model"),
    ],
)
def test_kernels_that_axolotl_does_not_run_with_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path, text if "base_model" in text else AXOLOTL + text)
    (problem,) = caught.value.problems
    assert problem.hint == f"{problem.key}: false"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (PEFT + "init_lora_weights: pissa\n", "init_lora_weights"),
        (FACTORY + "pissa_init: true\n", "pissa_init"),
        (AXOLOTL + "resize_token_embeddings_to_32x: true\n", "resize_token_embeddings_to_32x"),
    ],
)
def test_what_is_not_counted_is_said(tmp_path: Path, text: str, key: str) -> None:
    (left,) = read(tmp_path, text).not_modelled
    assert left.startswith(f"{key} = ")
    assert left.endswith("not counted")


@pytest.mark.parametrize("how", ["true", "gaussian"])
def test_adapters_that_are_made_without_the_weights_are_nothing_to_say(tmp_path: Path, how: str) -> None:
    assert read(tmp_path, f"{PEFT}init_lora_weights: {how}\n").not_modelled == ()


def test_what_axolotl_hands_to_peft_about_the_adapters_type(tmp_path: Path) -> None:
    def dtype(value: str) -> Any:
        text = f"{AXOLOTL}adapter: lora\npeft_autocast_adapter_dtype: {value}\n"
        return read(tmp_path, text).table["method"].get("adapter_dtype")

    assert (dtype("false"), dtype("true"), dtype("null")) == ("base", None, None)


def test_kernels_that_are_not_modelled_are_left_out(tmp_path: Path) -> None:
    text = AXOLOTL + "adapter: lora\npeft_use_dora: true\nlora_mlp_kernel: true\n"
    (left,) = read(tmp_path, text).not_modelled
    assert left.startswith("lora_mlp_kernel = true: counted is DoRA as peft computes it")


@pytest.mark.parametrize(
    ("switch", "kernels"), [("lora_mlp_kernel", EVERY_KERNEL), ("lora_o_kernel", EVERY_KERNEL[::2])]
)
def test_an_attention_of_axolotls_has_its_own_rotation(tmp_path: Path, switch: str, kernels: tuple[str, ...]) -> None:
    """Axolotl exchanges the attention's code before its plugin for Liger exchanges the rotation in transformers'."""
    text = f"{AXOLOTL}adapter: lora\n{switch}: true\n{LIGER}"
    config = read(tmp_path, text + "liger_rope: true\nliger_rms_norm: true\nliger_swiglu: true\n")
    assert merge(config.table, {}, where="").step.kernels == kernels


@pytest.mark.parametrize("method", ["full", "dora"])
def test_another_method_has_none_of_loras_kernels(tmp_path: Path, method: str) -> None:
    config = read(tmp_path, AXOLOTL + "adapter: lora\n")
    plan = merge(config.table, {"--method": method}, where="")
    assert predict(plan).allocated_bytes > 0


@pytest.mark.parametrize("key", ["activation_checkpointing", "fsdp_activation_checkpointing"])
def test_checkpointing_that_fsdp_is_asked_for_is_read(tmp_path: Path, key: str) -> None:
    text = AXOLOTL + f"fsdp_config:\n  {key}: true\n  reshard_after_forward: true\n"
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert [problem.key for problem in caught.value.problems] == ["fsdp_config"]
    foreign = read(tmp_path, text, ignored=("fsdp_config",))
    assert foreign.used[f"fsdp_config.{key}"] == "step.checkpointing full"
    step = merge(foreign.table, {}, where="").step
    assert (step.checkpointing, step.use_reentrant) == ("full", False), "accelerate's NO_REENTRANT"


def test_one_gpu_along_a_dimension_is_one_gpu(tmp_path: Path) -> None:
    sizes = ("tensor_parallel_size", "context_parallel_size", "sequence_parallel_degree", "dp_shard_size")
    foreign = read(tmp_path, AXOLOTL + "".join(f"{key}: 1\n" for key in sizes))
    assert all(foreign.used[key] == "one GPU (1)" for key in sizes)
    assert read(tmp_path, FACTORY + "ray_num_workers: 1\n").used["ray_num_workers"] == "one GPU (1)"
    with pytest.raises(UserError, match="several GPUs"):
        read(tmp_path, AXOLOTL + "tensor_parallel_size: 2\n")


@pytest.mark.parametrize(
    ("text", "names", "dtype"),
    [
        (AXOLOTL + "adapter: lora\nlora_modules_to_save: [embed_tokens, lm_head]\n", ["embed_tokens", "lm_head"], None),
        (FACTORY + "bf16: true\nadditional_target: embed_tokens,lm_head\n", ["embed_tokens", "lm_head"], "fp32"),
        (FACTORY + "pure_bf16: true\nadditional_target: lm_head\n", ["lm_head"], None),
        (PEFT + "modules_to_save: [lm_head]\n", ["lm_head"], None),
        (PEFT + "modules_to_save: [pooler, classifier, score]\ntask_type: SEQ_CLS\n", ["pooler"], None),
        (TRAINER + "use_peft: true\nlora_modules_to_save: [lm_head]\n", ["lm_head"], None),
    ],
)
def test_modules_that_are_trained_whole(tmp_path: Path, text: str, names: list[str], dtype: str | None) -> None:
    method = read(tmp_path, text).table["method"]
    assert method["kind"] == "lora"
    assert (method["modules_to_save"], method.get("modules_to_save_dtype")) == (names, dtype)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("CAUSAL_LM", None),
        ("SEQ_CLS", "sequence-classification"),
        ("TOKEN_CLS", "token-classification"),
        ("QUESTION_ANS", "question-answering"),
    ],
)
def test_the_task_of_an_adapter(tmp_path: Path, kind: str, task: str | None) -> None:
    assert read(tmp_path, f"{PEFT}task_type: {kind}\n").table.get("task") == task


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (PEFT + "task_type: SEQ_2_SEQ_LM\n", "task_type"),
        (PEFT + "task_type: FEATURE_EXTRACTION\n", "task_type"),
        (TRAINER + "use_peft: true\nlora_task_type: SEQ_CLS\n", "lora_task_type"),
        (AXOLOTL + "reward_model: true\n", "reward_model"),
        (AXOLOTL + "process_reward_model: true\n", "process_reward_model"),
        (AXOLOTL + "num_labels: 3\n", "num_labels"),
        (AXOLOTL + "model_type: AutoModelForSequenceClassification\n", "model_type"),
        (AXOLOTL + "type_of_model: AutoModelForTokenClassification\n", "type_of_model"),
    ],
)
def test_a_head_that_a_config_asks_for_and_that_is_not_read_is_in_the_way(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize("name", ["AutoModelForCausalLM", "LlamaForCausalLM"])
def test_axolotl_s_class_of_a_language_model_is_read(tmp_path: Path, name: str) -> None:
    assert "model_type" in read(tmp_path, f"{AXOLOTL}model_type: {name}\n").used


def test_axolotl_adds_targets_to_all_linear_layers(tmp_path: Path) -> None:
    text = AXOLOTL + "adapter: lora\nlora_target_linear: true\nlora_target_modules: [embed_tokens]\n"
    assert read(tmp_path, text).table["method"]["target_modules"] == ["all-linear", "embed_tokens"]


@pytest.mark.parametrize("value", ["false", "null", "''", "[]", "0"])
def test_a_key_that_asks_for_nothing_is_passed_over(tmp_path: Path, value: str) -> None:
    text = f"{AXOLOTL}made_up_key: {value}\ndeepspeed: {value}\nplugins: [axolotl.integrations.liger.LigerPlugin]\n"
    config = read(tmp_path, text)
    assert (config.not_modelled, config.ignored) == ((), ())
    assert "made_up_key" in config.irrelevant


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", True),
        ("attn_implementation: sdpa\n", True),
        ("eager_attention: true\n", True),
        ("flash_attention: true\n", False),
        ("attn_implementation: flash_attention_2\n", False),
        ("xformers_attention: true\n", False),
        ("adapter: lora\n", False),
        ("bf16: false\n", False),
        (CUT, False),
        (LIGER + "liger_fused_linear_cross_entropy: true\n", True),
    ],
)
def test_axolotl_keeps_embeddings_in_fp32(tmp_path: Path, text: str, kept: bool) -> None:
    config = read(tmp_path, AXOLOTL + text)
    plan = merge(config.table, {}, where="")
    assert plan.fp32_embeddings is kept
    assert any("embeddings, norms and head in fp32" in said for said in config.assumed) is kept
    assert predict(plan).allocated_bytes > 0


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        (CUT, "cut-cross-entropy"),
        (CUT + "cut_cross_entropy: true\n", "cut-cross-entropy"),
        (CUT + "cut_cross_entropy: false\n", None),
        ("cut_cross_entropy: false\n", None),
        ("cut_cross_entropy: true\n", None),
        (BOTH + "liger_fused_linear_cross_entropy: true\ncut_cross_entropy: false\n", "fused"),
    ],
)
def test_axolotl_cuts_cross_entropy_where_the_plugin_is_listed(tmp_path: Path, text: str, loss: str | None) -> None:
    config = read(tmp_path, AXOLOTL + "attn_implementation: flash_attention_2\n" + text)
    assert config.table["step"].get("loss") == loss
    plan = merge(config.table, {}, where="")
    assert plan.step.loss.kind == loss or loss is None
    assert predict(plan).allocated_bytes > 0
    assert config.not_modelled == ()


def test_everything_in_the_way_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, f"{TRAINER}deepspeed: x.json\nmade_up_key: 3\nother: 4\n", "")
    assert [problem.key for problem in caught.value.problems] == ["deepspeed", "made_up_key", "other", ""]


def test_only_what_is_there_can_be_ignored(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="made_up_key: is to be ignored, but is no key of it"):
        read(tmp_path, AXOLOTL, ignored=("made_up_key",))


@pytest.mark.parametrize(
    ("key", "name"),
    [("checkpointer", "torchtune"), ("zero_optimization", "DeepSpeed"), ("distributed_type", "accelerate")],
)
def test_a_config_of_a_framework_that_is_not_read_is_named(tmp_path: Path, key: str, name: str) -> None:
    with pytest.raises(UserError, match=f"{key}: this is an? {name} .*, which is not read yet"):
        read(tmp_path, f"{TRAINER}{key}: {{a: b}}\n", "llama-60m")


def test_trl_where_it_is_silent(tmp_path: Path) -> None:
    config = read(tmp_path, TRAINER + "dataset_name: trl-lib/Capybara\n", "qwen2.5-0.5b")
    step = {"seq_len": 1024, "checkpointing": "full", "loss": "chunked", "batch_size": 8}
    assert step.items() <= config.table["step"].items()
    assert (config.table["precision"], config.table["master_weights"]) == ("bf16-mixed", True)
    text = "max_length: 512\ngradient_checkpointing: false\nloss_type: nll\ntorch_dtype: bfloat16\nbf16: true\n"
    config = read(tmp_path, TRAINER + text, "qwen2.5-0.5b")
    assert config.table["step"] == {"seq_len": 512, "batch_size": 8}
    assert (config.table["precision"], config.table["master_weights"]) == ("bf16-mixed", False)
    assert read(tmp_path, TRAINER + "torch_dtype: auto\n", "qwen2.5-0.5b").table["master_weights"] is False
    with pytest.raises(UserError, match="torch_dtype: 'bf16' is not a type that weights are loaded in"):
        read(tmp_path, TRAINER + "torch_dtype: bf16\n", "qwen2.5-0.5b")


def test_llama_factorys_adapters_stay_in_half_precision_with_pure_bf16(tmp_path: Path) -> None:
    assert read(tmp_path, FACTORY + "pure_bf16: true\n").table["method"]["adapter_dtype"] == "base"
    assert "adapter_dtype" not in read(tmp_path, FACTORY + "bf16: true\n").table["method"]
    fused = {"kind": "adamw", "implementation": "fused"}
    assert read(tmp_path, FACTORY).table["optimizer"] == fused, "the Trainer's default with torch 2.8 or newer"


def test_the_trainer_leaves_embeddings_moments_whole_beside_bitsandbytes_8_bit_ones(tmp_path: Path) -> None:
    for word in ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit"):
        assert read(tmp_path, f"{TRAINER}optim: {word}\n").table["optimizer"]["whole_embeddings"] is True
    for text in (
        f"{AXOLOTL}optimizer: galore_adamw_8bit\n",
        f"{TRAINER}optim: galore_adamw_8bit\n",
        f"{FACTORY}finetuning_type: full\nuse_galore: true\noptim: adamw_8bit\n",
        f"{FACTORY}optim: adamw_8bit\nloraplus_lr_ratio: 16.0\n",
    ):
        assert "whole_embeddings" not in read(tmp_path, text).table["optimizer"], text


def test_torchaos_8_bit_adamw_by_the_trainers_name(tmp_path: Path) -> None:
    optimizer = read(tmp_path, AXOLOTL + "optimizer: adamw_torch_8bit\n").table["optimizer"]
    assert optimizer == {"kind": "adamw-8bit", "format": "torchao"}


CHECKPOINTED = "gradient_checkpointing: true\n"
SETTINGS = "gradient_checkpointing_kwargs: "


@pytest.mark.parametrize(
    ("text", "reentrant", "assumed"),
    [
        (TRAINER + CHECKPOINTED, False, "use_reentrant false, transformers 5's default; before, it was true"),
        (TRAINER, False, None),
        (TRAINER + CHECKPOINTED + SETTINGS + "{use_reentrant: true}\n", True, None),
        (
            TRAINER + "activation_checkpointing: true\nactivation_checkpointing_kwargs: {use_reentrant: true}\n",
            True,
            None,
        ),
        (TRAINER + CHECKPOINTED + SETTINGS + "{use_reentrant: true, every_n_layers: 2}\n", True, None),
        (TRAINER + CHECKPOINTED + SETTINGS + "{every_n_layers: 2}\n", False, None),
        (TRAINER + CHECKPOINTED + SETTINGS + "{preserve_rng_state: false}\n", True, None),
        (TRAINER + "dataset_name: x\n", False, "use_reentrant false, trl's default"),
        (AXOLOTL + CHECKPOINTED, True, "use_reentrant true, Axolotl's default"),
        (AXOLOTL + CHECKPOINTED + SETTINGS + "\n", True, "use_reentrant true, Axolotl's default"),
        (AXOLOTL + CHECKPOINTED + SETTINGS + "{use_reentrant: false}\n", False, None),
        (AXOLOTL + "gradient_checkpointing: offload\n", False, None),
        (AXOLOTL + CHECKPOINTED + "activation_offloading: hidden_states\n", False, None),
        (AXOLOTL, True, None),
        (FACTORY, True, "use_reentrant true, LLaMA-Factory's default"),
        (FACTORY + "use_reentrant_gc: false\n", False, None),
        (FACTORY + "use_reentrant_gc: true\n", True, None),
        (FACTORY + "use_reentrant_gc: false\n" + CHECKPOINTED, True, "use_reentrant true, LLaMA-Factory's default"),
        (FACTORY + CHECKPOINTED + SETTINGS + "{use_reentrant: false}\n", False, None),
    ],
)
def test_use_reentrant_where_a_config_says_and_where_not(
    text: str, reentrant: bool, assumed: str | None, tmp_path: Path
) -> None:
    config = read(tmp_path, text)
    assert config.table.get("step", {}).get("use_reentrant", False) is reentrant
    assert [said for said in config.assumed if "use_reentrant" in said] == ([assumed] if assumed else [])


def test_a_use_reentrant_that_is_no_switch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gradient_checkpointing_kwargs: use_reentrant 'yes' is not true or false"):
        read(tmp_path, f"{TRAINER}{CHECKPOINTED}{SETTINGS}{{use_reentrant: 'yes'}}\n")
