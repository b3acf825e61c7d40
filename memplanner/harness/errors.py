"""The harness's own error."""


class NotBuildableError(Exception):
    """The plan asks for something that this harness cannot build."""
