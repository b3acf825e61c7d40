"""Phrases that several reports share."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from memplanner.catalogue import key
from memplanner.plan.training_plan import SizeDevice, TrainingPlan
from memplanner.timeline import CATEGORIES, Answered, Category
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.frameworks import Foreign
    from memplanner.prediction.estimate import Estimate
    from memplanner.prediction.margin import Margin

VERDICT_WORDS = {"fits": "FITS", "tight": "TIGHT", "does-not-fit": "DOES NOT FIT"}

PHASE_WORDS = {
    "load": "load",
    "forward": "forward",
    "loss": "loss",
    "backward": "backward",
    "update": "update",
    "refresh": "update with subspace refresh",
    "steady": "between steps",
}


def device_word(plan: TrainingPlan) -> str:
    """The device as the user would type it."""
    return plan.device.memory if isinstance(plan.device, SizeDevice) else plan.device.name


def verdict_line(estimate: "Estimate") -> str:
    """One line: the verdict, what is needed, what there is, and the difference."""
    plan = estimate.plan
    device = device_word(plan)
    if estimate.gpu is None:
        device = f"a {device} device"
    elif key(device) != key(estimate.gpu.id):
        device = f"{device} ({estimate.gpu.id})"  # which of the cards of that name
    limit = ""
    if estimate.limit_bytes < estimate.total_bytes:
        limit = " budget" if plan.budget is not None else " left by the headroom"
    return f"{need_words(estimate)}{limit} on {device}, {spare_words(estimate)}"


def need_words(estimate: "Estimate") -> str:
    """The verdict, and what is needed of what there is."""
    need, limit = format_bytes(estimate.device_bytes), format_bytes(estimate.limit_bytes)
    if estimate.is_squeezed:
        wanted = format_bytes(estimate.wanted_bytes + estimate.context_bytes)
        return f"{VERDICT_WORDS['tight']}, squeezed: wants {wanted}, can be squeezed into {need} of {limit}"
    return f"{VERDICT_WORDS[estimate.verdict]}: {need} of {limit}"


def verdict_word(answer: Answered) -> str:
    """The verdict in a table: "fits", "tight", "squeezed" for the tight fit that returns segments, "does not fit"."""
    return "squeezed" if answer.is_squeezed else VERDICT_WORDS[answer.verdict].lower()


SQUEEZED = (
    "it fits only because the caching allocator, out of room, returns unused segments to the device and asks again, "
    "which takes time; whatever else asks for memory then ends the run. Not advisable."
)
"""Why a squeezed fit is none to be advised."""


def tight_words(estimate: "Estimate") -> str:
    """Why a fit is tight; "" where it is not."""
    if estimate.is_squeezed:
        return SQUEEZED
    return "fits, but within the error margin" if estimate.verdict == "tight" else ""


def spare_words(estimate: "Estimate", *, shares: bool = False) -> str:
    """What is left under the limit, or how far beyond it the plan is; shares: also as a share of the limit."""
    size, part = abs(estimate.margin_bytes), share(abs(estimate.margin_bytes), estimate.limit_bytes)
    if estimate.margin_bytes < 0:
        return f"{format_bytes(size)} too much" + (f", {part} over" if shares else "")
    words = f"{format_bytes(size)} to spare" + (f", {part}" if shares else "")
    tight = estimate.verdict == "tight" and not estimate.is_squeezed
    return f"{words}, within the margin of {format_bytes(estimate.error_margin_bytes)}" if tight else words


def method_words(plan: TrainingPlan) -> str:
    """The method with its ranks: "gradnormlorp rank 128, projection rank 4"."""
    return plan.method.describe()


def optimizer_words(plan: TrainingPlan) -> str:
    """The optimizer with what is worth a word about it: "adamw foreach"."""
    return plan.optimizer.summary()


def plan_words(plan: TrainingPlan, *, method: bool = True, base: bool = True) -> str:
    """The plan on one line, leaving out what is at its quiet default; `method=False` leaves the method out too, and
    `base=False` the format of a quantised base.
    """
    step = plan.step
    words = [plan.model, *([method_words(plan)] if method else []), plan.precision]
    if plan.task is not None:
        words.insert(1, plan.task)
    if base and plan.quantization != "none":
        words.append(f"{plan.quantization} base")
    words += [optimizer_words(plan), f"batch {step.batch_size} × {step.seq_len} tokens"]
    if step.grad_accumulation > 1:
        words.append(f"accumulation {step.grad_accumulation}")
    if step.checkpointing != "none":
        words.append(f"checkpointing {step.checkpointing}{' (reentrant)' if step.use_reentrant else ''}")
    words.append(f"attention {step.attention}")
    if step.loss.kind != "cross-entropy":
        words.append(f"{step.loss.kind} loss")
    words += [
        name
        for name, on in (
            ("per-layer updates", step.per_layer_updates),
            ("gradients kept", step.keep_gradients),
            ("outputs kept", step.keep_outputs),
        )
        if on
    ]
    return " · ".join(words)


def largest_first(sizes: Mapping[Category, int]) -> list[tuple[Category, int]]:
    """The categories of which there is anything, and how much."""
    return sorted(((c, sizes[c]) for c in CATEGORIES if sizes.get(c)), key=lambda item: -item[1])


def share(part: int, whole: int) -> str:
    """A percentage with one decimal; "–" of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else "–"


def margin_words(margin: "Margin") -> str:
    """How much more a run may need, and what that is taken from, in one sentence."""
    if margin.sources:
        runs = "1 run" if margin.runs == 1 else f"{margin.runs} runs"
        found = f"{runs} with {margin.kind} from {margin.sources} sources"
    else:
        found = f"runs of other kinds, as too few with {margin.kind} have been measured"
    return f"a run elsewhere may need up to {margin.share:.1%} more: the 95% prediction interval of {found}"


def how_read(foreign: "Foreign") -> dict[str, list[str]]:
    """What became of every key of another framework's config, by title; nothing is left out silently."""
    used = [f"{key}: {became}" for key, became in foreign.used.items()]
    sections = {
        f"Taken from {foreign.framework}": used,
        "Assumed, where it says nothing": list(foreign.assumed),
        "Not modelled": list(foreign.not_modelled),
        "Ignored, as asked": [", ".join(foreign.ignored)] if foreign.ignored else [],
        "Without bearing on memory": [", ".join(foreign.irrelevant)] if foreign.irrelevant else [],
    }
    return {title: lines for title, lines in sections.items() if lines}
