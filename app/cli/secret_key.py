"""`weir secret-key …`: another SECRET_KEY for what is stored."""

import time
from pathlib import Path
from typing import IO

import click

from app.cli.base import Group, current_settings, fail, json_option
from app.cli.output import print_json
from app.cli.secret_input import read_secret, read_text
from app.cli.store import STAGED as _NEW
from app.cli.store import open_store
from app.common.clock import now_ms
from app.common.secret_strength import SECRET_MIN_CHARS, weakness
from app.settings import (
    Settings,
    existing_secret,
    existing_secret_key,
    generated_secret,
)
from app.store.embedded_mongo.layout import write_private
from app.store.secret_rotation import SecretRotation

_FILE, _OLD = "secret-key", "secret-key.old"
_SAY_EVERY_S = 2.0
_SET_ALREADY = (
    "Now start or reload Weir, on every host of this database, with the SECRET_KEY of this command."
)


@click.group("secret-key", cls=Group)
def command() -> None:
    """Replace SECRET_KEY, which encrypts stored upstream keys and the passwords of proxies."""


@command.command("rotate")
@click.option("--new-secret-key-stdin", is_flag=True, help="Read the new one from standard input.")
@click.option(
    "--new-secret-key-file",
    type=click.File("r", encoding="utf-8"),
    envvar="NEW_SECRET_KEY_FILE",
    help="Read the new one from this file. [NEW_SECRET_KEY_FILE]",
)
@click.option(
    "--old-secret-key-file",
    type=click.File("r", encoding="utf-8"),
    help="Read the old one from this file (-: standard input); the new one is SECRET_KEY already.",
)
@json_option
def rotate(
    new_secret_key_stdin: bool,
    new_secret_key_file: IO[str] | None,
    old_secret_key_file: IO[str] | None,
    as_json: bool,
) -> None:
    """Encrypt everything stored with a new SECRET_KEY. May be killed and run again.

    Where SECRET_KEY is in DATA_DIR/secret-key, a new one is made there unless one is given. Running workers
    go on with what they have in memory and have to be told the new one afterwards: the last line says how.
    """
    settings = current_settings()
    given = _given(new_secret_key_stdin, new_secret_key_file)
    is_set_already = old_secret_key_file is not None
    with open_store(settings, any_secret_key=True) as db:
        present = existing_secret_key(settings)
        if old_secret_key_file is not None:
            old, new = read_text(old_secret_key_file).strip(), present
        else:
            old, new = present, _staged(settings, given)
        if new == old:
            fail("the new SECRET_KEY is the present one")
        rotation = SecretRotation(db, old, new)
        total = rotation.count()
        done = rotation.run(now_ms(), _wait, _Progress(total))
    if settings.secret_key is None and not is_set_already:
        _put_in_force(settings.data_dir, old)
    what_next = _SET_ALREADY if is_set_already else _what_is_next(settings)
    if as_json:
        print_json({"encryptedAnew": done, "secrets": total, "next": what_next})
    else:
        click.echo(f"{done} of {total} stored secrets were encrypted anew; all can be read with the new one.")
        click.echo(what_next)


def _given(from_stdin: bool, file: IO[str] | None) -> str | None:
    if from_stdin:
        new = read_secret("new SECRET_KEY", "--new-secret-key-stdin", from_stdin=True, confirm=True)
    elif file is not None:
        new = read_text(file)
    else:
        return None
    new = new.strip()
    if problem := weakness(new, SECRET_MIN_CHARS):
        raise click.UsageError(f"the new SECRET_KEY takes at least {SECRET_MIN_CHARS} characters, {problem}")
    return new


def _staged(settings: Settings, given: str | None) -> str:
    """Return the new secret. One for DATA_DIR is there, beside the old one, before anything is changed."""
    if settings.secret_key is not None:
        if given is None:
            raise click.UsageError(
                "SECRET_KEY is set: give the new one with --new-secret-key-stdin or NEW_SECRET_KEY_FILE"
            )
        return given
    begun = existing_secret(settings.data_dir, _NEW, None)
    if begun is not None and given not in (None, begun):
        fail(f"a rotation to the SECRET_KEY in {settings.data_dir / _NEW} was begun: give no other to end it")
    if begun is None and given is not None:
        write_private(settings.data_dir / _NEW, f"{given}\n")
    return generated_secret(settings.data_dir, _NEW, None)


def _put_in_force(data_dir: Path, old: str) -> None:
    write_private(data_dir / _OLD, f"{old}\n")
    (data_dir / _NEW).replace(data_dir / _FILE)


def _what_is_next(settings: Settings) -> str:
    if settings.secret_key is not None:
        return "Now set SECRET_KEY to the new one on every host of this database, and restart Weir there."
    return (
        f"The new SECRET_KEY is in {settings.data_dir / _FILE}, the old one, for backups made before, in "
        f"{settings.data_dir / _OLD}. Now reload Weir (SIGHUP to its master, systemctl reload weir); other "
        "hosts of this database need a copy of the file first."
    )


def _wait(seconds: float) -> None:
    click.echo("  waiting until running workers know of the rotation", err=True)
    time.sleep(seconds)


class _Progress:
    """Says now and then, on standard error, how far it is."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._said_at = time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self._said_at = time.monotonic()
            click.echo(f"  {done:,} of {self._total:,} secrets", err=True)
