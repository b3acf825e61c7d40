"""What an architecture's forward pass is written with."""

from memplanner.catalogue import find_model
from memplanner.components.architectures.registry import read_config
from memplanner.components.context import Context
from memplanner.plan.training_plan import TrainingPlan
from memplanner.program.shapes import FP32, Shape
from memplanner.step.assemble import assemble
from memplanner.tape.engine import Param, Tape


def context(method: str = "lora") -> Context:
    plan = TrainingPlan.model_validate({"model": "llama-60m", "method": method})
    profile = find_model(plan.model)
    family, config = read_config(profile.config, profile.name)
    return assemble(plan, family, config, compute_capability=8.0).context(Tape(), batch=1, seq=16)


def test_a_parameter_of_a_block_comes_with_every_block() -> None:
    ctx = context()
    ctx.tape.scope, ctx.tape.current_copies = "layers.1–7", 7
    param = ctx.param("self_attn.scale", Shape(rank=8))
    assert (param.name, param.count) == ("layers.1–7.self_attn.scale", 7)


def test_a_shared_parameter_comes_once_whichever_blocks_ask_for_it() -> None:
    ctx, tape = context(), Tape()
    ctx.tape = tape

    def asked(scope: str, copies: int) -> Param:
        tape.scope, tape.current_copies = scope, copies
        param = ctx.shared_param("shared_A", Shape(rank=8, in_=64), dtype=FP32)
        assert (tape.scope, tape.current_copies) == (scope, copies)
        return param

    first, others = asked("layers.0", 1), asked("layers.1–7", 7)
    assert first is others
    assert (first.name, first.count, first.trainable, first.category) == ("shared_A", 1, False, "adapters")
    assert list(tape.params) == ["shared_A"]


def test_a_shared_parameter_is_frozen_even_where_everything_is_trained() -> None:
    assert not context("full").shared_param("shared_A", Shape(rank=8), dtype=FP32).trainable
