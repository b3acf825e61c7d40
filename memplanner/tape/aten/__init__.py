"""ATen's operations on the tape, for forward passes that were recorded rather than written by hand.

A rule is called as `rule(tape, outs, *args)` and returns the operation's outputs. outs: their shapes, one for each, so
that arguments which are sizes are left out. The others come in the order of the operator's schema: tensors and
parameters, Python numbers (whose values matter only where they decide what is saved), dimensions, types. Operations
that make tensors from nothing (zeros, arange) take the type alone; those with an example (zeros_like, new_zeros) the
example and a type, or None for the example's.

Names are those of native_functions.yaml without the overload; a few are functions of torch that call several operators:
to, softmax, matmul, reshape, contiguous, dropout, linear, layer_norm. "constant" is torch.tensor of numbers.
"""

from memplanner.tape.aten.base import Rule
from memplanner.tape.aten.elementwise import ELEMENTWISE
from memplanner.tape.aten.indexing import INDEXING
from memplanner.tape.aten.inplace import IN_PLACE
from memplanner.tape.aten.making import MAKING
from memplanner.tape.aten.products import PRODUCTS
from memplanner.tape.aten.reductions import REDUCTIONS
from memplanner.tape.aten.views import VIEWS

OPERATIONS: dict[str, Rule] = {**ELEMENTWISE, **VIEWS, **REDUCTIONS, **PRODUCTS, **INDEXING, **IN_PLACE, **MAKING}
"""The rule of every operation that is modelled, by the operation's name."""
