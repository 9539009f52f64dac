"""The commands, one registry for `weir …` and `flask …`. Each is imported when it is called.

So workers never load them, and `weir --help` and the completion of a shell are quick.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from app import __version__
from app.cli.streams import flush_output, prepare_streams

if TYPE_CHECKING:
    from flask import Flask

    from app.settings import Settings

SETTINGS = "weir.settings"
"""Where commands find the settings, in click's `Context.meta`, once they have been read."""

_START: Final = {
    "run": "Serve, with gunicorn.",
    "demo": "Show everything on one screen, without network or account.",
}
"""Of `weir` alone: `flask run` is Flask's own."""

_MANAGE: Final = {
    "Users": {
        "users": "Users and their credit.",
        "client-keys": "The keys that users' programs authenticate with.",
    },
    "Upstream": {
        "keys": "The pool of OhMyGPT keys.",
        "backup-keys": "Backup OhMyGPT keys.",
        "proxies": "Outbound proxies on the way to the upstream.",
        "bindings": "Which proxies an OhMyGPT key goes through.",
        "models": "The model table beside what the upstream offers.",
    },
    "Records": {
        "logs": "The record of every request.",
        "stats": "Statistics.",
        "statements": "Months billed user by user, and closed.",
        "prices": "What models cost, and what the model table lacks.",
        "journal": "What is on disk and not yet in MongoDB.",
        "verify": "Check that journal, records, sums and credits agree.",
    },
    "Installation": {
        "init": "Make what a new installation needs: directory, secrets, database.",
        "alerts": "What operators are told without asking.",
        "doctor": "Check the installation and say what to do.",
        "backup": "Write the whole database into a file, while the proxy runs.",
        "restore": "Put a backup into an empty database.",
        "secret-key": "Another SECRET_KEY for what is stored.",
        "migrate": "Move a database of earlier software over.",
        "licenses": "The licences of Weir and of everything it uses.",
    },
}

_COMMANDS: Final = {name: text for section in _MANAGE.values() for name, text in section.items()}

WITH_DATABASE: Final = _COMMANDS.keys() - {"licenses"}
"""The commands that work on a database, and say on which."""

SECTIONS: Final = {"Start": _START, **_MANAGE}
"""Commands and what they are about, as `weir --help` shows them."""

# By name, since the app does not know the simulator.
_ELSEWHERE = {"demo": "simulator.demo"}


class LazyCommand(click.Command):
    """Stands for the command `command` of a module until it is called."""

    def __init__(self, name: str, short_help: str, settings: "Settings | None" = None) -> None:
        super().__init__(name, short_help=short_help)
        self._module = _ELSEWHERE.get(name, f"{__name__}.{name.replace('-', '_')}")
        self._settings = settings

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Hand over to the real command: from here on click knows only that one."""
        command: click.Command = import_module(self._module).command
        if self.name in WITH_DATABASE:
            _say_where(command, self._database())
        prepare_streams()
        ctx = command.make_context(*args, **kwargs)
        ctx.call_on_close(flush_output)
        if self._settings is not None:
            ctx.meta[SETTINGS] = self._settings
        return ctx

    def _database(self) -> str:
        # `weir run` may import nothing before gevent has patched everything.
        from app.common.errors import SettingsError  # noqa: PLC0415
        from app.database_place import DatabasePlace  # noqa: PLC0415
        from app.settings import Settings  # noqa: PLC0415

        try:
            self._settings = self._settings or Settings.from_env()
        except SettingsError as error:  # help is given all the same; whoever needs the settings fails
            return f"Configuration: {error}"
        return f"Database: {DatabasePlace.of(self._settings)}"


def _say_where(command: click.Command, where: str) -> None:
    """Have the help of a command and of those below it end with the database it works on."""
    command.epilog = where
    for sub in command.commands.values() if isinstance(command, click.Group) else ():
        _say_where(sub, where)


def commands_app(settings: "Settings") -> "Flask":
    """Build an application of the commands and nothing else: no services, no secrets are made for them."""
    from flask import Flask  # noqa: PLC0415  `weir` goes without it

    app = Flask("weir", static_folder=None)
    register_commands(app, settings)
    return app


def register_commands(app: "Flask", settings: "Settings") -> None:
    """Give the application its commands; imports none of them."""
    for name, short_help in _COMMANDS.items():
        app.cli.add_command(LazyCommand(name, short_help, settings))


class _Program(click.Group):
    """`weir` itself: its commands are those of the registry."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        prepare_streams()
        return super().make_context(*args, **kwargs)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return [*_START, *_COMMANDS]

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        short_help = {**_START, **_COMMANDS}.get(name)
        return None if short_help is None else LazyCommand(name, short_help)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in section.items()])


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__, message=f"weir %(version)s (Python {'.'.join(map(str, sys.version_info[:3]))})"
)
def program() -> None:
    """Weir, a metering proxy in front of OhMyGPT.

    The environment configures it (docs/configuration.md). `weir COMMAND --help` says the rest.
    """


def main() -> None:
    """Run `weir`; ends the process."""
    program(prog_name="weir")
