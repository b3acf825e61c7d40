"""The error of plans that prediction answers for and this harness has no means to build."""


class NotBuildableError(Exception):
    """Part of the plan has no builder in this harness, although a library may have it. The message names the part."""
