"""Routes of the security group: users, tokens, secrets. No route gives a secret's value."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel

from madang.ledger import Line
from madang.security.audit import Agreement, Checkpoint, InclusionProof
from madang.security.identity import TokenInfo, User
from madang.security.secrets import SecretInfo
from madang.server.access import needs, stack_of

router = APIRouter(tags=["security"])


@router.get("/me", **needs("project:read"))
def me(request: Request) -> dict[str, Any]:
    """Who asks, and with which roles."""
    identity = request.state.identity
    return {"name": identity.name, "roles": identity.roles}


class NewUser(BaseModel):
    """A user's name, roles, and password (none: tokens only)."""

    name: str
    roles: list[str]
    password: str | None = None


@router.get("/users", **needs("user:write"))
def users(request: Request) -> list[User]:
    """All users."""
    return list(stack_of(request).identity.users())


@router.post("/users", status_code=201, **needs("user:write"))
def create_user(request: Request, new: NewUser) -> User:
    """Makes a user."""
    return stack_of(request).identity.create_user(new.name, roles=new.roles, password=new.password)


class Roles(BaseModel):
    """A user's roles."""

    roles: list[str]


@router.put("/users/{name}/roles", **needs("user:write"))
def set_roles(request: Request, name: str, body: Roles) -> User:
    """Replaces a user's roles."""
    return stack_of(request).identity.set_roles(name, body.roles)


@router.delete("/users/{name}", status_code=204, **needs("user:write"))
def deactivate_user(request: Request, name: str) -> None:
    """Ends a user's access and all tokens."""
    stack_of(request).identity.deactivate_user(name)


class NewToken(BaseModel):
    """What a token is for, and how long it is valid."""

    label: str = ""
    lifetime_seconds: float | None = None


@router.post("/users/{name}/tokens", status_code=201, **needs("user:write"))
def create_token(request: Request, name: str, new: NewToken) -> dict[str, Any]:
    """Makes a token; this answer is the only place where it is shown."""
    token, info = stack_of(request).identity.create_token(
        name, label=new.label, lifetime_seconds=new.lifetime_seconds
    )
    return {"token": token, "id": info.id, "expires_us": info.expires_us}


@router.get("/tokens", **needs("user:write"))
def tokens(request: Request, user: str | None = None) -> list[TokenInfo]:
    """Valid tokens, without their secrets."""
    return list(stack_of(request).identity.tokens(user))


@router.delete("/tokens/{token_id}", status_code=204, **needs("user:write"))
def revoke_token(request: Request, token_id: str) -> None:
    """Ends a token."""
    stack_of(request).identity.revoke_token(token_id)


class NewSecret(BaseModel):
    """A secret's value."""

    value: str


@router.get("/secrets", **needs("secret:read"))
def secrets(request: Request) -> list[SecretInfo]:
    """The names of secrets, without values."""
    return list(stack_of(request).secrets.list())


@router.put("/secrets/{name}", **needs("secret:write"))
def set_secret(request: Request, name: str, body: NewSecret) -> SecretInfo:
    """Stores a value as the secret's next version."""
    return stack_of(request).secrets.set(name, body.value)


@router.delete("/secrets/{name}", status_code=204, **needs("secret:write"))
def delete_secret(request: Request, name: str) -> None:
    """Destroys all versions of a secret."""
    stack_of(request).secrets.delete(name)


@router.get("/audit", **needs("ledger:read"))
def search_audit(
    request: Request,
    actor: str | None = None,
    kind: str | None = None,
    subject: str | None = None,
    text: str | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
) -> list[Line]:
    """What happened, newest first."""
    return stack_of(request).audit.search(
        actor=actor, kind=kind, subject=subject, text=text, since_us=since_us, until_us=until_us,
        limit=limit,
    )  # fmt: skip


@router.get("/predictions/{prediction_id}/receipt", **needs("ledger:read"))
def prediction_receipt(
    request: Request, prediction_id: str, *, endpoint: str | None = None, explain: bool = True
) -> dict[str, Any]:
    """What made a prediction, with proofs."""
    from madang.security.audit.receipt import receipt

    return receipt(stack_of(request), prediction_id, endpoint=endpoint, explain=explain)


@router.get("/audit/key", **needs("ledger:read"))
def audit_key(request: Request) -> str:
    """The public key that checks the checkpoints."""
    return stack_of(request).audit.verifier_key()


@router.get("/audit/checkpoints", **needs("ledger:read"))
def audit_checkpoints(
    request: Request, limit: Annotated[int, Query(ge=1, le=10_000)] = 100
) -> list[Checkpoint]:
    """What was signed, newest first."""
    return stack_of(request).audit.checkpoints(limit=limit)


@router.post("/audit/checkpoints", status_code=201, **needs("ledger:write"))
def sign_checkpoint(request: Request) -> Checkpoint:
    """Signs what the ledger is now."""
    return stack_of(request).audit.checkpoint()


@router.get("/audit/compare", **needs("ledger:read"))
def compare_checkpoint(request: Request, note: str) -> Agreement:
    """Whether the ledger still begins with what a checkpoint says; `note` is its text."""
    return stack_of(request).audit.compare(note)


@router.get("/audit/lines/{seq}/proof", **needs("ledger:read"))
def prove_line(request: Request, seq: Annotated[int, Path(ge=1)]) -> InclusionProof:
    """The proof that a line is in the ledger, against the newest checkpoint."""
    return stack_of(request).audit.prove([seq])[0]
