"""The base of every settings class: frozen, strict about names and types, built when first used."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen group of settings in which an unknown key, a string for a number or a bool for an int is an error.

    Fields are documented by the string under each; memplanner.settings.describe reads those when help or the schema is
    asked for, not at import, and validators are built at first use: both halve the time a cold start spends here.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False, defer_build=True
    )

    words: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """For a member of a union: the words that it may be written as, and the settings each stands for. Without any, its
    kind is its only word, and stands for the defaults.
    """
