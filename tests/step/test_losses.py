"""A loss may forward the model more than once: with gradients, without them, and without adapters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from memplanner.components.context import Context
from memplanner.components.losses.base import Batch, LanguageModel, Losses, batch_of
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction.estimate import model_of
from memplanner.program.liveness import Liveness, PhaseBytes
from memplanner.program.program import StepProgram
from memplanner.program.shapes import Shape
from memplanner.step.assemble import assemble
from memplanner.step.run import run
from memplanner.tape import ops
from memplanner.tape.engine import Tensor
from memplanner.tape.loss import cross_entropy

BATCH, SEQ = 2, 48
BLOCK = 512
"""A number on the GPU takes one of the allocator's blocks."""
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
LORA = {"kind": "lora", "rank": 4}


def likelihood(ctx: Context, model: LanguageModel, batch: Batch) -> Tensor:
    """A number for the batch, and nothing else that outlives the pass where nothing enters the graph."""
    return cross_entropy(model.logits(model.hidden_states(batch["input_ids"])), batch["labels"])


class Passes(NamedTuple):
    """A loss made of forward passes. order: "p" is the model as it is trained, "r" the reference it starts from."""

    order: str

    def inputs(self, ctx: Context) -> Batch:
        return batch_of(ctx, Shape(batch=ctx.batch, seq=ctx.seq))

    def run(self, ctx: Context, model: Any, batch: Batch) -> Losses:
        numbers = []
        for word in self.order:
            if word == "p":
                numbers.append(likelihood(ctx, model, batch))
            else:
                with ctx.no_grad(), ctx.adapters_off():
                    numbers.append(likelihood(ctx, model, batch))
        ctx.tape.phase("loss")
        total = numbers.pop(0)
        while numbers:
            total = ops.add(total, numbers.pop(0), "sum of the passes")
        return Losses(total)


Write = Callable[..., StepProgram]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the step of a plan whose loss is these passes."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))

    def written(order: str, *, collapse: bool = True, **fields: Any) -> StepProgram:
        plan = TrainingPlan.model_validate({"model": str(path), "device": "24GiB", **fields})
        _, family, config = model_of(plan, Path())
        step = assemble(plan, family, config, compute_capability=8.0).replaced(loss=Passes(order))
        return run(step, BATCH, SEQ, collapse=collapse)[0]

    return written


def phase(program: StepProgram, name: str) -> PhaseBytes:
    return next(phase for phase in Liveness(program).phases if phase.name == name)


def made_in(program: StepProgram, name: str) -> list[tuple[str, int, int]]:
    """The tensors made in a phase: name, size and number."""
    of_phase = [i for i in range(len(program.sizes)) if program.phases_of(i)[0] == name]
    return [(program.tensors[i].name, program.sizes[i], program.tensors[i].copies) for i in of_phase]


PLANS: list[dict[str, Any]] = [
    {"method": "full"},
    {"method": LORA},
    {"method": {"kind": "dora", "rank": 4, "dropout": 0.1}},
    {"method": LORA, "step": {"checkpointing": "every-2"}},
    {"method": {**LORA, "rank_pattern": {"layers.2.self_attn.q_proj": 8}}},
    {"method": {**LORA, "target_modules": r".*layers\.[3-5]\..*_proj"}},
    {"method": "full", "step": {"checkpointing": "full", "per_layer_updates": True}},
    {"method": LORA, "precision": "fp32"},
    {"method": {**LORA, "modules_to_save": ["embed_tokens", "lm_head", "layers.2.mlp"]}},
    {"method": {"kind": "dora", "rank": 4, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}},
]


@pytest.mark.parametrize("fields", PLANS, ids=str)
@pytest.mark.parametrize("order", ["pr", "rp", "prp"])
def test_blocks_written_together_cost_what_single_blocks_cost(order: str, fields: dict[str, Any], write: Write) -> None:
    together, apart = write(order, **fields), write(order, collapse=False, **fields)
    collapsed, expected = ([(p.name, p.peak, p.end) for p in Liveness(program).phases] for program in (together, apart))
    assert collapsed == expected
    assert together.persistent.by_category == apart.persistent.by_category
    assert together.persistent.num_parameters == apart.persistent.num_parameters


@pytest.mark.parametrize("fields", PLANS, ids=str)
def test_every_pass_has_the_same_parameters(fields: dict[str, Any], write: Write) -> None:
    once = write("p", **fields).persistent
    for order in ("pr", "rp", "pp"):
        again = write(order, **fields).persistent
        assert sorted(again.by_category.items()) == sorted(once.by_category.items())
        assert (again.num_parameters, again.num_trainable) == (once.num_parameters, once.num_trainable)


@pytest.mark.parametrize("fields", PLANS, ids=str)
def test_a_pass_without_gradients_leaves_a_number(fields: dict[str, Any], write: Write) -> None:
    once, both = write("p", **fields), write("pr", **fields)
    assert phase(both, "forward").end == phase(once, "forward").end + BLOCK
    assert made_in(both, "backward") == made_in(once, "backward")
    assert [name for name, _, _ in made_in(both, "loss")] == ["sum of the passes"]


def test_the_peak_of_two_passes_is_that_of_the_second_over_what_the_first_keeps(write: Write) -> None:
    """The reference pass at its own peak, in its loss: logits and log-probabilities in bf16, and two numbers."""
    once, both = write("p", method=LORA), write("pr", method=LORA)
    logits = BATCH * SEQ * CONFIG["vocab_size"] * 2
    assert phase(both, "forward").peak == phase(once, "forward").end + 2 * logits + 2 * BLOCK


def test_without_adapters_nothing_of_theirs_is_made(write: Write) -> None:
    once, both, twice = (write(order, method=LORA) for order in ("p", "pr", "pp"))

    def adapters(program: StepProgram) -> int:
        return sum(copies for name, _, copies in made_in(program, "forward") if "lora_" in name)

    assert adapters(once) == adapters(both) == 5 * 2 * 2
    assert adapters(twice) == 2 * adapters(once)


@pytest.mark.parametrize("method", ["full", LORA], ids=str)
def test_gradients_of_two_passes_meet_in_one(method: Any, write: Write) -> None:
    """The second pass's backward comes first; its gradients wait for those of the first and are added up in place."""
    once, twice = write("p", method=method), write("pp", method=method)

    def gradients(program: StepProgram) -> list[tuple[str, int]]:
        kept = [t for t in program.tensors if t.category == "gradients"]
        return sorted((tensor.scope, tensor.copies) for tensor in kept)

    assert gradients(once) == gradients(twice)
    assert phase(once, "backward").end == phase(twice, "backward").end


def test_cut_cross_entropy_makes_no_logits(tmp_path: Path) -> None:
    """By the package's code: a label for all tokens but each sequence's last; three numbers per label are saved with
    the hidden states and the vocabulary's averages; backward makes the head's gradient and its input's.
    """
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))

    def written(loss: str, method: Any) -> StepProgram:
        fields = {"model": str(path), "device": "24GiB", "method": method, "step": {"loss": loss}}
        plan = TrainingPlan.model_validate(fields)
        _, family, config = model_of(plan, Path())
        return run(assemble(plan, family, config, compute_capability=8.0), BATCH, SEQ)[0]

    def rounded(size: int) -> int:
        return -(-size // BLOCK) * BLOCK

    labels, vocab, hidden = BATCH * (SEQ - 1), CONFIG["vocab_size"], CONFIG["hidden_size"]
    per_label = {"fp32": rounded(labels * 4), "int64": rounded(labels * 8)}
    for method in ("full", LORA):
        whole, cut = written("cross-entropy", method), written("cut-cross-entropy", method)
        logits, average = BATCH * SEQ * vocab * 2, vocab * 4
        labels_of_whole = rounded(BATCH * SEQ * 8)
        saved = per_label["fp32"] + per_label["int64"] + average
        log_probabilities = 2 * logits
        states = 0 if method == "full" else rounded(BATCH * SEQ * hidden * 2)
        difference = saved + states - log_probabilities - BLOCK - labels_of_whole
        assert phase(cut, "loss").end - phase(whole, "loss").end == difference
        made = made_in(cut, "backward")
        assert ("gradient of the head's input", rounded(BATCH * SEQ * hidden * 2), 1) in made
        heads = [tensor for tensor in cut.tensors if tensor.scope == "lm_head.weight"]
        assert [tensor.name for tensor in heads] == (["gradient"] if method == "full" else [])
        assert not any("logits" in name and "average" not in name for name, _, _ in made_in(cut, "loss"))
