"""`flask users …`: users and their credit."""

from decimal import Decimal, InvalidOperation
from typing import Any

import click

from app.adapters.mongo.client_keys import ClientKeyStore
from app.adapters.mongo.connection import ensure_indexes
from app.adapters.mongo.users import User, UserStore
from app.cli.base import Group, cipher_of, current_settings, fail, json_option, shell_actor
from app.cli.client_keys import key_row, print_key_once
from app.cli.output import print_json, print_table, shown, usd
from app.cli.secret_input import read_secret
from app.cli.store import open_administration, open_store
from app.core.records import NANO
from app.management.administration import build_administration
from app.management.errors import Unusable
from app.management.users import CreditChange, NewUser, check_username


class Amount(click.ParamType[Decimal]):
    """An exact amount in USD."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Parse the amount; a leading $ is let pass."""
        if isinstance(value, Decimal):
            return value
        try:
            amount = Decimal(str(value).removeprefix("$"))
        except InvalidOperation:
            self.fail(f"{value!r} is not an amount in USD", param, ctx)
        if not amount.is_finite():
            self.fail(f"{value!r} is not an amount in USD", param, ctx)
        return amount


def _user_name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        check_username(value)
    except Unusable as error:
        raise click.BadParameter(str(error)) from None
    return value


@click.group("users", cls=Group)
def command() -> None:
    """Users and their credit."""


@command.command("add")
@click.argument("name", callback=_user_name)
@click.option("--credits", "amount", type=Amount(), default="0", help="Credit to begin with, in USD.")
@click.option("--role", type=click.Choice(["user", "admin"]), default="user")
@click.option("--rpm", type=click.IntRange(min=0), help="Requests per minute; 0: no limit.")
@click.option("--password-stdin", is_flag=True, help="Read the user's password from standard input.")
@json_option
def add_user(
    name: str, amount: Decimal, role: str, rpm: int | None, password_stdin: bool, as_json: bool
) -> None:
    """Make user NAME and its first client key, which is printed once."""
    settings = current_settings()
    password = None
    if password_stdin:
        password = read_secret("password", "--password-stdin", from_stdin=True, confirm=True)
    with open_store(settings) as db:
        ensure_indexes(db, settings.log_retention_s)
        try:
            users = build_administration(settings, db, cipher_of(settings)).users
            user, key = users.add(shell_actor(), NewUser(name, amount, role, rpm, password))
        except Unusable as error:
            raise click.UsageError(f"--{error.field} {error}") from None
    if as_json:
        print_json(
            {
                "username": name,
                "apiKey": key.secret,
                "keyId": key.key_id,
                "credits": user.credits_nano / NANO,
            }
        )
        return
    click.echo(f"User {name} made, with {usd(user.credits_nano)} of credit.")
    print_key_once(key)


@command.command("list")
@json_option
def list_users(as_json: bool) -> None:
    """List all users."""
    with open_store(current_settings()) as db:
        users = list(UserStore(db).list())
    if as_json:
        print_json({"users": [_row(user) for user in users]})
        return
    print_table(
        ("USER", "ROLE", "ACTIVE", "CREDIT>", "USED>", "RPM>", "EXPIRES", "MADE"),
        (
            (
                user.username,
                user.role,
                user.is_active,
                usd(user.spendable_nano),
                usd(user.credits_used_nano),
                user.rpm,
                user.expires_at,
                user.created_at,
            )
            for user in users
        ),
        "No users yet: flask users add NAME --credits 5",
    )


@command.command("show")
@click.argument("name")
@json_option
def show_user(name: str, as_json: bool) -> None:
    """Show user NAME and its client keys."""
    with open_store(current_settings()) as db:
        user = _known(UserStore(db).get(name), name)
        keys = list(ClientKeyStore(db).list(name))
    row = _row(user) | {"clientKeys": [key_row(key) for key in keys]}
    if as_json:
        print_json(row)
        return
    for field, value in row.items():
        if field != "clientKeys":
            click.echo(f"{field:>18}  {shown(value)}")
    print_table(
        ("KEY ID", "KEY", "ACTIVE", "MADE", "LAST USED"),
        ((key.key_id, key.hint, key.is_active, key.created_at, key.last_used_at) for key in keys),
        f"No client keys: flask client-keys add {name}",
    )


# A negative amount takes credit away, so it must not be read as an option.
@command.command("credit", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("amount", type=Amount())
@click.option("--reason", help="Why, for the ledger.")
@json_option
def credit_user(name: str, amount: Decimal, reason: str | None, as_json: bool) -> None:
    """Add AMOUNT (USD, may be negative) to the credit of user NAME."""
    with open_administration(current_settings()) as administration:
        try:
            change = CreditChange(amount, reason=reason)
            user = administration.users.credit(shell_actor(), name, change).user
        except Unusable as error:
            raise click.UsageError(f"AMOUNT {error}") from None
    if as_json:
        print_json({"username": name, "added": float(amount), "credits": user.credits_nano / NANO})
    else:
        click.echo(f"{name} has {usd(user.credits_nano)} of credit now.")


@command.command("password")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@json_option
def set_password(name: str, password_stdin: bool, as_json: bool) -> None:
    """Set the password of user NAME."""
    settings = current_settings()
    password = read_secret("password", "--password-stdin", from_stdin=password_stdin, confirm=True)
    with open_administration(settings) as administration:
        administration.users.set_password(shell_actor(), name, password)
    if as_json:
        print_json({"username": name})
    else:
        click.echo(f"{name} has a new password.")


@command.command("disable")
@click.argument("name")
@json_option
def disable_user(name: str, as_json: bool) -> None:
    """Refuse all keys of user NAME."""
    _set_active(name, False, as_json)


@command.command("enable")
@click.argument("name")
@json_option
def enable_user(name: str, as_json: bool) -> None:
    """Accept the keys of user NAME again."""
    _set_active(name, True, as_json)


def _set_active(name: str, active: bool, as_json: bool) -> None:
    with open_administration(current_settings()) as administration:
        administration.users.set_active(shell_actor(), name, active)
    if as_json:
        print_json({"username": name, "isActive": active})
    else:
        click.echo(f"{name} is {'enabled' if active else 'disabled'}; running workers follow within seconds.")


def _known(user: User | None, name: str) -> User:
    return user if user is not None else fail(f"there is no user {name}")


def _row(user: User) -> dict[str, Any]:
    return {
        "username": user.username,
        "role": user.role,
        "isActive": user.is_active,
        "credits": user.credits_nano / NANO,
        "refCredits": user.ref_credits_nano / NANO,
        "creditsUsed": user.credits_used_nano / NANO,
        "totalInputTokens": user.input_tokens,
        "totalOutputTokens": user.output_tokens,
        "rpm": user.rpm,
        "onClientAbort": user.on_client_abort,
        "hasPassword": user.has_password,
        "expiresAt": user.expires_at,
        "createdAt": user.created_at,
        "lastLoginAt": user.last_login_at,
    }
