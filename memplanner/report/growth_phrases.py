"""What a plan has grown by, in words that every format of a report shares."""

from typing import TYPE_CHECKING, Any

from memplanner.report.phrases import PHASE_WORDS, SQUEEZED, device_word, tight_words, verdict_line, verdict_word
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.budgets.check import Checked
    from memplanner.budgets.growth import Growth, GrowthRow, SettingChange


def signed(num_bytes: int) -> str:
    """A difference, such as +1.9 GiB or -512 B."""
    return ("+" if num_bytes >= 0 else "-") + format_bytes(abs(num_bytes), decimals=1)


def value_words(value: Any) -> str:
    """A setting's value as one would type it; of a group, its kind."""
    if isinstance(value, dict):
        named = value.get("name") or value.get("memory") or value.get("kind")
        if named is not None:
            return str(named)
        return ", ".join(f"{key} {value_words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "unset" if value is None else str(value)


def change_words(change: "SettingChange") -> str:
    """A change, such as method.rank 128 → 256."""
    return f"{change.key} {value_words(change.before)} → {value_words(change.after)}"


def cause_words(row: "GrowthRow", growth: "Growth") -> str:
    """Why a part has another size: the settings that move it, or the tool itself; "" where neither is it."""
    if len(row.causes) == 1:
        return change_words(row.causes[0][0])
    if row.causes:
        return ", ".join(f"{change_words(change)} ({signed(size)})" for change, size in row.causes)
    if growth.changes:
        return "several changes together"
    return f"memplanner {growth.version[0]} → {growth.version[1]}" if growth.version is not None else ""


def row_words(row: "GrowthRow", growth: "Growth") -> str:
    """A row, such as optimizer state +1.9 GiB: method.rank 128 → 256."""
    cause = cause_words(row, growth)
    return f"{row.part} {signed(row.bytes)}" + (f": {cause}" if cause else "")


def growth_words(growth: "Growth") -> str:
    """One line: the device memory that was and is, and the difference."""
    if growth.before is None or growth.after is None:
        there = growth.after or growth.before
        assert there is not None, "a plan that never was"
        return f"{'new' if growth.before is None else 'gone'}, {format_bytes(there.device_bytes)}"
    sizes = f"{format_bytes(growth.before.device_bytes)} → {format_bytes(growth.after.device_bytes)}"
    moved = ""
    if growth.phase_moved:
        moved = (
            f", the peak moved from {PHASE_WORDS[growth.before.peak_phase]} to {PHASE_WORDS[growth.after.peak_phase]}"
        )
    if not growth.bytes:
        return f"{sizes}, unchanged{moved}"
    return f"{sizes}, {signed(growth.bytes)} ({growth.share:+.1%}){moved}"


def complaints(checked: "Checked") -> list[str]:
    """Why a plan fails, one line each; nothing where it does not."""
    reasons = []
    if checked.over_budget:
        reasons.append(verdict_line(checked.estimate))
        if checked.estimate.is_squeezed:
            reasons.append(SQUEEZED)
    if checked.is_unlocked:
        reasons.append("not in the lock: `memplanner lock` writes it anew")
    if checked.has_grown:
        assert checked.growth is not None, "it has grown"
        reasons.append(f"grown beyond {checked.tolerance:.1%} since the lock: {growth_words(checked.growth)}")
    return reasons


def warnings(checked: "Checked") -> list[str]:
    """What is to be known of a plan that passes, one line each; nothing where it fits comfortably."""
    line = [verdict_line(checked.estimate)] if checked.estimate.is_squeezed else []
    return [*line, *filter(None, [tight_words(checked.estimate)])]


def explanation(checked: "Checked") -> list[str]:
    """What a failing plan is made of, or has grown by, a line each."""
    growth = checked.growth
    limits = [f"since the lock: {change_words(change)}" for change in growth.limits] if growth is not None else []
    if growth is not None and growth.before is not None and growth.rows:
        lines = [*limits, *(row_words(row, growth) for row in growth.rows)]
        if checked.over_budget and not checked.has_grown:
            lines.insert(0, f"since the lock: {growth_words(growth)}")
        return lines
    estimate = checked.estimate
    parts = sorted(((size, category) for category, size in estimate.at_peak.items() if size), reverse=True)
    lines = [f"{category.replace('_', ' ')} {format_bytes(size)}" for size, category in parts]
    lines += [
        *([f"unsplit blocks {format_bytes(estimate.unsplit_bytes)}"] if estimate.unsplit_bytes else []),
        f"fragmentation {format_bytes(estimate.fragmentation_bytes)}",
        f"context {format_bytes(estimate.context_bytes)}" + (" (assumed)" if estimate.is_context_assumed else ""),
    ]
    return [*limits, f"at the peak, in {PHASE_WORDS[estimate.peak_phase]}: {', '.join(lines)}"]


def state_words(checked: "Checked") -> str:
    """A plan's state in a word or two."""
    word = verdict_word(checked.estimate)
    if checked.over_budget:
        return word if checked.estimate.verdict == "tight" else "over budget"
    if checked.is_unlocked:
        return "not locked"
    if checked.has_grown:
        return "grown"
    return word if checked.estimate.verdict == "tight" else "ok"


def cells_of(checked: "Checked") -> tuple[str, ...]:
    """A plan's line in a table of all: TITLES."""
    estimate, growth = checked.estimate, checked.growth
    since = "" if growth is None else "new" if growth.before is None else signed(growth.bytes) if growth.bytes else "="
    return (
        checked.named.name,
        state_words(checked),
        format_bytes(estimate.device_bytes),
        format_bytes(estimate.limit_bytes),
        format_bytes(estimate.margin_bytes),
        since,
        device_word(estimate.plan),
    )


TITLES = ("Plan", "", "Device", "Budget", "To spare", "Since lock", "GPU")


def summary_words(failed: int, total: int) -> str:
    """The first line of a report on all plans."""
    plans = "1 plan" if total == 1 else f"{total} plans"
    if not failed:
        return f"All {plans} within budget" if total > 1 else "The plan is within budget"
    return f"{failed} of {plans} {'fails' if failed == 1 else 'fail'}"


def headline(checked: "Checked") -> str:
    """A failing plan in a title."""
    return f"Memory budget: {checked.named.name} is {state_words(checked)}"
