"""Secrets on their way in: from standard input or a hidden prompt, never from the command line."""

import sys
from typing import IO

import click

from app.cli.base import fail


def read_secret(what: str, option: str, *, from_stdin: bool, confirm: bool = False) -> str:
    """Read one secret: the first line of standard input, or typed unseen when that is a terminal.

    Standard input that is no terminal is read only if the option says so, lest a script's own input be
    taken for a secret. Ends the command when there is none.
    """
    if _is_terminal():
        secret: str = click.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)
    elif from_stdin:
        secret = sys.stdin.readline()
    else:
        raise click.UsageError(f"give the {what} on standard input, with {option}")
    secret = secret.strip("\r\n")
    if not secret:
        fail(f"no {what} on standard input")
    return secret


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def read_text(file: IO[str]) -> str:
    """Read all of a file of keys; ends the command when it is no text."""
    try:
        return file.read()
    except UnicodeDecodeError:
        fail(f"{file.name} is not UTF-8 text")
