"""What a module that reads one framework's configs provides; memplanner.frameworks lists those modules."""

from collections.abc import Mapping
from typing import Protocol

from memplanner.files.parse import Table
from memplanner.frameworks.keys import Keys


class Reader(Protocol):
    """A framework's configs, as plans. Capitals, since a module's constants are what answers."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """The framework, as messages call it."""

    @property
    def KNOWN_BY(self) -> str:  # noqa: N802
        """A short name with a key that such a config has, for whoever hands over a file that nobody recognizes."""

    @property
    def OVER(self) -> tuple[str, ...]:  # noqa: N802
        """NAMEs of readers whose config may be given together with this one's, and is read first."""

    @property
    def DECIDES(self) -> Mapping[str, tuple[str, ...]]:  # noqa: N802
        """A plan's setting -> keys that decide it whatever they say: switched off, they name no setting themselves."""

    def recognizes(self, config: Table) -> bool:
        """Whether the config is this framework's. Readers are asked in the order of the list; the first yes counts."""

    def read(self, keys: Keys, known: Table, *, alone: bool) -> Table:
        """The plan's raw table; every key of the config is taken, left out with its reason, or disregarded.

        known: the typed model, and the table of the configs that this one is read over. alone: there is no other
        config.
        """
