"""Training configs that people have already, read as plans: Axolotl, LLaMA-Factory, transformers with peft.

Every key of a file is accounted for: nothing is left out silently, and a key that is not understood is no answer.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from memplanner.errors import Problem, UserError
from memplanner.files.lines import line_of
from memplanner.files.parse import Table, read_text
from memplanner.frameworks import axolotl, llama_factory, peft_adapter, training_arguments
from memplanner.frameworks.config_file import read_config
from memplanner.frameworks.keys import Keys, with_nested
from memplanner.frameworks.reader import Reader
from memplanner.frozen import Frozen

__all__ = ["Foreign", "is_config", "read_framework"]

READERS: Final[tuple[Reader, ...]] = (peft_adapter, axolotl, llama_factory, training_arguments)
"""In the order in which they are asked whether a config is theirs: the surest first."""


class Foreign(Frozen):
    """A config as a plan's raw table, and what became of its keys.

    used: key → the setting it came to. assumed: what the config does not say and was taken for it. not_modelled: what
    bears on memory all the same. ignored: keys that were passed over because somebody asked for it. irrelevant: keys
    without bearing. files: key → the file that has it. decides: setting → keys that decide it without naming it.
    """

    framework: str
    table: Table
    used: Mapping[str, str]
    assumed: tuple[str, ...]
    not_modelled: tuple[str, ...]
    ignored: tuple[str, ...]
    irrelevant: tuple[str, ...]
    files: Mapping[str, Path]
    decides: Mapping[str, tuple[str, ...]]

    def place(self, setting: str) -> tuple[Path, int] | None:
        """The file and line (from 1) of the key that a plan's setting, such as method.rank, came from."""
        named = [key for key, became in self.used.items() if became.partition(" ")[0] == setting]
        for key in (*named, *self.decides.get(setting, ())):
            if key in self.files:
                return self.files[key], line_of(read_text(self.files[key]), (key,), form="yaml") or 1
        return None


def read_framework(
    paths: Sequence[Path],
    model: str = "",
    ignored: Sequence[str] = (),
    *,
    parsed: Callable[[Path], Table] = read_config,
) -> Foreign:
    """The plan that a config comes to, or several that belong together, such as TrainingArguments and a peft adapter's.

    model: the model, where the plan names one itself. ignored: keys that are passed over as if they were not there.
    parsed: how a file is read; its table is left as it is. UserError where a file is of no known framework, or asks for
    what cannot be a plan, where a key is not understood or decides the figures and is not modelled, and where nobody
    names a model.
    """
    configs: dict[str, Keys] = {}
    files: dict[str, Path] = {}
    for path in paths:
        config = parsed(path)
        name = _reader_of(config, path).NAME
        if name in configs:
            message = f"is another config of {name}: only one can be read"
            raise UserError(Problem(where=str(path), key="", message=message))
        kept = {key: value for key, value in with_nested(config).items() if key not in ignored}
        configs[name] = Keys(kept, str(path))
        files |= dict.fromkeys(config, path)
    where = " and ".join(map(str, paths))
    for key in ignored:
        if key not in files:
            raise UserError(Problem(where=where, key=key, message="is to be ignored, but is no key of it"))
    readers = [reader for reader in READERS if reader.NAME in configs]
    last = readers[-1]
    if any(reader.NAME not in last.OVER for reader in readers[:-1]):
        pairs = (f"{reader.NAME} and a {name} do" for reader in READERS for name in reader.OVER)
        message = f"configs of {' and '.join(configs)} cannot be combined"
        raise UserError(Problem(where=where, key="", message=message, hint=", ".join(pairs)))
    table: Table = {}
    for reader in readers:
        known = table | ({"model": model} if model else {})
        table = reader.read(configs[reader.NAME], known, alone=len(readers) == 1)
    problems = [problem for keys in configs.values() for problem in keys.problems()]
    if not model and "model" not in table:
        hint = "MODEL on the command line, or `model = ` in the plan"
        problems.append(Problem(where=where, key="", message="names no model", hint=hint))
    if problems:
        raise UserError(*problems)
    return _accounted(table, readers, configs, files, ignored)


def is_config(table: Table) -> bool:
    """Whether a file's table is another framework's config."""
    return not table.keys().isdisjoint(UNREAD.values()) or any(reader.recognizes(table) for reader in READERS)


UNREAD: Final = {
    "a torchtune recipe": "checkpointer",
    "a litgpt config": "checkpoint_dir",
    "a DeepSpeed config": "zero_optimization",
    "an accelerate config": "distributed_type",
    "an ms-swift config": "tuner_type",
}
"""Configs that are known by a key of theirs and not read."""


def _reader_of(config: Table, path: Path) -> Reader:
    for name, key in UNREAD.items():
        if key in config:
            raise UserError(Problem(where=str(path), key=key, message=f"this is {name}, which is not read yet"))
    for reader in READERS:
        if reader.recognizes(config):
            return reader
    known = ", ".join(reader.KNOWN_BY for reader in sorted(READERS, key=lambda reader: reader.NAME.casefold()))
    raise UserError(
        Problem(where=str(path), key="", message="is not a config of a known framework", hint=f"known: {known}")
    )


def _accounted(
    table: Table,
    readers: Sequence[Reader],
    configs: Mapping[str, Keys],
    files: Mapping[str, Path],
    ignored: Sequence[str],
) -> Foreign:
    keys = tuple(configs.values())
    decides: dict[str, tuple[str, ...]] = {}
    for reader in readers:
        for setting, names in reader.DECIDES.items():
            decides[setting] = (*decides.get(setting, ()), *names)
    return Foreign(
        framework=" and ".join(sorted(configs, reverse=True)),
        table=table,
        used={key: became for of in keys for key, became in of.used.items() if key not in of.not_modelled},
        assumed=tuple(text for of in keys for text in of.assumed),
        not_modelled=tuple(text for of in keys for text in of.not_modelled.values()),
        ignored=tuple(ignored),
        irrelevant=tuple(key for of in keys for key in of.irrelevant),
        files=files,
        decides=decides,
    )
