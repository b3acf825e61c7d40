"""The keys of a config, taken one by one: used, not modelled, without bearing, or in the way of an answer."""

from collections.abc import Collection, Mapping
from typing import Any, Final, NoReturn

from memplanner.errors import Problem, UserError
from memplanner.files.parse import Table
from memplanner.settings.errors import show, suggest

_ONE_BY_ONE: Final = 8
"""Keys that are not understood, up to which each has a line of its own."""
_SHOWN: Final = 20


NESTED: Final = (("fsdp_config", "activation_checkpointing"), ("fsdp_config", "fsdp_activation_checkpointing"))
"""Keys within tables that speak of what is modelled, where the rest of the table may not be."""


def with_nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with those keys beside the others, by their dotted names."""
    keys = dict(config)
    for table, key in NESTED:
        if isinstance(inner := keys.get(table), dict) and key in inner:
            keys[f"{table}.{key}"] = inner[key]
    return keys


class Keys:
    """A config being read. where: its file's name, for messages."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.where = where
        self.used: dict[str, str] = {}
        self.assumed: list[str] = []
        self.not_modelled: dict[str, str] = {}
        self._barring: dict[str, Problem] = {}
        self._mentioned = frozenset(config)
        self._irrelevant = [key for key, value in config.items() if value is None]
        """A key that is null is one that is not set."""
        self._left = {key: value for key, value in config.items() if value is not None}

    def __contains__(self, key: str) -> bool:
        """Whether the config sets the key and nobody has taken it yet."""
        return key in self._left

    def mentions(self, key: str) -> bool:
        """Whether the config has the key at all, be it null or taken already."""
        return key in self._mentioned

    def refuse(self, key: str, message: str, hint: str = "") -> NoReturn:
        """The config cannot be a plan."""
        raise UserError(Problem(where=self.where, key=key, message=message, hint=hint))

    # -- values, by type: None, or the default, where the key is not set ----------------------------------------

    def take(self, key: str) -> Any:
        """The raw value; what becomes of it is the caller's to say with `use` or `leave_out`."""
        return self._left.pop(key, None)

    def peek(self, key: str) -> Any:
        """The raw value, left where it is."""
        return self._left.get(key)

    def replace(self, key: str, value: Any) -> None:
        """Another raw value for a key that has not been taken."""
        self._left[key] = value

    def number(self, key: str, became: str) -> int | None:
        """A whole number of at least one. became: the setting that takes it."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1 << 40:
            self.refuse(key, f"{show(value)} is not a whole number above zero")
        self.used[key] = f"{became} {value}"
        return value

    def share(self, key: str, became: str) -> float | None:
        """A number from zero to below one."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            self.refuse(key, f"{show(value)} is not a number from 0 to below 1")
        self.used[key] = f"{became} {value}"
        return float(value)

    def text(self, key: str, became: str) -> str | None:
        """A word, shown as what it became."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            self.refuse(key, f"{show(value)} is not text")
        self.used[key] = became
        return value

    def flag(self, key: str, became: str, *, also: Collection[str] = ()) -> bool:
        """Whether a switch is on. also: words that stand for on, such as "auto"."""
        value = self.take(key)
        if value is None:
            return False
        if not isinstance(value, bool) and value not in also:
            self.refuse(
                key, f"{show(value)} is not true or false", suggest(value, also) if isinstance(value, str) else ""
            )
        self.used[key] = became if value else "off"
        return bool(value)

    def names(self, key: str) -> tuple[str, ...]:
        """A list of names, or a text with commas; noted with `use` by the caller."""
        value = self.take(key)
        if value is None:
            return ()
        words = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            self.refuse(key, f"{show(value)} is not a list of names")
        self.used[key] = "none"
        return tuple(word for word in words if word)

    # -- what became of them --------------------------------------------------------------------------------------

    def use(self, key: str, became: str) -> None:
        """Note what a taken key came to."""
        self.used[key] = became

    def leave_out(self, key: str, value: Any, meaning: str) -> None:
        """A taken key that bears on memory and is not modelled."""
        self.not_modelled[key] = f"{key} = {show(value)}: {meaning}"

    def leave_out_if_set(self, meanings: Mapping[str, str]) -> None:
        """Keys that are not modelled where they are set to anything but false, zero or nothing."""
        for key, meaning in meanings.items():
            if key not in self:
                continue
            value = self.take(key)
            if _is_off(value):
                self.use(key, "off")
            else:
                self.leave_out(key, value, meaning)

    def bar(self, key: str, value: Any, meaning: str) -> None:
        """A taken key that decides the method, the weights, what is trained, the loss or the number of GPUs in a way
        that is not modelled: without it the figures would be another run's. The other keys are read all the same.
        """
        message = f"{show(value)} is not modelled: {meaning}"
        self._barring[key] = Problem(where=self.where, key=key, message=message, hint=_pass_over(key))

    def bar_if_set(self, meanings: Mapping[str, str]) -> None:
        """Keys that bar an answer where they are set to anything but false, zero or nothing."""
        for key, meaning in meanings.items():
            if key not in self:
                continue
            value = self.take(key)
            if _is_off(value):
                self.use(key, "off")
            else:
                self.bar(key, value, meaning)

    def disregard(self, keys: Collection[str], prefixes: tuple[str, ...] = ()) -> None:
        """Keys that do not bear on memory."""
        for key in [key for key in self._left if key in keys or (prefixes and key.startswith(prefixes))]:
            del self._left[key]
            self._irrelevant.append(key)

    @property
    def irrelevant(self) -> tuple[str, ...]:
        """Keys without bearing on memory, or not set."""
        return tuple(self._irrelevant)

    def problems(self) -> tuple[Problem, ...]:
        """What is in the way of an answer: the keys that bar one, and those that nobody has taken unless they are
        switched off. Only keys that are known to be without bearing on memory may be passed over.
        """
        self.disregard([key for key, value in self._left.items() if _is_off(value)])
        message = "is not understood, and may bear on memory"
        unknown = [Problem(where=self.where, key=key, message=message, hint=_pass_over(key)) for key in self._left]
        if len(unknown) > _ONE_BY_ONE:
            names = ", ".join([*self._left][:_SHOWN]) + (", …" if len(unknown) > _SHOWN else "")
            message = f"{len(unknown)} keys are not understood, and may bear on memory: {names}"
            unknown = [Problem(where=self.where, key="", message=message)]
        return *self._barring.values(), *unknown


def _is_off(value: Any) -> bool:
    """Whether a key with this value asks for nothing."""
    return value in (False, 0, 0.0, "", "none") or value == [] or value == {}


def _pass_over(key: str) -> str:
    return f"--ignore-key {key} answers as if it were not there"


def set_path(table: Table, path: str, value: Any) -> None:
    """Set a dotted key of a raw table; nothing where the value is None."""
    if value is None:
        return
    *groups, last = path.split(".")
    for group in groups:
        table = table.setdefault(group, {})
    table[last] = value
