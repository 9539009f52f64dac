"""What all commands share: their errors, their options, the moment they run at."""

import os
import pwd
from typing import Any, NoReturn

import click
from pymongo.errors import PyMongoError

from app.adapters.embedded_mongo import EmbeddedMongoError
from app.adapters.key_cipher import KeyCipher
from app.adapters.mongo.connection import store_problem
from app.cli import SETTINGS
from app.core.ports import StoreUnavailable
from app.management.audit import Actor
from app.management.errors import Refusal, Unusable
from app.settings import Settings, SettingsError, generated_secret


class Group(click.Group):
    """A group of commands: what went wrong becomes one line on standard error and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (SettingsError, StoreUnavailable, EmbeddedMongoError) as error:
            fail(str(error))
        except PyMongoError as error:
            fail(f"MongoDB: {store_problem(error)}")
        except Refusal as error:
            for number, reason in error.lines if isinstance(error, Unusable) else ():
                click.echo(f"line {number}: {reason}", err=True)
            fail(str(error))
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise  # the reader of a pipe has gone: click ends quietly
            fail(str(error))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def fail(reason: str) -> NoReturn:
    """End the command with exit status 1 and this line on standard error."""
    raise click.ClickException(" ".join(reason.split()))


def current_settings() -> Settings:
    """The settings of the application whose command runs."""
    settings: Settings = click.get_current_context().meta[SETTINGS]
    return settings


def shell_actor() -> Actor:
    """Whoever runs the command, for the audit log."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return Actor(name, "cli")


def cipher_of(settings: Settings) -> KeyCipher:
    """What encrypts the upstream keys at rest."""
    return KeyCipher(generated_secret(settings.data_dir, "secret-key", settings.secret_key))
