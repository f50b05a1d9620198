"""Settings and tokens for tests, as the Config Server and identity would give them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from cloud import security
from cloud.config import Properties, PropertySource, PropertyValue

SECRET = "a-secret-for-tests-that-is-long-enough-for-hs512-because-it-has-64-bytes"  # noqa: S105 - of tests


def properties(application: str, values: Mapping[str, str], profile: str = "test") -> Properties:
    """Build a snapshot of one source over the tests' own defaults."""
    merged = {"spring.application.name": application, "jwt.secret": SECRET, **values}
    source = PropertySource(
        "test", {key: PropertyValue(value, "test") for key, value in merged.items()}
    )
    return Properties(application, (profile,), (source,))


def token(user_id: int = 7, *roles: str, **claims: Any) -> str:
    """Sign an access token as identity does."""
    now = datetime.now(UTC)  # noqa: TID251 - tokens of tests live in real time
    return security.sign(
        {
            "jti": str(uuid4()),
            "sub": str(user_id),
            "username": f"user{user_id}",
            "email": {7: "ann@example.org", 8: "bob@example.org"}.get(user_id, "x@example.org"),
            "roles": list(roles) or ["USER"],
            "permissions": [],
            "type": "ACCESS",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=15)).timestamp()),
            **claims,
        },
        SECRET,
    )


def bearer(user_id: int = 7, *roles: str, **claims: Any) -> dict[str, str]:
    """Return the header that carries such a token."""
    return {"Authorization": f"Bearer {token(user_id, *roles, **claims)}"}
