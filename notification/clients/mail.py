"""Mail over SMTP (RFC 5321), by `mail.*` or, as a JVM mail client reads it, `spring.mail.*`."""

import hashlib
import re
import smtplib
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, Final

from cloud.config import Properties
from notification.domain import Letter, LostAddressError, RefusedLetterError

_PERMANENT: Final = range(500, 600)
# One address and nothing beside it: no list, no name, no header after it.
_ADDRESS: Final = re.compile(r"[^\s@<>()\[\],;:\"\\]+@[^\s@<>(),;:\"\\]+")


@dataclass(frozen=True, slots=True)
class MailSettings:
    """Where mail goes, and who we are there.

    Attributes:
        starttls: encrypt before anything else is said; without it nothing is sent.
        tls: encrypted from the first byte, as port 465 wants it.
    """

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    sender: str
    starttls: bool
    tls: bool
    timeout: timedelta

    @classmethod
    def of(cls, properties: Properties) -> "MailSettings | None":
        """Read them; None when no server is named, or one that wants a login that we lack."""

        def get(key: str) -> str | None:
            return properties.get(f"mail.{key}") or properties.get(f"spring.mail.{key}") or None

        def flag(key: str, *, default: bool) -> bool:
            name = f"properties.mail.smtp.{key}"
            prefix = "mail" if properties.get(f"mail.{name}") is not None else "spring.mail"
            return properties.boolean(f"{prefix}.{name}", default)

        host, username = get("host"), get("username")
        if host is None or (username is None and flag("auth", default=True)):
            return None
        tls = flag("ssl.enable", default=False)
        prefix = "mail" if properties.get("mail.port") else "spring.mail"
        return cls(
            host=host,
            port=properties.integer(f"{prefix}.port", 465 if tls else 587, minimum=1),
            username=username,
            password=get("password"),
            sender=get("from") or (username if username and "@" in username else "nozie@localhost"),
            starttls=not tls and flag("starttls.enable", default=True),
            tls=tls,
            timeout=properties.duration("nozie.notification.mail.timeout", timedelta(seconds=10)),
        )


class Mail:
    """Answers service.ports.Channel; each letter is a connection of its own."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings

    def deliver(self, letter: Letter, address: str, words: Mapping[str, str]) -> None:
        """Hand the letter to the server.

        Raises:
            LostAddressError: the server will never take mail for the address.
            RefusedLetterError: it will never take this letter.
            smtplib.SMTPException: another failure, which may pass.
        """
        message = self._message(letter, address, words)
        try:
            with self._connect() as server:
                server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            if all(code in _PERMANENT for code, _ in error.recipients.values()):
                raise LostAddressError("the mail server knows no such address") from error
            raise
        except smtplib.SMTPAuthenticationError:
            raise
        except smtplib.SMTPResponseException as error:
            if error.smtp_code in _PERMANENT and isinstance(error, smtplib.SMTPDataError):
                raise RefusedLetterError(f"the mail server answered {error.smtp_code}") from error
            raise

    def check(self) -> Mapping[str, Any]:
        """Answer the health check `mail`."""
        with self._connect() as server:
            server.noop()
        return {"location": f"{self._settings.host}:{self._settings.port}"}

    def _connect(self) -> smtplib.SMTP:
        settings = self._settings
        options: dict[str, Any] = {"timeout": settings.timeout.total_seconds()}
        secure = ssl.create_default_context()
        if settings.tls:
            options["context"] = secure
        kind: Callable[..., smtplib.SMTP] = smtplib.SMTP_SSL if settings.tls else smtplib.SMTP
        server = kind(settings.host, settings.port, **options)
        try:
            if settings.starttls:
                server.starttls(context=secure)
            if settings.username:
                server.login(settings.username, settings.password or "")
        except BaseException:
            server.close()
            raise
        return server

    def _message(self, letter: Letter, address: str, words: Mapping[str, str]) -> EmailMessage:
        if not _ADDRESS.fullmatch(address):
            raise LostAddressError("no mail address")
        message = EmailMessage()
        # On one line, whatever was filled into it: a second one would be a header.
        message["Subject"] = " ".join(words["subject"].split())
        message["From"] = self._settings.sender
        message["To"] = address
        message["Date"] = formatdate(letter.written_at.timestamp())
        # The same for a repetition, so that a mailbox can show it once.
        digest = hashlib.sha256(f"{letter.key}:{address}".encode()).hexdigest()[:32]
        message["Message-ID"] = f"<{digest}@{self._settings.sender.rpartition('@')[2].rstrip('>')}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(words["text"])
        message.add_alternative(words["html"], subtype="html")
        return message
