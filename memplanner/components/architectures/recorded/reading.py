"""What goes wrong with the content of a recording that a user made."""

from collections.abc import Iterator
from contextlib import contextmanager

from memplanner.errors import Problem, UserError


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Whatever goes wrong with the content of a user's file, as a UserError that names it. path: empty for what ships,
    of which it is memplanner's fault.
    """
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        if not path:
            raise
        text = " ".join(str(error).split())[:200] if isinstance(error, ValueError) else type(error).__name__
        hint = "`memplanner record` with the model's type writes it anew; without the file such models are traced"
        raise UserError(
            Problem(where=path, key="", message=f"is no recording that can be read: {text}", hint=hint)
        ) from None
