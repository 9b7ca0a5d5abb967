"""`madang user`, `secret`."""

from __future__ import annotations

import click

from madang.cli.output import as_json, format_us, open_stack, print_json, print_table


@click.group()
def user() -> None:
    """Users, roles and tokens of the API."""


@user.command("list")
@as_json
def list_users(json: bool) -> None:
    """List users."""
    with open_stack() as stack:
        found = stack.identity.users()
    if json:
        print_json(found)
    else:
        rows = [(u.name, ", ".join(u.roles), "yes" if u.active else "no") for u in found]
        print_table(["user", "roles", "active"], rows)


@user.command("add")
@click.argument("name")
@click.option(
    "--role", "roles", multiple=True, required=True, help="viewer, engineer, operator, admin."
)
def add_user(name: str, roles: tuple[str, ...]) -> None:
    """Make a user without a password; give access by: madang user token NAME."""
    with open_stack() as stack:
        stack.identity.create_user(name, roles=roles)
    click.echo(f"made user {name}: {', '.join(roles)}")


@user.command()
@click.argument("name")
@click.option("--label", default="", help="What it is for.")
@click.option("--days", type=float, help="How long it is valid (default: until revoked).")
def token(name: str, label: str, days: float | None) -> None:
    """Make a token for a user; it is shown only once."""
    with open_stack() as stack:
        secret, _ = stack.identity.create_token(
            name, label=label, lifetime_seconds=None if days is None else days * 86_400
        )
    click.echo(secret)


@user.command("tokens")
@click.argument("name", required=False)
@as_json
def list_tokens(name: str | None, json: bool) -> None:
    """List valid tokens (of one user), without their secrets; revoke one by its id."""
    with open_stack() as stack:
        found = stack.identity.tokens(name)
    if json:
        print_json(found)
    else:
        rows = [
            (t.id, t.user, t.label, format_us(t.created_us), format_us(t.expires_us)) for t in found
        ]
        print_table(["token", "user", "label", "made (UTC)", "ends (UTC)"], rows)


@user.command()
@click.argument("token_id")
def revoke(token_id: str) -> None:
    """End a token by its id."""
    from madang.errors import NotFoundError

    with open_stack() as stack:
        known = {found.id for found in stack.identity.tokens()}
        stack.identity.revoke_token(token_id)
    if token_id not in known:  # a typing error must not look like a token that ended
        raise NotFoundError(f"no valid token has the id {token_id!r}; see: madang user tokens")
    click.echo(f"token {token_id} is not valid any more")


@user.command()
@click.argument("name")
def deactivate(name: str) -> None:
    """End a user's access and all tokens."""
    with open_stack() as stack:
        stack.identity.deactivate_user(name)
    click.echo(f"user {name} has no access any more")


@click.group()
def secret() -> None:
    """Secrets, for ${secret:NAME} in madang.toml."""


@secret.command("list")
@as_json
def list_secrets(json: bool) -> None:
    """List names, without values."""
    with open_stack() as stack:
        found = stack.secrets.list()
    if json:
        print_json(found)
    else:
        rows = [(s.name, s.version, format_us(s.created_us)) for s in found]
        print_table(["secret", "version", "set (UTC)"], rows)


@secret.command("set")
@click.argument("name")
@click.option("--value", prompt=True, hide_input=True, help="Better asked for than typed here.")
def set_secret(name: str, value: str) -> None:
    """Set a secret's value."""
    with open_stack() as stack:
        info = stack.secrets.set(name, value)
    click.echo(f"secret {name}, version {info.version}")


@secret.command("delete")
@click.argument("name")
def delete_secret(name: str) -> None:
    """Destroy all versions of a secret."""
    from madang.errors import NotFoundError

    with open_stack() as stack:
        known = [found.name for found in stack.secrets.list()]
        if name not in known:
            raise NotFoundError(
                f"there is no secret {name!r}; there are: {', '.join(known) or 'none'}"
            )
        stack.secrets.delete(name)
    click.echo(f"secret {name} is gone")
