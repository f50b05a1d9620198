"""The tables as statements see them; `identity/migrations` makes them."""

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from cloud.messaging.outbox import outbox as _outbox


class Instant(TypeDecorator[datetime]):
    """An aware instant in Python, `timestamp(6)` without zone and meaning UTC in the table."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        return value and value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        return value and value.replace(tzinfo=UTC)


_metadata: Final = sa.MetaData()


def _table(name: str, *columns: str | sa.Column[Any]) -> sa.Table:
    """Describe a table; a column given by name alone is text."""
    described = (sa.Column(one, sa.String) if isinstance(one, str) else one for one in columns)
    return sa.Table(name, _metadata, *described)


def _id(name: str = "id") -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=name == "id")


def _instant(name: str) -> sa.Column[datetime]:
    return sa.Column(name, Instant)


users: Final = _table(
    "users",
    _id(),
    "username",
    "email",
    "phone_number",
    "password",
    "status",
    sa.Column("failed_login_attempts", sa.Integer),
    _instant("locked_until"),
    _instant("last_login_at"),
    "last_login_ip",
    _instant("created_at"),
    _instant("updated_at"),
)
profiles: Final = _table(
    "user_profiles",
    _id("user_id"),
    "full_name",
    "date_of_birth",
    "country",
    "gender",
    "age",
    "avatar_url",
)
interests: Final = _table("user_interests", _id("user_id"), "genre")
roles: Final = _table("roles", _id(), "name", "description", _instant("created_at"))
permissions: Final = _table(
    "permissions", _id(), "name", "description", "resource", "action", _instant("created_at")
)
user_roles: Final = _table("user_roles", _id("user_id"), _id("role_id"))
role_permissions: Final = _table("role_permissions", _id("role_id"), _id("permission_id"))
memberships: Final = _table(
    "memberships",
    sa.Column("user_id", sa.BigInteger, primary_key=True),
    sa.Column("version", sa.BigInteger),
    sa.Column("active", sa.Boolean),
    sa.Column("granted", sa.Boolean),
    _instant("changed_at"),
)
refresh_tokens: Final = _table(
    "refresh_tokens",
    _id(),
    "token",
    _id("user_id"),
    _id("session_id"),
    "device_info",
    "ip_address",
    "user_agent",
    _instant("expires_at"),
    _instant("revoked_at"),
    "revoked_reason",
    _instant("created_at"),
)
sessions: Final = _table(
    "user_sessions",
    _id(),
    _id("user_id"),
    _id("refresh_token_id"),
    "device_info",
    "ip_address",
    "user_agent",
    sa.Column("is_active", sa.Boolean),
    _instant("last_access_at"),
    _instant("created_at"),
    _instant("mirrored_at"),
)
access_tokens: Final = _table(
    "access_tokens",
    sa.Column("jti", sa.String, primary_key=True),
    _id("user_id"),
    _id("session_id"),
    _instant("expires_at"),
)
blacklist: Final = _table(
    "token_blacklist",
    _id(),
    "jti",
    _id("user_id"),
    "token_type",
    _instant("expires_at"),
    "reason",
    _instant("created_at"),
    _instant("mirrored_at"),
)
audit: Final = _table(
    "audit_logs",
    _id(),
    _id("user_id"),
    _id("target_user_id"),
    "action",
    "ip_address",
    "user_agent",
    "details",
    sa.Column("success", sa.Boolean),
    "error_message",
    _instant("created_at"),
)
outbox: Final = _outbox(_metadata)
