"""An answer's notes as sentences."""

from collections.abc import Iterable
from functools import singledispatch

from memplanner.notes import (
    AssumedContext,
    ContextAboveLimit,
    EmulatedBf16,
    MadeWhole,
    Note,
    OtherHead,
    OtherKernel,
    PagedStates,
    RankAboveMatrix,
    RecordedForward,
    SequenceAboveModel,
    TakenByName,
    TextAlone,
    Traced,
    TypicalBatch,
)
from memplanner.units import format_bytes, format_count


def note_sentences(notes: Iterable[Note]) -> tuple[str, ...]:
    """One sentence, without a full stop, for each note."""
    return tuple(map(note_sentence, notes))


def assumed_context(context_bytes: int) -> str:
    """That a context is assumed, and how to state another."""
    size = format_bytes(context_bytes)
    return f"context assumed, the largest of the bundled NVIDIA cards' ({size}); --context states another"


@singledispatch
def note_sentence(note: object) -> str:
    """The note for people."""
    raise NotImplementedError(f"no sentence for {type(note).__name__}")


@note_sentence.register
def _other_kernel(note: OtherKernel) -> str:
    if note.kernel == "cudnn":
        return (
            "sdpa runs cuDNN's kernel, PyTorch's first choice on this card; the workspace that cuDNN's own plan asks "
            "for is in no source and is not counted"
        )
    efficient = f", efficient {note.against_efficient}" if note.kernel == "math" else ""
    return f"sdpa runs {note.kernel}: flash {note.against_flash}{efficient}"


@note_sentence.register
def _rank_above_matrix(note: RankAboveMatrix) -> str:
    comes_to = (
        "the SVD has no more than that, and so the rank is that"
        if note.is_capped
        else "the adapter is larger than it need be"
    )
    return f"rank {note.rank} is above {note.smaller_side}, the smaller side of a matrix it is for: {comes_to}"


@note_sentence.register
def _sequence_above_model(note: SequenceAboveModel) -> str:
    return (
        f"the sequence is above the model's max_position_embeddings ({note.max_positions}): its rotary positions go on "
        "beyond, and the figures hold all the same"
    )


@note_sentence.register
def _recorded_forward(note: RecordedForward) -> str:
    targets = note.default_targets
    by = "here by `memplanner record` " if note.recorded_here else ""
    return (
        f"{note.model_type}: its forward pass is the one recorded {by}from transformers {note.transformers}, and no "
        "run of such a model has been measured"
        + (
            f"; its experts stay unquantised, in {note.experts}, as bitsandbytes packs nn.Linear alone"
            if note.experts
            else ""
        )
        + (
            f"; target_modules assumed: {targets if isinstance(targets, str) else ', '.join(targets)}"
            if targets
            else ""
        )
    )


@note_sentence.register
def _text_alone(note: TextAlone) -> str:
    count = "" if note.num_parameters is None else f", {format_count(note.num_parameters)} parameters"
    sentence = (
        "batches of text alone are assumed, as a tokenizer and not a processor makes them: what they do not run "
        f"({', '.join(note.parts)}{count}) is loaded, but has no gradients and no optimizer states"
    )
    if note.is_checkpointed:
        return sentence
    return f"{sentence}; use_cache false in text_config too, or keys and values are kept where nothing is checkpointed"


@note_sentence.register
def _traced(note: Traced) -> str:
    return (
        f"{note.model_type}: {note.why}; the step was traced on fake tensors with transformers {note.transformers}, "
        "and no run of such a model has been measured"
        + ("; target_modules are peft's for it, or every linear layer" if note.takes_default_targets else "")
    )


@note_sentence.register
def _other_head(note: OtherHead) -> str:
    return f"published as {note.published}, trained for {note.task} with a new head; --task masked-lm keeps its own"


@note_sentence.register
def _taken_by_name(note: TakenByName) -> str:
    products = f" with products in {note.assumed_products}" if note.assumed_products else ""
    assumed = (
        f"; that its weights are in {note.assumed_format}{products} is assumed of such a name, and was not read"
        if note.assumed_format
        else ""
    )
    return (
        f"{note.asked} is answered for with the shapes of {note.published}, as its name says{assumed}; how long its "
        "sequences may be is in its config.json alone"
    )


@note_sentence.register
def _made_whole(note: MadeWhole) -> str:
    return f"published with weights in {note.stored}; the figures are of weights in the plan's format"


@note_sentence.register
def _paged_states(note: PagedStates) -> str:
    return (
        f"states of {format_bytes(note.num_bytes)} are in host-backed memory, since the optimizer is paged: outside "
        "PyTorch's allocator, and not in these figures"
    )


@note_sentence.register
def _emulated_bf16(note: EmulatedBf16) -> str:
    return "bf16 is emulated on cards before Ampere, such as this: it runs, but slowly and without tensor cores"


@note_sentence.register
def _assumed_context(note: AssumedContext) -> str:
    return assumed_context(note.context_bytes)


@note_sentence.register
def _context_above_limit(note: ContextAboveLimit) -> str:
    return f"the context alone, {format_bytes(note.context_bytes)}, is above the limit: no step fits, whatever it needs"


@note_sentence.register
def _typical_batch(note: TypicalBatch) -> str:
    allocated = format_bytes(note.allocated_bytes)
    return f"an ordinary batch, {note.seq_len} tokens long, allocates {allocated} at its peak; the longest decides"
