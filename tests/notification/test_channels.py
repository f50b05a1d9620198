"""Mail and device push against servers that speak their protocols, and what surrounds them."""

import base64
import json
import smtplib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from aiosmtpd.smtp import AuthResult
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask, jsonify, request

from cloud.clock import utc_now
from cloud.errors import ConfigurationError
from cloud.messaging import Delivery, Hopeless, Later
from cloud.testing import bearer, properties
from notification import consumers
from notification.app import create_app
from notification.clients import Templates
from notification.clients.fcm import Fcm, FcmSettings
from notification.clients.mail import Mail, MailSettings
from notification.deps import Deps
from notification.domain import (
    EMAIL,
    PUSH,
    CustomerId,
    Letter,
    LostAddressError,
    Preferences,
    RefusedLetterError,
    UserId,
)
from notification.schema import dump_letter, parse_letter
from tests.contract.client import checked
from tests.notification.mailbox import MailServer, mail_settings
from tests.serving import Serving

NOW = utc_now()
RECEIPT = Letter(
    key="7",
    channel=EMAIL,
    template="purchase-receipt",
    user_id=UserId(7),
    customer_id=None,
    to="ann@example.org",
    params={"transactionId": 7, "movieId": "abc", "amount": "10.00 USD"},
    written_at=NOW,
)
NOTICE = replace(RECEIPT, template="security-refresh-token-reuse")


def mail_at(port: int, **more: str) -> Mail:
    settings = MailSettings.of(properties("notification-service", {**mail_settings(port), **more}))
    assert settings is not None
    return Mail(settings)


def words(letter: Letter) -> Any:
    return Templates().fill(letter)


def test_a_mail_is_text_and_html_and_has_the_same_id_when_repeated(mail_server):
    mail = mail_at(mail_server.port)
    for _ in range(2):
        mail.deliver(RECEIPT, "ann@example.org", words(RECEIPT))
    first, again = mail_server.mails
    assert first["Subject"] == "Your receipt from Nozie"
    assert first["To"] == "ann@example.org"
    assert first["Message-ID"] == again["Message-ID"]
    text, html = first.get_body(("plain",)), first.get_body(("html",))
    assert text is not None
    assert "10.00 USD" in text.get_content()
    assert html is not None
    assert "<strong>10.00 USD</strong>" in html.get_content()


def test_what_people_wrote_is_no_markup_and_no_template():
    letter = replace(RECEIPT, template="welcome", params={"username": "<b>{{ 7 * 7 }}</b>\nX: y"})
    filled = words(letter)
    assert "&lt;b&gt;{{ 7 * 7 }}" in filled["html"]
    assert "<b>{{ 7 * 7 }}</b>" in filled["subject"]


def test_a_subject_is_one_line(mail_server):
    letter = replace(RECEIPT, template="welcome", params={"username": "a\r\nBcc: b@example.org"})
    mail_at(mail_server.port).deliver(letter, "ann@example.org", words(letter))
    (mail,) = mail_server.mails
    assert mail["Bcc"] is None


@pytest.mark.parametrize(
    ("told", "answer", "kind"),
    [
        pytest.param("on_recipient", "550 no such user", LostAddressError, id="unknown address"),
        pytest.param("on_recipient", "450 later", smtplib.SMTPException, id="address, later"),
        pytest.param("on_data", "554 spam", RefusedLetterError, id="refused for good"),
        pytest.param("on_data", "451 later", smtplib.SMTPException, id="refused for now"),
    ],
)
def test_what_a_mail_server_refuses_for_good_is_told_from_what_may_pass(
    told, answer, kind, mail_server
):
    setattr(mail_server, told, answer)
    with pytest.raises(kind) as caught:
        mail_at(mail_server.port).deliver(RECEIPT, "ann@example.org", words(RECEIPT))
    if kind is smtplib.SMTPException:
        assert not isinstance(caught.value, (LostAddressError, RefusedLetterError))


@pytest.mark.parametrize("address", ["", "a b", "x\r\nBcc: y@example.org", "@", "ann@"])
def test_what_is_no_address_never_reaches_another(address, mail_server):
    with pytest.raises(LostAddressError):
        mail_at(mail_server.port).deliver(RECEIPT, address, words(RECEIPT))
    assert not mail_server.mails


def test_a_server_that_offers_no_encryption_gets_nothing_where_it_is_wanted(mail_server):
    mail = mail_at(mail_server.port, **{"mail.properties.mail.smtp.starttls.enable": "true"})
    with pytest.raises(smtplib.SMTPNotSupportedError):
        mail.deliver(RECEIPT, "ann@example.org", words(RECEIPT))
    assert not mail_server.mails


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
def test_a_login_is_sent_as_configured():
    seen: list[Any] = []

    def authenticate(_server, _session, _envelope, mechanism, data):
        seen.append((mechanism, data.login, data.password))
        return AuthResult(success=True)

    server = MailServer(authenticator=authenticate, auth_require_tls=False, auth_required=True)
    try:
        given = {"mail.username": "nozie@example.org", "mail.password": "secret"}
        mail_at(server.port, **given).deliver(RECEIPT, "ann@example.org", words(RECEIPT))
        assert mail_at(server.port, **given).check()
    finally:
        server.close()
    assert seen[0][1:] == (b"nozie@example.org", b"secret")
    assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("values", "host"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"mail.host": "smtp.gmail.com", "mail.username": ""}, None, id="no login"),
        pytest.param({"mail.host": "a", "mail.username": "u"}, "a", id="mail"),
        pytest.param({"spring.mail.host": "b", "spring.mail.username": "u"}, "b", id="spring"),
        pytest.param(
            {"mail.host": "a", "spring.mail.host": "b", "spring.mail.username": "u"},
            "a",
            id="mail before spring",
        ),
        pytest.param(
            {"spring.mail.host": "b", "spring.mail.properties.mail.smtp.auth": "false"},
            "b",
            id="a server without login",
        ),
    ],
)
def test_where_mail_is_configured(values, host):
    found = MailSettings.of(properties("notification-service", values))
    assert (found and found.host) == host


# Firebase.


class Firebase(Serving):
    """FCM's HTTP v1 and Google's token endpoint, as far as a sender sees them."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.sent: list[dict[str, Any]] = []
        self.granted = 0
        self.faults: dict[str, tuple[int, str, dict[str, str]]] = {}
        self.says = "The registration token is not a valid FCM registration token"
        app = Flask("firebase")

        @app.post("/token")
        def token() -> Any:
            assert request.form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
            self._verify(request.form["assertion"])
            self.granted += 1
            return jsonify(access_token=f"access-{self.granted}", expires_in=3600)

        @app.post("/v1/projects/nozie-test/messages:send")
        def send() -> Any:
            if request.headers["Authorization"] != f"Bearer access-{self.granted}":
                return jsonify(error={"status": "UNAUTHENTICATED"}), 401
            message = request.get_json()["message"]
            if fault := self.faults.get(message["token"]):
                status, code, headers = fault
                if not code:
                    return "<h1>No token, no page</h1>", status, headers
                details = [
                    {
                        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
                        "errorCode": code,
                    }
                ]
                error = {"code": status, "message": self.says, "details": details}
                return jsonify(error=error), status, headers
            self.sent.append(message)
            return jsonify(name="projects/nozie-test/messages/1")

        super().__init__(app)

    def _verify(self, assertion: str) -> None:
        """Check the signature with a library that is not ours (RFC 7523, section 3)."""
        header, claims, signature = assertion.split(".")
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

        raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
        self.key.public_key().verify(
            raw, f"{header}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        told = jwt.decode(assertion, options={"verify_signature": False})
        assert jwt.get_unverified_header(assertion)["alg"] == "RS256"
        assert told["iss"] == "push@nozie-test.example"
        assert told["aud"] == f"{self.url}/token"
        assert told["scope"].endswith("/firebase.messaging")
        assert told["exp"] - told["iat"] <= 3600

    @property
    def account(self) -> str:
        pem = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return json.dumps(
            {
                "project_id": "nozie-test",
                "client_email": "push@nozie-test.example",
                "private_key": pem.decode(),
                "private_key_id": "k1",
                "token_uri": f"{self.url}/token",
            }
        )

    @property
    def values(self) -> dict[str, str]:
        return {
            "nozie.notification.fcm.credentials": self.account,
            "nozie.notification.fcm.endpoint": self.url,
        }


@pytest.fixture
def firebase() -> Iterator[Firebase]:
    with closing(Firebase()) as running:
        yield running


@pytest.fixture
def fcm(firebase) -> Iterator[Fcm]:
    settings = FcmSettings.of(properties("notification-service", firebase.values))
    assert settings is not None
    made = Fcm(settings, utc_now)
    yield made
    made.close()


PUSHED = replace(RECEIPT, channel=PUSH, to=None)


def test_a_push_carries_what_the_app_shows_and_where_it_leads(fcm, firebase):
    for _ in range(3):
        fcm.deliver(PUSHED, "device-1", words(PUSHED))
    message = firebase.sent[0]
    assert message["token"] == "device-1"
    assert message["notification"]["title"] == "Purchase complete"
    assert message["data"]["deepLink"] == "movie:abc"
    assert message["android"]["notification"]["tag"] == "7"
    assert firebase.granted == 1, "one access token serves for all"


@pytest.mark.parametrize(
    ("status", "code", "headers", "kind"),
    [
        pytest.param(404, "UNREGISTERED", {}, LostAddressError, id="app removed"),
        pytest.param(400, "INVALID_ARGUMENT", {}, LostAddressError, id="no token"),
        pytest.param(403, "SENDER_ID_MISMATCH", {}, RefusedLetterError, id="another sender's"),
        pytest.param(400, "THIRD_PARTY", {}, RefusedLetterError, id="refused"),
        pytest.param(429, "QUOTA_EXCEEDED", {"Retry-After": "40"}, Later, id="quota"),
        pytest.param(429, "QUOTA_EXCEEDED", {}, Later, id="quota, not told how long"),
        pytest.param(503, "UNAVAILABLE", {"Retry-After": "5"}, Later, id="down, told how long"),
        pytest.param(503, "UNAVAILABLE", {}, OSError, id="down"),
        pytest.param(500, "INTERNAL", {}, OSError, id="broken"),
        pytest.param(401, "UNAUTHENTICATED", {}, OSError, id="token taken back"),
    ],
)
def test_what_firebase_answers_means(status, code, headers, kind, fcm, firebase):
    firebase.faults["device"] = (status, code, headers)
    with pytest.raises(kind):
        fcm.deliver(PUSHED, "device", words(PUSHED))
    if kind is Later:
        with pytest.raises(Later):
            fcm.deliver(PUSHED, "another", words(PUSHED))
        assert not firebase.sent, "asked to be left alone, it is"
    if status == 401:
        fcm.deliver(PUSHED, "another", words(PUSHED))
        assert firebase.granted == 2


@pytest.mark.parametrize("given", ["{}", "{", "/no/such/file", '{"project_id": "secret-text"}'])
def test_a_service_account_that_is_none_is_told_without_its_text(given):
    values = {"nozie.notification.fcm.credentials": given}
    with pytest.raises(ConfigurationError, match="is no service account") as caught:
        FcmSettings.of(properties("notification-service", values))
    assert "secret-text" not in str(caught.value)


# Letters.


@pytest.fixture
def reached(deps, mail_server, fcm) -> Deps:
    """The house with both channels."""
    made: Deps = replace(deps, channels={EMAIL: mail_at(mail_server.port), PUSH: fcm})
    return made


def delivered(letter: Letter, deps: Deps) -> None:
    consumers.on_letter(Delivery(dump_letter(letter), {}, None, "", 0), deps)


@pytest.fixture
def register(deps) -> Callable[..., None]:
    def registered(*tokens: str, user: int = 7) -> None:
        for token in tokens:
            deps.devices.register(UserId(user), token, "android", now=utc_now())

    return registered


def test_a_letter_survives_its_queue():
    assert parse_letter(dump_letter(RECEIPT)) == RECEIPT


def test_a_letter_reaches_each_address_once(reached, mail_server, firebase, register):
    register("one", "two")
    for _ in range(3):
        delivered(RECEIPT, reached)
        delivered(PUSHED, reached)
    assert len(mail_server.mails) == 1
    assert sorted(message["token"] for message in firebase.sent) == ["one", "two"]


def test_an_expired_device_is_forgotten_and_a_failing_one_tried_alone(
    reached, firebase, register, deps
):
    register("gone", "busy", "well")
    firebase.faults = {"gone": (404, "UNREGISTERED", {}), "busy": (500, "INTERNAL", {})}
    with pytest.raises(OSError, match="500"):
        delivered(PUSHED, reached)
    assert {each.token for each in deps.devices.of_user(UserId(7))} == {"busy", "well"}
    firebase.faults.clear()
    delivered(PUSHED, reached)
    assert [message["token"] for message in firebase.sent] == ["well", "busy"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param((404, "", {}), "", id="a proxy's page"),
        pytest.param((404, "NOT_FOUND", {}), "Requested entity was not found.", id="no project"),
        pytest.param((403, "SENDER_ID_MISMATCH", {}), "", id="the wrong account"),
        pytest.param((400, "INVALID_ARGUMENT", {}), "page_token is too long", id="our own fault"),
    ],
)
def test_a_wrong_address_or_account_costs_no_registration(
    fault, says, reached, firebase, register, deps
):
    register("one")
    firebase.faults, firebase.says = {"one": fault}, says
    with pytest.raises((OSError, Hopeless)):
        delivered(PUSHED, reached)
    assert [each.token for each in deps.devices.of_user(UserId(7))] == ["one"]


def test_who_does_not_want_mail_gets_only_what_concerns_the_account(reached, mail_server):
    reached.preferences.keep(UserId(7), Preferences(email=False))
    delivered(RECEIPT, reached)
    assert not mail_server.mails
    delivered(NOTICE, reached)
    assert [mail["Subject"] for mail in mail_server.mails] == ["Sign in again"]


def test_a_push_of_yesterday_is_none(reached, firebase, register):
    register("one")
    delivered(replace(PUSHED, written_at=NOW - timedelta(days=2)), reached)
    assert not firebase.sent


def test_the_address_is_the_customer_records(reached, mail_server, neighbours):
    delivered(replace(RECEIPT, to=None, customer_id=CustomerId(3)), reached)
    assert [mail["To"] for mail in mail_server.mails] == ["Carl@Example.org"]


def test_nobody_gets_the_receipt_of_another(reached, mail_server):
    """A JVM customer-service shows everybody's records; the first is not the buyer's."""
    delivered(replace(RECEIPT, to=None, user_id=UserId(8)), reached)
    assert [mail["To"] for mail in mail_server.mails] == ["bob@example.org"]


def test_without_customer_service_the_letter_comes_again(reached, neighbours):
    neighbours.broken = True
    with pytest.raises(Exception, match="cannot be asked"):
        delivered(replace(RECEIPT, to=None, customer_id=CustomerId(3)), reached)


@pytest.mark.parametrize(
    "letter",
    [
        pytest.param(replace(RECEIPT, template="none"), id="unknown template"),
        pytest.param(replace(RECEIPT, template="welcome", params={}), id="a blank without param"),
        pytest.param(replace(RECEIPT, template="../words.toml"), id="a path"),
    ],
)
def test_a_letter_that_cannot_be_written_is_hopeless(letter, reached):
    with pytest.raises(Hopeless, match="template"):
        delivered(letter, reached)


def test_a_letter_for_a_channel_that_is_not_configured_is_left_out(deps):
    delivered(RECEIPT, deps)
    assert not deps.deliveries.done("email:7:to")


# Devices and choices, through the door.


@pytest.fixture
def client(environment):
    return checked(create_app(environment), "notification")


def test_devices_are_registered_listed_and_forgotten_by_their_owner(client):
    ann, bob = bearer(7), bearer(8)
    body = {"token": "t1", "platform": "ios"}
    device = client.post("/api/notifications/devices", json=body, headers=ann)
    assert device.status_code == 201
    assert "t1" not in device.text, "a token stays where it is"
    key = device.json["data"]["id"]
    path = f"/api/notifications/devices/{key}"
    assert client.delete(path, headers=bob).status_code == 200
    (listed,) = client.get("/api/notifications/devices", headers=ann).json["data"]
    assert listed["id"] == key
    assert client.delete(path, headers=ann).status_code == 200
    assert client.get("/api/notifications/devices", headers=ann).json["data"] == []


def test_a_device_belongs_to_who_signed_in_last(client, deps):
    for user in (7, 8):
        client.post("/api/notifications/devices", json={"token": "t"}, headers=bearer(user))
    assert deps.devices.of_user(UserId(7)) == []
    assert [each.token for each in deps.devices.of_user(UserId(8))] == ["t"]


def test_of_many_devices_the_oldest_are_forgotten(deps):
    for number in range(25):
        moment = NOW + timedelta(seconds=number)
        deps.devices.register(UserId(7), f"t{number}", None, now=moment)
    kept = [each.token for each in deps.devices.of_user(UserId(7))]
    assert kept == [f"t{number}" for number in range(24, 4, -1)]


@pytest.mark.parametrize(
    "body",
    [{}, {"token": ""}, {"token": "t", "platform": "fridge"}, {"token": "x" * 5000}, []],
    ids=["nothing", "empty", "platform", "long", "no object"],
)
def test_a_device_needs_a_token(body, client):
    answer = client.post("/api/notifications/devices", json=body, headers=bearer(7))
    assert answer.status_code == 400


def test_choices_are_everything_until_chosen(client):
    path = "/api/notifications/preferences"
    assert client.get(path, headers=bearer(7)).json["data"] == {"email": True, "push": True}
    chosen = {"email": False, "push": True}
    assert client.put(path, json=chosen, headers=bearer(7)).json["data"] == chosen
    assert client.get(path, headers=bearer(7)).json["data"] == chosen
    assert client.get(path, headers=bearer(8)).json["data"] == {"email": True, "push": True}
    assert client.put(path, json={"email": "perhaps"}, headers=bearer(7)).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [("get", "devices"), ("post", "devices"), ("delete", "devices/1"), ("get", "preferences"),
     ("put", "preferences")],
)  # fmt: skip
def test_nobody_manages_the_reach_of_nobody(method, path, client):
    answer = getattr(client, method)(f"/api/notifications/{path}")
    assert answer.status_code == 401
