"""The tables of `memplanner gpus` and `memplanner models`."""

from collections.abc import Sequence

from memplanner.catalogue import GpuProfile, ModelProfile
from memplanner.report.as_json import dump
from memplanner.report.layout import BLANK, Column, paragraph, table
from memplanner.report.terminal import Page
from memplanner.units import format_bytes, format_count

_ALL_FIGURES = 100
"""Columns of a page from which on there is room for what nvidia-smi shows, and for names on the hub, as well."""


def gpus_text(gpus: Sequence[GpuProfile], page: Page) -> str:
    """One card per line; figures that nobody measured are marked. Names come first, where there is no room for all."""
    columns = (
        Column(title="Name"),
        Column(title="Card", shrinks=True),
        Column(title="Total", right=True),
        Column(title="Context", right=True),
        Column(title="nvidia-smi", right=True),
    )
    rows = [
        (gpu.id, gpu.name, *(_figure(f.bytes, f.estimated) for f in (gpu.total, gpu.context, gpu.nvidia_smi)))
        for gpu in gpus
    ]
    shown = len(columns) if page.width >= _ALL_FIGURES else len(columns) - 1
    note = "Total is what PyTorch reports, the most a process can get; ~ marks a figure that is not measured."
    lines = table(columns[:shown], [row[:shown] for row in rows], page.width, indent=0)
    return page.write([*lines, BLANK, *paragraph(note, page.width)])


def _figure(num_bytes: int, estimated: bool) -> str:
    return f"{'~' if estimated else ''}{format_bytes(num_bytes)}"


def gpus_json(gpus: Sequence[GpuProfile], page: Page) -> str:
    """The cards, every figure with its source."""
    return dump({"schema": "memplanner/gpus/1", "gpus": [gpu.model_dump(mode="json") for gpu in gpus]})


def models_text(answered: Sequence[tuple[ModelProfile, str]], page: Page) -> str:
    """One model per line, with its parameters and what answers for it. Names on the hub come where there is room."""
    columns = (
        Column(title="Name"),
        Column(title="Type"),
        Column(title="Answered"),
        Column(title="Parameters", right=True),
        Column(title="Published as", shrinks=True),
    )
    rows = [
        (
            model.id,
            model.model_type,
            answer,
            format_count(model.parameters) if model.parameters is not None else "?",
            model.name,
        )
        for model, answer in answered
    ]
    shown = len(columns) if page.width >= _ALL_FIGURES else len(columns) - 1
    note = (
        "Written by hand, or recorded from transformers: the step is computed, without PyTorch. Traced: it is run on "
        "fake tensors, with memplanner[live]. "
        "Names on the hub are understood as well, with their -Instruct, -it or -2507, and so is any config.json: "
        "memplanner check path/to/config.json"
    )
    lines = table(columns[:shown], [row[:shown] for row in rows], page.width, indent=0)
    return page.write([*lines, BLANK, *paragraph(note, page.width)])


def models_json(answered: Sequence[tuple[ModelProfile, str]], page: Page) -> str:
    """The bundled models, without their configs."""
    fields = ("id", "name", "aliases", "parameters", "source", "stored")
    listed = [
        {name: getattr(model, name) for name in fields} | {"family": model.model_type, "answered": answer}
        for model, answer in answered
    ]
    return dump({"schema": "memplanner/models/1", "models": listed})
