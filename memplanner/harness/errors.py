"""What the harness says when it cannot."""


class NotBuildableError(Exception):
    """The plan asks for something that this harness cannot build."""
