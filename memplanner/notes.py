"""What an answer remarks on beside its figures: kinds of notes with their numbers, which report/ puts into words."""

from memplanner.frozen import Frozen


class OtherKernel(Frozen):
    """PyTorch's scaled_dot_product_attention runs another kernel than flash: "cudnn", "efficient" or "math".

    against_flash, against_efficient: why these kernels cannot run, empty where they could.
    """

    kernel: str
    against_flash: str = ""
    against_efficient: str = ""


class RankAboveMatrix(Frozen):
    """A rank is above the smaller side of a matrix that it is for; is_capped: and comes to that side."""

    rank: int
    smaller_side: int
    is_capped: bool


class SequenceAboveModel(Frozen):
    """A sequence is longer than the max_position_embeddings of a model whose positions are rotary."""

    max_positions: int


class OtherHead(Frozen):
    """A model that was published as this class is trained for another task, as nothing was said about it."""

    published: str
    task: str


class TakenByName(Frozen):
    """A model's name is none of a bundled model, and stands for one's shapes: which, as it was published.

    assumed_format: that of weights which are stored quantised by their name, "" for others; assumed_products: the type
    of their products, "" where the format has none. Neither was read anywhere.
    """

    asked: str
    published: str
    assumed_format: str = ""
    assumed_products: str = ""


class MadeWhole(Frozen):
    """A model is published with weights in this format, and the figures are of weights that are made whole."""

    stored: str


class PagedStates(Frozen):
    """States of the optimizer that are in managed memory, which the host backs, and not in the figures."""

    num_bytes: int


class EmulatedBf16(Frozen):
    """The card has no bf16 of its own."""


class AssumedContext(Frozen):
    """The device is given by its size alone, and so its context is an assumption."""

    context_bytes: int


class ContextAboveLimit(Frozen):
    """The context alone is above the limit, whatever the step needs."""

    context_bytes: int


class TypicalBatch(Frozen):
    """What a batch of the typical length allocates at its peak."""

    seq_len: int
    allocated_bytes: int


class RecordedForward(Frozen):
    """No family is written for the model's type: its forward pass was recorded with this version of transformers.

    default_targets: target_modules that peft has for the type, or every linear layer, where the plan names none; empty
    where it does. experts: the type of experts that are no nn.Linear, so that bitsandbytes leaves them unquantised;
    empty where there are none, or the base is not quantised. recorded_here: by the user.
    """

    model_type: str
    transformers: str
    default_targets: tuple[str, ...] | str = ()
    experts: str = ""
    recorded_here: bool = False


class TextAlone(Frozen):
    """Batches of a model with other parts, such as a tower for images, are taken to have text alone.

    parts: what the others are called. num_parameters: of what text does not run; None where it was not counted.
    is_checkpointed: whether blocks are, where transformers caches no keys and values.
    """

    parts: tuple[str, ...]
    num_parameters: int | None
    is_checkpointed: bool


class Traced(Frozen):
    """Neither a family nor a recorded program answers: the step was traced with this version of transformers.

    why: the reason. takes_default_targets: adapters are where peft puts them for this type, as the plan does not say.
    """

    model_type: str
    transformers: str
    why: str
    takes_default_targets: bool = False


Note = (
    OtherKernel
    | RecordedForward
    | TextAlone
    | Traced
    | RankAboveMatrix
    | SequenceAboveModel
    | OtherHead
    | TakenByName
    | MadeWhole
    | PagedStates
    | EmulatedBf16
    | AssumedContext
    | ContextAboveLimit
    | TypicalBatch
)
