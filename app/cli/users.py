"""`weir users …`: users and their credit."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from app.accounts.prices import PRICE_FIELDS
from app.accounts.roles import ROLES, USER
from app.accounts.users import User
from app.cli.base import Group, current_settings, json_option, shell_actor
from app.cli.client_keys import print_key_once
from app.cli.limit_options import given_limits, limit_lines, limit_options, price_options, wrong_option
from app.cli.output import print_json, print_table, shown, usd
from app.cli.secret_input import read_secret
from app.cli.store import open_administration, open_store
from app.management.audit import AuditLog
from app.management.client_keys import ClientKeyAdmin
from app.management.errors import Unusable
from app.management.limits import USER_FIELDS
from app.management.users import CreditChange, NewUser, UserAdmin, check_username
from app.management.views.keys import client_key_view
from app.management.views.users import credits_view, new_user_view, user_view

_SHOWN = (
    *("username", "role", "isActive", "credits", "refCredits", "creditsUsed", "totalInputTokens"),
    *(
        "totalOutputTokens",
        "rpm",
        "priceFactor",
        "group",
        "onClientAbort",
        "hasPassword",
        "expiresAt",
        "createdAt",
        "lastLoginAt",
    ),
)


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
    """Manage users and their credit."""


@command.command("add")
@click.argument("name", callback=_user_name)
@click.option("--credits", "amount", type=Amount(), default="0", help="Credit to begin with, in USD.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default=USER,
    help="A viewer sees everything, billing also gives credit and closes months, an owner (admin) may all.",
)
@limit_options
@price_options
@click.option("--password-stdin", is_flag=True, help="Read the user's password from standard input.")
@json_option
def add_user(
    name: str, amount: Decimal, role: str, password_stdin: bool, as_json: bool, **options: Any
) -> None:
    """Make user NAME and its first client key, which is printed once."""
    settings = current_settings()
    limits = given_limits(options)
    password = None
    if password_stdin:
        password = read_secret("password", "--password-stdin", from_stdin=True, confirm=True)
    with open_administration(settings) as administration:
        try:
            new = NewUser(
                name,
                amount,
                role,
                limits.get("rpm"),
                password,
                limits=limits,
                expires_at=limits.get("expiresAt"),
            )
            user, key = administration.users.add(shell_actor(), new)
        except Unusable as error:
            if error.field in (*USER_FIELDS, *PRICE_FIELDS, "expiresAt"):
                raise wrong_option(error) from None
            where = "the password" if error.field == "password" else f"--{error.field}"
            raise click.UsageError(f"{where} {error}") from None
    if as_json:
        print_json(new_user_view(user, key))
        return
    click.echo(f"User {name} made, with {usd(user.credits_nano)} of credit.")
    print_key_once(key)


def _changed(users: UserAdmin, name: str, given: Mapping[str, Any]) -> User:
    """Change what is given of a user, if anything is, and return the user."""
    if not given:
        return User.from_document(users.get(name))
    try:
        return users.change(shell_actor(), name, given)
    except Unusable as error:
        raise wrong_option(error) from None


@command.command("price")
@click.argument("name")
@price_options
@json_option
def price_user(name: str, as_json: bool, **options: Any) -> None:
    """Change what user NAME pays; what is not given stays. Without options, show it."""
    given = given_limits(options)
    with open_administration(current_settings()) as administration:
        users = administration.users
        user = _changed(users, name, given)
        view = user_view(users.get(name))
    if as_json:
        print_json(view)
        return
    factor = f"{user.price_factor} times the prices" if user.price_factor else "no factor of their own"
    click.echo(f"{name}: {factor}, {f'group {user.group}' if user.group else 'no group'}")


@command.command("limit")
@click.argument("name")
@limit_options
@json_option
def limit_user(name: str, as_json: bool, **options: Any) -> None:
    """Change the limits of user NAME; what is not given stays. Without options, show them.

    They hold for all keys of the user together.
    """
    given = given_limits(options)
    with open_administration(current_settings()) as administration:
        users = administration.users
        user = _changed(users, name, given)
        left = users.budgets_left(user)
        view = user_view(users.get(name), left)
    if as_json:
        print_json(view)
        return
    click.echo(f"{name}: {'the usual' if user.rpm is None else user.rpm} requests per minute")
    for line in limit_lines(user.limits, left):
        click.echo(f"  {line}")


@command.command("list")
@json_option
def list_users(as_json: bool) -> None:
    """List all users."""
    with open_store(current_settings(), reads_only=True) as db:
        users = UserAdmin(db, AuditLog(db)).all()
    if as_json:
        print_json({"users": [user_view(user) for user in users]})
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
            for user in map(User.from_document, users)
        ),
        "No users yet: weir users add NAME --credits 5",
    )


@command.command("show")
@click.argument("name")
@json_option
def show_user(name: str, as_json: bool) -> None:
    """Show user NAME and its client keys."""
    with open_store(current_settings(), reads_only=True) as db:
        users = UserAdmin(db, AuditLog(db), zone=current_settings().tz)
        user = users.get(name)
        keys = ClientKeyAdmin(db, AuditLog(db)).list(name)
        account = User.from_document(user)
        left = users.budgets_left(account)
    view = user_view(user, left)
    if as_json:
        print_json({**view, "clientKeys": [client_key_view(key) for key in keys]})
        return
    for field in _SHOWN:
        value = user.get(field)
        click.echo(f"{field:>18}  {shown(value if isinstance(value, datetime) else view[field])}")
    for line in limit_lines(account.limits, left):
        click.echo(f"{'limit':>18}  {line}")
    print_table(
        ("KEY ID", "KEY", "ACTIVE", "MADE", "LAST USED"),
        ((key.key_id, key.hint, key.is_active, key.created_at, key.last_used_at) for key in keys),
        f"No client keys: weir client-keys add {name}",
    )


# A negative amount takes credit away, so it must not be read as an option.
@command.command("credit", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("amount", type=Amount())
@click.option("--reason", help="Why, for the ledger.")
@click.option("--idempotency-key", "key", help="Any text of your own: repeated with it, it is added once.")
@json_option
def credit_user(name: str, amount: Decimal, reason: str | None, key: str | None, as_json: bool) -> None:
    """Add AMOUNT (USD, may be negative) to the credit of user NAME."""
    with open_administration(current_settings()) as administration:
        try:
            change = CreditChange(amount, reason=reason, key=key)
            done = administration.users.credit(shell_actor(), name, change)
        except Unusable as error:
            where = "AMOUNT" if error.field == "amount" else "--idempotency-key"
            raise click.UsageError(f"{where} {error}") from None
    if as_json:
        print_json({**credits_view(done), "added": float(amount)})
    else:
        click.echo(f"{name} has {usd(done.user.credits_nano)} of credit now.")


@command.command("password")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@json_option
def set_password(name: str, password_stdin: bool, as_json: bool) -> None:
    """Set the password of user NAME."""
    settings = current_settings()
    password = read_secret("password", "--password-stdin", from_stdin=password_stdin, confirm=True)
    with open_administration(settings) as administration:
        try:
            administration.users.set_password(shell_actor(), name, password)
        except Unusable as error:
            raise click.UsageError(f"the password {error}") from None
    if as_json:
        print_json({"username": name})
    else:
        click.echo(f"{name} has a new password.")


@command.command("role")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@json_option
def give_role(name: str, role: str, as_json: bool) -> None:
    """Give user NAME the role ROLE; sessions of theirs in the dashboard end."""
    with open_administration(current_settings()) as administration:
        user = administration.users.change(shell_actor(), name, {"role": role})
        view = user_view(administration.users.get(name))
    if as_json:
        print_json(view)
        return
    click.echo(f"{name} has the role {user.role}.")
    if role != USER and not user.has_password:
        click.echo(f"Without a password they cannot log in with it: weir users password {name}")


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
        user = administration.users.get(name)
    if as_json:
        print_json(user_view(user))
    else:
        click.echo(f"{name} is {'enabled' if active else 'disabled'}; running workers follow within seconds.")
