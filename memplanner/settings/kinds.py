"""A setting that is one of several alternatives, told apart by their `kind`; each is imported when it is first needed.

pydantic's own tagged union needs the classes of all alternatives before it can validate one. Most plans have one
method, one optimizer and one loss of the many that there are, and each class costs a cold start 3 M instructions.
"""

import functools
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import InitErrorDetails, PydanticKnownError, core_schema

from memplanner.settings.base import Settings

Member = TypeVar("Member", bound=Settings)


class Kinds:
    """The alternatives: kind -> "module:Class". It annotates a field: `Annotated[Method, Kinds({…})]`.

    A value is written as a table with its `kind`, or as one of the words that stand for such a table (Settings.words).
    """

    def __init__(self, homes: Mapping[str, str]) -> None:
        self.homes = homes
        self._imported: dict[str, type[Settings]] = {}

    def member(self, kind: str) -> type[Settings]:
        """The class of one alternative; KeyError where there is none of this kind."""
        if kind not in self._imported:
            module, _, name = self.homes[kind].partition(":")
            self._imported[kind] = getattr(import_module(module), name)
        return self._imported[kind]

    @property
    def members(self) -> tuple[type[Settings], ...]:
        """The classes of all alternatives, in the order in which they are listed."""
        return tuple(map(self.member, self.homes))

    def default(self, kind: str) -> Any:
        """A field's default_factory: this alternative with its own defaults, made once, when a plan first needs it."""
        return functools.cache(lambda: self.member(kind)())

    def words_of(self, kind: str) -> dict[str, dict[str, Any]]:
        """The words that this alternative may be written as -> the table that each stands for."""
        words = self.member(kind).words or {kind: {}}
        return {word: {"kind": kind, **settings} for word, settings in words.items()}

    def table(self, word: str) -> dict[str, Any]:
        """The table that a word stands for. An unknown word is taken for a kind, which none has."""
        likely = [word] if word in self.homes else []
        for kind in (*likely, *self.homes):
            if word in (words := self.words_of(kind)):
                return words[word]
        return {"kind": word}

    def _validated(self, value: Any) -> Settings:
        if value.__class__ in self._imported.values():
            already: Settings = value
            return already
        if isinstance(value, str):
            value = self.table(value)
        if isinstance(value, Settings):
            kind = getattr(value, "kind", None)
        elif isinstance(value, Mapping):
            kind = value.get("kind")
        else:
            raise PydanticKnownError("model_attributes_type")
        if kind is None:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
        if not (isinstance(kind, str) and kind in self.homes):
            expected = ", ".join(map(repr, self.homes))
            context = {"discriminator": "'kind'", "tag": str(kind), "expected_tags": expected}
            raise PydanticKnownError("union_tag_invalid", context)
        try:
            return self.member(kind).model_validate(value)
        except ValidationError as error:
            raise _tagged(error, kind) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validation by the alternative that the value names; what it writes is up to the value's own class."""
        return core_schema.no_info_plain_validator_function(self._validated)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The JSON Schema of the tagged union of all alternatives."""
        members = dict(zip(self.homes, self.members, strict=True))
        for member in members.values():
            member.model_rebuild()
        choices = {kind: member.__pydantic_core_schema__ for kind, member in members.items()}
        return handler(core_schema.tagged_union_schema(choices, discriminator="kind"))


def _tagged(error: ValidationError, kind: str) -> ValidationError:
    """The same errors with the kind in front of each one's place, as pydantic's own tagged union gives them."""
    details = [
        InitErrorDetails(
            type=detail["type"], loc=(kind, *detail["loc"]), input=detail["input"], ctx=detail.get("ctx", {})
        )
        for detail in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(error.title, details)
