"""What a command's exit status means."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The whole of it; scripts and CI may rely on these."""

    OK = 0
    """Fits, within budget, within tolerance; or the command only lists things."""
    DOES_NOT_FIT = 1
    """Does not fit (with --strict: or is tight); of profile: the run did not complete."""
    WRONG_QUESTION = 2
    """The plan, a file or a flag is wrong; stderr says what and where, stdout is empty."""
