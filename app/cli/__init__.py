"""The `flask …` commands. Each is imported when it is called, so that workers never load them."""

from importlib import import_module
from typing import Any

import click
from flask import Flask

from app.settings import Settings

SETTINGS = "weir.settings"
"""Where commands find the settings, in click's `Context.meta`."""

_COMMANDS = {
    "users": "Users and their credit.",
    "client-keys": "The keys that users' programs authenticate with.",
    "keys": "The pool of OhMyGPT keys.",
    "backup-keys": "Spare OhMyGPT keys.",
    "proxies": "Outbound proxies on the way to the upstream.",
    "bindings": "Which proxies an OhMyGPT key goes through.",
    "logs": "The record of every request.",
    "stats": "Statistics.",
    "journal": "What is on disk and not yet in MongoDB.",
    "verify": "Check that journal, records, sums and credits agree.",
    "migrate": "Move a database of earlier software over.",
    "doctor": "Check the installation and say what to do.",
}


class LazyCommand(click.Command):
    """Stands for the command `command` of a module until it is called."""

    def __init__(self, name: str, settings: Settings, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self._module = f"{__name__}.{name.replace('-', '_')}"
        self._settings = settings

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Hand over to the real command: from here on click knows only that one."""
        command: click.Command = import_module(self._module).command
        ctx = command.make_context(*args, **kwargs)
        ctx.meta[SETTINGS] = self._settings
        return ctx


def register_commands(app: Flask, settings: Settings) -> None:
    """Give the application its commands; imports none of them."""
    for name, short_help in _COMMANDS.items():
        app.cli.add_command(LazyCommand(name, settings, short_help))
