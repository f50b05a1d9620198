"""A bearer token for the Config Server, by `spring.cloud.config.oauth2.*` (RFC 6749, section 4)."""

from collections.abc import Callable, Mapping
from typing import Final

import requests
from requests.adapters import HTTPAdapter

from cloud.config.discovery import AwayError, Server
from cloud.config.properties import Properties

_OAUTH2: Final = "spring.cloud.config.oauth2"
_GRANTS: Final = ("client_credentials", "password")
_FIELDS: Final = {
    "client_id": "client-id",
    "client_secret": "client-secret",
    "username": "oauth-username",
    "password": "oauth-password",
}
_OK = 200

Authorize = Callable[[], Mapping[str, str]]


def authorization(
    given: Properties, timeouts: tuple[float, float], adapter: HTTPAdapter | None
) -> Authorize:
    """Build what asks for a token and gives the header that shows it; nothing without `token-uri`.

    A token is asked for with each attempt: attempts are rare, and tokens end.

    Raises:
        ConfigurationError: the address or the grant type cannot be used.
        AwayError (what is built): there is no token now.
    """
    uri = given.get(f"{_OAUTH2}.token-uri")
    if not uri:
        return dict
    try:
        server = Server.of(uri)
    except ValueError:
        raise given.wrong(f"{_OAUTH2}.token-uri", "is no http URL") from None
    grant = given.text(f"{_OAUTH2}.grant-type", _GRANTS[0])
    if grant not in _GRANTS:
        raise given.wrong(f"{_OAUTH2}.grant-type", f"is none of {', '.join(_GRANTS)}")
    found = {name: given.get(f"{_OAUTH2}.{key}") for name, key in _FIELDS.items()}
    form = {"grant_type": grant, **{name: text for name, text in found.items() if text}}

    def authorize() -> Mapping[str, str]:
        answer = server.ask("POST", "", {}, timeouts, adapter, form)
        return {"Authorization": f"Bearer {_token(answer, server)}"}

    return authorize


def _token(answer: requests.Response, server: Server) -> str:
    # Its words stay untold: they could quote what was asked, or hold the token.
    if answer.status_code != _OK:
        raise AwayError(f"{server.url} gives no token ({answer.status_code})")
    try:
        token = answer.json()["access_token"]
    except (ValueError, KeyError, TypeError):
        token = None
    if not isinstance(token, str):
        raise AwayError(f"{server.url} answered without a token")
    return token
