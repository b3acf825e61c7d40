"""Records the type of a model and holds what it gives against traces."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from memplanner.components.architectures.recorded.settings import Recorded
from memplanner.errors import Problem, UserError, misspelling
from memplanner.files.summed_json import dumps, loads
from memplanner.harness.builders.models import quiet_libraries
from memplanner.harness.errors import NotBuildableError
from memplanner.harness.forward.against_trace import PLANS, Compared, compared, small_config
from memplanner.harness.forward.recordings import Source
from memplanner.harness.forward.type_file import table_of
from memplanner.settings.errors import show


def is_known(model_type: str) -> bool:
    """Whether the installed transformers has a class for models of the type."""
    import transformers

    return model_type in transformers.CONFIG_MAPPING


def made(configs: Sequence[Mapping[str, Any]], where: str) -> tuple[str, Recorded, list[Source]]:
    """The file of a type of model, what it holds, and the config.jsons that its programs were made from, one each.

    configs: of one type. where: the file they came from. UserError where transformers has no such type, or its forward
    pass cannot be recorded.
    """
    quiet_libraries()
    model_type = str(configs[0].get("model_type"))
    if not is_known(model_type):
        import transformers

        message = f"{show(model_type)} is no model type of the installed transformers {transformers.__version__}"
        _refuse(where, message, misspelling(model_type, transformers.CONFIG_MAPPING))
    try:
        sources = [Source(config) for config in ({"model_type": model_type}, *configs)]
    except Exception as error:  # whatever transformers' classes raise at what the file says
        text = " ".join(str(error).split())[:200]
        _refuse(where, f"transformers refuses it: {type(error).__name__}: {text}")
    try:
        text = dumps(table_of(sources))
    except NotBuildableError as error:
        _refuse(where, f"its forward pass cannot be recorded: {error}", "`memplanner check` traces its step")
    recorded = Recorded(loads(text))
    of_variant: dict[int, Source] = {}
    for source in sources:
        variant = recorded.variant(source.fields)
        if variant is not None:  # as of a model with other parts, whose settings by default are nobody's
            of_variant.setdefault(id(variant), source)
    return text, recorded, [*of_variant.values()]


def differences(recorded: Recorded, sources: list[Source]) -> Iterator[Compared]:
    """Every program's steps beside their traces; one that cannot be traced is left out."""
    for source in sources:
        config = small_config(source)
        for plan in PLANS:
            yield compared(recorded, config, plan)


def _refuse(where: str, message: str, hint: str = "") -> NoReturn:
    raise UserError(Problem(where=where, key="model_type", message=message, hint=hint))
