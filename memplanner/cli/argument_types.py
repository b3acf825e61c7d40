"""How typed arguments are read, for argparse's `type=`: whatever is wrong is a UserError that names the flag."""

from collections.abc import Callable

from memplanner.errors import Problem, UserError
from memplanner.settings.errors import show
from memplanner.units import parse_share


def integer(flag: str, what: str, *, least: int, most: int = 10**9) -> Callable[[str], int]:
    """A reader of whole numbers from `least` to `most`. what: how messages call them, "a port from 1 to 65535"."""

    def read(text: str) -> int:
        number = _integer(text, least, most)
        if number is None:
            raise UserError(Problem(where=flag, key="", message=f"{show(text)} is not {what}"))
        return number

    return read


def integers(flag: str, what: str, *, least: int, most: int) -> Callable[[str], tuple[int, ...]]:
    """A reader of whole numbers with commas between them, each once; all that are wrong are named."""

    def read(text: str) -> tuple[int, ...]:
        words = dict.fromkeys(word.strip() for word in text.split(",") if word.strip())
        numbers = {word: _integer(word, least, most) for word in words}
        wrong = [word for word, number in numbers.items() if number is None]
        if wrong:
            raise UserError(*(Problem(where=flag, key="", message=f"{show(word)} is not {what}") for word in wrong))
        return tuple(dict.fromkeys(number for number in numbers.values() if number is not None))

    return read


def _integer(text: str, least: int, most: int) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return int(text) if least <= int(text) <= most else None


def share(flag: str) -> Callable[[str], float]:
    """A reader of shares, such as 5%."""

    def read(text: str) -> float:
        try:
            return parse_share(text)
        except ValueError as error:
            raise UserError(Problem(where=flag, key="", message=str(error))) from None

    return read
