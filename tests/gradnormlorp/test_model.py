"""GradNormLoRP on transformers' models: applied, merged, folded, saved, and under everything that wraps training."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from memplanner.gradnormlorp import (
    GradNormLorp,
    GradNormLoRPAdamW,
    GradNormLoRPLinear,
    apply_gradnormlorp,
    fold,
    fold_every,
    load_adapter,
    merge_and_unload,
    parameter_groups,
    save_adapter,
)
from memplanner.gradnormlorp.model import layers
from tests.gradnormlorp.conftest import MODELS, batch_for, small_llama, small_roberta

SETTINGS = GradNormLorp(rank=4, projection_rank=2, refresh_interval=2)


def trained(model: nn.Module, settings: GradNormLorp = SETTINGS, steps: int = 3, **made: Any) -> GradNormLoRPAdamW:
    """Apply the method and train a few steps."""
    apply_gradnormlorp(model, settings)
    return train(model, GradNormLoRPAdamW(parameter_groups(model, settings), lr=0.01, **made), steps)


def train(model: nn.Module, optimizer: GradNormLoRPAdamW, steps: int) -> GradNormLoRPAdamW:
    model.train()
    for _ in range(steps):
        model(**batch_for(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def logits(model: Any) -> Tensor:
    model.eval()
    with torch.no_grad():
        output: Tensor = model(**batch_for(model)).logits
    return output


@pytest.mark.parametrize("family", MODELS)
def test_a_fresh_adapted_model_computes_what_the_plain_one_does(family: str) -> None:
    model = MODELS[family]()
    expected = logits(model)
    assert apply_gradnormlorp(model, SETTINGS) is model
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "per_block"), [("llama", 7), ("roberta", 6), ("gpt2", 4)])
def test_every_linear_layer_of_the_blocks_is_a_target_and_no_other(family: str, per_block: int) -> None:
    model = apply_gradnormlorp(MODELS[family](), SETTINGS)
    assert len(dict(layers(model))) == 2 * per_block
    assert all(any(part.isdecimal() for part in name.split(".")) for name, _ in layers(model))


def test_targets_and_ranks_go_by_the_ends_of_names() -> None:
    settings = GradNormLorp(rank=4, target_modules=("q_proj", "down_proj"), rank_pattern={"layers.1.mlp.down_proj": 9})
    ranks = {name: layer.rank for name, layer in layers(apply_gradnormlorp(small_llama(), settings))}
    assert ranks == {
        "model.layers.0.self_attn.q_proj": 4,
        "model.layers.0.mlp.down_proj": 4,
        "model.layers.1.self_attn.q_proj": 4,
        "model.layers.1.mlp.down_proj": 9,
    }


def test_names_that_match_no_layer_are_reported() -> None:
    with pytest.raises(ValueError, match=r"match no linear layer; there are: .*q_proj"):
        apply_gradnormlorp(small_llama(), GradNormLorp(target_modules=("qproj",)))
    with pytest.warns(UserWarning, match="'qproj' matches no linear layer"):
        apply_gradnormlorp(small_llama(), GradNormLorp(target_modules=("qproj", "k_proj")))
    with pytest.raises(ValueError, match="already"):
        apply_gradnormlorp(apply_gradnormlorp(small_llama()))
    with pytest.raises(ValueError, match="'dora-galore' is other code"):
        apply_gradnormlorp(small_llama(), GradNormLorp(implementation="dora-galore"))


def test_train_rest_says_what_else_learns() -> None:
    tuned = apply_gradnormlorp(small_roberta(), GradNormLorp(train_rest=False))
    rest = {n for n, p in tuned.named_parameters() if p.requires_grad and "factor" not in n and "magnitude" not in n}
    assert rest
    assert all(name.startswith("classifier.") for name in rest)
    whole = apply_gradnormlorp(small_roberta(), GradNormLorp())
    frozen = {name for name, p in whole.named_parameters() if not p.requires_grad}
    assert frozen == {f"{name}.base.weight" for name, _ in layers(whole)}


@pytest.mark.parametrize("family", MODELS)
def test_merging_keeps_what_was_learned_and_restores_the_modules(family: str) -> None:
    model = MODELS[family]()
    names = {name: type(m) for name, m in model.named_modules()}
    before = logits(model)
    trained(model)
    expected = logits(model)
    assert (expected - before).abs().max() > 0.01
    torch.testing.assert_close(logits(merge_and_unload(model)), expected, rtol=1e-4, atol=1e-5)
    assert {name: type(m) for name, m in model.named_modules()} == names


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("folded", [False, True])
def test_a_saved_adapter_restores_the_model_exactly(family: str, folded: bool, tmp_path: Path) -> None:
    model = MODELS[family]()
    plain = copy.deepcopy(model)
    optimizer = trained(model, GradNormLorp(rank=4, rank_pattern={"1.attn.c_attn": 6, "layers.1.self_attn.q_proj": 6}))
    if folded:
        fold(model, optimizer)
        train(model, optimizer, 1)
    save_adapter(model, tmp_path / "adapter.safetensors")
    load_adapter(plain, tmp_path / "adapter.safetensors")
    assert torch.equal(logits(plain), logits(model))
    load_adapter(plain, tmp_path / "adapter.safetensors")
    assert torch.equal(logits(plain), logits(model))


def test_a_fine_tuned_adapter_is_small(tmp_path: Path) -> None:
    model = small_llama(num_hidden_layers=1)
    trained(model, GradNormLorp(rank=1, target_modules=("q_proj",), train_rest=False))
    save_adapter(model, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 4 * (64 + 64 + 64) + 1000


def test_files_that_are_not_this_model_s_are_refused_and_change_nothing(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_adapter(small_llama(), path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not written by save_adapter"):
        load_adapter(small_llama(), path)
    model = small_llama()
    trained(model)
    save_adapter(model, path)
    other = small_llama(hidden_size=32)
    with pytest.raises(ValueError, match=r"is \(.*\), the model's is \("):
        load_adapter(other, path)
    with pytest.raises(ValueError, match=r"has no layer model\.layers\.1"):
        load_adapter(small_llama(num_hidden_layers=1), path)
    assert not dict(layers(other))
    with pytest.raises(ValueError, match="no GradNormLoRP layer"):
        save_adapter(other, path)


def test_folding_while_training_leaves_the_rank_k_subspace() -> None:
    def change(every: int) -> int:
        model = small_llama()
        before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
        apply_gradnormlorp(model, SETTINGS)
        optimizer = GradNormLoRPAdamW(parameter_groups(model, SETTINGS), lr=0.02)
        handle = fold_every(every, model, optimizer)
        train(model, optimizer, 6)
        handle.remove()
        layer = model.model.layers[0].mlp.up_proj
        learned = layer.weight + layer.factor_i @ layer.factor_j - before
        return int(torch.linalg.matrix_rank(learned.detach().double(), tol=1e-4))

    assert change(every=100) <= 4
    assert change(every=2) > 4
    with pytest.raises(ValueError, match="steps 0"):
        fold_every(0, small_llama(), GradNormLoRPAdamW([nn.Parameter(torch.ones(1))]))


def test_fold_makes_the_optimizer_forget_the_factors_alone() -> None:
    model = small_llama()
    optimizer = trained(model)
    layer = next(layer for _, layer in layers(model))
    fold(model, optimizer)
    assert layer.factor_i not in optimizer.state
    assert layer.magnitude in optimizer.state


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("norm", ["detached", "exact"])
def test_checkpointing_changes_no_gradient(norm: Any) -> None:
    settings = SETTINGS.model_copy(update={"norm": norm})
    model: Any = apply_gradnormlorp(small_llama(), settings)
    with torch.no_grad():
        for _, layer in layers(model):
            layer.factor_i.normal_(std=0.1)
    model(**batch_for(model)).loss.backward()
    plain = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()(**batch_for(model)).loss.backward()
    assert plain.keys() == gradients(model).keys()
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, plain[name], rtol=1e-5, atol=1e-7)


def test_accumulated_micro_batches_are_one_batch() -> None:
    model: Any = apply_gradnormlorp(small_llama(), SETTINGS)
    whole = batch_for(model)
    model(**whole).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    for part in range(2):
        half = {name: value[2 * part : 2 * part + 2] for name, value in whole.items()}
        (model(**half).loss / 2).backward()
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["detached", "exact"])
def test_autocast_computes_products_in_half_and_norms_whole(norm: Any) -> None:
    model: Any = apply_gradnormlorp(small_llama(), SETTINGS.model_copy(update={"norm": norm}))
    with torch.no_grad():
        for _, layer in layers(model):
            layer.factor_i.normal_(std=0.1)
    whole = model(**batch_for(model)).loss
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    layer = model.model.layers[0].mlp.up_proj
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 64)).dtype == torch.bfloat16
        assert torch.equal(layer.row_scale(), _outside(layer))
        loss = model(**batch_for(model)).loss
    loss.backward()
    assert loss.item() == pytest.approx(whole.item(), rel=0.01)
    for name, grad in gradients(model).items():
        assert grad.dtype == torch.float32
        assert (grad - expected[name]).norm() <= 0.1 * expected[name].norm() + 1e-4, name


def _outside(layer: GradNormLoRPLinear) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return layer.row_scale()


@pytest.mark.parametrize("norm", ["detached", "exact"])
def test_compiled_models_give_the_same_gradients(norm: Any) -> None:
    model: Any = apply_gradnormlorp(small_llama(num_hidden_layers=1), SETTINGS.model_copy(update={"norm": norm}))
    with torch.no_grad():
        for _, layer in layers(model):
            layer.factor_i.normal_(std=0.1)
    model(**batch_for(model)).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    torch._dynamo.reset()
    layer = model.model.layers[0].mlp.up_proj
    torch.compile(layer, backend="aot_eager", fullgraph=True)(torch.randn(2, 64)).sum().backward()
    model.zero_grad()
    torch.compile(model, backend="aot_eager")(**batch_for(model)).loss.backward()
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-6)


def _ddp_worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = apply_gradnormlorp(small_llama().double(), SETTINGS)
    wrapped = DistributedDataParallel(model)
    optimizer = GradNormLoRPAdamW(parameter_groups(model, SETTINGS), lr=0.01)
    for _ in range(3):
        part = {name: value[2 * rank : 2 * rank + 2] for name, value in batch_for(model).items()}
        wrapped(**part).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save({name: p.detach() for name, p in model.named_parameters()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_data_parallel_workers_take_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(  # type: ignore[attr-defined]
        _ddp_worker, args=(str(tmp_path),), nprocs=2
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = small_llama().double()
    trained(alone)
    for name, param in alone.named_parameters():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], param.detach(), rtol=1e-6, atol=1e-8)
