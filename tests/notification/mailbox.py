"""A mail server on a real socket."""

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller

from tests.ports import free_port


class MailServer:
    """A mail server that keeps what it gets, or refuses it as it is told."""

    def __init__(self, **options: Any) -> None:
        self.mails: list[EmailMessage] = []
        self.on_recipient = "250 OK"
        self.on_data = "250 OK"
        self.logins: list[bytes] = []
        self.port = free_port()
        self._controller = Controller(self, "127.0.0.1", self.port, **options)
        self._controller.start()

    async def handle_RCPT(self, _server, _session, envelope, address, _options):  # noqa: N802
        if self.on_recipient.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.on_recipient

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802
        if self.on_data.startswith("250"):
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return self.on_data

    def close(self) -> None:
        self._controller.stop()


def mail_settings(port: int, prefix: str = "mail", **more: str) -> dict[str, str]:
    return {
        f"{prefix}.host": "127.0.0.1",
        f"{prefix}.port": str(port),
        f"{prefix}.from": "Nozie <no-reply@nozie.example>",
        f"{prefix}.properties.mail.smtp.auth": "false",
        f"{prefix}.properties.mail.smtp.starttls.enable": "false",
        **more,
    }
