"""Who calls, and from where: access tokens (RFC 7519) and the networks that we believe."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import jwt
import structlog

from cloud.errors import ConfigurationError, UnauthenticatedError

if TYPE_CHECKING:
    from cloud.config import Properties

log = structlog.get_logger()

Networks = Sequence[IPv4Network | IPv6Network]

# The estate's published default: known to everybody, so good for development only.
DEFAULT_SECRET = "nozie-secret-key-for-jwt-token-generation-must-be-at-least-256-bits-long"  # noqa: S105
OPEN_PROFILES = frozenset({"default", "dev", "test"})

_SUBJECT = re.compile("[0-9]{1,19}")
_IDS = 2**63  # what a bigint holds

# RFC 7518 section 3.2: the key is at least as long as the hash, here in bytes.
_KEY_BYTES = {"HS512": 64, "HS384": 48, "HS256": 32}

LOOPBACK = ("127.0.0.0/8", "::1/128")
PRIVATE_NETWORKS = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who an access token speaks for.

    Attributes:
        user_id: claim `sub`.
        jti: the token's own id, by which it is revoked.
        sid: id of the session row; None from an issuer that knows no sessions.
        token: the token itself, to pass on to another service.
    """

    user_id: int
    username: str
    email: str | None
    roles: frozenset[str]
    permissions: frozenset[str]
    jti: str
    sid: str | None
    expires_at: datetime
    token: str = field(repr=False)

    def has_role(self, *names: str) -> bool:
        """Tell whether one of the names is among the roles."""
        return not self.roles.isdisjoint(names)


def signing_algorithm(secret: str) -> str:
    """Choose the strongest HMAC that the secret is long enough for.

    Raises:
        ConfigurationError: under 32 bytes of UTF-8.
    """
    return _algorithms(secret)[0]


def _algorithms(secret: str) -> list[str]:
    size = len(secret.encode())
    fitting = [name for name, least in _KEY_BYTES.items() if size >= least]
    if not fitting:
        raise ConfigurationError("jwt.secret is shorter than 32 bytes")
    return fitting


def jwt_secret(properties: "Properties") -> str:
    """Read `jwt.secret`.

    Raises:
        ConfigurationError: too short, or the published default outside default, dev and test.
    """
    secret = properties.text("jwt.secret", DEFAULT_SECRET)
    name = properties.application
    if secret == DEFAULT_SECRET:
        if not OPEN_PROFILES.issuperset(properties.profiles):
            raise ConfigurationError(f"{name}: jwt.secret is the published default; set JWT_SECRET")
        log.warning("default_jwt_secret", setting="jwt.secret")
    try:
        signing_algorithm(secret)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from None
    return secret


def sign(claims: Mapping[str, Any], secret: str) -> str:
    """Make a compact JWT of the claims as they are."""
    return jwt.encode(dict(claims), secret, signing_algorithm(secret))


def voucher(issuer: str, user_id: int, secret: str, *, now: datetime, lasting: timedelta) -> str:
    """Sign a token by which a service speaks for a user who is not there; it holds no roles."""
    claims = {
        "jti": str(uuid4()),
        "sub": str(user_id),
        "username": issuer,
        "roles": [],
        "permissions": [],
        "type": "ACCESS",
        "iat": int(now.timestamp()),
        "exp": int((now + lasting).timestamp()),
    }
    return sign(claims, secret)


def bearer(authorization: str | None) -> str:
    """Take the token out of an Authorization header (RFC 6750 section 2.1).

    Raises:
        UnauthenticatedError: no header, or another scheme.
    """
    if not authorization:
        raise UnauthenticatedError("Authorization header is missing")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthenticatedError("Authorization header is not a bearer token")
    return token.strip()


def verify(token: str, secret: str, *, now: datetime) -> Principal:
    """Read an access token; expiry has no leeway.

    Raises:
        UnauthenticatedError: "Token has expired", or "Token is invalid" for everything else.
    """
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=_algorithms(secret),
            options={
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_aud": False,
            },
        )
        principal = _principal(claims, token)
    except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError):
        raise UnauthenticatedError("Token is invalid") from None
    if principal.expires_at <= now:
        raise UnauthenticatedError("Token has expired")
    return principal


def _principal(claims: Mapping[str, Any], token: str) -> Principal:
    subject, expires, sid = claims["sub"], claims["exp"], claims.get("sid")
    if claims.get("type") != "ACCESS" or not _SUBJECT.fullmatch(subject):
        raise ValueError
    if int(subject) >= _IDS:
        raise OverflowError
    if isinstance(expires, bool) or not isinstance(expires, int):
        raise TypeError
    return Principal(
        user_id=int(subject),
        username=_string(claims["username"]),
        email=None if claims.get("email") is None else _string(claims["email"]),
        roles=_strings(claims.get("roles")),
        permissions=_strings(claims.get("permissions")),
        jti=_string(claims["jti"]),
        sid=None if sid is None else str(sid),
        expires_at=datetime.fromtimestamp(expires, UTC),
        token=token,
    )


def _string(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _strings(value: object) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list):
        raise TypeError
    return frozenset(map(_string, value))


def allowed_networks(properties: "Properties") -> Networks:
    """Read `nozie.management.allowed-networks`: who may see details; private networks if unset."""
    return networks(properties, "nozie.management.allowed-networks", PRIVATE_NETWORKS)


def trusted_proxies(
    properties: "Properties", room: Literal["gateway", "web"] = "gateway"
) -> Networks:
    """Read whose X-Forwarded-For we believe.

    `nozie.gateway.trusted-proxies` is for the door, which believes nobody if unset;
    `nozie.web.trusted-proxies` for a service behind it, which believes its own machine if unset.
    """
    default = LOOPBACK if room == "web" else ()
    return networks(properties, f"nozie.{room}.trusted-proxies", default)


def networks(properties: "Properties", key: str, default: Sequence[str]) -> Networks:
    """Read a list of networks (CIDR) or single addresses.

    Raises:
        ConfigurationError: an entry is neither.
    """
    try:
        return tuple(ip_network(item, strict=False) for item in properties.listing(key, default))
    except ValueError:
        raise ConfigurationError(
            f"{properties.application}: {key} is not a list of networks"
            f" (from {properties.origin(key)})"
        ) from None


def is_within(address: str, networks: Networks) -> bool:
    """Tell whether an address is in one of the networks; what is no address is in none."""
    parsed = address_of(address)
    return parsed is not None and any(parsed in network for network in networks)


def client_address(peer: str, forwarded_for: str | None, trusted: Networks) -> str:
    """Find the address that speaks to us: the right-most one that is no trusted proxy.

    Args:
        peer: the other end of the connection.
        forwarded_for: X-Forwarded-For, all its fields joined by commas; believed from trusted
            peers only.
        trusted: networks of our own proxies.
    """
    address = peer
    for entry in reversed((forwarded_for or "").split(",")):
        if not is_within(address, trusted):
            break
        hop = address_of(entry)
        if hop is None:  # a trusted proxy passed on nonsense: it is the last address we know
            break
        address = str(hop)
    return address


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Read one hop of X-Forwarded-For, with or without its port; None when it is no address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # IPv4 with a port
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
