"""What a command's exit status means."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Every exit status there is; scripts and CI may rely on these."""

    OK = 0
    """Fits, within budget, within tolerance; or the command only lists things."""
    DOES_NOT_FIT = 1
    """Does not fit (with --strict: or is tight); of profile: the run did not complete; of
    record: the recording does not give what a trace gives."""
    USAGE_ERROR = 2
    """The plan, a file or a flag is wrong, or the question cannot be answered; stderr says what and where."""
    SOFTWARE_ERROR = 70
    """A defect of memplanner, which stderr asks to report: no answer, whatever was asked (sysexits' EX_SOFTWARE)."""
