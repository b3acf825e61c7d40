"""A recorded type of model: which of its programs runs for a config.json, and with which numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from memplanner.components.architectures.family import MAX_LAYERS, MAX_SIZE, ConfigReader, show_value
from memplanner.components.architectures.recorded.family import family_of_program
from memplanner.components.architectures.recorded.model import RecordedConfig
from memplanner.components.architectures.recorded.program import Forward, from_table
from memplanner.components.architectures.recorded.sizes import evaluate
from memplanner.errors import Problem, UserError
from memplanner.frozen import Frozen

EXACT_FLOATS: Final = frozenset({"partial_rotary_factor", "rotary_pct", "rope_pct", "capacity_factor"})
"""Settings of any value that sizes depend on. Of all other fractions it only matters whether they are zero."""
MOST: Final[Mapping[str, int]] = {"num_experts": 4096, "num_local_experts": 4096, "n_routed_experts": 4096}
"""No published model has more."""
EAGER: Final = "eager"
IN_VOCABULARY: Final = ".image_token_id<vocab_size"
"""Stands among settings for whether images' token is one of the vocabulary: others are replaced before the embedding.
"""
SCHEMA: Final = 1
"""Of the file."""


ADJUSTING: Final = ("block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of")
"""Settings that make a feed-forward layer's width of another: whether, times what, and up to a multiple of what."""


def is_whole(value: Any) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def canonical(key: str, value: Any) -> Any:
    """What of a setting's value decides the structure of a forward pass."""
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, float):
        return value if key in EXACT_FLOATS else value > 0
    if isinstance(value, int):
        return value > 0 if "dropout" in key or "pdrop" in key else value
    if isinstance(value, list):
        return value or None
    if isinstance(value, dict):
        kinds = {k: canonical(k, v) for k, v in sorted(value.items()) if k in ("rope_type", "type", *EXACT_FLOATS)}
        if "rope_type" in kinds:  # the older name beside it says the same, or "mrope"
            kinds.pop("type", None)
        return kinds or None
    return None


def _of_part(name: str, value: Any) -> Any:
    """The same of a setting of a part that does not run, of whose lists the length counts."""
    if isinstance(value, list):
        return str(value[0]) if name == "architectures" and value else len(value)
    return canonical(name, value)


class Recorded(Frozen, eq=False, kw_only=False):
    """The programs of a type of model, as its file has them. path: of a user's file; empty for what ships."""

    table: Mapping[str, Any]
    path: str = ""

    @property
    def transformers(self) -> str:
        """The version with which they were recorded."""
        return str(self.table["transformers"])

    @property
    def lora_targets(self) -> tuple[str, ...] | str:
        """What peft adapts where a plan names nothing: a pattern, or names."""
        targets = self.table["lora_targets"]
        return targets if isinstance(targets, str) else tuple(targets)

    @property
    def converted(self) -> tuple[str, ...]:
        """Names among target_modules that peft takes for bare parameters, of experts and their router."""
        return tuple(self.table["converted"])

    def text(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings of the language model in a config.json, which nests them where there are other parts."""
        nested = config.get("text_config")
        return nested if self.table.get("nested") and isinstance(nested, dict) else config

    def value(self, text: Mapping[str, Any], key: str) -> Any:
        """A setting: as the file says it, under either of its names, or as the class has it by default."""
        if key == "intermediate_size" and self._is_adjusted(text):
            return self._adjusted(text)
        for name in (key, self.table["names"].get(key)):
            if name is not None and text.get(name) is not None:
                return text[name]
        derived = self.table["derived"].get(key)
        if derived is not None:
            over, _, under = derived.partition("/")
            *times, over = over.split("*")
            number = self.value(text, over)
            if times and isinstance(number, int):
                number *= int(times[0])
            divisor = self.value(text, under) if under else 1
            return number // divisor if isinstance(number, int) and isinstance(divisor, int) and divisor else None
        return self.table["defaults"].get(key)

    def _is_adjusted(self, text: Mapping[str, Any]) -> bool:
        return bool(text.get(ADJUSTING[0], self.table["defaults"].get(ADJUSTING[0])))

    def _adjusted(self, text: Mapping[str, Any]) -> Any:
        """The width of feed-forward layers whose config.json has it half as large again, and unrounded (transformers'
        modeling_lfm2.py, Lfm2MLP).
        """
        defaults = self.table["defaults"]
        times, multiple = (text.get(key, defaults.get(key)) for key in ADJUSTING[1:])
        size = text.get("block_ff_dim", text.get("intermediate_size", defaults.get("intermediate_size")))
        if not is_whole(size) or not is_whole(multiple) or isinstance(times, bool | str) or multiple < 1:
            return None
        size = 2 * size // 3
        return size if times is None else -(-int(times * size) // multiple) * multiple

    def fingerprint(self, config: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
        """What of a config.json decides the structure of the forward pass, and the shapes of what does not run in it.

        fields: of the language model; of another part after its key and a dot, and of the whole after a dot.
        """
        text, found = self.text(config), {}
        for key in fields:
            part, dot, name = key.rpartition(".")
            if not dot:
                found[key] = self._deciding(text, key)
                continue
            around = config.get(part) if part else config
            value = around.get(name) if isinstance(around, Mapping) and name in around else self._default(config, key)
            found[key] = _of_part(name, value)
        return found

    def _default(self, config: Mapping[str, Any], key: str) -> Any:
        if key == IN_VOCABULARY:
            names = ("image_token_id", "image_token_index")
            number = next((config[name] for name in names if name in config), self.table["defaults"].get(key))
            words = self.value(self.text(config), "vocab_size")
            return isinstance(number, int) and isinstance(words, int) and number < words
        return self.table["defaults"].get(key)

    def is_tied(self, config: Mapping[str, Any]) -> bool:
        """Whether the output projection is the table of tokens. Of a model with other parts its own setting counts, and
        for some types the language model's as well.
        """
        key = "tie_word_embeddings"
        own = config.get(key)
        tied = bool(self.table["defaults"].get(key) if own is None else own)
        return tied or (bool(self.table.get("ties_by_text")) and bool(self.text(config).get(key)))

    def _deciding(self, text: Mapping[str, Any], key: str) -> Any:
        """What of one setting decides it: whether it is the other that it follows by default, or its own value."""
        other = self.table["derived"].get(key)
        if other is not None and other == "hidden_size" and text.get(key) in (None, self.value(text, other)):
            return f"={other}"
        return canonical(key, text[key] if key in text else self.table["defaults"].get(key))

    def variant(self, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The programs for a config.json; None where it has settings with which none was recorded."""
        for variant in self.table["variants"]:
            if self.fingerprint(config, [*variant["fields"]]) == variant["fields"] and not self._foreign(
                config, variant
            ):
                return variant  # type: ignore[no-any-return]
        return None

    def _foreign(self, config: Mapping[str, Any], variant: Mapping[str, Any]) -> str:
        """The first kind of layer in a config.json that was not recorded, as "key word"; empty where there is none."""
        text, rule = self.text(config), variant["kinds"]
        lists = [text.get(name) for name in rule["lists"]]
        if not all(isinstance(values, list) for values in lists):
            return ""
        words = ["/".join(map(str, word)) for word in zip(*lists, strict=False)]
        unknown = next((word for word in words if word not in rule["words"]), "")
        return f"{'/'.join(rule['lists'])} {show_value(unknown)}" if unknown else ""

    def unknown(self, config: Mapping[str, Any]) -> str:
        """The setting in which a config.json differs from the nearest programs, as "key value"; "" for none."""
        found: list[list[str]] = []
        for variant in self.table["variants"]:
            own = self.fingerprint(config, [*variant["fields"]])
            differing = [
                f"{key} {show_value(own[key])}" for key, value in variant["fields"].items() if own[key] != value
            ]
            foreign = self._foreign(config, variant)
            found.append([*differing, *([foreign] if foreign else [])])
        nearest = min(found, key=len, default=[])
        return nearest[0] if nearest else ""

    def _of_part(self, config: Mapping[str, Any], symbol: str) -> tuple[Any, str]:
        """A setting of another part than the language model, and its key."""
        part, names, default = self.table["parts"][symbol]
        around = config.get(part)
        for name in names:
            if isinstance(around, Mapping) and around.get(name) is not None:
                return around[name], f"{part}.{name}"
        return default, f"{part}.{names[0]}"

    def settings(self, fields: ConfigReader, symbols: Sequence[str]) -> dict[str, Any]:
        """The numbers that sizes are made of; problems are left with the reader."""
        text = self.text(fields.config)
        numbers: dict[str, Any] = {}
        wrong: set[str] = set()  # of settings with two names, told once
        for symbol in symbols:
            if symbol in ("batch", "seq", "num_key_value_groups"):
                continue
            if symbol in self.table.get("parts", ()):
                value, key = self._of_part(fields.config, symbol)
            else:
                value = self.value(text, symbol)
                key = next((name for name in (symbol, self.table["names"].get(symbol)) if name in text), symbol)
            most = MAX_LAYERS if symbol.endswith("_depth") else MOST.get(symbol, MAX_SIZE)
            if key in wrong:
                continue
            wrong.add(key)
            if isinstance(value, bool) or not isinstance(value, int):
                fields.problem(key, "missing" if value is None else f"{show_value(value)} is not a whole number")
            elif not 1 <= value <= most:
                fields.problem(key, f"{show_value(value)} is not between 1 and {most}")
            else:
                numbers[symbol] = value
                wrong.discard(key)
        return numbers

    def kinds(self, fields: ConfigReader, variant: Mapping[str, Any]) -> tuple[str, ...]:
        """The kind of every block."""
        text = self.text(fields.config)
        key = next((n for n in ("num_hidden_layers", self.table["names"].get("num_hidden_layers")) if n in text), "")
        number = self.value(text, "num_hidden_layers")
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_LAYERS:
            shown = show_value(number)
            fields.problem(key or "num_hidden_layers", f"{shown} is not a whole number from 1 to {MAX_LAYERS}")
            return ()
        rule = variant["kinds"]
        lists = [text.get(name) for name in rule["lists"]]
        if lists and all(isinstance(values, list) and len(values) == number for values in lists):
            words = ["/".join(map(str, word)) for word in zip(*lists, strict=True)]
            unknown = next((word for word in words if word not in rule["words"]), None)
            if unknown is None:
                return tuple(rule["words"][word] for word in words)
            fields.problem(rule["lists"][0], f"{show_value(unknown)} is not a kind of layer that was recorded")
            return ()
        if any(values is not None for values in lists):
            name = next(n for n, values in zip(rule["lists"], lists, strict=True) if values is not None)
            fields.problem(name, f"it does not name {number} layers")
            return ()
        first, period = rule["first"], rule["period"]
        if not period:
            fields.problem(rule["lists"][0] if rule["lists"] else "num_hidden_layers", "missing")
            return ()
        return tuple([*first, *(period[i % len(period)] for i in range(number))][:number])


def read_recorded(
    recorded: Recorded, config: Mapping[str, Any], where: str, *, attention: str
) -> tuple[Any, RecordedConfig]:
    """The family and the settings of a model; UserError names what is missing or wrong.

    where: the file the config came from. attention: the plan's word.
    """
    variant = recorded.variant(config)
    assert variant is not None, "whoever calls asks for the variant first"
    fields = ConfigReader(dict(config), where)
    form = EAGER if attention == EAGER or (variant["refuses_sdpa"] and attention == "sdpa") else "kernels"
    table = variant.get(form)
    if table is None:
        message = f"{show_value(attention)} is not what transformers has for {config.get('model_type')} models"
        raise UserError(Problem(where="plan", key="step.attention", message=message, hint="modelled: sdpa, eager"))
    forward = from_table(table)
    numbers = recorded.settings(fields, forward.symbols)
    kinds = recorded.kinds(fields, variant)
    if not fields.problems:
        _check(fields, forward, numbers)
    if fields.problems:
        raise UserError(*fields.problems)
    text = recorded.text(config)
    heads = numbers.get("num_attention_heads", 1)
    kv_heads = numbers.get("num_key_value_heads", heads)
    head_dim = numbers.get("head_dim") or numbers["hidden_size"] // heads
    positions = numbers.get("max_position_embeddings")
    is_table = any("max_position_embeddings" in term.symbols for sizes in forward.shapes for s in sizes for term in s)
    windows = {key: recorded.value(text, key) for key in ("sliding_window", "attention_chunk_size")}
    return family_of_program(forward, recorded.lora_targets), RecordedConfig(
        forward=forward,
        settings={**numbers, **windows, "num_key_value_groups": heads // kv_heads, "head_dim": head_dim},
        kinds=kinds,
        lora_targets=recorded.lora_targets,
        path=recorded.path,
        hidden=numbers["hidden_size"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        num_layers=len(kinds),
        tied=recorded.is_tied(config),
        vocab=numbers["vocab_size"],
        positions=positions if is_table else None,
        max_positions=None if is_table else recorded.value(text, "max_position_embeddings"),
    )


def _check(fields: ConfigReader, forward: Forward, numbers: dict[str, Any]) -> None:
    """That heads divide what they have to, and every size is a whole number."""
    heads, kv_heads = numbers.get("num_attention_heads", 1), numbers.get("num_key_value_heads", 1)
    if heads % kv_heads:
        fields.divides("num_key_value_heads", kv_heads, heads, "num_attention_heads")
        return
    sample = {**numbers, "batch": 1, "seq": 1, "num_key_value_groups": heads // kv_heads}
    for sizes in forward.shapes:
        for size in sizes:
            try:
                positive = evaluate(size, sample) >= 0
            except ValueError as error:
                fields.problem("", f"the sizes do not go together: {error}")
                return
            if not positive and all("seq" not in term.symbols for term in size):
                fields.problem("", "the sizes do not go together: a tensor would have less than nothing")
                return
