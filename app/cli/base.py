"""What all commands share: their errors, their options, the moment they run at."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
from pymongo.errors import PyMongoError

from app.cli import SETTINGS
from app.common.errors import SettingsError, StoreUnavailable
from app.management.audit import Actor
from app.management.errors import ManagementError, Unusable
from app.settings import Settings, existing_secret_key
from app.store.driver import store_problem
from app.store.embedded_mongo import EmbeddedMongoError
from app.store.key_cipher import KeyCipher


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Make what goes wrong within one line on standard error, and exit status 1."""
    try:
        yield
    except (SettingsError, StoreUnavailable, EmbeddedMongoError) as error:
        fail(str(error))
    except PyMongoError as error:
        fail(f"MongoDB: {store_problem(error)}")
    except ManagementError as error:
        for number, reason in error.lines if isinstance(error, Unusable) else ():
            click.echo(f"line {number}: {reason}", err=True)
        fail(str(error))
    except UnicodeError as error:
        fail(f"what was given is not text: {error}")
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise  # the reader of a pipe has gone: click ends quietly
        fail(_told(error))


def _told(error: OSError) -> str:
    """Say what is wrong with which file, and that it is DATA_DIR which leads there."""
    if error.filename is None:
        return str(error)
    settings: Settings | None = click.get_current_context().meta.get(SETTINGS)
    place = Path(os.fsdecode(error.filename))
    leads_there = settings is not None and (place == settings.data_dir or settings.data_dir in place.parents)
    return f"{'DATA_DIR: ' if leads_there else ''}{place}: {error.strerror}"


class Group(click.Group):
    """A group of commands whose errors are one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with errors_in_one_line():
            return super().invoke(ctx)


class Command(click.Command):
    """A command of its own whose errors are one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with errors_in_one_line():
            return super().invoke(ctx)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def fail(reason: str) -> NoReturn:
    """End the command with exit status 1 and this line on standard error."""
    raise click.ClickException(" ".join(reason.split()))


def current_settings() -> Settings:
    """Return the settings the command runs with, read from the environment the first time."""
    meta = click.get_current_context().meta
    if SETTINGS not in meta:
        try:
            meta[SETTINGS] = Settings.from_env()
        except SettingsError as error:
            fail(str(error))
    settings: Settings = meta[SETTINGS]
    return settings


def shell_actor() -> Actor:
    """Return the actor who runs the command, for the audit log."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return Actor(name, "cli")


def cipher_of(settings: Settings) -> KeyCipher:
    """Return what encrypts stored upstream keys; raises `SettingsError` where there is no SECRET_KEY."""
    return KeyCipher(existing_secret_key(settings))
