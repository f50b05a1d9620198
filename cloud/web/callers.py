"""Who calls: the bearer token's subject, and nobody else's word for it.

`X-User-*` headers are never read; a service believes only a signature (wire contract, section 3).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import structlog
from flask import Flask, g, request
from flask_jwt_extended import JWTManager, get_current_user, verify_jwt_in_request
from flask_jwt_extended.exceptions import JWTExtendedException, RevokedTokenError

from cloud.client import caller_token
from cloud.clock import utc_now
from cloud.errors import DeniedError, UnauthenticatedError
from cloud.security import Principal, client_address, verify
from cloud.web.settings import settings

P = ParamSpec("P")
R = TypeVar("R")
ADMIN = "ADMIN"


class _Tokens(JWTManager):
    """flask-jwt-extended, with `cloud.security` as the only judge of a token.

    Its own decoding would also refuse an `iat` a second ahead of our clock, and know nothing of
    an algorithm that follows the secret's length.
    """

    def _decode_jwt_from_config(
        self,
        encoded_token: str,
        csrf_value: Any = None,  # noqa: ARG002 - the library's signature
        allow_expired: bool = False,  # noqa: ARG002, FBT001, FBT002 - the library's signature
    ) -> dict[str, Any]:
        found = verify(encoded_token, settings().secret, now=utc_now())
        return {"jti": found.jti, "sub": found.user_id, "type": "access", "principal": found}


def install(app: Flask, revoked: Callable[[Principal], bool] | None) -> None:
    """Let the views of `app` ask who calls."""
    app.config["JWT_TOKEN_LOCATION"] = ["headers"]
    tokens = _Tokens(app)

    @app.before_request
    def forget() -> None:
        # A thread serves one request after another in one context.
        caller_token.set(None)

    @tokens.user_lookup_loader
    def _(_header: object, claims: dict[str, Any]) -> Principal:
        found: Principal = claims["principal"]
        return found

    @tokens.token_in_blocklist_loader
    def _(_header: object, claims: dict[str, Any]) -> bool:
        return revoked is not None and revoked(claims["principal"])


def principal() -> Principal:
    """Return the caller.

    Raises:
        UnauthenticatedError: no token, or one that we do not believe; the text says which.
    """
    if "principal" not in g:
        g.principal = _authenticate()
        caller_token.set(g.principal.token)
        structlog.contextvars.bind_contextvars(principal=g.principal.user_id)
    found: Principal = g.principal
    return found


def _authenticate() -> Principal:
    header = request.headers.get("Authorization")
    if header is None:
        raise UnauthenticatedError("Authorization header is missing")
    scheme, _, token = header.partition(" ")
    if scheme != "Bearer" or not token.strip() or "," in token:
        raise UnauthenticatedError("Authorization scheme must be Bearer")
    try:
        verify_jwt_in_request()
    except RevokedTokenError:
        raise UnauthenticatedError("Token has been revoked") from None
    except JWTExtendedException as error:
        raise UnauthenticatedError("Token is invalid") from error
    found: Principal = get_current_user()
    return found


def caller(*, strict: bool = False) -> Principal | None:
    """Return the caller of a public operation; None when anonymous.

    A token that we do not believe counts as none, unless `strict`.

    Raises:
        UnauthenticatedError: only when `strict`, for a header that is there and no good.
    """
    if "Authorization" not in request.headers:
        return None
    try:
        return principal()
    except UnauthenticatedError:
        if strict:
            raise
        return None


def authenticated(view: Callable[P, R]) -> Callable[P, R]:
    """Let a view run for a known caller only, else 401."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        principal()
        return view(*args, **kwargs)

    return guarded


def roles(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a view run for a caller who has one of the roles, else 401 or 403."""

    def guard(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if not principal().has_role(*names):
                raise DeniedError("Role is missing")
            return view(*args, **kwargs)

        return guarded

    return guard


def owner(user_id: int) -> Principal:
    """Return the caller when he is the user himself.

    Raises:
        UnauthenticatedError: nobody we know.
        DeniedError: somebody else, an ADMIN too.
    """
    found = principal()
    if found.user_id != user_id:
        raise DeniedError("Only the owner may do this")
    return found


def owner_or_admin(user_id: int) -> Principal:
    """Return the caller when he is the user himself or an ADMIN.

    Raises:
        UnauthenticatedError: nobody we know.
        DeniedError: somebody else.
    """
    return principal() if principal().has_role(ADMIN) else owner(user_id)


def client_ip() -> str:
    """Return the client's address: the peer's, or what a trusted proxy says."""
    forwarded_for = request.headers.get("X-Forwarded-For")
    return client_address(request.remote_addr or "", forwarded_for, settings().trusted_proxies)
