"""The two wire formats a client can speak."""

from enum import StrEnum


class WireFormat(StrEnum):
    """Whose request, answer, stream and error shapes an endpoint uses."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
