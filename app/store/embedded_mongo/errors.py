"""The one error of this package."""


class EmbeddedMongoError(Exception):
    """The embedded MongoDB cannot be used; the message is one line that says why and what to do."""
