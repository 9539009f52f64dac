"""Failures that any room may meet."""


class StoreUnavailable(Exception):
    """The database cannot be reached and nothing cached can stand in for it."""


class SettingsError(Exception):
    """A configuration value that cannot be used; the text is one line fit for an operator."""
