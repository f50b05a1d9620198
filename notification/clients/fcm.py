"""Push to devices by Firebase Cloud Messaging, HTTP v1.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages, and for the access token
RFC 7523 as Google's service accounts use it.
"""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any, Final

import requests

from cloud.clock import Clock
from cloud.config import Properties
from cloud.errors import ConfigurationError
from cloud.messaging import Later
from notification.domain import Letter, LostAddressError, RefusedLetterError

_SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ASSERTION_LIFE_S: Final = 3600
_EARLY_S: Final = 60
# Google's advice for a 429 without Retry-After.
_WHEN_NOT_TOLD: Final = timedelta(seconds=60)
_KEY: Final = "nozie.notification.fcm.credentials"


@dataclass(frozen=True, slots=True)
class FcmSettings:
    """A service account, and where Firebase is."""

    project: str
    client_email: str
    private_key: str = field(repr=False)
    key_id: str | None
    token_uri: str
    endpoint: str
    timeout: timedelta

    @classmethod
    def of(cls, properties: Properties) -> "FcmSettings | None":
        """Read them from a service account's JSON, or from the file that is named; None without.

        Raises:
            ConfigurationError: it is no service account.
        """
        given = properties.get(_KEY)
        if not given:
            return None
        own = "nozie.notification.fcm"
        try:
            text = given if given.lstrip().startswith("{") else Path(given).read_text("utf-8")
            account = json.loads(text)
            return cls(
                project=properties.get(f"{own}.project") or account["project_id"],
                client_email=account["client_email"],
                private_key=account["private_key"],
                key_id=account.get("private_key_id"),
                token_uri=properties.get(f"{own}.token-uri") or account["token_uri"],
                endpoint=properties.text(f"{own}.endpoint", "https://fcm.googleapis.com"),
                timeout=properties.duration(f"{own}.timeout", timedelta(seconds=10)),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Never the value: it holds a key.
            raise ConfigurationError(
                f"{properties.application}: {_KEY} ({properties.origin(_KEY)}) is no service"
                f" account: {type(error).__name__}"
            ) from None


class Fcm:
    """Answers service.ports.Channel; one access token serves until shortly before it ends."""

    def __init__(self, settings: FcmSettings, now: Clock) -> None:
        self._settings = settings
        self._now = now
        self._http = requests.Session()
        self._lock = Lock()
        self._token = ""
        self._until = 0.0
        self._not_before = 0.0

    def deliver(self, letter: Letter, address: str, words: Mapping[str, str]) -> None:
        """Hand the letter to Firebase for one device.

        Raises:
            LostAddressError: the app is gone from the device, or the token was never one.
            RefusedLetterError: Firebase will never take this letter.
            Later: it asked to be left alone for a while.
            OSError: another failure, which may pass.
        """
        if (wait := self._not_before - time.monotonic()) > 0:
            raise Later(timedelta(seconds=wait))
        answer = self._http.post(
            f"{self._settings.endpoint}/v1/projects/{self._settings.project}/messages:send",
            json={"message": _message(letter, address, words)},
            headers={"Authorization": f"Bearer {self._access_token()}"},
            timeout=self._settings.timeout.total_seconds(),
        )
        if answer.status_code == HTTPStatus.OK:
            return
        self._judge(answer)

    def close(self) -> None:
        self._http.close()

    def _judge(self, answer: requests.Response) -> None:
        """Raise what the error means (REST reference, ErrorCode)."""
        code, status = _error_code(answer), answer.status_code
        # The device is forgotten then, so no guess will do: a wrong address or account, or a proxy
        # with a page of its own, would cost every registration.
        if code == "UNREGISTERED":
            raise LostAddressError("the app is gone from the device")
        if code == "INVALID_ARGUMENT" and _is_about_the_token(answer):
            raise LostAddressError("no registration token")
        if code == "SENDER_ID_MISMATCH" or status == HTTPStatus.BAD_REQUEST:
            raise RefusedLetterError(f"Firebase answered {status} {code}")
        if status == HTTPStatus.UNAUTHORIZED:
            # The token was taken back, or our clock is wrong: the next attempt gets a new one.
            self._until = 0.0
        wait = _retry_after(answer, self._now())
        if wait is None and status == HTTPStatus.TOO_MANY_REQUESTS:
            wait = _WHEN_NOT_TOLD
        if wait is not None:
            self._not_before = time.monotonic() + wait.total_seconds()
            raise Later(wait)
        raise OSError(f"Firebase answered {status} {code}")

    def _access_token(self) -> str:
        with self._lock:
            if time.monotonic() < self._until:
                return self._token
            form = {"grant_type": _GRANT, "assertion": self._assertion()}
            timeout = self._settings.timeout.total_seconds()
            answer = self._http.post(self._settings.token_uri, data=form, timeout=timeout)
            if answer.status_code != HTTPStatus.OK:
                raise OSError(f"the token endpoint answered {answer.status_code}")
            told = answer.json()
            self._token = str(told["access_token"])
            self._until = time.monotonic() + int(told.get("expires_in", 0)) - _EARLY_S
            return self._token

    def _assertion(self) -> str:
        issued = int(self._now().timestamp())
        header: dict[str, Any] = {"alg": "RS256", "typ": "JWT"}
        if self._settings.key_id:
            header["kid"] = self._settings.key_id
        claims = {
            "iss": self._settings.client_email,
            "scope": _SCOPE,
            "aud": self._settings.token_uri,
            "iat": issued,
            "exp": issued + _ASSERTION_LIFE_S,
        }
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        return (signed + b"." + _base64url(_sign(self._settings.private_key, signed))).decode()


def _sign(private_key: str, content: bytes) -> bytes:
    """Sign with RS256 (RFC 7518, 3.3)."""
    # Only the process that pushes holds the library.
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

    key: Any = serialization.load_pem_private_key(private_key.encode(), None)
    signature: bytes = key.sign(content, padding.PKCS1v15(), hashes.SHA256())
    return signature


def _message(letter: Letter, address: str, words: Mapping[str, str]) -> dict[str, Any]:
    movie = letter.params.get("movieId")
    data = {"template": letter.template, "key": letter.key}
    if movie:
        data["deepLink"] = f"movie:{movie}"
    return {
        "token": address,
        "notification": {"title": words["title"], "body": words["body"]},
        "data": data,
        # A repetition takes the place of what is shown already.
        "android": {"notification": {"tag": letter.key}},
        "apns": {"headers": {"apns-collapse-id": letter.key[:64]}},
        "webpush": {"notification": {"tag": letter.key}},
    }


def _error_code(answer: requests.Response) -> str:
    try:
        error = answer.json()["error"]
        details = [each for each in error.get("details", ()) if "errorCode" in each]
        return str(details[0]["errorCode"] if details else error.get("status"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _is_about_the_token(answer: requests.Response) -> bool:
    """Tell a token that is none from another bad argument: by its field, or by Firebase's words."""
    error = answer.json()["error"]
    violations = (
        violation
        for each in error.get("details", ())
        for violation in each.get("fieldViolations", ())
    )
    fields = {violation.get("field") for violation in violations}
    return "message.token" in fields or "registration token" in str(error.get("message")).lower()


def _retry_after(answer: requests.Response, now: datetime) -> timedelta | None:
    """Read Retry-After: seconds or a date (RFC 9110, 10.2.3)."""
    given = answer.headers.get("Retry-After", "").strip()
    if given.isdecimal():
        return timedelta(seconds=min(int(given), 86400))
    try:
        until = parsedate_to_datetime(given)
    except ValueError:
        return None
    return max(timedelta(), (until if until.tzinfo else until.replace(tzinfo=UTC)) - now)


def _base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")
