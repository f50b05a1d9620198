"""Who calls and from where: tokens and addresses."""

import base64
import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import jwt
import pytest
import structlog

from cloud import security
from cloud.config import Properties
from cloud.errors import ConfigurationError, UnauthenticatedError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = "s" * 64
CLAIMS = {
    "jti": "9a1b",
    "sub": "7",
    "username": "ann",
    "email": "ann@example.org",
    "roles": ["USER", "VIP"],
    "permissions": ["movie:read"],
    "type": "ACCESS",
    "sid": "12",
    "iat": int(NOW.timestamp()),
    "exp": int((NOW + timedelta(minutes=15)).timestamp()),
}


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in CLAIMS.items() if name not in names}


@pytest.mark.parametrize(
    ("size", "algorithm"),
    [(32, "HS256"), (47, "HS256"), (48, "HS384"), (63, "HS384"), (64, "HS512"), (72, "HS512")],
)
def test_the_algorithm_follows_the_secrets_length(size, algorithm):
    assert security.signing_algorithm("x" * size) == algorithm
    token = security.sign(CLAIMS, "x" * size)
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert security.verify(token, "x" * size, now=NOW).user_id == 7


def test_length_counts_in_bytes_of_utf_8():
    assert security.signing_algorithm("é" * 32) == "HS512"
    with pytest.raises(ConfigurationError):
        security.signing_algorithm("x" * 31)


def test_a_principal_holds_what_the_token_says_and_hides_the_token():
    token = security.sign(CLAIMS, SECRET)
    principal = security.verify(token, SECRET, now=NOW)
    assert principal == security.Principal(
        user_id=7,
        username="ann",
        email="ann@example.org",
        roles=frozenset({"USER", "VIP"}),
        permissions=frozenset({"movie:read"}),
        jti="9a1b",
        sid="12",
        expires_at=NOW + timedelta(minutes=15),
        token=token,
    )
    assert token not in repr(principal)
    assert principal.has_role("ADMIN", "VIP")
    assert not principal.has_role("ADMIN")


def test_a_jvm_issuer_leaves_out_sid_and_email():
    principal = security.verify(security.sign(without("sid", "email"), SECRET), SECRET, now=NOW)
    assert (principal.sid, principal.email) == (None, None)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_each_algorithm_that_the_key_is_long_enough_for_is_accepted(algorithm):
    token = jwt.encode(CLAIMS, SECRET, algorithm)
    assert security.verify(token, SECRET, now=NOW).username == "ann"


def unsigned() -> str:
    parts = [{"alg": "none"}, CLAIMS]
    coded = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts]
    return f"{coded[0]}.{coded[1]}."


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("a.b.c", id="noise"),
        pytest.param("é", id="not ASCII"),
        pytest.param(unsigned(), id="alg none"),
        pytest.param(security.sign(CLAIMS, "t" * 64), id="another key"),
        pytest.param(security.sign(CLAIMS, SECRET)[:-2] + "xx", id="signature changed"),
        pytest.param(security.sign({**CLAIMS, "type": "REFRESH"}, SECRET), id="refresh token"),
        pytest.param(security.sign(without("type"), SECRET), id="no type"),
        pytest.param(security.sign(without("exp"), SECRET), id="never expires"),
        pytest.param(security.sign(without("jti"), SECRET), id="no jti"),
        pytest.param(security.sign({**CLAIMS, "jti": ""}, SECRET), id="empty jti"),
        pytest.param(security.sign({**CLAIMS, "sub": "-7"}, SECRET), id="negative subject"),
        pytest.param(security.sign({**CLAIMS, "sub": "\u0667"}, SECRET), id="foreign digits"),
        pytest.param(security.sign({**CLAIMS, "sub": "ann"}, SECRET), id="subject no number"),
        pytest.param(security.sign({**CLAIMS, "sub": "9" * 30}, SECRET), id="subject too long"),
        pytest.param(security.sign({**CLAIMS, "sub": str(2**63)}, SECRET), id="subject beyond ids"),
        pytest.param(security.sign({**CLAIMS, "roles": "ADMIN"}, SECRET), id="roles no list"),
        pytest.param(security.sign({**CLAIMS, "roles": [1]}, SECRET), id="roles no texts"),
        pytest.param(security.sign({**CLAIMS, "exp": 10**30}, SECRET), id="expiry beyond time"),
        pytest.param(security.sign({**CLAIMS, "exp": 1e400}, SECRET), id="expiry infinite"),
    ],
)
def test_what_is_no_access_token_of_ours_is_invalid(token):
    with pytest.raises(UnauthenticatedError, match="Token is invalid"):
        security.verify(token, SECRET, now=NOW)


def test_a_short_key_takes_no_stronger_algorithm():
    """RFC 7518 section 3.2: the key is at least as long as the hash."""
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = jwt.encode(CLAIMS, "k" * 40, "HS512")
    with pytest.raises(UnauthenticatedError, match="Token is invalid"):
        security.verify(token, "k" * 40, now=NOW)


@pytest.mark.parametrize("late", [0, 1, 3600])
def test_expiry_has_no_leeway(late):
    token = security.sign(CLAIMS, SECRET)
    expiry = NOW + timedelta(minutes=15)
    assert security.verify(token, SECRET, now=expiry - timedelta(seconds=1)).user_id == 7
    with pytest.raises(UnauthenticatedError, match="Token has expired"):
        security.verify(token, SECRET, now=expiry + timedelta(seconds=late))


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        (None, "header is missing"),
        ("", "header is missing"),
        ("Basic YTpi", "is not a bearer token"),
        ("Bearer", "is not a bearer token"),
        ("Bearer  ", "is not a bearer token"),
        ("abc", "is not a bearer token"),
    ],
)
def test_causes_of_a_missing_token_are_told_apart(header, cause):
    with pytest.raises(UnauthenticatedError, match=cause):
        security.bearer(header)


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "BEARER  abc "])
def test_the_scheme_has_no_case(header):
    assert security.bearer(header) == "abc"


@pytest.mark.parametrize("profile", ["default", "dev", "test"])
def test_the_published_secret_is_good_for_development_with_a_warning(profile):
    with structlog.testing.capture_logs() as lines:
        secret = security.jwt_secret(Properties("app", (profile,), ()))
    assert secret == security.DEFAULT_SECRET
    assert [line["event"] for line in lines] == ["default_jwt_secret"]


@pytest.mark.parametrize("profiles", [("prod",), ("dev", "prod"), ("staging",)])
@pytest.mark.parametrize(
    "values", [{}, {"jwt.secret": security.DEFAULT_SECRET}], ids=["unset", "set"]
)
def test_the_published_secret_is_refused_elsewhere(profiles, values):
    with pytest.raises(ConfigurationError, match="published default"):
        security.jwt_secret(Properties.of(values, "app", profiles))


def test_a_short_secret_is_refused_without_showing_it():
    with pytest.raises(ConfigurationError, match=r"app: jwt\.secret is shorter") as caught:
        security.jwt_secret(Properties.of({"jwt.secret": "hunter2"}, "app"))
    assert "hunter2" not in str(caught.value)


TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        pytest.param("9.9.9.9", None, "9.9.9.9", id="no header"),
        pytest.param("9.9.9.9", "1.1.1.1", "9.9.9.9", id="an untrusted peer says what it wants"),
        pytest.param("10.0.0.1", "1.1.1.1", "1.1.1.1", id="trusted peer"),
        pytest.param("10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1", id="a forged entry on the left"),
        pytest.param("10.0.0.1", "1.1.1.1, 10.2.3.4", "1.1.1.1", id="two proxies"),
        pytest.param("10.0.0.1", "10.9.9.9, 10.2.3.4", "10.9.9.9", id="all trusted"),
        pytest.param("10.0.0.1", "1.1.1.1, nonsense", "10.0.0.1", id="nonsense from the proxy"),
        pytest.param("10.0.0.1", "nonsense, 1.1.1.1", "1.1.1.1", id="nonsense before the client"),
        pytest.param("10.0.0.1", "", "10.0.0.1", id="empty"),
        pytest.param("10.0.0.1", "1.1.1.1:4711", "1.1.1.1", id="with a port"),
        pytest.param("fd00::1", "[2001:db8::1]:80", "2001:db8::1", id="version 6 with a port"),
        pytest.param("::ffff:10.0.0.1", "1.1.1.1", "1.1.1.1", id="version 4 in version 6"),
        pytest.param("not-an-address", "1.1.1.1", "not-an-address", id="a socket of another kind"),
    ],
)
def test_the_client_is_the_right_most_address_that_is_no_proxy(peer, forwarded, address):
    assert security.client_address(peer, forwarded, TRUSTED) == address


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("127.0.0.1", True), ("10.1.2.3", True), ("172.20.0.1", True), ("192.168.1.1", True),
        ("::1", True), ("fd12::1", True), ("::ffff:192.168.1.1", True),
        ("8.8.8.8", False), ("172.32.0.1", False), ("2001:db8::1", False), ("x", False),
    ],
)  # fmt: skip
def test_details_are_for_private_networks_unless_told_otherwise(address, inside):
    assert security.is_within(address, security.allowed_networks(Properties.of({}))) is inside


def test_networks_are_settings():
    properties = Properties.of(
        {
            "nozie.management.allowed-networks": "8.8.8.8, 9.0.0.0/8",
            "nozie.gateway.trusted-proxies": "x/8",
        }
    )
    allowed = security.allowed_networks(properties)
    assert security.is_within("8.8.8.8", allowed)
    assert not security.is_within("127.0.0.1", allowed)
    with pytest.raises(ConfigurationError, match=r"nozie\.gateway\.trusted-proxies is not a list"):
        security.trusted_proxies(properties)
    assert security.trusted_proxies(Properties.of({})) == ()
