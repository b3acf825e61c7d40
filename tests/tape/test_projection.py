"""Projected gradients: shapes by the paper, and a refusal of what no library projects."""

import pytest

from memplanner.components.methods.galore import GaloreAdamW
from memplanner.components.methods.gradnormlorp_update import GradNormLorpAdamW
from memplanner.components.optimizers.adamw import AdamW
from memplanner.components.optimizers.update import UpdateRule
from memplanner.errors import UnsupportedError
from memplanner.program.shapes import FP32, Shape
from memplanner.tape.engine import Param, Tape
from memplanner.tape.projection import Projection


@pytest.mark.parametrize(("m", "n", "reduced"), [(12, 8, (12, 4)), (8, 12, (4, 12)), (8, 8, (8, 4)), (3, 9, (3, 9))])
def test_the_shorter_side_is_projected(m: int, n: int, reduced: tuple[int, int]) -> None:
    assert Projection(rank=4).reduced(Shape(out=m, in_=n)).dims == reduced


STACK = Shape(experts=8, out=6, in_=4)
RULES = [
    GaloreAdamW(pins_singular_vectors=False),
    GradNormLorpAdamW(moments=AdamW()),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("two_sided", [False, True])
def test_a_stack_of_matrices_is_refused(rule: UpdateRule, two_sided: bool) -> None:
    projection = Projection(rank=2, two_sided=two_sided)
    param = Param("experts.weight", STACK, FP32, count=1, trainable=True, projection=projection)
    message = "no library projects the gradient of a weight that is no matrix, as of 8 experts × 6 out × 4 in"
    with pytest.raises(UnsupportedError, match=message):
        rule.state(param)
    with pytest.raises(UnsupportedError, match=message):
        rule.step(Tape(), [param])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_stack_that_is_not_projected_has_whole_moments(rule: UpdateRule) -> None:
    param = Param("experts.weight", STACK, FP32, count=1, trainable=True)
    moments = [tensor for tensor in rule.state(param) if tensor.category == "optimizer_state"]
    assert [tensor.shape.numel for tensor in moments if tensor.name != "step"] == [8 * 6 * 4] * 2
    rule.step(Tape(), [param])
